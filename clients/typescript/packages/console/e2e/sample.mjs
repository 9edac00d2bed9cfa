// Browser test of the pages Chains and Alerts, on the built-in sample with its chain and its user:
// `node e2e/sample.mjs target/debug/tidewire`. It prints a line for each check.
import { resolve } from "node:path";
import { devices } from "playwright-core";
import { checkAlerts } from "./alerts.mjs";
import { checkChains } from "./chains.mjs";
import { assert, check, failed, openBrowser, until } from "./harness.mjs";
import { checkHints, checkTouch } from "./hints.mjs";
import { checkPage } from "./layout.mjs";
import { startProxy } from "./proxy.mjs";
import { startServer } from "./server.mjs";

const binary = process.argv[2];
if (binary === undefined) {
  console.error("usage: node e2e/sample.mjs BINARY");
  process.exit(2);
}

const server = await startServer(resolve(binary), { isSample: true });
const proxy = await startProxy(server.url);
const browser = await openBrowser({ viewport: { width: 1280, height: 900 } });
const errors = [];
/** What a browser logs of requests that the server refuses: the page shows them. */
const REFUSALS = /the server responded with a status of 40[034]/;
let isCut = false;

async function open(route, url = server.url) {
  const page = await browser.context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !(isCut && /ERR_|WebSocket/.test(message.text())) && !REFUSALS.test(message.text())) {
      errors.push(message.text());
    }
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(`${url}/#/${route}`);
  return page;
}

/** Signs in on a page that asks for it. */
async function signIn(page, user = "sample") {
  const main = page.locator("main");
  await main.getByLabel("Token", { exact: true }).fill(server.token(user));
  await main.getByRole("button", { name: "Sign in", exact: true }).click();
}

await checkChains(open, server.url);
await checkAlerts(open, server.url, signIn);
await checkHints(open);

const inbox = await open("inbox");
await signIn(inbox);
await inbox.locator("#notifications > li").first().waitFor();
await checkPage(inbox, "inbox");
await check("both connections of a page are marked as its own", async () => {
  await inbox.goto(`${server.url}/#/connections`);
  const row = (user, mark) => inbox.locator("tr[data-connection-id]", { hasText: user }).filter({ has: inbox.locator(".chip", { hasText: mark }) });
  await row("anonymous", /^this page$/).waitFor();
  await row("sample", /^this page, signed in$/).waitFor();
});
await check("a refused publication is sent once, as the user", async () => {
  await inbox.goto(`${server.url}/#/channels`);
  await inbox.getByLabel("Channel", { exact: true }).fill("prices:BTC-USD");
  const sent = [];
  const note = (request) => request.url().endsWith("/StreamService/Publish") && sent.push(request.method());
  inbox.on("request", note);
  await inbox.getByRole("button", { name: "Publish", exact: true }).click();
  await inbox.locator("#explorer-note.bad").waitFor();
  inbox.off("request", note);
  assert(sent.length === 1, `it was sent ${sent.length} times`);
});
await inbox.close();

isCut = true;
await check("without a connection the pages say that they are old, and go on afterwards", async () => {
  const page = await open("chains", proxy.url);
  await page.locator("tr[data-block]").first().waitFor();
  proxy.cut();
  await page.locator(".tile .old-mark").first().waitFor();
  await page.locator(".card .hint .old-mark").first().waitFor();
  await checkPage(page, "chains, offline");
  const [before] = await page.locator("tr[data-block]").evaluateAll((rows) => rows.map((row) => Number(row.dataset.block)));
  // What was never read is not on its way.
  for (const route of ["market", "connections", "chains"]) {
    await page.evaluate((name) => (window.location.hash = `#/${name}`), route);
    await page.getByText("Not loaded: no connection").first().waitFor();
    assert((await page.locator(".loading").count()) === 0, `${route} says that it loads`);
  }
  proxy.restore();
  await page.locator(".tile .old-mark").first().waitFor({ state: "detached" });
  await page.locator(`tr[data-block="${before + 1}"]`).waitFor();
  await page.close();
});
isCut = false;

const phone = await openBrowser(devices["Pixel 7"]);
await check("on a phone, taps go to each page, and what is followed is in sight", async () => {
  const page = await phone.context.newPage();
  await page.goto(`${server.url}/#/overview`);
  for (const name of ["Prices", "Market", "Inbox", "Alerts", "Channels", "Connections", "Setup", "Chains"]) {
    const tab = page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: new RegExp(`^${name}`) });
    await tab.tap();
    await page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
    await until(`the tab ${name} in sight`, () => tab.evaluate((element) => element.getBoundingClientRect().left >= 0 && element.getBoundingClientRect().right <= window.innerWidth));
  }
  await page.locator("tr[data-block]").first().waitFor();
  const order = await page.evaluate(() => document.querySelector(".trackers").getBoundingClientRect().top < document.querySelector(".blocks").getBoundingClientRect().top);
  assert(order, "the transaction and the wallet stand below the blocks");
  await page.locator("tr[data-block] .below-s", { hasText: /0x[0-9a-f]+… · \d+ txs?/ }).first().waitFor();
  await page.getByRole("button", { name: "Follow" }).tap();
  await page.locator(".wallet-lines li").first().waitFor();
  const isAbove = await page.evaluate(() => document.querySelector(".wallet-lines").getBoundingClientRect().top < document.querySelector("tr[data-block]").getBoundingClientRect().top);
  assert(isAbove, "the wallet stands below the blocks");
  const copy = page.getByRole("button", { name: "Copy the blocks as code" });
  await copy.tap();
  const menu = page.getByRole("menu");
  const { x, width } = await menu.boundingBox();
  assert(x >= 0 && x + width <= page.viewportSize().width, `the menu reaches from ${x} to ${x + width}`);
  await page.getByRole("heading", { level: 1 }).tap();
  await menu.waitFor({ state: "detached" });
  await page.close();
});
{
  const page = await phone.context.newPage();
  await checkTouch(page, server.url);
  await page.close();
}
await phone.close();

await check("where the browser denies storage, the page works, and a user signs in until it is left", async () => {
  const page = await browser.context.newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.addInitScript(() => {
    for (const name of ["localStorage", "sessionStorage"]) {
      Object.defineProperty(window, name, {
        get() {
          throw new DOMException("denied", "SecurityError");
        },
      });
    }
  });
  await page.goto(`${server.url}/#/inbox`);
  await signIn(page);
  await page.locator("#notifications > li").first().waitFor();
  await page.getByRole("button", { name: /^Colours: / }).click();
  await page.getByRole("button", { name: "Sign out", exact: true }).first().click();
  await page.locator("main").getByLabel("Token", { exact: true }).waitFor();
  await page.close();
});

await check("the pages log no error and no warning", () => assert(errors.length === 0, errors.join("\n")));

proxy.close();
await browser.close();
await server.close();
process.exit(failed() === 0 ? 0 : 1);
