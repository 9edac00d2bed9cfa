// Browser test of the inbox: two browsers of one user, against a server with a store:
// `node e2e/inbox.mjs target/debug/tidewire`. It prints a line for each check: `ok …` or `not ok …`.
//
// The browsers differ in language and time zone. One of them is behind a proxy that can cut its
// connection.
import { resolve } from "node:path";
import { call } from "./api.mjs";
import { assert, check, failed, openBrowser, until } from "./harness.mjs";
import { startProxy } from "./proxy.mjs";
import { startServer } from "./server.mjs";

const binary = process.argv[2];
if (binary === undefined) {
  console.error("usage: node e2e/inbox.mjs BINARY");
  process.exit(2);
}

const server = await startServer(resolve(binary));
const proxy = await startProxy(server.url);
const viewport = { width: 1280, height: 900 };
const [first, second] = await Promise.all([
  openBrowser({ viewport, locale: "en-US", timezoneId: "America/New_York" }),
  openBrowser({ viewport, locale: "ar-EG", timezoneId: "Asia/Kathmandu" }),
]);

/** Errors of all pages, except for lost connections. */
const errors = [];
/** Requests to other hosts. */
const foreign = [];

async function open(browser, url) {
  const page = await browser.context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !/ERR_|WebSocket/.test(message.text())) {
      errors.push(message.text());
    }
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => {
    if (![server.url, proxy.url, "data:"].some((own) => request.url().startsWith(own))) {
      foreign.push(request.url());
    }
  });
  await page.goto(`${url}/#/inbox`);
  return page;
}

const note = (title, rest = {}) => ({ type: "payment_received", title, priority: "high", ...rest });
const notify = (user, title, rest) => call(server.url, "NotifyService/Notify", { user, notification: note(title, rest) });
const everyone = (title) => call(server.url, "NotifyService/Notify", { everyone: true, notification: note(title) });

/** Runs in the page: the inbox as its user sees it, with the count in all of its places. */
function shown() {
  const text = (id) => document.getElementById(id)?.textContent ?? "";
  const [shownToAll, read] = document.querySelectorAll('.tabs a[href="#/inbox"] .badge > span');
  const rows = [...document.querySelectorAll("#notifications > li")];
  return {
    counts: [text("inbox-badge"), shownToAll?.textContent ?? "", read?.textContent ?? "", text("inbox-status"), document.title],
    items: rows.map((row) => `${row.querySelector(".title").lastChild.textContent}${row.dataset.read === "false" ? " *" : ""}`),
  };
}

/** Waits until all pages show this count and these notifications. `*` marks unread ones. */
async function agree(pages, count, items) {
  const name = "Inbox · Tidewire";
  const spoken = `${count} unread notification${count === 1 ? "" : "s"}`;
  const counts = [`${count} unread`, `${count} unread`, spoken, spoken, count === 0 ? name : `(${count}) ${name}`];
  const expected = JSON.stringify({ counts, items });
  for (const page of pages) {
    let last = "";
    try {
      await until(expected, async () => (last = JSON.stringify(await page.evaluate(shown))) === expected);
    } catch (error) {
      throw new Error(`${error.message}; it shows ${last}`, { cause: error });
    }
  }
}

/** Runs in the page: collects the titles of new rows, also of those that soon expire. */
function collectTitles() {
  window.titles = [];
  const list = document.getElementById("notifications");
  new MutationObserver(() => window.titles.push(...[...list.querySelectorAll(".title")].map((title) => title.lastChild.textContent))).observe(list, { childList: true });
}

async function signIn(page, token) {
  const main = page.locator("main");
  await main.getByLabel("Token", { exact: true }).fill(token);
  await main.getByRole("button", { name: "Sign in", exact: true }).click();
}

/** Signs in and waits for the list. */
async function signInAs(page, user) {
  await signIn(page, server.token(user));
  await page.locator("#inbox-badge").waitFor();
}

/** Waits until the inbox of a page has this state: `live` or `offline`. */
const session = (page, state) => page.locator(`#inbox[data-session="${state}"]`).waitFor();

const press = (page, name) => page.getByRole("button", { name, exact: true }).click();

/** The requests that a page sends over all of its connections, from now on. */
function requestsOf(page) {
  const requests = [];
  page.on("websocket", (socket) => {
    socket.on("framesent", ({ payload }) => requests.push(JSON.parse(payload)));
  });
  return requests;
}

const a = await open(first, proxy.url);
const b = await open(second, server.url);
const both = [a, b];

