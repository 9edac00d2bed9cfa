// Checks of hints, and of the details of rows whose table hides columns: by mouse, keyboard and finger.
import { assert, check } from "./harness.mjs";

/** The meaning that is shown, by its text. */
const meaning = (page, text) => page.locator(".hint-box:visible", { hasText: text });

/** On a desktop, with the sample. */
export async function checkHints(open) {
  const page = await open("prices/BTC-USD");
  const termOf = (tab) => tab.getByRole("button", { name: "TWAP", exact: true });
  const term = termOf(page);
  await check("a mouse on a term shows its meaning, and may go to it", async () => {
    // A tab with a clock of its own: the time in which a meaning would be hidden passes at once.
    const tab = await open("prices/BTC-USD");
    await termOf(tab).waitFor();
    await tab.clock.install();
    await termOf(tab).hover();
    await meaning(tab, /^Time-weighted average price/).hover();
    await tab.clock.runFor(1_000);
    await meaning(tab, /^Time-weighted average price/).waitFor();
    await tab.getByRole("heading", { level: 1 }).hover();
    await tab.clock.runFor(1_000);
    await meaning(tab, /./).waitFor({ state: "detached" });
    await tab.close();
  });
  await check("the keyboard shows the meaning of a term, and Escape hides it", async () => {
    await page.getByRole("button", { name: "Confidence", exact: true }).focus();
    await page.keyboard.press("Tab");
    await meaning(page, /^Time-weighted average price/).waitFor();
    await page.keyboard.press("Escape");
    await meaning(page, /./).waitFor({ state: "detached" });
    await page.keyboard.press("Enter");
    await meaning(page, /^Time-weighted average price/).waitFor();
    await page.keyboard.press("Enter");
    await meaning(page, /./).waitFor({ state: "detached" });
  });
  await check("a screen reader gets the meaning as the description of the term", async () => {
    const description = await term.getAttribute("aria-description");
    assert(description.startsWith("Time-weighted average price"), description);
  });
  await page.close();
}

/** On a phone, with the sample. */
export async function checkTouch(page, url) {
  await check("on a phone, a tap on a term shows its meaning, and the next tap hides it", async () => {
    await page.goto(`${url}/#/prices/BTC-USD`);
    await page.getByRole("button", { name: "TWAP", exact: true }).tap();
    await meaning(page, /^Time-weighted average price/).waitFor();
    const { x, width } = await page.locator(".hint-box").boundingBox();
    assert(x >= 0 && x + width <= page.viewportSize().width, `the meaning reaches from ${x} to ${x + width}`);
    await page.getByRole("heading", { level: 1 }).tap();
    await meaning(page, /./).waitFor({ state: "detached" });
  });
  for (const [route, row, hidden] of [
    ["connections", "tr[data-connection-id]", ["Transport", "Address", "Round trip", "Channels", "Sent", "Received", "Queued", "Open for", "Id"]],
    ["prices/BTC-USD", "tr[data-source]", ["Deviation", "Weight", "Lowest – highest", "Trades"]],
    ["chains", ".blocks tr[data-block]", ["Hash", "Parent", "Time", "Transactions", "Base fee"]],
    ["chains", "table:not(.blocks) tbody tr", ["Behind", "Calls that succeed", "Time of a call", "Calls", "Rate limits"]],
    ["setup", "tr[data-venue]", ["Symbols", "Clock", "Connects", "Address"]],
  ]) {
    await check(`on a phone, a row of ${route} opens what its hidden columns say: ${hidden.join(", ")}`, async () => {
      await page.goto(`${url}/#/${route}`);
      const more = page.locator(row).first().getByRole("button", { name: /^Details of / });
      await more.tap();
      const names = page.locator(`${row} + tr.details dt:visible`);
      await names.first().waitFor();
      const found = await names.allInnerTexts();
      assert(hidden.every((name) => found.includes(name)), `it says ${found.join(", ")}`);
      assert((await more.getAttribute("aria-expanded")) === "true", "the button does not say that it is open");
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert(wide === 0, `the page is ${wide} pixels too wide`);
      await more.tap();
      await names.first().waitFor({ state: "detached" });
    });
  }
}
