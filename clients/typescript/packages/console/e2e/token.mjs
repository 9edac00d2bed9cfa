// Browser test of the console on a server that wants a token: `node e2e/token.mjs BINARY`. It starts
// the server in a folder of its own, and prints a line for each check: `ok …` or `not ok …`.
import { execFile, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { startFront } from "./front.mjs";
import { check, failed, openBrowser } from "./harness.mjs";
import { startServer } from "./server.mjs";

const binary = process.argv[2];
if (binary === undefined) {
  console.error("usage: node e2e/token.mjs BINARY");
  process.exit(2);
}

const cwd = mkdtempSync(join(tmpdir(), "tidewire-token-"));
const own = Object.entries(process.env).filter(([name]) => !name.startsWith("TIDEWIRE_"));
const env = { ...Object.fromEntries(own), TIDEWIRE_PRICES__SYMBOLS: "[]", TIDEWIRE_AUTH__ANONYMOUS: "false", TIDEWIRE_SERVER__LISTEN: "127.0.0.1:0" };
const child = spawn(binary, ["serve"], { cwd, env, stdio: ["ignore", "ignore", "pipe"] });
process.once("exit", () => {
  child.kill("SIGKILL");
  rmSync(cwd, { recursive: true, force: true });
});
const address = await new Promise((resolve, reject) => {
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text) => {
    log += log.length < 100_000 ? text : "";
    const found = /listens on http:\/\/([0-9.:]+)/.exec(log)?.[1];
    if (found !== undefined) {
      resolve(found);
    }
  });
  child.on("error", reject);
  child.on("close", () => reject(new Error(`the server ended; its log:\n${log}`)));
});
// A built page in place of the server's: tests a change of the page without building the server.
const built = process.env.CONSOLE_PAGE;
const front = built === undefined ? undefined : await startFront(address, built);
const url = front?.url ?? `http://${address}`;
const token = (...args) => execFileSync(binary, ["token", ...args], { cwd, env, encoding: "utf8" }).trim();

/** Runs a command to its end. A front of the server runs in this process, which must not stand still. */
const run = (program, args, env) => new Promise((done) => execFile(program, args, { env, encoding: "utf8" }, (error, stdout, stderr) => done({ error, stdout, stderr })));

const browser = await openBrowser({ viewport: { width: 1280, height: 900 } });
const page = await browser.context.newPage();
const main = page.getByRole("main");
const signIn = async (text) => {
  await main.getByLabel("Token", { exact: true }).fill(text);
  await main.getByRole("button", { name: "Sign in", exact: true }).click();
};
const asks = () => page.getByRole("heading", { level: 1, name: "This server wants a token" }).waitFor();

await check("the page asks for a token", async () => {
  await page.goto(`${url}/#/connections`);
  await asks();
});

await check("text that is no token is refused with the reason", async () => {
  await signIn("nonsense");
  await main.getByText("This is no token").waitFor();
});

await check("a token that the server refuses is refused with the server's words", async () => {
  await signIn(`${token("--user", "ada")}x`);
  await main.getByText(/^Signed out: ./).waitFor();
});

await check("with a user's token the page works, as that user", async () => {
  await signIn(token("--user", "eve"));
  await page.locator("#state", { hasText: /^Connected$/ }).waitFor();
  // On loopback every client may operate the server.
  await page.locator("tr[data-connection-id]", { hasText: "this page" }).filter({ hasText: "eve" }).waitFor();
});

await check("a server without symbols says that nothing is published on market:overview", async () => {
  await page.goto(`${url}/#/market`);
  await main.getByText("No symbol is configured").waitFor();
  await main.getByText("the server publishes nothing on market:overview").waitFor();
  await page.goto(`${url}/#/channels/market:overview`);
  await main.getByText("No symbol is configured, so the server publishes nothing here.").waitFor();
  await page.goto(`${url}/#/connections`);
});

await check("the account signs out", async () => {
  await page.getByRole("button", { name: "eve", exact: true }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Sign out" }).click();
  await asks();
  await page.keyboard.press("Escape");
});

await check("with the token of an operator the page works", async () => {
  await signIn(token("--user", "ada", "--scope", "admin"));
  await page.locator("tr[data-connection-id]", { hasText: "this page" }).filter({ hasText: "ada" }).waitFor();
});

await check("the token lasts as long as the tab, and the code that is copied has none", async () => {
  await page.reload();
  await page.locator("tr[data-connection-id]", { hasText: "this page" }).waitFor();
  await browser.context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.getByRole("button", { name: "Copy the connections as code" }).click();
  await page.getByRole("menuitem", { name: "curl" }).click();
  await page.getByRole("button", { name: "Copy the connections as code" }).filter({ hasText: "Copied" }).waitFor();
  const code = await page.evaluate(() => navigator.clipboard.readText());
  const { stdout: output } = await run("sh", ["-c", code], { ...process.env, TOKEN: token("--user", "ada", "--scope", "admin") });
  if (!code.startsWith("# export TOKEN=") || !output.includes('"userId":"ada"')) {
    throw new Error(`${code}\n${output}`);
  }
});

await check("each copied code says what is missing without a token", async () => {
  const bare = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== "TOKEN"));
  const button = page.getByRole("button", { name: "Copy the connections as code" });
  for (const [language, program, ...args] of [["curl", "sh", "-c"], ["TypeScript", process.execPath, "--input-type=module", "-e"], ["Python", "python3", "-c"]]) {
    await page.evaluate(() => navigator.clipboard.writeText(""));
    await button.click();
    await page.getByRole("menuitem", { name: language, exact: true }).click();
    await button.filter({ hasText: "Copied" }).waitFor();
    const code = await page.evaluate(() => navigator.clipboard.readText());
    const { error, stderr } = await run(program, [...args, code], bare);
    if (error === null || !/TOKEN.*not set: see the first line/.test(stderr)) {
      throw new Error(`${language}: ${stderr}`);
    }
    await button.filter({ hasText: "Copy" }).waitFor();
  }
});

await check("commands name the configuration file of the server, and can be copied", async () => {
  const configured = await startServer(resolve(binary), { file: `[auth]\nhmac_secret = "${"x".repeat(40)}"\n[server]\nlisten = "127.0.0.1:0"\n` });
  const other = await browser.context.newPage();
  await other.goto(`${configured.url}/#/inbox`);
  const command = await other.getByRole("main").locator("code", { hasText: `tidewire token --user ada --config '${configured.config}'` }).innerText();
  const { stdout } = await run("sh", ["-c", command.replace("tidewire", `'${resolve(binary)}'`)], process.env);
  await other.getByRole("main").getByLabel("Token", { exact: true }).fill(stdout.trim());
  await other.getByRole("main").getByRole("button", { name: "Sign in", exact: true }).click();
  await other.locator("#inbox").waitFor();
  await other.goto(`${configured.url}/#/setup`);
  await other.getByText(`read from ${configured.config}`).waitFor();
  await configured.close();
});

await browser.close();
process.exit(failed() === 0 ? 0 : 1);
