// Checks of the examples: each runs against the server as the README shows.
import { spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { assert, check, openBrowser, runUntil, WEB_SOCKET_FLAG } from "./harness.mjs";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

/** The page of the push example: what a browser lacks is said within seconds, with how to go on. */
async function checkPush() {
  const folder = new URL("../../examples/push/", `file://${ROOT}`);
  const files = createServer((request, response) => {
    const name = request.url === "/" ? "index.html" : request.url.slice(1);
    readFile(new URL(name, folder)).then(
      (bytes) => response.setHeader("content-type", name.endsWith(".js") ? "text/javascript" : "text/html").end(bytes),
      () => response.writeHead(404).end(),
    );
  });
  await new Promise((resolve) => files.listen(0, "127.0.0.1", resolve));
  const origin = `http://localhost:${files.address().port}`;
  const browser = await openBrowser();
  const { context } = browser;
  await context.grantPermissions(["notifications"], { origin });
  for (const [lack, init, expected] of [
    ["a secure page", () => Object.defineProperty(window, "isSecureContext", { value: false }), /browsers offer push on https/],
    ["service workers", () => delete window.Navigator.prototype.serviceWorker, /no service worker here/],
    ["Web Push", () => delete window.PushManager, /no Web Push: take a current/],
    ["permission, as in a private window", () => (window.Notification.requestPermission = () => Promise.resolve("denied")), /shows no notifications of this page.*private window/],
    ["permission to subscribe", () => (window.PushManager.prototype.subscribe = () => Promise.reject(new DOMException("", "NotAllowedError"))), /refuses push for this page\. A private window/],
    ["words in the error", () => (window.PushManager.prototype.subscribe = () => Promise.reject(new DOMException("", "DataError"))), /It failed: DataError/],
    ["a push service that answers", () => (window.PushManager.prototype.subscribe = () => new Promise(() => undefined)), /push service does not answer.*try Chrome/],
    ["a push service", () => (window.PushManager.prototype.subscribe = () => Promise.reject(new DOMException("Registration failed", "AbortError"))), /Registration failed: .*push service does not answer/],
  ]) {
    await check(`without ${lack}, the push example says how to go on`, async () => {
      const page = await context.newPage();
      await page.clock.install();
      await page.addInitScript(init);
      const headers = { "access-control-allow-origin": "*", "access-control-allow-headers": "*" };
      await page.route("**/v1/rpc/**", (route) => route.fulfill({ headers, json: { publicKey: "BAAA" } }));
      await page.goto(origin);
      await page.getByLabel("Token").fill("a.b.c");
      await page.getByRole("button", { name: "Allow push" }).click();
      const log = page.getByRole("status");
      await log.filter({ hasText: /push service…|It failed/ }).waitFor();
      await page.clock.runFor(10_000);
      await log.filter({ hasText: expected }).waitFor();
      await page.close();
    });
  }
  await browser.close();
  files.close();
}

export async function checkExamples(server) {
  const run = (file, expected) => runUntil(expected, process.execPath, [...WEB_SOCKET_FLAG, `packages/examples/${file}`, server], { cwd: ROOT });

  await check("the examples build", async () => {
    for (const folder of ["client", "examples"]) {
      await runUntil(/built/, "sh", ["-c", `npx tsc -p packages/${folder}/tsconfig.build.json && echo built`], { cwd: ROOT });
    }
  });
  await check("the example of prices", () => run("dist/prices.js", /connected\n[^]*BTC-USD \d+/));
  await check("the example of messages", () => run("dist/messages.js", /seq \d+: \{ text: 'hello' \}/));
  await check("the example of Server-Sent Events", () => run("src/sse.mjs", /^price \{/m));
  await check("examples say why a server cannot be reached, and what is missing", () => {
    const bare = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== "TOKEN"));
    for (const [program, file, expected] of [
      [process.execPath, "packages/examples/src/rpc.mjs", /^http:\/\/127\.0\.0\.1:1: .*(bad port|ECONNREFUSED)/],
      [process.execPath, "packages/examples/src/sse.mjs", /^http:\/\/127\.0\.0\.1:1: .*(bad port|ECONNREFUSED)/],
      ["bash", "../../examples/alerts.sh", /TOKEN: expected a token of a user/],
    ]) {
      const { status, stderr } = spawnSync(program, [file, "http://127.0.0.1:1"], { cwd: ROOT, env: bare, encoding: "utf8" });
      assert(status === 1 && expected.test(stderr), `${file}: status ${status}, ${stderr}`);
    }
  });
  await checkPush();
  await check("the example of a call", () => run("src/rpc.mjs", /BTC-USD \d+[^]*: \d+[.\d]*, live, weight/));
}
