// Walks the tutorial of the README: its files, word for word, built with Vite and opened in a browser
// against a server with sample data: `node packages/react/test/tutorial.mjs BINARY`.
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { createServer } from "vite";
import { assert, check, failed, openBrowser, TIMEOUT_MS, until } from "../../console/e2e/harness.mjs";

const binary = process.argv[2];
if (binary === undefined) {
  console.error("usage: node packages/react/test/tutorial.mjs BINARY");
  process.exit(2);
}
const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "tidewire-tutorial-"));
const own = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("TIDEWIRE_")));
let server;

/** Starts the server of the tutorial. Resolves to its address. */
function startServer(listen) {
  server = spawn(resolve(binary), ["replay", "--loop"], { cwd: folder, env: { ...own, TIDEWIRE_SERVER__LISTEN: listen }, stdio: ["ignore", "ignore", "pipe"] });
  return new Promise((resolve, reject) => {
    let log = "";
    server.stderr.setEncoding("utf8").on("data", (text) => {
      log += text;
      const address = /listens on http:\/\/([0-9.:]+)/.exec(log)?.[1];
      if (address !== undefined) {
        resolve(address);
      }
    });
    server.on("close", () => reject(new Error(`the server ended:\n${log}`)));
  });
}

const address = await startServer("127.0.0.1:0");
const app = join(folder, "ticker");
mkdirSync(app);
for (const [, file, text] of readFileSync(join(ROOT, "packages/react/README.md"), "utf8").matchAll(/```\w+ file=(\S+)\n([^]*?)```/g)) {
  writeFileSync(join(app, file), text.replaceAll("127.0.0.1:8080", address));
}
// The registry is left out: the workspace has the same packages.
symlinkSync(join(ROOT, "node_modules"), join(app, "node_modules"));
for (const name of ["client", "react"]) {
  execFileSync("npx", ["tsc", "-p", `packages/${name}/tsconfig.build.json`], { cwd: ROOT });
}
const vite = await createServer({ root: app, configFile: false, logLevel: "error", cacheDir: join(folder, "cache"), server: { port: 0, host: "127.0.0.1", fs: { strict: false } } });
await vite.listen();
const browser = await openBrowser();
const page = await browser.context.newPage();
page.setDefaultTimeout(TIMEOUT_MS * 3);
const errors = [];
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => {
  if (message.type() === "error" && !/WebSocket|favicon|404/.test(message.text())) {
    errors.push(message.text());
  }
});
await page.goto(vite.resolvedUrls.local[0]);

await check("the page connects and shows two prices that move", async () => {
  await page.getByText("Connected", { exact: true }).waitFor();
  const line = page.getByText(/^BTC-USD: \d/);
  await page.getByText(/^ETH-USD: \d/).waitFor();
  const first = await line.textContent();
  await until("another price", async () => (await line.textContent()) !== first);
});
await check("a symbol that does not exist says so", () => page.getByText(/BTC-USB: .*BTC-USB/).waitFor());
await check("a lost connection is shown, and the prices go on after it", async () => {
  server.removeAllListeners("close");
  const ended = new Promise((resolve) => server.once("close", resolve));
  server.kill("SIGKILL");
  await ended;
  await page.getByText("Connection lost. Reconnecting…").waitFor();
  const line = page.getByText(/^BTC-USD: \d/);
  const before = await line.textContent();
  await startServer(address);
  await page.getByText("Connected", { exact: true }).waitFor();
  await until("another price", async () => (await line.textContent()) !== before);
});
await check("the page logs no error", () => assert(errors.length === 0, errors.join("\n")));

await browser.close();
await vite.close();
server.removeAllListeners("close");
server.kill("SIGKILL");
rmSync(folder, { recursive: true, force: true });
process.exit(failed() === 0 ? 0 : 1);
