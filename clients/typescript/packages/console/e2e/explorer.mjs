// Checks of the Channels page: subscribe, publish, pause, history, presence, filter.
import { call, publish } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";

const CHANNEL = "demo:browser";

export async function checkExplorer(open, server) {
  const page = await open("channels");
  const note = page.locator("#explorer-note");
  const pane = (channel = CHANNEL) => page.locator(`.pane[data-channel="${channel}"]`);
  const frames = (channel) => pane(channel).locator(".frames > li");
  const press = (name, channel) => pane(channel).getByRole("button", { name, exact: true }).click();

  const subscribe = async (channel) => {
    await page.getByLabel("Channel", { exact: true }).fill(channel);
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
  };
  const paneIn = (channel, state) => page.locator(`.pane[data-channel="${channel}"][data-state="${state}"]`);
  const frameWith = (text, channel) => frames(channel).filter({ hasText: text }).first().waitFor();
  const publishOnPage = async (text) => {
    await page.getByLabel("JSON").fill(text);
    await page.getByRole("button", { name: "Publish", exact: true }).click();
  };

  await check("a subscription shows what is published to its channel", async () => {
    await subscribe(CHANNEL);
    await paneIn(CHANNEL, "on").waitFor();
    await pane().getByText("Nothing was published since.").waitFor();
    await publishOnPage('{"said":"from the page"}');
    await note.filter({ hasText: /^Published to demo:browser with seq \d+\.$/ }).waitFor();
    await frameWith("from the page");
  });

  await check("a publication is sent and shown byte for byte", async () => {
    const typed = '{ "n" : 1.50, "n":2e3, "10":12345678901234567890123456789, "2":"\\u00e9" }';
    await publishOnPage(typed);
    await frameWith("12345678901234567890123456789");
    await frames().first().getByRole("button", { name: "Text" }).click();
    await frames().locator("pre", { hasText: '"n" : 1.50' }).waitFor();
    assert((await frames().locator("pre").textContent()) === typed, `it shows ${await frames().locator("pre").textContent()}`);
    const response = await fetch(`${server}/v1/rpc/StreamService/GetHistory`, { method: "POST", body: JSON.stringify({ channel: CHANNEL, limit: 1 }) });
    const history = await response.text();
    assert(history.includes(typed), history);
  });

  await check("publications of others are shown too, newest first", async () => {
    await publish(server, CHANNEL, { n: "one" });
    await publish(server, CHANNEL, { n: "two" });
    await frameWith('"two"');
    const [newest, before] = await frames().allInnerTexts();
    assert(newest.includes('"two"') && before.includes('"one"'), `the order is ${newest} before ${before}`);
  });

  await check("a paused list does not change, counts new messages, and shows them after the pause", async () => {
    const pause = pane().locator(".pause");
    await pause.click();
    const before = await frames().count();
    await publish(server, CHANNEL, { n: "paused" });
    await pause.filter({ hasText: "Resume (1 new)" }).waitFor();
    assert((await frames().count()) === before, "a paused list grew");
    assert((await pause.getAttribute("aria-pressed")) === "true", "aria-pressed is not set");
    await pause.click();
    await frameWith('"paused"');
  });

  await check("a filter leaves and marks what it finds, keys and values", async () => {
    await publish(server, CHANNEL, { outer: { deep: { needle: "here", other: 1 } } });
    await frameWith("outer");
    await page.getByLabel("Filter").fill("NEEDLE");
    await until("one message", async () => (await frames().count()) === 1);
    await frames().locator(".hit", { hasText: "needle" }).or(frames().locator("li", { hasText: "needle" })).first().waitFor();
    assert((await frames().getByText("other").count()) === 0, "it shows what does not match");
    await page.getByLabel("Filter").fill("");
    await frameWith('"paused"');
  });

  await check("Clear empties the list", async () => {
    await press("Clear");
    await until("an empty list", async () => (await frames().count()) === 0);
    await pane().locator(".frame-count", { hasText: /^0 messages/ }).waitFor();
  });

  await check("the history is read on the button, each message once", async () => {
    const { messages } = await call(server, "StreamService/GetHistory", { channel: CHANNEL });
    await press("History");
    await pane().getByText(`${messages.length} older messages of the history.`).waitFor();
    await until("each message once", async () => (await frames().count()) === messages.length);
    await press("History");
    await pane().getByText("The history has nothing older.").waitFor();
  });

  await check("the presence says how many are subscribed", async () => {
    await press("Subscribers");
    await pane().getByText("1 connection subscribed, no signed-in user.").waitFor();
  });

  await check("the list is bounded", async () => {
    await press("Clear");
    for (let n = 1; n <= 230; n += 1) {
      await publish(server, CHANNEL, { n });
    }
    await frames().first().filter({ hasText: "230" }).waitFor();
    assert((await frames().count()) === 200, `there are ${await frames().count()} messages`);
    await pane().locator(".frame-count", { hasText: "230 messages, the last 200 shown" }).waitFor();
  });

  await check("one of two subscriptions ends by its button", async () => {
    await subscribe("prices:BTC-USD@kraken");
    await paneIn("prices:BTC-USD@kraken", "on").waitFor();
    await frameWith("BTC-USD", "prices:BTC-USD@kraken");
    await page.getByRole("button", { name: `Unsubscribe from ${CHANNEL}` }).click();
    await pane(CHANNEL).waitFor({ state: "detached" });
    await subscribe("demo:after");
    await paneIn("demo:after", "on").waitFor();
    await publish(server, CHANNEL, { n: "unsubscribed" });
    await publish(server, "demo:after", { n: "subscribed" });
    await frameWith('"subscribed"', "demo:after");
    assert((await page.getByText('"unsubscribed"').count()) === 0, "a message came after the unsubscribe");
  });

  await check("all panes pause at once, and the channels return with the page", async () => {
    await page.getByRole("button", { name: "Pause all" }).click();
    await until("two paused panes", async () => (await page.locator('.pause[aria-pressed="true"]').count()) === 2);
    await page.getByRole("button", { name: "Resume all" }).click();
    await page.getByRole("link", { name: "Overview", exact: true }).click();
    await page.locator("#explorer-note").waitFor({ state: "detached" });
    await publish(server, "demo:after", { n: "meanwhile" });
    await page.getByRole("link", { name: "Channels", exact: true }).click();
    await paneIn("demo:after", "on").waitFor();
    await paneIn("prices:BTC-USD@kraken", "on").waitFor();
    // What the panes had is still there, and what came meanwhile too.
    await frameWith('"subscribed"', "demo:after");
    await frameWith('"meanwhile"', "demo:after");
  });

  await check("a refused channel shows the reason", async () => {
    await subscribe("no-channel");
    await pane("no-channel").getByText("expected `namespace:name`").waitFor();
    await subscribe("user:someone");
    await pane("user:someone").getByText("No right to read").waitFor();
    await pane("user:someone").getByText("readable by its owner only").waitFor();
    for (const channel of ["no-channel", "user:someone"]) {
      await page.getByRole("button", { name: `Unsubscribe from ${channel}` }).click();
      await pane(channel).waitFor({ state: "detached" });
    }
  });

  await check("a refused publication shows the reason", async () => {
    await publishOnPage("{broken");
    await note.filter({ hasText: "This is no JSON" }).waitFor();
    await page.getByLabel("Channel", { exact: true }).fill("prices:BTC-USD");
    await publishOnPage("1");
    await until("a refusal", async () => /prices|publish/.test((await note.textContent()) ?? "") && !(await note.textContent())?.startsWith("Published"));
  });

  await check("markup from the wire is shown as text", async () => {
    await publish(server, "demo:after", { html: "<img src=x onerror=document.title=1>" });
    await frameWith("<img src=x", "demo:after");
    assert((await page.locator(".frames img").count()) === 0, "it became an element");
  });

  await page.close();
}
