// Walks the tutorials of the README and of docs/tutorial-prices.md, the second on a phone: their files,
// word for word, built with Vite and opened in a browser against a server with sample data:
// `node packages/react/test/tutorial.mjs BINARY`.
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
/** Writes the files of a page into an application, and serves it. */
async function serve(name, document) {
  const app = join(folder, name);
  mkdirSync(app);
  for (const [, file, text] of readFileSync(join(ROOT, document), "utf8").matchAll(/```\w+ file=(\S+)\n([^]*?)```/g)) {
    writeFileSync(join(app, file), text.replaceAll("127.0.0.1:8080", address));
  }
  // The registry is left out: the workspace has the same packages.
  symlinkSync(join(ROOT, "node_modules"), join(app, "node_modules"));
  const vite = await createServer({ root: app, configFile: false, logLevel: "error", cacheDir: join(folder, `cache-${name}`), server: { port: 0, host: "127.0.0.1", fs: { strict: false } } });
  await vite.listen();
  return vite;
}

const errors = [];
/** The server is stopped: that nothing listens is no error then. A slow start lets the client try an event stream too. */
let isDown = false;
/** Opens an application in a browser of its own. */
async function openPage(vite, options) {
  const browser = await openBrowser(options);
  const page = await browser.context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS * 3);
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => {
    const isExpected = /WebSocket|favicon|404/.test(message.text()) || (isDown && message.text().includes("ERR_CONNECTION_REFUSED"));
    if (message.type() === "error" && !isExpected) {
      errors.push(message.text());
    }
  });
  await page.goto(vite.resolvedUrls.local[0]);
  return { browser, page };
}

for (const name of ["client", "react"]) {
  execFileSync("npm", ["run", "build", "--silent", "--workspace", `@tidewire/${name}`], { cwd: ROOT });
}
const ticker = await serve("ticker", "packages/react/README.md");
const { browser, page } = await openPage(ticker);

await check("the page connects and shows two prices that move", async () => {
  await page.getByText("Connected", { exact: true }).waitFor();
  const line = page.getByText(/^BTC-USD: \d/);
  await page.getByText(/^ETH-USD: \d/).waitFor();
  const first = await line.textContent();
  await until("another price", async () => (await line.textContent()) !== first);
});
await check("a symbol that does not exist says so", () => page.getByText(/BTC-USB: .*BTC-USB/).waitFor());
await check("a lost connection is shown, and the prices go on after it", async () => {
  isDown = true;
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
  isDown = false;
});
const market = await serve("market", "../../docs/tutorial-prices.md");
const PHONE = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 3, isMobile: true, hasTouch: true };
const { browser: phone, page: small } = await openPage(market, PHONE);
const row = (symbol) => small.locator("tr", { has: small.getByRole("rowheader", { name: symbol }) });
const hasPrice = (symbol) => row(symbol).getByText(/^\d[\d,.]*$/).waitFor();

await check("on a phone: prices move, and each says that it is sample data", async () => {
  await small.getByText("Connected", { exact: true }).waitFor();
  await hasPrice("ETH-USD");
  await row("BTC-USD").getByText("sample data").waitFor();
  const price = row("BTC-USD").locator("td").first();
  const first = await price.textContent();
  await until("another price", async () => (await price.textContent()) !== first);
});
await check("on a phone: a symbol is added and removed by touch, and one that does not exist says so", async () => {
  for (const symbol of ["sol-usd", "BTC-USB"]) {
    await small.getByLabel("Symbol", { exact: true }).fill(symbol);
    await small.getByRole("button", { name: "Add" }).tap();
  }
  await hasPrice("SOL-USD");
  await row("BTC-USB").getByText(/BTC-USB/).nth(1).waitFor();
  await small.getByRole("button", { name: "Remove SOL-USD" }).tap();
  await row("SOL-USD").waitFor({ state: "detached" });
  await hasPrice("BTC-USD");
});
await check("on a phone: nothing is wider than the screen", async () => {
  const width = await small.evaluate(() => globalThis.document.documentElement.scrollWidth);
  assert(width <= PHONE.viewport.width, `expected ${PHONE.viewport.width} px at most, got ${width} px`);
});
await check("the pages log no error", () => assert(errors.length === 0, errors.join("\n")));

await phone.close();
await browser.close();
await ticker.close();
await market.close();
server.removeAllListeners("close");
server.kill("SIGKILL");
rmSync(folder, { recursive: true, force: true });
process.exit(failed() === 0 ? 0 : 1);
