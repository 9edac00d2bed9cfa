// Checks of lost connections: the page shows the loss and reconnects by itself.
import { publish } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";

const CHANNEL = "demo:reconnect";

export async function checkReconnect(open, server, proxy) {
  const page = await open(proxy.url);
  const state = (text) => page.locator("#state", { hasText: text }).waitFor();
  const pricesChange = async () => {
    const first = await page.locator("#prices .digits").allTextContents();
    await until("another price", async () => (await page.locator("#prices .digits").allTextContents()).some((text, index) => text !== first[index]));
  };
  await state(/^Connected$/);
  await page.getByLabel("Channel", { exact: true }).fill(CHANNEL);
  await page.getByRole("button", { name: "Subscribe", exact: true }).click();
  await page.locator(`#subscriptions [data-channel="${CHANNEL}"][data-state="on"]`).waitFor();

  const subscribes = [];
  const results = [];
  page.on("websocket", (socket) => {
    socket.on("framesent", ({ payload }) => {
      const message = JSON.parse(payload);
      if (message.type === "subscribe") {
        subscribes.push(message);
      }
    });
    socket.on("framereceived", ({ payload }) => {
      const message = JSON.parse(payload);
      if (message.type === "subscribed") {
        results.push(...message.data.channels);
      }
    });
  });

  await check("a lost connection is shown, with the time of the next try", async () => {
    proxy.cut();
    await state(/^(Offline|Reconnecting)$/);
    await page.locator("#connection-text", { hasText: "Trying" }).waitFor();
    await page.locator(`#subscriptions [data-channel="${CHANNEL}"][data-state="waiting"]`).waitFor();
    assert(await page.locator("#connection-bar").isVisible(), "the bar is hidden");
  });

  await check("the page reconnects by itself, and prices change again", async () => {
    await publish(server, CHANNEL, { text: "while it was away" });
    proxy.restore();
    await state(/^Connected$/);
    await page.locator("#connection-bar").waitFor({ state: "hidden" });
    await pricesChange();
  });

  await check("only history channels request a replay after a reconnect", () => {
    const channels = subscribes.flatMap(({ data }) => data.channels);
    const replayed = channels.filter(({ since }) => since !== undefined).map(({ channel }) => channel);
    assert(replayed.join() === CHANNEL, `the page requests a replay of ${replayed.join()}`);
    assert(channels.includes("prices:BTC-USD"), "the page does not subscribe to prices again");
    const batched = results.filter((result) => result.batched).map(({ channel }) => channel.split(":")[0]);
    assert(new Set(batched).size === 1 && batched[0] === "prices", `the server batches ${batched.join()}`);
  });

  await check("a publication of the meantime is recovered, once", async () => {
    const missed = page.locator("#frames > li", { hasText: "while it was away" });
    await missed.first().waitFor();
    await publish(server, CHANNEL, { text: "and now" });
    await page.locator("#frames > li", { hasText: "and now" }).waitFor();
    assert((await missed.count()) === 1, "it came twice");
  });

  await check("a silent connection is detected too", async () => {
    proxy.silence();
    await state(/^(Offline|Reconnecting)$/);
    proxy.restore();
    await state(/^Connected$/);
  });

  await check("the button reconnects at once", async () => {
    proxy.cut();
    // After several failures the delay is long enough to see the effect of the button.
    await until("a wait of seconds", async () => /again in [2-9] s/.test((await page.locator("#connection-text").textContent()) ?? ""));
    proxy.restore();
    await page.getByRole("button", { name: "Try now" }).click();
    await state(/^Connected$/);
  });

  await page.close();
}
