// Checks of the copy menus: their snippets run against the server.
import { call } from "./api.mjs";
import { assert, check, runUntil, until, WEB_SOCKET_FLAG } from "./harness.mjs";

const CHANNEL = "demo:copied";

export async function checkSnippets(open, server) {
  const page = await open("prices");
  await page.locator('tr[data-symbol="BTC-USD"]').waitFor();
  const go = (route) => page.goto(`${server}/#/${route}`);

  const copy = async (what, language) => {
    await page.evaluate(() => navigator.clipboard.writeText(""));
    await page.getByRole("button", { name: `Copy ${what} as code` }).click();
    await page.getByRole("menuitem", { name: language, exact: true }).click();
    return until("a copied text", () => page.evaluate(() => navigator.clipboard.readText()));
  };
  const inShell = (code, expected) => runUntil(expected, "sh", ["-c", code]);
  const inNode = (code, expected) => runUntil(expected, process.execPath, [...WEB_SOCKET_FLAG, "--input-type=module", "-e", code]);
  const inPython = (code, expected) => runUntil(expected, "python3", ["-c", code]);

  await check("the curl snippet receives prices", async () => {
    const code = await copy("the prices", "curl");
    assert(code.startsWith("curl -N ") && code.includes("prices:BTC-USD"), code);
    await inShell(code, /event: price[^]*"symbol":"BTC-USD"/);
  });

  await check("the TypeScript snippet receives prices", async () => {
    const code = await copy("the prices", "TypeScript");
    await inNode(code, /type: 'price(_batch)?'/);
  });

  await check("the Python snippet receives prices", async () => {
    await inPython(await copy("the prices", "Python"), /'type': 'price(_batch)?'/);
  });

  await check("the Rust snippet names its crates and the channels", async () => {
    const code = await copy("the prices", "Rust");
    assert(code.includes("cargo add tokio-tungstenite") && code.includes("prices:BTC-USD"), code);
  });

  await check("the keyboard walks the menu, and Escape closes it", async () => {
    const button = page.getByRole("button", { name: "Copy the prices as code" });
    await button.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("menuitem", { name: "curl" }).waitFor();
    for (const [key, name] of [["ArrowDown", "TypeScript"], ["End", "Rust"], ["ArrowDown", "curl"], ["ArrowUp", "Rust"], ["Home", "curl"]]) {
      await page.keyboard.press(key);
      await until(`the focus on ${name}`, () => page.evaluate((expected) => document.activeElement?.textContent === expected, name));
    }
    await page.keyboard.press("Escape");
    await page.getByRole("menu").waitFor({ state: "detached" });
    await until("the focus on the button", () => button.evaluate((element) => element === document.activeElement));
  });

  await check("the snippets request the sources and the candles of a symbol", async () => {
    await go("prices/ETH-USD");
    await page.locator("tr[data-source]").first().waitFor();
    // A chart that comes meanwhile moves what is below it away from the pointer.
    await page.locator(".uplot").first().waitFor();
    await inShell(await copy("the sources of ETH-USD", "curl"), /"symbol":"ETH-USD"[^]*"sourceDetails"/);
    await inNode(await copy("the sources of ETH-USD", "TypeScript"), /symbol: 'ETH-USD'[^]*sourceDetails/);
    await inPython(await copy("the candles of ETH-USD", "Python"), /"items":\[\{"symbol":"ETH-USD","interval":"1m"/);
  });

  await check("the curl snippet receives the market", async () => {
    await go("market");
    await inShell(await copy("the market", "curl"), /event: market_overview/);
  });

  await check("the curl snippets request the venues, the figures of the server and the connections", async () => {
    await go("overview");
    await inShell(await copy("the venues", "curl"), /"sources":\[\{"name":/);
    await inShell(await copy("the figures of the server", "curl"), /"stepMs":10000/);
    await go("connections");
    await inShell(await copy("the connections", "curl"), /"connections":\[/);
  });

  await check("the curl snippet publishes the JSON of the form, quotes included, and the page shows it", async () => {
    await go("channels");
    await page.getByLabel("Channel", { exact: true }).fill(CHANNEL);
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.locator(`[data-channel="${CHANNEL}"][data-state="on"]`).waitFor();
    await page.getByLabel("JSON").fill(`{"text":"it's \\"quoted\\" $HOME"}`);
    await inShell(await copy("this publication", "curl"), /"seq":\d+/);
    await page.locator(".frames > li", { hasText: `it's \\"quoted\\" $HOME` }).or(page.locator(".frames > li", { hasText: `it's "quoted" $HOME` })).first().waitFor();
    const { messages } = await call(server, "StreamService/GetHistory", { channel: CHANNEL });
    assert(messages.at(-1).data.text === `it's "quoted" $HOME`, JSON.stringify(messages));
  });

  await check("the TypeScript snippet publishes it too", async () => {
    await inNode(await copy("this publication", "TypeScript"), /seq: \d+/);
  });

  await check("the TypeScript snippet subscribes to the channels of the page", async () => {
    const code = await copy("these channels", "TypeScript");
    assert(code.includes(CHANNEL), code);
    await inNode(code, /type: 'subscribed'/);
  });

  await check("a page without a clipboard shows the snippet in a dialog", async () => {
    const bare = await page.context().newPage();
    await bare.addInitScript(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
    await bare.goto(`${server}/#/market`);
    await bare.getByRole("button", { name: "Copy the market as code" }).click();
    await bare.getByRole("menuitem", { name: "curl" }).click();
    await bare.getByRole("dialog", { name: "Copy as curl" }).waitFor();
    assert((await bare.locator("#code-text").inputValue()).startsWith("curl -N "), "no snippet is shown");
    await bare.keyboard.press("Escape");
    await bare.getByRole("dialog").waitFor({ state: "hidden" });
    await bare.close();
  });

  await page.close();
}
