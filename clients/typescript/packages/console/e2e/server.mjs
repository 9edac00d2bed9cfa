// Server with a store: starts the binary in a folder of its own, with no venues and no chains, or
// with the built-in sample.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startFront } from "./front.mjs";
import { TIMEOUT_MS } from "./harness.mjs";

/** Starts a server, with further variables of its environment, or with a configuration file. `url` stays the same when it is started again. */
export async function startServer(binary, { isSample = false, variables = {}, file } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "tidewire-server-"));
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith("TIDEWIRE_"));
  const environment = (listen) => ({ ...Object.fromEntries(own), ...(!isSample && { TIDEWIRE_PRICES__SYMBOLS: "[]" }), TIDEWIRE_SERVER__LISTEN: listen, ...variables });
  const config = join(realpathSync(folder), "my tidewire.toml");
  if (file !== undefined) {
    writeFileSync(config, file);
  }
  const command = [...(isSample ? ["replay", "--loop"] : ["serve"]), ...(file === undefined ? [] : ["--config", config])];
  let { child, address } = await run(binary, command, folder, environment("127.0.0.1:0"));
  // A built page in place of the server's: tests a change of the page without building the server.
  const page = process.env.CONSOLE_PAGE;
  const front = page === undefined ? undefined : await startFront(address, page);
  process.once("exit", () => child.kill("SIGKILL"));
  const stop = async () => {
    const ended = new Promise((resolve) => child.once("close", resolve));
    child.kill("SIGKILL");
    await ended;
  };
  return {
    url: front?.url ?? `http://${address}`,
    /** The configuration file. */
    config,
    /** Returns a token of this user. */
    token(user) {
      return execFileSync(binary, ["token", "--user", user], { cwd: folder, env: environment(address), encoding: "utf8" }).trim();
    },
    /** Kills the server. */
    stop,
    /** Asks the server to end, as a deploy does: it stores its histories. */
    async quit() {
      const ended = new Promise((resolve) => child.once("close", resolve));
      child.kill("SIGTERM");
      await ended;
    },
    /** Starts it again at the same address, with the same store. */
    async start() {
      ({ child } = await run(binary, command, folder, environment(address)));
    },
    /** Ends the server and removes its folder. */
    async close() {
      front?.close();
      await stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Resolves to the process and its address when it listens. */
function run(binary, command, cwd, env) {
  return new Promise((resolve, reject) => {
    const child = spawn(binary, command, { cwd, env, stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    const fail = (reason) => {
      child.kill("SIGKILL");
      reject(new Error(`${reason} before it listened; its log:\n${log}`));
    };
    const timer = setTimeout(() => fail("the server timed out"), TIMEOUT_MS);
    child.stderr.setEncoding("utf8").on("data", (text) => {
      log += log.length < 100_000 ? text : "";
      const address = /listens on http:\/\/([0-9.:]+)/.exec(log)?.[1];
      if (address !== undefined) {
        clearTimeout(timer);
        resolve({ child, address });
      }
    });
    child.on("error", reject);
    child.on("close", () => fail("the server ended"));
  });
}
