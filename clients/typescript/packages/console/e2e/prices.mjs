// Checks of prices, their sources, the market and the venues.
import { call } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";

const ROW = '#prices tr[data-symbol="BTC-USD"]';

export async function checkPrices(open, server) {
  const page = await open();
  const row = page.locator(ROW);

  await check("prices appear, and the page is live", async () => {
    await row.locator(".digits", { hasText: /^[\d,]+\.\d\d$/ }).waitFor();
    await page.locator("#state", { hasText: /^Connected$/ }).waitFor();
    await until("a dozen rows", async () => (await page.locator("#prices > tr").count()) >= 12);
  });

  await check("the round trip is shown", async () => {
    await page.locator("#rtt", { hasText: /^\d+(\.\d)? ms$/ }).waitFor();
  });

  await check("sample data is labelled", async () => {
    await page.locator("#sample", { hasText: "Sample data" }).waitFor();
    assert(await page.locator("#sample").isVisible(), "the label is hidden");
    await page.locator("#data-state", { hasText: /^· sample data$/ }).waitFor();
  });

  await check("prices change, and their sparklines with them", async () => {
    const first = await page.locator("#prices .digits").allTextContents();
    await until("another price", async () => (await page.locator("#prices .digits").allTextContents()).some((text, index) => text !== first[index]));
    await until("a line of several points", async () => ((await row.locator("polyline").getAttribute("points")) ?? "").split(" ").length > 2);
  });

  await check("the price equals that of the API", async () => {
    await until("the same price on both", async () => {
      const { price } = await call(server, "PriceService/GetPrice", { symbol: "BTC-USD" });
      const shown = (await row.locator(".digits").textContent()) ?? "";
      return Math.abs(Number(shown.replaceAll(",", "")) - price) < 0.006;
    });
  });

  await check("the age of a price is shown and is small while it is live", async () => {
    await row.locator(".age", { hasText: /^\d s$/ }).waitFor();
  });

  await check("the keyboard opens the sources of a row, and closes them", async () => {
    const toggle = row.locator("button.symbol");
    await toggle.focus();
    await page.keyboard.press("Enter");
    assert((await toggle.getAttribute("aria-expanded")) === "true", "aria-expanded is not true");
    const sources = page.locator("#sources-BTC-USD tr[data-source]");
    const { sourceDetails } = await call(server, "PriceService/GetPrice", { symbol: "BTC-USD" });
    await until("all sources", async () => (await sources.count()) === sourceDetails.length);
    assert((await sources.count()) >= 2, "BTC-USD has too few sources to compare");
    const text = await sources.first().innerText();
    assert(/live|stale|excluded/.test(text) && /\d %/.test(text) && /\d s/.test(text), `a source shows only: ${text}`);
    await page.locator("#sources-BTC-USD .note", { hasText: /Median of \d live of \d sources/ }).waitFor();
    await page.keyboard.press("Enter");
    await sources.first().waitFor({ state: "detached" });
    assert((await toggle.getAttribute("aria-expanded")) === "false", "aria-expanded is not false");
  });

  await check("a click on a row opens it too", async () => {
    await row.locator(".price").click();
    await page.locator("#sources-BTC-USD tr[data-source]").first().waitFor();
    await row.locator(".price").click();
  });

  await check("the market shows its figures, top movers and recent trades", async () => {
    await page.locator("#market dd").first().waitFor();
    assert((await page.locator("#market dd").count()) === 4, "a figure is missing");
    await page.locator("#movers tr td", { hasText: "%" }).first().waitFor();
    await page.locator("#trades tr th", { hasText: "-USD" }).first().waitFor();
  });

  await check("the venues are shown with their state", async () => {
    await until("three venues", async () => (await page.locator("#venues .chip").count()) === 3);
  });

  await check("a price without a live source is marked stale", async () => {
    const stale = await page.context().newPage();
    // The sample has no stale prices, so the test changes the messages on their way.
    await stale.routeWebSocket("**/v1/ws", (socket) => {
      const upstream = socket.connectToServer();
      upstream.onMessage((message) => {
        socket.send(typeof message === "string" ? message.replaceAll('"stale":false', '"stale":true') : message);
      });
    });
    await stale.goto(server);
    await stale.locator(`${ROW}.stale .tag`, { hasText: "stale" }).waitFor();
    assert(await stale.locator(`${ROW} .tag`).isVisible(), "the mark is hidden");
    await stale.close();
    assert(!(await row.locator(".tag").isVisible()), "a live price is marked");
  });

  await page.close();
}
