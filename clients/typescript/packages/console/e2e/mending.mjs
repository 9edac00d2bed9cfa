// The line to the server breaks, and the page comes back by itself.
import { publish } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";

const CHANNEL = "demo:mending";

export async function checkMending(open, server, link) {
  const page = await open(link.url);
  const state = (text) => page.locator("#state", { hasText: text }).waitFor();
  const moves = async () => {
    const first = await page.locator("#prices .digits").allTextContents();
    await until("another price", async () => (await page.locator("#prices .digits").allTextContents()).some((text, index) => text !== first[index]));
  };
  await state(/^Live$/);
  await page.getByLabel("Channel", { exact: true }).fill(CHANNEL);
  await page.getByRole("button", { name: "Subscribe", exact: true }).click();
  await page.locator(`#followed [data-channel="${CHANNEL}"][data-state="on"]`).waitFor();

  await check("a lost connection shows, with the next try", async () => {
    link.cut();
    await state(/^(Offline|Reconnecting)$/);
    await page.locator("#link-text", { hasText: "Trying" }).waitFor();
    await page.locator(`#followed [data-channel="${CHANNEL}"][data-state="waiting"]`).waitFor();
    assert(await page.locator("#link-bar").isVisible(), "the bar is hidden");
  });

  await check("the page comes back by itself, and prices move again", async () => {
    await publish(server, CHANNEL, { said: "while it was away" });
    link.mend();
    await state(/^Live$/);
    await page.locator("#link-bar").waitFor({ state: "hidden" });
    await moves();
  });

  await check("what was published meanwhile comes after all, once", async () => {
    const missed = page.locator("#frames > li", { hasText: "while it was away" });
    await missed.first().waitFor();
    await publish(server, CHANNEL, { said: "and now" });
    await page.locator("#frames > li", { hasText: "and now" }).waitFor();
    assert((await missed.count()) === 1, "it came twice");
  });

  await check("a silent line is noticed, too", async () => {
    link.silence();
    await state(/^(Offline|Reconnecting)$/);
    link.mend();
    await state(/^Live$/);
  });

  await check("the button tries at once", async () => {
    link.cut();
    // After several failures the waits are long enough to see the button do something.
    await until("a wait of seconds", async () => /again in [2-9] s/.test((await page.locator("#link-text").textContent()) ?? ""));
    link.mend();
    await page.getByRole("button", { name: "Try now" }).click();
    await state(/^Live$/);
  });

  await page.close();
}
