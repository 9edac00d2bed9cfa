// Builds the Next.js example as its users do, and tests it in a browser against real servers:
// `node packages/examples/test/next.mjs target/debug/tidewire`. It prints a line for each check.
//
// The packages are installed from `npm pack`, so that what is tested is what is published.
import { execFile, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { assert, check, failed, openBrowser, TIMEOUT_MS, until } from "../../console/e2e/harness.mjs";
import { checkHotReload, removePage } from "./hot-reload.mjs";

const binary = process.argv[2];
if (binary === undefined) {
  console.error("usage: node packages/examples/test/next.mjs BINARY");
  process.exit(2);
}

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const EXAMPLE = join(ROOT, "examples/next");
const TOOLS = join(ROOT, "../../tests/tools/node_modules");
const SECRET = "0123456789abcdef0123456789abcdef";
const own = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("TIDEWIRE_") && name !== "NO_COLOR"));
const folder = mkdtempSync(join(tmpdir(), "tidewire-next-"));
const children = [];
process.once("exit", () => {
  for (const child of children) {
    // The development server has a process of its own below it, which it ends when it is asked to.
    child.kill(child.spawnargs.includes("dev") ? "SIGTERM" : "SIGKILL");
  }
  rmSync(folder, { recursive: true, force: true });
  removePage(EXAMPLE);
});

/** Runs a command to its end. Throws with its output if it fails. */
async function run(command, args, options = {}) {
  try {
    return await promisify(execFile)(command, args, { maxBuffer: 1e8, ...options });
  } catch (error) {
    throw new Error(`${command} ${args.join(" ")} failed:\n${error.stdout}\n${error.stderr}`, { cause: error });
  }
}

