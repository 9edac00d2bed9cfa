// The client in a real browser: tabs, offline, a reload, the back-forward cache, a hidden tab and
// its bytes, a phone that freezes a page, touches, blocked WebSockets, denied and full storage. Prints
// `ok` or `not ok` for each check.
//
//     node e2e/client.mjs PATH_OF_THE_TIDEWIRE_BINARY
import { devices } from "playwright-core";
import { assert, check, failed, openBrowser, until } from "../../console/e2e/harness.mjs";
import { startServer } from "../../console/e2e/server.mjs";
import { startPages } from "./pages.mjs";
import { startRefusing } from "./refusing.mjs";

const pages = await startPages();
const { origin } = pages;
// A page in place of the server's is for tests of the console: its front answers pages of its own origin alone.
delete process.env.CONSOLE_PAGE;
const server = await startServer(process.argv[2]);
const url = server.url.replace("http", "ws");
const browser = await openBrowser({ ignoreDefaultArgs: ["--disable-back-forward-cache"] });

/** Opens a tab whose client follows a channel. */
async function openTab(channel, { tabs = false, path = "/", context = browser.context } = {}) {
  const page = await context.newPage();
  await page.goto(origin + path);
  await follow(page, channel, tabs);
  return page;
}

async function follow(page, channel, tabs = false, to = url) {
  await page.evaluate(
    async ([to, name, isShared]) => {
      const { WebSocketClient, createTabClient } = window.tidewire;
      window.client = isShared ? createTabClient(to) : new WebSocketClient(to);
      window.seqs = [];
      await new Promise((resolve, reject) => {
        window.client.subscribe(name, (message) => window.seqs.push(message.type === "gap" ? "gap" : message.seq), { onSubscribed: resolve, onError: reject });
        window.client.connect();
      });
    },
    [to, channel, tabs],
  );
}

