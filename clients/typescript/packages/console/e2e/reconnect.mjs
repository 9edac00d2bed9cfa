// Checks of lost connections: the page shows the loss and reconnects by itself.
import { publish } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";
import { readability } from "./layout.mjs";

const CHANNEL = "demo:reconnect";

export async function checkReconnect(open, server, proxy) {
  const page = await open("channels", proxy.url);
  const state = (text) => page.locator("#state", { hasText: text }).waitFor();
  const frames = (channel) => page.locator(`[data-channel="${channel}"] .frames > li`);
  const pricesChange = async () => {
    await frames("prices:BTC-USD").first().waitFor();
    const first = await page.locator('[data-channel="prices:BTC-USD"] .frame-count').textContent();
    await until("another price", async () => (await page.locator('[data-channel="prices:BTC-USD"] .frame-count').textContent()) !== first);
  };
  await state(/^Connected$/);
  for (const channel of [CHANNEL, "prices:BTC-USD"]) {
    await page.getByLabel("Channel", { exact: true }).fill(channel);
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.locator(`[data-channel="${channel}"][data-state="on"]`).waitFor();
  }

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
    await page.locator(`[data-channel="${CHANNEL}"] .chip`, { hasText: /^Offline$/ }).waitFor();
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
    const missed = frames(CHANNEL).filter({ hasText: "while it was away" });
    await missed.first().waitFor();
    await publish(server, CHANNEL, { text: "and now" });
    await frames(CHANNEL).filter({ hasText: "and now" }).waitFor();
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
  await checkOld(open, proxy);
}

/** While the connection is lost, everything that is shown says that it is old, and stays readable. */
async function checkOld(open, proxy) {
  const page = await open("prices", proxy.url);
  await page.locator("tr[data-symbol] .chip", { hasText: /^live$/ }).first().waitFor();

  await check("offline, the title and the chips say that they are old, and the last prices stay", async () => {
    const price = page.locator('tr[data-symbol="BTC-USD"] .digits');
    proxy.cut();
    await page.locator("#state", { hasText: /^(Offline|Reconnecting)$/ }).waitFor();
    await until("the title", async () => (await page.title()).startsWith("Offline · "));
    await page.locator('tr[data-symbol="BTC-USD"] .chip.old', { hasText: "was live" }).waitFor();
    assert(/\d/.test((await price.textContent()) ?? ""), "the price is gone");
    assert((await page.locator(".chip:not(.old)").count()) === 0, "a chip looks live");
  });

  await check("offline, the text of each page is readable in light and dark, and its figures say that they are old", async () => {
    for (const route of ["overview", "prices", "prices/BTC-USD", "market", "connections", "setup"]) {
      // The next page shows its data, then the connection is lost.
      proxy.restore();
      await page.locator("#state", { hasText: /^Connected$/ }).waitFor();
      await page.goto(`${proxy.url}/#/${route}`);
      await page.locator(".tile-value, tbody tr").first().waitFor();
      proxy.cut();
      await page.locator("#state", { hasText: /^(Offline|Reconnecting)$/ }).waitFor();
      // What was never known is not old.
      const unknown = page.locator(".tile-value", { hasText: /^—/ });
      const figures = page.locator(".tile").filter({ hasNot: unknown });
      await until("old figures", async () => (await page.locator(".tile .old-mark").count()) === (await figures.count()));
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        const { poor } = await page.evaluate(readability);
        assert(poor.length === 0, `${route}: ${poor.join("\n")}`);
      }
    }
    proxy.restore();
  });

  await page.close();
}