/** Starts a program. Resolves to the group of `listens` in its output. */
function start(command, args, listens, options) {
  const child = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  return new Promise((resolve, reject) => {
    let log = "";
    const timer = setTimeout(() => reject(new Error(`${command} timed out; its log:\n${log}`)), TIMEOUT_MS * 3);
    const read = (text) => {
      log += log.length < 100_000 ? text : "";
      const found = listens.exec(log)?.[1];
      if (found !== undefined) {
        clearTimeout(timer);
        resolve(found);
      }
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("error", reject);
    child.on("close", () => reject(new Error(`${command} ended; its log:\n${log}`)));
  });
}

/** Starts a server in a folder of its own, and the application on it. Resolves to the addresses of both. */
async function startApplication(name, args, config, environment = {}) {
  const cwd = join(folder, name);
  mkdirSync(cwd);
  writeFileSync(join(cwd, "tidewire.toml"), config);
  const server = await start(resolve(binary), args, /listens on (http:\/\/[0-9.:]+)/, { cwd, env: { ...own, TIDEWIRE_SERVER__LISTEN: "127.0.0.1:0", ...environment } });
  return { server, application: await startNext("start", server) };
}

/** Starts the built application, or with `dev` its development server. */
function startNext(command, server) {
  return start(process.execPath, ["node_modules/next/dist/bin/next", command, "--hostname", "127.0.0.1", "--port", "0"], /(http:\/\/127\.0\.0\.1:[1-9][0-9]*)[^]*Ready in/, {
    cwd: EXAMPLE,
    env: { ...own, NEXT_TELEMETRY_DISABLED: "1", TIDEWIRE_URL: server, TIDEWIRE_SECRET: SECRET },
  });
}

async function install() {
  const [lock, mark] = ["package-lock.json", "node_modules/.package-lock.json"].map((file) => join(EXAMPLE, file));
  if (!existsSync(mark) || statSync(mark).mtimeMs < statSync(lock).mtimeMs) {
    await run("npm", ["ci", "--silent", "--no-audit", "--no-fund"], { cwd: EXAMPLE });
  }
  for (const name of ["client", "react"]) {
    await run("npm", ["run", "build", "--silent", "--workspace", `@tidewire/${name}`], { cwd: ROOT });
    const { stdout } = await run("npm", ["pack", "--silent", "--pack-destination", folder, "--workspace", `@tidewire/${name}`], { cwd: ROOT });
    const target = join(EXAMPLE, "node_modules/@tidewire", name);
    rmSync(target, { recursive: true, force: true });
    mkdirSync(target, { recursive: true });
    await run("tar", ["-xzf", join(folder, stdout.trim()), "-C", target, "--strip-components=1"]);
  }
}

// Of a run that was killed.
removePage(EXAMPLE);
await check("the example is installed, with the packages as they are published", install);
const build = () => run("npx", ["next", "build"], { cwd: EXAMPLE, env: { ...own, NEXT_TELEMETRY_DISABLED: "1" } });
if (failed() === 0) {
  await check("the example is built, with its types", build);
}
if (failed() > 0) {
  process.exit(1);
}

const browser = await openBrowser();
const errors = [];
/** Opens a page, and collects what it logs and throws: a mismatch of the hydration is among it. */
async function open(url) {
  const page = await browser.context.newPage();
  page.on("console", (message) => {
    // The browser itself logs the 401 of `/api/token` when nobody is signed in, and the refusals of the checks below.
    if (["error", "warning"].includes(message.type()) && !/status of (400|401|502)/.test(message.text())) {
      errors.push(message.text());
    }
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url);
  return page;
}

const { server, application: sample } = await startApplication("sample", ["replay", "--loop"], "", { TIDEWIRE_AUTH__HMAC_SECRET: SECRET });

await check("the server renders the prices of the moment, and says that it connects", async () => {
  const html = await (await fetch(sample)).text();
  assert(/BTC-USD<\/th><td>\d/.test(html), `no price in ${html}`);
  assert(/role="status"[^>]*>Connecting…</.test(html), "no status");
});

await check("the page is hydrated without a mismatch, and the prices move", async () => {
  const page = await open(sample);
  await page.getByText("Connected", { exact: true }).waitFor();
  const cell = page.locator("td").first();
  const first = await cell.textContent();
  await until("another price", async () => (await cell.textContent()) !== first);
  await page.close();
});

await check("a click by nobody says that a user is needed", async () => {
  const page = await open(sample);
  await page.getByRole("button", { name: "Notify me" }).click();
  await page.getByRole("alert").getByText("Nobody is notified: expected a signed-in user").waitFor();
  await page.close();
});

const anvil = join(TOOLS, `@foundry-rs/anvil-${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}/bin/anvil`);
const node = await start(anvil, ["--port", "0", "--slots-in-an-epoch", "1"], /Listening on ([0-9.:]+)/, {});
const chain = `\n[[chain]]\nid = 31337\nendpoints = ["ws://${node}"]\nconfirmations = 2\n`;
const config = readFileSync(join(EXAMPLE, "tidewire.toml"), "utf8") + chain;
const { application } = await startApplication("application", ["serve", "--config", "tidewire.toml"], config, { TIDEWIRE_PRICES__SYMBOLS: "[]" });
await browser.context.addCookies([{ name: "user", value: "ada", url: application }]);

await check("a click notifies its user through the API route, and the inbox shows it", async () => {
  const page = await open(application);
  await page.getByText("Connected", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Notify me" }).click();
  await page.getByText("Hello number 1").waitFor();
  await page.getByText("Inbox (1)").waitFor();
  await page.getByRole("button", { name: "Mark all read" }).click();
  await page.getByText("Inbox (0)").waitFor();
  await page.reload();
  await page.locator('li[data-read="true"]', { hasText: "Hello number 1" }).waitFor();
  await page.getByRole("button", { name: "Dismiss" }).click();
  await page.getByText("Hello number 1").waitFor({ state: "detached" });
  await page.close();
});

await check("visits that two browsers see on the chart, live", async () => {
  const [first, second] = [await open(`${application}/analytics`), await open(`${application}/analytics`)];
  await first.getByRole("button", { name: "Visit" }).click();
  for (const page of [first, second]) {
    await page.getByText("1 visits", { exact: true }).waitFor();
  }
  await second.getByRole("button", { name: "Visit" }).click();
  for (const page of [first, second]) {
    await page.getByRole("img", { name: "2 visits" }).waitFor();
    await page.close();
  }
});

await check("a payment is followed from its transaction to the final block, and its last step shows after a reload", async () => {
  const ethereum = async (method, ...params) => {
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
    const response = await fetch(`http://${node}`, { method: "POST", headers: { "content-type": "application/json" }, body });
    return (await response.json()).result;
  };
  const page = await open(`${application}/payments`);
  await page.getByText("No payment yet").waitFor();
  const [from, to] = await ethereum("eth_accounts");
  const hash = await ethereum("eth_sendTransaction", { from, to, value: "0x1" });
  await page.getByLabel("Transaction").fill(hash);
  await page.getByRole("button", { name: "Follow" }).click();
  await page.getByText(/order-1: (confirming|confirmed)/).waitFor();
  await until("the final state", async () => {
    await ethereum("evm_mine");
    return (await page.getByText("order-1: finalized").count()) > 0;
  });
  await page.reload();
  await page.getByText("order-1: finalized").waitFor();
  await page.close();
});

await check("a payment on a chain that the server does not follow has the server's reason", async () => {
  const page = await open(`${application}/payments`);
  await page.getByLabel("Chain").fill("5");
  await page.getByLabel("Transaction").fill(`0x${"1".repeat(64)}`);
  await page.getByRole("button", { name: "Follow" }).click();
  await page.getByRole("alert").getByText("there is no chain 5").waitFor();
  await page.close();
});

await check("hot reload keeps one socket and one subscription of each channel, and leaves those of a removed component", async () => {
  const before = children.length;
  try {
    await checkHotReload(browser.context, EXAMPLE, () => startNext("dev", server));
  } finally {
    // It writes until its end.
    for (const development of children.slice(before)) {
      const ended = new Promise((resolve) => development.once("close", resolve));
      development.kill("SIGTERM");
      await ended;
    }
  }
});

await check("the pages log no error and no warning, so the hydration had no mismatch", () => assert(errors.length === 0, errors.join("\n")));

await browser.close();
process.exit(failed() === 0 ? 0 : 1);
