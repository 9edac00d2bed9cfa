// What users rely on in the console page, in a real browser against a real server:
// `node e2e/console.mjs http://127.0.0.1:8080`, with a server that replays the sample.
// Prints a line for each check: `ok …` or `not ok …`.
import { checkExamples } from "./examples.mjs";
import { checkExplorer } from "./explorer.mjs";
import { assert, check, failed, openBrowser } from "./harness.mjs";
import { startLink } from "./link.mjs";
import { checkLooks } from "./looks.mjs";
import { checkMending } from "./mending.mjs";
import { checkPrices } from "./prices.mjs";
import { checkSnippets } from "./snippets.mjs";

const server = process.argv[2];
if (server === undefined) {
  console.error("usage: node e2e/console.mjs URL");
  process.exit(2);
}

const browser = await openBrowser({ viewport: { width: 1280, height: 900 } });
const link = await startLink(server);
const { context } = browser;
await context.grantPermissions(["clipboard-read", "clipboard-write"]);

/** Everything that a page complained of, but for lost connections while the line is cut on purpose. */
const complaints = [];
let isCut = false;
const requests = [];
context.on("page", (page) => {
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !(isCut && /ERR_|WebSocket/.test(message.text()))) {
      complaints.push(message.text());
    }
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => requests.push(request.url()));
});

/** A new page that shows the console. */
async function open(url = server) {
  const page = await context.newPage();
  await page.goto(url);
  return page;
}

await checkPrices(open, server);
await checkExplorer(open, server);
await checkSnippets(open, server);
await checkLooks(open);
isCut = true;
await checkMending(open, server, link);
isCut = false;
await checkExamples(server);

await check("the page loads nothing from elsewhere", () => {
  const hosts = [server, link.url, "data:"];
  const foreign = requests.filter((url) => !hosts.some((host) => url.startsWith(host)));
  assert(foreign.length === 0, `it asked for ${foreign.join(", ")}`);
});
await check("the pages complained of nothing", () => {
  assert(complaints.length === 0, complaints.join("\n"));
});

link.close();
await browser.close();
process.exit(failed() === 0 ? 0 : 1);
