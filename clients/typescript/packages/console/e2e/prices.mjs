// Checks of prices: the table, the page of a symbol with its chart and sources, and the market.
import { call } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";

const ROW = 'tr[data-symbol="BTC-USD"]';
const LINE = `${ROW} .spark .line`;

export async function checkPrices(open, server) {
  const page = await open("prices");
  const row = page.locator(ROW);
  const digits = page.locator("tr[data-symbol] .digits");

  await check("prices appear, and the page is live", async () => {
    await row.locator(".digits", { hasText: /^[\d,]+\.\d\d$/ }).waitFor();
    await page.locator("#state", { hasText: /^Connected$/ }).waitFor();
    await until("a dozen rows", async () => (await page.locator("tr[data-symbol]").count()) >= 12);
    await row.locator(".chip", { hasText: /^live$/ }).waitFor();
  });

  await check("the round trip is shown", async () => {
    await page.locator("#rtt", { hasText: /^\d+(\.\d)? ms$/ }).waitFor();
  });

  await check("sample data is labelled", async () => {
    await page.locator("#sample", { hasText: "Sample data" }).waitFor();
    assert(await page.locator("#sample").isVisible(), "the label is hidden");
    await page.locator("#data-state", { hasText: /^· sample data$/ }).waitFor();
  });

  await check("prices change, and their trends with them", async () => {
    const [first, line] = [await digits.allTextContents(), await page.locator(LINE).getAttribute("d")];
    await until("another price", async () => (await digits.allTextContents()).some((text, index) => text !== first[index]));
    await until("another line", async () => (await page.locator(LINE).getAttribute("d")) !== line);
  });

  await check("the trends have the server's history as soon as the page is loaded", async () => {
    const { items } = await call(server, "PriceService/GetCandles", { symbol: "BTC-USD", interval: "1m", limit: 60 });
    await page.reload();
    // The first opening, the closes, and the newest price in place of the last close.
    await until("the history", async () => ((await page.locator(LINE).getAttribute("d"))?.match(/L/g) ?? []).length >= items.length);
  });

  await check("the price equals that of the API", async () => {
    await until("the same price on both", async () => {
      const { price } = await call(server, "PriceService/GetPrice", { symbol: "BTC-USD" });
      const shown = (await row.locator(".digits").textContent()) ?? "";
      return Math.abs(Number(shown.replaceAll(",", "")) - price) < 0.006;
    });
  });

  await check("the age of a price is shown and is small while it is live", async () => {
    await row.locator("td", { hasText: /^\d s$/ }).waitFor();
  });

  await check("the filter leaves the symbols that contain its text, and says if none does", async () => {
    const filter = page.getByRole("searchbox", { name: "Filter symbols" });
    await filter.fill("eth");
    await until("ETH alone", async () => (await page.locator("tbody th").allTextContents()).every((text) => text.includes("ETH")));
    assert((await page.locator("tr[data-symbol]").count()) >= 2, "the filter left too few");
    await filter.fill("no such symbol");
    await page.locator("tbody", { hasText: "No symbol contains “no such symbol”." }).waitFor();
    await filter.fill("");
    await row.waitFor();
  });

  await check("the keyboard opens the page of a symbol, which has an address of its own", async () => {
    await row.getByRole("link", { name: "BTC-USD" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "BTC-USD" }).waitFor();
    assert(page.url().endsWith("#/prices/BTC-USD"), page.url());
    await until("the focus on the title", () => page.evaluate(() => document.activeElement?.tagName === "H1"));
    await until("the price in the title", async () => /[\d,]+\.\d\d BTC-USD/.test(await page.title()));
  });

  await check("a symbol's sources are shown with their states, weights, deviations and spread", async () => {
    const sources = page.locator("tr[data-source]");
    const { sourceDetails } = await call(server, "PriceService/GetPrice", { symbol: "BTC-USD" });
    await until("all sources", async () => (await sources.count()) === sourceDetails.length);
    assert((await sources.count()) >= 2, "BTC-USD has too few sources to compare");
    const text = await sources.first().innerText();
    assert(/live|stale|excluded/.test(text) && /\d %/.test(text) && /\d s/.test(text) && /\d bp/.test(text), `a source shows only: ${text}`);
    await page.locator(".tile", { hasText: /Spread between sources[\d.,]+ [\d.]+ bp/ }).waitFor();
    await page.locator(".tile", { hasText: /Live sources\d of \d\s*median/ }).waitFor();
  });

  await check("the chart covers a minute, an hour and a day", async () => {
    for (const [range, hint] of [["1 m", "each price"], ["24 h", "candles of 5 minutes"], ["1 h", "candles of 1 minute"]]) {
      const choice = page.getByRole("button", { name: range, exact: true });
      await choice.click();
      assert((await choice.getAttribute("aria-pressed")) === "true", `${range} is not pressed`);
      await page.getByText(hint, { exact: true }).waitFor();
      await page.getByRole("img", { name: /^Chart from [\d,.]+ to [\d,.]+, lowest [\d,.]+, highest [\d,.]+$/ }).waitFor();
      await until("a drawn chart", () => page.evaluate(hasInk));
    }
  });

  await check("the chart reads the candle under the pointer", async () => {
    const { x, y, width, height } = await page.locator(".u-over").boundingBox();
    await page.mouse.move(x + width - 12, y + height / 2);
    await page.locator(".chart-reading", { hasText: /\d\d:\d\d\s*O\s*[\d,.]+\s*H\s*[\d,.]+\s*L\s*[\d,.]+\s*C\s*[\d,.]+/ }).waitFor();
  });

  await check("the last candle equals that of the API", async () => {
    await until("the same candle on both", async () => {
      const { items } = await call(server, "PriceService/GetCandles", { symbol: "BTC-USD", interval: "1m", limit: 1 });
      const shown = ((await page.locator(".chart-reading b").allTextContents()) ?? []).map((text) => Number(text.replaceAll(",", "")));
      const { open: first, high, low } = items[0];
      return [first, high, low].every((value, index) => Math.abs(value - shown[index]) < 0.006);
    });
  });

  await check("the way back leads to all prices", async () => {
    await page.getByRole("link", { name: "All prices" }).first().click();
    await row.waitFor();
    await page.goBack();
    await page.getByRole("heading", { level: 1, name: "BTC-USD" }).waitFor();
  });

  await check("a symbol that does not exist says so, in the server's words", async () => {
    await page.goto(`${server}/#/prices/NOPE-USD`);
    await page.locator(".empty", { hasText: /there is no symbol "NOPE-USD"/i }).waitFor();
  });

  await check("the market shows its figures, largest moves and recent trades", async () => {
    await page.goto(`${server}/#/market`);
    await page.locator(".tile").first().waitFor();
    assert((await page.locator(".tile").count()) === 4, "a figure is missing");
    const moves = page.getByRole("region", { name: "Largest moves" });
    await moves.locator("td", { hasText: "%" }).first().waitFor();
    await page.getByRole("region", { name: "Recent trades" }).locator("tbody th", { hasText: "-USD" }).first().waitFor();
    await moves.getByRole("link").first().click();
    await page.locator(".chart").waitFor();
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
    await stale.goto(`${server}/#/prices`);
    const mark = stale.locator(`${ROW} .chip`, { hasText: /^stale$/ }).locator("visible=true");
    await mark.waitFor();
    assert(await mark.isVisible(), "the mark is hidden");
    await stale.close();
    await page.goto(`${server}/#/prices`);
    await row.locator(".chip", { hasText: /^live$/ }).waitFor();
  });

  await page.close();
}

/** Runs in the page: whether the canvas of the chart shows anything. */
function hasInk() {
  const canvas = document.querySelector(".chart canvas");
  const data = canvas?.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data ?? [];
  return data.some((value) => value !== 0);
}
