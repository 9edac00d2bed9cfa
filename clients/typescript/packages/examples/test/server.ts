/** A real server and a local chain node for the tests of the integrations. */
import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, copyFileSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The server's binary, or `undefined`: `tests/run` sets it. */
export const binary = process.env["TIDEWIRE_BIN"];

const REPOSITORY = fileURLToPath(new URL("../../../../../", import.meta.url));
const EXAMPLE = fileURLToPath(new URL("../../../examples/next/", import.meta.url));
const MACHINE = process.arch === "x64" ? "amd64" : process.arch;
/** Anvil's own binary. npm's wrapper script would leave it running. */
export const anvil = join(REPOSITORY, `tests/tools/node_modules/@foundry-rs/anvil-${process.platform}-${MACHINE}/bin/anvil`);
export const hasAnvil = existsSync(anvil);

/** The folder of the `.proto` files. */
export const PROTO = join(REPOSITORY, "proto");

/** A process that has said where it listens. */
export interface Running {
  /** `host:port`. */
  readonly address: string;
  stop(): Promise<void>;
}

/** Starts a program and resolves when its output matches `listens`, whose group is its address. */
async function run(command: string, args: string[], listens: RegExp, options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}): Promise<Running> {
  const child: ChildProcess = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
  process.once("exit", () => child.kill("SIGKILL"));
  const ended = new Promise<void>((resolve) => child.once("close", () => { resolve(); }));
  const address = await new Promise<string>((resolve, reject) => {
    let log = "";
    const read = (text: Buffer): void => {
      log += log.length < 100_000 ? text.toString() : "";
      const found = listens.exec(log)?.[1];
      if (found !== undefined) {
        resolve(found);
      }
    };
    child.stdout?.on("data", read);
    child.stderr?.on("data", read);
    child.on("error", reject);
    void ended.then(() => {
      reject(new Error(`${command} ended before it listened; its log:\n${log}`));
    });
  });
  return {
    address,
    async stop() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** Starts a chain node that mines a block for each transaction. */
export function startNode(): Promise<Running> {
  return run(anvil, ["--port", "0", "--slots-in-an-epoch", "1"], /Listening on ([0-9.:]+)/);
}

/** Starts the server with the configuration of the example, and a chain if there is a node. */
export async function startServer(node?: Running): Promise<Running> {
  const folder = mkdtempSync(join(tmpdir(), "tidewire-examples-"));
  const config = join(folder, "tidewire.toml");
  copyFileSync(join(EXAMPLE, "tidewire.toml"), config);
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith("TIDEWIRE_"));
  if (node !== undefined) {
    appendFileSync(config, `\n[[chain]]\nid = 31337\nendpoints = ["ws://${node.address}"]\nconfirmations = 2\n`);
  }
  const env = { ...Object.fromEntries(own), TIDEWIRE_SERVER__LISTEN: "127.0.0.1:0", TIDEWIRE_PRICES__SYMBOLS: "[]" };
  const server = await run(binary ?? "tidewire", ["serve", "--config", config], /listens on http:\/\/([0-9.:]+)/, { cwd: folder, env });
  return {
    address: server.address,
    async stop() {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Calls a method of the chain node. */
export async function ethereum<Result>(node: Running, method: string, ...params: unknown[]): Promise<Result> {
  const response = await fetch(`http://${node.address}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
  });
  const { result, error } = (await response.json()) as { result: Result; error?: { message: string } };
  if (error !== undefined) {
    throw new Error(error.message);
  }
  return result;
}
