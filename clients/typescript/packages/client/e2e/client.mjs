// The client in a real browser: tabs, offline, a reload, the back-forward cache, a hidden tab and
// its bytes, a phone that freezes a page, blocked WebSockets. Prints `ok` or `not ok` for each check.
//
//     node e2e/client.mjs PATH_OF_THE_TIDEWIRE_BINARY
import { createServer } from "node:http";
import { rolldown } from "rolldown";
import { assert, check, failed, openBrowser, until } from "../../console/e2e/harness.mjs";
import { startServer } from "../../console/e2e/server.mjs";

const ENTRY = "virtual:entry";

/** The client and its tabs as one script, which puts them in `window.tidewire`. */
async function bundle() {
  const source = (path) => JSON.stringify(new URL(`../src/${path}`, import.meta.url).pathname);
  const entry = {
    name: "entry",
    resolveId: (id) => (id === ENTRY ? id : undefined),
    load: (id) =>
      id === ENTRY ? `import * as client from ${source("index.ts")}; import * as tabs from ${source("tabs/index.ts")}; window.tidewire = { ...client, ...tabs };` : undefined,
  };
  const built = await rolldown({ input: ENTRY, plugins: [entry] });
  const { output } = await built.generate({ format: "iife" });
  return output[0].code;
}

const script = await bundle();
const pages = createServer((request, response) => {
  const isScript = request.url === "/client.js";
  response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
  response.end(isScript ? script : '<!doctype html><title>test</title><script src="/client.js"></script>');
});
await new Promise((resolve) => pages.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${pages.address().port}`;
const server = await startServer(process.argv[2]);
const url = server.url.replace("http", "ws");
const browser = await openBrowser({ ignoreDefaultArgs: ["--disable-back-forward-cache"] });

/** Opens a tab whose client follows a channel. */
async function openTab(channel, { tabs = false, path = "/" } = {}) {
  const page = await browser.context.newPage();
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