await check("a page without a token shows how to get one, and no list", async () => {
  await a.locator("main").getByText("tidewire token --user ada").waitFor();
  assert((await a.locator("#inbox").count()) === 0, "it is signed in");
  assert((await a.locator(".tabs .badge").count()) === 0, "it shows a count");
});

await check("a text that is no token is refused, and so is a token of another server", async () => {
  await signIn(a, "my password");
  await a.locator("main .sign-in [role=status]", { hasText: "This is no token: expected three parts" }).waitFor();
  const [head, claims] = server.token("ada").split(".");
  await signIn(a, `${head}.${claims}.AAAA`);
  await a.locator("main .sign-in [role=status]", { hasText: /^Signed out: .*token/ }).waitFor();
  await a.locator("main .sign-in").waitFor();
  assert((await a.evaluate(() => window.sessionStorage.length)) === 0, "the token stayed");
});

await check("two browsers of one user show the same list, live", async () => {
  await notify("ada", "Before");
  await signInAs(a, "ada");
  await signInAs(b, "ada");
  await agree(both, 1, ["Before *"]);
  await notify("ada", "One");
  await notify("ada", "Two");
  await notify("bob", "Not Ada's");
  await notify("ada", "Three");
  await agree(both, 4, ["Three *", "Two *", "One *", "Before *"]);
});

await check("one browser reads: both agree on the list and the count", async () => {
  await press(a, "Mark read: Two");
  await agree(both, 3, ["Three *", "Two", "One *", "Before *"]);
});

await check("both read the same one at once: the count drops by one", async () => {
  // A button may be gone: then the other browser's change has arrived already.
  await Promise.all(both.map((page) => page.evaluate(() => document.querySelector('[aria-label="Mark read: One"]')?.click())));
  await agree(both, 2, ["Three *", "Two", "One", "Before *"]);
});

await check("both read different ones at once", async () => {
  await Promise.all([press(a, "Mark read: Three"), press(b, "Mark read: Before")]);
  await agree(both, 0, ["Three", "Two", "One", "Before"]);
});

await check("one browser dismisses an unread one, the other a read one", async () => {
  await notify("ada", "Four");
  await notify("ada", "Five");
  await agree(both, 2, ["Five *", "Four *", "Three", "Two", "One", "Before"]);
  await Promise.all([press(a, "Dismiss: Four"), press(b, "Dismiss: Two")]);
  await agree(both, 1, ["Five *", "Three", "One", "Before"]);
});

await check("a reload keeps the user, the list and the count", async () => {
  await a.reload();
  await agree(both, 1, ["Five *", "Three", "One", "Before"]);
});

await check("one browser marks all as read, the other what has arrived since", async () => {
  await notify("ada", "Six");
  await agree(both, 2, ["Six *", "Five *", "Three", "One", "Before"]);
  await press(a, "Mark all read");
  await agree(both, 0, ["Six", "Five", "Three", "One", "Before"]);
  await notify("ada", "Seven");
  await agree(both, 1, ["Seven *", "Six", "Five", "Three", "One", "Before"]);
  await press(b, "Mark all read");
  await agree(both, 0, ["Seven", "Six", "Five", "Three", "One", "Before"]);
});

await check("a cut connection catches up with what the other browser did, without loading the list again", async () => {
  await notify("ada", "Eight");
  await agree(both, 1, ["Eight *", "Seven", "Six", "Five", "Three", "One", "Before"]);
  const requests = requestsOf(a);
  proxy.cut();
  await session(a, "reconnecting");
  await press(b, "Mark read: Eight");
  await press(b, "Dismiss: Seven");
  await notify("ada", "Nine");
  await agree([b], 1, ["Nine *", "Eight", "Six", "Five", "Three", "One", "Before"]);
  proxy.restore();
  await agree(both, 1, ["Nine *", "Eight", "Six", "Five", "Three", "One", "Before"]);
  const resumed = requests.flatMap(({ type, data }) => (type === "subscribe" ? data.channels : [])).filter(({ channel }) => channel === "user:ada");
  assert(resumed.length > 0 && resumed.every(({ since }) => since !== undefined), `it subscribed with ${JSON.stringify(resumed)}`);
  assert(!requests.some(({ type }) => type === "notifications"), "it loaded the list again");
});

