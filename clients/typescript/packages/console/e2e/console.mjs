// Browser test of the console page, against a server that replays the sample:
// `node e2e/console.mjs http://127.0.0.1:8080`. It prints a line for each check:
// `ok …` or `not ok …`.
import { checkExamples } from "./examples.mjs";
import { checkExplorer } from "./explorer.mjs";
import { assert, check, failed, openBrowser } from "./harness.mjs";
import { checkLayout } from "./layout.mjs";
import { checkOperator } from "./operator.mjs";
import { checkPrices } from "./prices.mjs";
import { startProxy } from "./proxy.mjs";
import { checkReconnect } from "./reconnect.mjs";
import { checkSnippets } from "./snippets.mjs";

const server = process.argv[2];
if (server === undefined) {
  console.error("usage: node e2e/console.mjs URL");
  process.exit(2);
}

const browser = await openBrowser({ viewport: { width: 1280, height: 900 } });
const proxy = await startProxy(server);
const { context } = browser;
await context.grantPermissions(["clipboard-read", "clipboard-write"]);

/** Errors and warnings of all pages, except for lost connections while the proxy cuts them. */
const errors = [];
let isCut = false;
/** Log lines of refused requests: the page shows the refusal. The setup asks for parts that are not configured. */
const REFUSALS = /the server responded with a status of 40[034]/;
const requests = [];
context.on("page", (page) => {
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !(isCut && /ERR_|WebSocket/.test(message.text())) && !REFUSALS.test(message.text())) {
      errors.push(message.text());
    }
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => requests.push(request.url()));
});

/** Opens a page of the console in a new tab. */
async function open(route = "", url = server) {
  const page = await context.newPage();
  await page.goto(`${url}/#/${route}`);
  return page;
}

await checkPrices(open, server);
await checkOperator(open, server);
await checkExplorer(open, server);
await checkSnippets(open, server);
await checkLayout(open, server);
isCut = true;
await checkReconnect(open, server, proxy);
isCut = false;
await checkExamples(server);

await check("the page loads nothing from other hosts", () => {
  const hosts = [server, proxy.url, "data:"];
  const foreign = requests.filter((url) => !hosts.some((host) => url.startsWith(host)));
  assert(foreign.length === 0, `it requested ${foreign.join(", ")}`);
});
await check("the pages log no error and no warning", () => {
  assert(errors.length === 0, errors.join("\n"));
});

proxy.close();
await browser.close();
process.exit(failed() === 0 ? 0 : 1);
