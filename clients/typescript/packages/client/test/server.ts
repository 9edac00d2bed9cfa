/** A real server for tests: the binary of `TIDEWIRE_BIN` in a folder of its own, without venues and chains. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The binary, or `undefined`: `tests/run` sets it. */
export const binary = process.env["TIDEWIRE_BIN"];

const LIMITS = { TIDEWIRE_LIMITS__CONNECTIONS_PER_IP: "0" };

/** A running server. */
export class RealServer {
  readonly #folder = mkdtempSync(join(tmpdir(), "tidewire-client-"));
  readonly #args: string[];
  #child: ChildProcess | undefined;
  /** The address, for example `127.0.0.1:4321`. It stays the same over restarts. */
  address = "127.0.0.1:0";

  constructor(...args: string[]) {
    this.#args = args.length > 0 ? args : ["serve"];
  }

  get #env(): NodeJS.ProcessEnv {
    const own = Object.entries(process.env).filter(([name]) => !name.startsWith("TIDEWIRE_"));
    return { ...Object.fromEntries(own), ...LIMITS, ...(this.#args[0] === "serve" && { TIDEWIRE_PRICES__SYMBOLS: "[]" }), TIDEWIRE_SERVER__LISTEN: this.address };
  }

  /** Starts the server, and resolves when it listens. */
  async start(): Promise<void> {
    const child = spawn(binary ?? "tidewire", this.#args, { cwd: this.#folder, env: this.#env, stdio: ["ignore", "ignore", "pipe"] });
    this.#child = child;
    process.once("exit", () => child.kill("SIGKILL"));
    this.address = await new Promise((resolve, reject) => {
      let log = "";
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        log += log.length < 100_000 ? text : "";
        const address = /listens on http:\/\/([0-9.:]+)/.exec(log)?.[1];
        if (address !== undefined) {
          resolve(address);
        }
      });
      child.on("error", reject);
      child.on("close", () => {
        reject(new Error(`the server ended before it listened; its log:\n${log}`));
      });
    });
  }

  /** Returns a token of a user. */
  token(user: string): string {
    return execFileSync(binary ?? "tidewire", ["token", "--user", user], { cwd: this.#folder, env: this.#env, encoding: "utf8" }).trim();
  }

  /** Kills the server. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (child?.exitCode === null) {
      const ended = new Promise((resolve) => child.once("close", resolve));
      child.kill("SIGKILL");
      await ended;
    }
  }

  /** Kills the server and removes its folder. */
  async close(): Promise<void> {
    await this.stop();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Resolves when `isTrue` holds. The test's time limit ends a wait for ever. */
export async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