await check("a change on a cut connection is refused with the reason, and works afterwards", async () => {
  proxy.cut();
  await session(a, "reconnecting");
  await press(a, "Mark read: Nine");
  await a.locator("#inbox-note", { hasText: "not connected" }).waitFor();
  proxy.restore();
  await session(a, "connected");
  await press(a, "Mark read: Nine");
  await agree(both, 0, ["Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  await a.locator("#inbox-note", { hasText: /^$/ }).waitFor({ state: "attached" });
});

await check("a server that was killed loses nothing: both load the list again", async () => {
  await notify("ada", "Ten");
  await agree(both, 1, ["Ten *", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  await server.stop();
  await Promise.all(both.map((page) => session(page, "reconnecting")));
  await server.start();
  await Promise.all(both.map((page) => session(page, "connected")));
  await agree(both, 1, ["Ten *", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  await press(b, "Dismiss: Ten");
  await agree(both, 0, ["Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
});

await check("several at once, also those that the server gathers", async () => {
  const notifications = ["Low", "Medium", "Urgent"].map((title) => ({ user: "ada", notification: note(title, { priority: title.toLowerCase() }) }));
  await call(server.url, "NotifyService/NotifyBatch", { notifications });
  await agree(both, 3, ["Urgent *", "Medium *", "Low *", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  for (const title of ["Urgent", "Medium", "Low"]) {
    await press(b, `Dismiss: ${title}`);
  }
  await agree(both, 0, ["Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
});

await check("a broadcast, its recall, a replaced one and an expired one change list and count", async () => {
  const { id } = await everyone("To all");
  await agree(both, 1, ["To all *", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  await notify("ada", "Shipped", { collapseKey: "order" });
  await notify("ada", "Delivered", { collapseKey: "order" });
  await agree(both, 2, ["Delivered *", "To all *", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  await call(server.url, "NotifyService/RecallBroadcast", { id });
  await agree(both, 1, ["Delivered *", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  await Promise.all(both.map((page) => page.evaluate(collectTitles)));
  await call(server.url, "NotifyService/Notify", { user: "ada", notification: note("Code"), ttlMs: 1_500 });
  for (const page of both) {
    await until("the one that expires", () => page.evaluate(() => window.titles.includes("Code")));
  }
  await agree(both, 1, ["Delivered *", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  await press(a, "Dismiss: Delivered");
  await agree(both, 0, ["Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
});

await check("markup is shown as text, and buttons of a notification are links", async () => {
  const actions = [{ label: "Receipt", url: "https://example.com/receipt?a=1" }];
  await notify("ada", "<img src=x onerror=document.title=1>", { body: "line 1\n<b>line 2</b>", actions });
  const row = a.locator("#notifications > li", { hasText: "<b>line 2</b>" });
  await row.waitFor();
  assert((await row.locator("img, b").count()) === 0, "it became an element");
  const link = row.getByRole("link", { name: "Receipt" });
  assert((await link.getAttribute("href")) === actions[0].url, "the link is another");
  assert((await link.getAttribute("rel")) === "noopener noreferrer", "the page is given to the link's");
  await row.getByRole("button", { name: /^Dismiss/ }).click();
});

await check("the keyboard is enough, and the focus stays in the list", async () => {
  await notify("ada", "Keys");
  await agree(both, 1, ["Keys *", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  const focused = () => a.evaluate(() => document.activeElement?.getAttribute("aria-label"));
  await a.getByRole("button", { name: "Sign out" }).focus();
  await a.keyboard.press("Tab");
  assert((await focused()) === "Mark read: Keys", `the focus is on ${await focused()}`);
  await a.keyboard.press("Enter");
  await until("the focus on the next button", async () => (await focused()) === "Dismiss: Keys");
  await agree(both, 0, ["Keys", "Nine", "Eight", "Six", "Five", "Three", "One", "Before"]);
  await a.keyboard.press("Space");
  await until("the focus on the next row", async () => (await focused()) === "Dismiss: Nine");
  await press(b, "Dismiss: Nine");
  await until("the focus on the row after a dismissed one", async () => (await focused()) === "Dismiss: Eight");
  await a.keyboard.press("Shift+Tab");
  assert((await a.evaluate(() => document.activeElement?.textContent)) === "Sign out", "the order of the focus is another");
});

await check("lists and buttons have names for screen readers", async () => {
  await a.getByRole("region", { name: "Notifications" }).waitFor();
  const list = a.getByRole("list", { name: "Notifications, newest first" });
  assert((await list.getByRole("listitem").count()) === 6, "the list has another number of items");
  await a.getByRole("link", { name: "Overview", exact: true }).click();
  await notify("ada", "Elsewhere");
  await a.getByRole("link", { name: /^Inbox.*1 unread notification$/ }).click();
  await a.locator("#notifications > li", { hasText: "Elsewhere" }).waitFor();
  await until("the focus on the title of the inbox", () => a.evaluate(() => document.activeElement?.textContent === "Inbox"));
  await press(a, "Dismiss: Elsewhere");
  await agree(both, 0, ["Eight", "Six", "Five", "Three", "One", "Before"]);
});

await check("older pages follow on the button, and nothing comes twice while new ones arrive", async () => {
  await signInAs(await signedOut(b), "cleo");
  const titles = Array.from({ length: 45 }, (_, index) => `Number ${index}`);
  await call(server.url, "NotifyService/NotifyBatch", { notifications: titles.map((title) => ({ user: "cleo", notification: note(title) })) });
  await b.locator("#inbox-badge", { hasText: "45 unread" }).waitFor();
  await b.reload();
  const newestFirst = titles.map((title) => `${title} *`).reverse();
  await agree([b], 45, newestFirst.slice(0, 20));
  await notify("cleo", "Newer");
  await press(b, "Show older");
  await agree([b], 46, ["Newer *", ...newestFirst.slice(0, 40)]);
  await press(b, "Mark read: Number 7");
  await agree([b], 45, ["Newer *", ...newestFirst.slice(0, 40)].map((title) => (title === "Number 7 *" ? "Number 7" : title)));
  await press(b, "Show older");
  await agree([b], 45, ["Newer *", ...newestFirst].map((title) => (title === "Number 7 *" ? "Number 7" : title)));
  assert(await b.locator("#older").isHidden(), "there are more than all");
});

await check("filters show their own pages, live, and leave the count alone", async () => {
  const send = (title, type, priority) => call(server.url, "NotifyService/Notify", { user: "cleo", notification: { type, title, priority } });
  await send("Fee is due", "subscription_renewal", "urgent");
  await send("Fee was paid", "payment_received", "urgent");
  await b.getByLabel("Priority").selectOption("urgent");
  await agree([b], 47, ["Fee was paid *", "Fee is due *"]);
  await b.getByLabel("Type").selectOption("subscription_renewal");
  await agree([b], 47, ["Fee is due *"]);
  await send("Fee is late", "subscription_renewal", "urgent");
  await send("No fee", "subscription_renewal", "low");
  await agree([b], 49, ["Fee is late *", "Fee is due *"]);
  await b.getByLabel("Unread only").check();
  await agree([b], 49, ["Fee is late *", "Fee is due *"]);
  await press(b, "Mark read: Fee is late");
  await agree([b], 48, ["Fee is due *"]);
  await press(b, "Mark listed read");
  await agree([b], 47, []);
  await b.getByText("Nothing matches the filter").waitFor();
  await b.getByLabel("Priority").selectOption("");
  await b.getByLabel("Type").selectOption("payment_received");
  await b.locator("#notifications > li").nth(19).waitFor();
  assert((await b.locator("#notifications > li").count()) === 20, "the page has another length");
  await press(b, "Show older");
  await b.locator("#notifications > li").nth(39).waitFor();
  await b.getByLabel("Unread only").uncheck();
  await b.getByLabel("Type").selectOption("");
});

await check("the user who signs out leaves nothing on the page", async () => {
  await signedOut(b);
  assert((await b.locator("#notifications > li").count()) === 0, "the list stayed");
  await until("the title without a count", async () => (await b.title()) === "Inbox · Tidewire");
  assert((await b.locator(".tabs .badge").count()) === 0, "the count stayed at the tab");
  assert((await b.evaluate(() => window.sessionStorage.length)) === 0, "the token stayed");
  await b.reload();
  await b.locator("main").getByRole("button", { name: "Sign in", exact: true }).waitFor();
  await signInAs(b, "bob");
  await agree([b], 1, ["Not Ada's *"]);
});

await check("the pages request nothing from other hosts", () => assert(foreign.length === 0, foreign.join("\n")));
await check("the pages log no error and no warning", () => assert(errors.length === 0, errors.join("\n")));

/** Signs the page out. */
async function signedOut(page) {
  await press(page, "Sign out");
  await page.locator("main .sign-in").waitFor();
  return page;
}

proxy.close();
await Promise.all([first.close(), second.close()]);
await server.close();
process.exit(failed() === 0 ? 0 : 1);