async function call(method, body) {
  const response = await fetch(`${server.url}/v1/rpc/${method}`, { method: "POST", body: JSON.stringify(body) });
  return response.json();
}
const publish = (channel, data) => call("StreamService/Publish", { channel, data });
const sockets = async () => ((await call("AdminService/ListConnections", {})).connections ?? []).length;
const seqs = (page) => page.evaluate(() => window.seqs.join());
const status = (page) => page.evaluate(() => window.client.state.status);
/** Ends the process of a tab, as the system does without a word to the page. */
const crash = async (page) => {
  const debug = await page.context().newCDPSession(page);
  const crashed = new Promise((resolve) => page.once("crash", resolve));
  debug.send("Page.crash").catch(() => undefined);
  await crashed;
};
const setHidden = (page, isHidden) =>
  page.evaluate((value) => {
    Object.defineProperty(document, "hidden", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange", { bubbles: true }));
  }, isHidden);

await check("three tabs share one socket, and a closed leader is replaced without a gap", async () => {
  const tabs = [await openTab("demo:tabs", { tabs: true }), await openTab("demo:tabs", { tabs: true }), await openTab("demo:tabs", { tabs: true })];
  await until("one connection", async () => (await sockets()) === 1);
  await publish("demo:tabs", 1);
  for (const tab of tabs) {
    await until("message 1", async () => (await seqs(tab)) === "1");
  }
  const [leader, ...others] = tabs;
  await leader.close();
  await publish("demo:tabs", 2);
  for (const tab of others) {
    await until("message 2", async () => (await seqs(tab)) === "1,2");
  }
  assert((await sockets()) === 1, "expected one connection after the leader left");
  await Promise.all(others.map((tab) => tab.close()));
  await until("no connection", async () => (await sockets()) === 0);
});

for (const [what, code, error] of [
  ["for good: no tab connects again", 4503, { code: "permission_denied", message: "not you" }],
  ["for load: no tab connects before the time that it names", 1013, { code: "resource_exhausted", message: "too many", retryAfterMs: 60_000 }],
]) {
  await check(`the server ends the connection of eight tabs ${what}`, async () => {
    const refusing = await startRefusing();
    const [failures, tabs] = [[], []];
    for (let count = 0; count < 8; count += 1) {
      const page = await browser.context.newPage();
      tabs.push(page.on("pageerror", ({ message }) => failures.push(message)));
      await page.goto(origin);
      await page.evaluate((to) => {
        window.client = window.tidewire.createTabClient(to);
        window.client.connect();
        return window.client.ready();
      }, refusing.url);
    }
    refusing.refuse(code, error);
    await Promise.all(tabs.map((tab) => until("the end", async () => (await status(tab)) !== "connected")));
    // A wrong attempt would come after at most half a second, its longest first delay.
    await tabs[0].waitForTimeout(1_500);
    const found = (await Promise.all(tabs.map(status))).join();
    assert(found === tabs.map(() => (code === 4503 ? "closed" : "reconnecting")).join(), `the tabs are ${found}`);
    assert(refusing.opened === 1 && !failures.length, `expected one connection and no error, got ${refusing.opened} and ${failures.join()}`);
    await Promise.all(tabs.map((tab) => tab.close()));
    refusing.close();
  });
}

await check("a publication made offline is sent when the network returns", async () => {
  const page = await openTab("demo:offline");
  await browser.context.setOffline(true);
  await server.stop();
  await until("reconnecting", async () => (await status(page)) !== "connected");
  await page.evaluate(() => {
    window.published = window.client.publish("demo:offline", "held");
  });
  await server.start();
  await browser.context.setOffline(false);
  const position = await page.evaluate(() => window.published);
  assert(position.seq === 1, `expected seq 1, got ${position.seq}`);
  await page.close();
});

await check("without a network, with the server up: the link ends, and what was missed follows when the network returns", async () => {
  const page = await openTab("demo:network");
  await browser.context.setOffline(true);
  await publish("demo:network", 1);
  await until("reconnecting", async () => (await status(page)) === "reconnecting");
  await publish("demo:network", 2);
  assert((await seqs(page)) === "", "expected no message without a network");
  await browser.context.setOffline(false);
  await until("both messages", async () => (await seqs(page)) === "1,2");
  await page.close();
});

await check("the queue survives a reload, and publishes once", async () => {
  const page = await openTab("demo:reload");
  await server.stop();
  await until("reconnecting", async () => (await status(page)) !== "connected");
  await page.evaluate(() => void window.client.publish("demo:reload", "before the reload"));
  await page.reload();
  await server.start();
  await follow(page, "demo:reload");
  await until("the publication", async () => (await call("StreamService/GetHistory", { channel: "demo:reload" })).messages?.length === 1);
  assert((await page.evaluate(() => localStorage.length)) === 0, "expected an empty storage");
  await page.close();
});

await check("a tab that crashes leaves its channels, and a leader that crashes is replaced within a second, without a gap", async () => {
  const other = await openBrowser();
  const open = (channel) => openTab(channel, { tabs: true, context: other.context });
  const [leader, second, third, alone] = [await open("demo:crash"), await open("demo:crash"), await open("demo:crash"), await open("demo:alone")];
  const followers = async () => (await call("StreamService/GetPresence", { channel: "demo:alone" })).connections ?? 0;
  await until("one connection for all", async () => (await sockets()) === 1 && (await followers()) === 1);
  await crash(alone);
  await until("no follower of the channel", async () => (await followers()) === 0);
  await publish("demo:crash", 1);
  for (const tab of [second, third]) {
    await until("message 1", async () => (await seqs(tab)) === "1");
    await tab.evaluate(() => window.client.on("state", ({ status }) => status === "connected" && (window.connectedAt ??= Date.now())));
  }
  const crashedAt = Date.now();
  await crash(leader);
  await publish("demo:crash", 2);
  for (const tab of [second, third]) {
    await until("message 2", async () => (await seqs(tab)) === "1,2");
  }
  const took = (await Promise.all([second, third].map((tab) => tab.evaluate(() => window.connectedAt)))).map((at) => at - crashedAt);
  console.log(`# connected again ${took.join(" and ")} ms after the leader crashed`);
  assert(Math.min(...took) <= 1_000, `expected a new leader within a second, got ${took.join(" and ")} ms`);
  assert((await sockets()) === 1, "expected one connection");
  await other.close();
  await until("no connection", async () => (await sockets()) === 0);
});

await check("a page that returns from the back-forward cache resumes", async () => {
  const page = await openTab("demo:cache");
  await publish("demo:cache", 1);
  await until("message 1", async () => (await seqs(page)) === "1");
  await page.evaluate(() => addEventListener("pageshow", (event) => (window.persisted = event.persisted)));
  await page.goto(`${origin}/other`);
  await publish("demo:cache", 2);
  // Not `goBack`: it waits for a load, and a page of the cache does not load.
  await page.evaluate(() => history.back()).catch(() => undefined);
  await until("the page of the cache", () => page.evaluate(() => window.persisted === true).catch(() => false));
  await until("message 2", async () => (await seqs(page)) === "1,2");
  await page.close();
});

await check("a hidden tab pauses its channels, and has them when it is shown", async () => {
  const page = await openTab("demo:hidden");
  await setHidden(page, true);
  await until("the background", () => page.evaluate(() => window.client.state.heartbeatMs > 2_000));
  await publish("demo:hidden", 1);
  await publish("demo:hidden", 2);
  assert((await seqs(page)) === "", "expected no message while hidden");
  await setHidden(page, false);
  await until("both messages", async () => (await seqs(page)) === "1,2");
  await page.close();
});

await check("a hidden tab costs at least 95 % fewer bytes", async () => {
  const sample = await startServer(process.argv[2], { isSample: true });
  const page = await browser.context.newPage();
  const network = await browser.context.newCDPSession(page);
  let bytes = 0;
  network.on("Network.webSocketFrameReceived", ({ response }) => (bytes += response.payloadData.length));
  await network.send("Network.enable");
  await page.goto(origin);
  await follow(page, "market:overview", false, sample.url.replace("http", "ws"));
  await page.evaluate(() => {
    for (const symbol of ["BTC-USD", "ETH-USD"]) {
      window.client.subscribe(`prices:${symbol}`, (message) => window.seqs.push(message.type));
    }
  });
  await until("prices", () => page.evaluate(() => window.seqs.length > 10));
  const bytesOf = async (ms) => {
    const before = bytes;
    await page.waitForTimeout(ms);
    return bytes - before;
  };
  const shown = await bytesOf(5_000);
  await setHidden(page, true);
  await until("the background", () => page.evaluate(() => window.client.state.heartbeatMs > 2_000));
  const hidden = await bytesOf(5_000);
  console.log(`# ${shown} bytes in 5 s while shown, ${hidden} while hidden`);
  assert(shown > 0 && hidden <= shown * 0.05, `expected at most 5 % of ${shown} bytes, got ${hidden}`);
  await page.close();
  await sample.close();
});

await check("a browser that saves data gets latest channels every five seconds", async () => {
  const sample = await startServer(process.argv[2], { isSample: true });
  const page = await browser.context.newPage();
  const emulation = await browser.context.newCDPSession(page);
  await emulation.send("Emulation.setDataSaverOverride", { dataSaverEnabled: true });
  await page.goto(origin);
  assert(await page.evaluate(() => navigator.connection.saveData), "expected a browser that saves data");
  await follow(page, "prices:BTC-USD", false, sample.url.replace("http", "ws"));
  // The first value, and perhaps another before the server is asked for fewer.
  await until("the first price", async () => (await seqs(page)) !== "");
  await page.waitForTimeout(500);
  const first = await page.evaluate(() => window.seqs.length);
  await page.waitForTimeout(6_000);
  const later = (await page.evaluate(() => window.seqs.length)) - first;
  assert(first <= 3 && later >= 1 && later <= 2, `expected one or two prices in six seconds, got ${first} and then ${later}`);
  await page.close();
  await sample.close();
});

await check("a phone freezes the page in the background: it has what it missed when it is shown again", async () => {
  const phone = await openBrowser({ viewport: { width: 360, height: 740 }, deviceScaleFactor: 3, isMobile: true, hasTouch: true });
  const page = await phone.context.newPage();
  await page.goto(origin);
  await follow(page, "demo:phone");
  const lifecycle = await phone.context.newCDPSession(page);
  await setHidden(page, true);
  await lifecycle.send("Page.setWebLifecycleState", { state: "frozen" });
  // The phone changes its network meanwhile: the frozen page hears nothing of it.
  await phone.context.setOffline(true);
  await publish("demo:phone", 1);
  await phone.context.setOffline(false);
  await publish("demo:phone", 2);
  await lifecycle.send("Page.setWebLifecycleState", { state: "active" });
  await setHidden(page, false);
  await until("both messages", async () => (await seqs(page)) === "1,2");
  await phone.close();
});

/** A phone: its viewport, its touches, and the state of its pages. */
async function openPhone() {
  const phone = await openBrowser({ ...devices["Pixel 7"], ignoreDefaultArgs: ["--disable-back-forward-cache"] });
  const page = await phone.context.newPage();
  const lifecycle = await phone.context.newCDPSession(page);
  return {
    ...phone,
    page,
    async openApp(channel) {
      await page.goto(`${origin}/app?url=${encodeURIComponent(url)}&channel=${channel}`);
      await page.evaluate(() => window.client.ready());
      await until("the subscription", async () => (await call("StreamService/GetPresence", { channel })).connections === 1);
    },
    lines: () => page.locator("li").allTextContents(),
    /** The user goes to another application: the page is hidden, then frozen. */
    async leave() {
      await setHidden(page, true);
      await lifecycle.send("Page.setWebLifecycleState", { state: "frozen" });
    },
    async comeBack() {
      await lifecycle.send("Page.setWebLifecycleState", { state: "active" });
      await setHidden(page, false);
    },
  };
}

await check("on a phone, what is tapped without a network is sent once when it returns, in order, also after a freeze", async () => {
  const phone = await openPhone();
  await phone.openApp("demo:taps");
  const send = () => phone.page.getByRole("button", { name: "Send" }).tap();
  await send();
  await until("the first tap", async () => (await phone.lines()).join() === "tap 1");
  await phone.context.setOffline(true);
  await until("the loss", async () => (await status(phone.page)) !== "connected");
  await send();
  await send();
  await phone.leave();
  await phone.context.setOffline(false);
  await phone.comeBack();
  await until("all taps", async () => (await phone.lines()).join() === "tap 1,tap 2,tap 3");
  const { messages } = await call("StreamService/GetHistory", { channel: "demo:taps" });
  assert(messages.map(({ data }) => data).join() === "tap 1,tap 2,tap 3", `the history is ${messages.map(({ data }) => data).join()}`);
  await phone.close();
});

await check("a short look at another application keeps a healthy link: the connection is the same", async () => {
  const phone = await openPhone();
  await phone.openApp("demo:short");
  const connection = () => phone.page.evaluate(() => window.client.state.welcome?.connectionId);
  const before = await connection();
  await phone.leave();
  await publish("demo:short", "missed");
  await phone.comeBack();
  await until("what was published meanwhile", async () => (await phone.lines()).length === 1);
  assert((await connection()) === before, "expected the same connection");
  assert((await phone.lines()).join() === "missed", `expected one message, got ${(await phone.lines()).join()}`);
  await phone.close();
});

await check("a phone whose page was frozen while the server restarted resumes without a gap", async () => {
  const phone = await openPhone();
  await phone.openApp("demo:restart");
  await publish("demo:restart", "one");
  await until("the first message", async () => (await phone.lines()).length === 1);
  await phone.leave();
  await server.quit();
  await server.start();
  await publish("demo:restart", "two");
  await phone.comeBack();
  await until("the second message", async () => (await phone.lines()).join() === "one,two (missed)");
  await phone.close();
});

await check("on a phone, a link away and the way back: the page of the cache has what it missed", async () => {
  const phone = await openPhone();
  await phone.openApp("demo:away");
  await phone.page.evaluate(() => addEventListener("pageshow", (event) => (window.persisted = event.persisted)));
  await phone.page.getByRole("link", { name: "Away" }).tap();
  await phone.page.waitForURL("**/other");
  await publish("demo:away", "missed");
  await phone.page.evaluate(() => history.back()).catch(() => undefined);
  await until("the page of the cache", () => phone.page.evaluate(() => window.persisted === true).catch(() => false));
  await until("the message", async () => (await phone.lines()).join() === "missed (missed)");
  await phone.close();
});

await check("what was disconnected stays so, whatever the browser tells", async () => {
  const page = await openTab("demo:asked");
  await browser.context.setOffline(true);
  await page.evaluate(() => window.client.disconnect());
  await setHidden(page, true);
  await browser.context.setOffline(false);
  await setHidden(page, false);
  await page.goto(`${origin}/other`);
  await page.evaluate(() => history.back()).catch(() => undefined);
  await until("the page of the cache", () => page.evaluate(() => window.client !== undefined).catch(() => false));
  // A socket would be open before the answer to a request of the page.
  await page.evaluate(() => fetch("/other"));
  assert((await status(page)) === "disconnected", `it is ${await status(page)}`);
  assert((await sockets()) === 0, "expected no connection");
  await page.close();
});

await check("the leader of three tabs follows a link away: another takes over without a gap, and the way back joins it", async () => {
  const tabs = [await openTab("demo:link", { tabs: true }), await openTab("demo:link", { tabs: true }), await openTab("demo:link", { tabs: true })];
  await until("one connection", async () => (await sockets()) === 1);
  const [leader, ...others] = tabs;
  await leader.goto(`${origin}/other`);
  await publish("demo:link", 1);
  for (const tab of others) {
    await until("message 1", async () => (await seqs(tab)) === "1");
  }
  await leader.evaluate(() => history.back()).catch(() => undefined);
  await until("the page of the cache", () => leader.evaluate(() => window.client !== undefined).catch(() => false));
  await publish("demo:link", 2);
  for (const tab of tabs) {
    await until("message 2", async () => (await seqs(tab)) === "1,2");
  }
  assert((await sockets()) === 1, "expected one connection");
  await Promise.all(tabs.map((tab) => tab.close()));
});

await check("a frame in a sandbox, without storage, locks and channels, connects by itself, and its publications are sent", async () => {
  const open = await startServer(process.argv[2], { variables: { TIDEWIRE_SERVER__ALLOWED_ORIGINS: '["null"]' } });
  const page = await browser.context.newPage();
  await page.goto(`${origin}/sandbox`);
  const frame = page.frames().find((each) => each.url().endsWith("/frame"));
  const position = await frame.evaluate(
    async ([to, token]) => {
      window.client = window.tidewire.createTabClient(to, { token });
      window.client.connect();
      return window.client.publish("demo:sandbox", 1);
    },
    [open.url.replace("http", "ws"), open.token("ada")],
  );
  assert(position.seq === 1, `expected seq 1, got ${JSON.stringify(position)}`);
  await page.close();
  await open.close();
});

await check("a full storage: the publication is sent, and the loss of the queue's storage is an error event", async () => {
  const page = await openTab("demo:full");
  const { seq, errors } = await page.evaluate(async () => {
    for (let size = 1 << 22; size > 0; size >>= 1) {
      try {
        localStorage.setItem(`fill-${size}`, "x".repeat(size));
        localStorage.setItem(`more-${size}`, "x".repeat(size));
      } catch {
        // Full up to this size.
      }
    }
    const found = [];
    window.client.on("error", ({ code }) => found.push(code));
    const position = await window.client.publish("demo:full", 1);
    localStorage.clear();
    return { seq: position.seq, errors: found };
  });
  assert(seq === 1 && errors.join() === "resource_exhausted", `expected seq 1 and one error, got ${seq} and ${errors.join()}`);
  await page.close();
});

await check("a proxy that swallows frames: an event stream serves, and a WebSocket later", async () => {
  const page = await browser.context.newPage();
  let isBlocked = true;
  await page.routeWebSocket(/v1\/ws/, (socket) => {
    if (!isBlocked) {
      socket.connectToServer();
    }
  });
  await page.goto(origin);
  await follow(page, "demo:blocked");
  assert((await page.evaluate(() => window.client.state.transport)) === "sse", "expected an event stream");
  await publish("demo:blocked", 1);
  await until("message 1", async () => (await seqs(page)) === "1");
  isBlocked = false;
  await until("a WebSocket", () => page.evaluate(() => window.client.state.transport === "websocket"));
  await publish("demo:blocked", 2);
  await until("message 2", async () => (await seqs(page)) === "1,2");
  await page.close();
});

await check("tabs where WebSockets are blocked share one event stream, and resume without a gap when their leader closes", async () => {
  const blocked = await openBrowser();
  await blocked.context.routeWebSocket(/v1\/ws/, () => undefined);
  const token = server.token("ada");
  const tabs = [];
  for (let count = 0; count < 3; count += 1) {
    const page = await blocked.context.newPage();
    await page.goto(origin);
    await page.evaluate(
      async ([to, secret]) => {
        window.client = window.tidewire.createTabClient(to, { token: secret });
        window.seqs = [];
        window.titles = [];
        window.client.subscribe("user:ada", ({ type, data }) => window.titles.push(...(type === "notification" ? [data] : (data.items ?? [])).map(({ title }) => title)));
        await new Promise((resolve, reject) => {
          window.client.subscribe("demo:stream", (message) => window.seqs.push(message.type === "gap" ? "gap" : message.seq), { onSubscribed: resolve, onError: reject });
          window.client.connect();
        });
      },
      [url, token],
    );
    tabs.push(page);
  }
  const send = async (number) => {
    await publish("demo:stream", number);
    await call("NotifyService/Notify", { user: "ada", notification: { type: "system_announcement", title: `n${number}`, priority: "urgent" } });
  };
  assert((await tabs[0].evaluate(() => window.client.state.transport)) === "sse", "expected an event stream");
  await until("one connection", async () => (await sockets()) === 1);
  const has = async (tab, expected) => (await seqs(tab)) === expected && (await tab.evaluate(() => window.titles.join())) === expected.replace(/\d/g, "n$&");
  await send(1);
  for (const tab of tabs) {
    await until("1 in each tab", () => has(tab, "1"));
  }
  const [leader, ...others] = tabs;
  await leader.close();
  await send(2);
  for (const tab of others) {
    await until("2 in each tab that is left", () => has(tab, "1,2"));
  }
  await until("one connection after the leader left", async () => (await sockets()) === 1);
  await blocked.close();
});

await browser.close();
await server.close();
pages.close();
process.exit(failed() === 0 ? 0 : 1);
