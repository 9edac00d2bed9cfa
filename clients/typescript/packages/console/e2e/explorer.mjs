// Checks of the channel explorer: subscribe, publish, pause, clear.
import { publish } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";

const CHANNEL = "demo:browser";

export async function checkExplorer(open, server) {
  const page = await open();
  const frames = page.locator("#frames > li");
  const note = page.locator("#explorer-note");
  const pause = page.locator("#pause");

  const subscribe = async (channel) => {
    await page.getByLabel("Channel", { exact: true }).fill(channel);
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
  };
  const chip = (channel, state) => page.locator(`#subscriptions [data-channel="${channel}"][data-state="${state}"]`);
  const frameWith = (text) => frames.filter({ hasText: text }).first().waitFor();

  await check("a subscription shows what is published to its channel", async () => {
    await subscribe(CHANNEL);
    await chip(CHANNEL, "on").waitFor();
    await page.getByLabel("JSON").fill('{"said":"from the page"}');
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await note.filter({ hasText: /^Published to demo:browser with seq \d+\.$/ }).waitFor();
    await frameWith("from the page");
  });

  await check("publications of others are shown too, newest first", async () => {
    await publish(server, CHANNEL, { n: "one" });
    await publish(server, CHANNEL, { n: "two" });
    await frameWith('{"n":"two"}');
    const [newest, before] = await frames.allInnerTexts();
    assert(newest.includes('{"n":"two"}') && before.includes('{"n":"one"}'), `the order is ${newest} before ${before}`);
  });

  await check("a paused list does not change, counts new frames, and shows them after the pause", async () => {
    await pause.click();
    const before = await frames.count();
    await publish(server, CHANNEL, { n: "paused" });
    await pause.filter({ hasText: "Resume (1 new)" }).waitFor();
    assert((await frames.count()) === before, "a paused list grew");
    assert((await pause.getAttribute("aria-pressed")) === "true", "aria-pressed is not set");
    await pause.click();
    await frameWith('{"n":"paused"}');
  });

  await check("Clear empties the list", async () => {
    await page.locator("#clear").click();
    assert((await frames.count()) === 0, "frames stayed");
    await page.locator("#frame-count", { hasText: /^0 frames$/ }).waitFor();
  });

  await check("the list is bounded", async () => {
    for (let n = 1; n <= 230; n += 1) {
      await publish(server, CHANNEL, { n });
    }
    await frameWith('{"n":230}');
    assert((await frames.count()) === 200, `there are ${await frames.count()} frames`);
    await page.locator("#frame-count", { hasText: "230 frames, the last 200 shown" }).waitFor();
  });

  await check("one of two subscriptions ends by its button", async () => {
    await page.locator("#clear").click();
    await subscribe("prices:BTC-USD@kraken");
    await chip("prices:BTC-USD@kraken", "on").waitFor();
    await frameWith("prices:BTC-USD@kraken");
    await page.getByRole("button", { name: `Unsubscribe from ${CHANNEL}` }).click();
    await chip(CHANNEL, "on").waitFor({ state: "detached" });
    await subscribe("demo:after");
    await chip("demo:after", "on").waitFor();
    await publish(server, CHANNEL, { n: "unsubscribed" });
    await publish(server, "demo:after", { n: "subscribed" });
    await frameWith('{"n":"subscribed"}');
    assert((await frames.filter({ hasText: '{"n":"unsubscribed"}' }).count()) === 0, "a frame came after the unsubscribe");
  });

  await check("a refused channel shows the reason", async () => {
    await subscribe("no-channel");
    await note.filter({ hasText: "expected `namespace:name`" }).waitFor();
    await until("no chip", async () => (await page.locator('#subscriptions [data-channel="no-channel"]').count()) === 0);
  });

  await check("a refused publication shows the reason", async () => {
    await page.getByLabel("JSON").fill("{broken");
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await note.filter({ hasText: "must be JSON" }).waitFor();
    await page.getByLabel("JSON").fill("1");
    await page.getByLabel("Channel", { exact: true }).fill("prices:BTC-USD");
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await until("a refusal", async () => /prices|publish/.test((await note.textContent()) ?? "") && !(await note.textContent())?.startsWith("Published"));
  });

  await check("markup from the wire is shown as text", async () => {
    await publish(server, "demo:after", { html: "<img src=x onerror=document.title=1>" });
    await frameWith("<img src=x");
    assert((await page.locator("#frames img").count()) === 0, "it became an element");
  });

  await page.close();
}
