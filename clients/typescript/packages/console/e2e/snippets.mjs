// Checks of the copy buttons: their snippets run against the server.
import { call } from "./api.mjs";
import { assert, check, runUntil, until, WEB_SOCKET_FLAG } from "./harness.mjs";

const CHANNEL = "demo:copied";

export async function checkSnippets(open, server) {
  const page = await open();
  await page.locator('#prices tr[data-symbol="BTC-USD"]').waitFor();

  const copy = async (what, language) => {
    await page.evaluate(() => navigator.clipboard.writeText(""));
    await page.getByRole("button", { name: `Copy ${what} as ${language}` }).click();
    return until("a copied text", () => page.evaluate(() => navigator.clipboard.readText()));
  };
  const inShell = (code, expected) => runUntil(expected, "sh", ["-c", code]);
  const inNode = (code, expected) => runUntil(expected, process.execPath, [...WEB_SOCKET_FLAG, "--input-type=module", "-e", code]);

  await check("the curl snippet receives prices", async () => {
    const code = await copy("the prices", "curl");
    assert(code.startsWith("curl -N ") && code.includes("prices:BTC-USD"), code);
    await inShell(code, /event: price[^]*"symbol":"BTC-USD"/);
  });

  await check("the JavaScript snippet receives prices", async () => {
    const code = await copy("the prices", "JavaScript");
    await inNode(code, /type: 'price(_batch)?'/);
  });

  await check("the Rust snippet names its crates and the channels", async () => {
    const code = await copy("the prices", "Rust");
    assert(code.includes("cargo add tokio-tungstenite") && code.includes("prices:BTC-USD"), code);
  });

  await check("the curl snippet receives the market", async () => {
    await inShell(await copy("the market", "curl"), /event: market_overview/);
  });

  await check("the curl snippet requests the venues", async () => {
    await inShell(await copy("the venues", "curl"), /"sources":\[\{"name":/);
  });

  await check("the curl and JavaScript snippets request the sources of a symbol", async () => {
    await page.locator('#prices tr[data-symbol="ETH-USD"] button.symbol').click();
    await inShell(await copy("the sources of ETH-USD", "curl"), /"symbol":"ETH-USD"[^]*"sourceDetails"/);
    await inNode(await copy("the sources of ETH-USD", "JavaScript"), /symbol: 'ETH-USD'[^]*sourceDetails/);
  });

  await check("the curl snippet publishes the JSON of the form, quotes included, and the page shows it", async () => {
    await page.getByLabel("Channel", { exact: true }).fill(CHANNEL);
    await page.getByRole("button", { name: "Subscribe", exact: true }).click();
    await page.locator(`#subscriptions [data-channel="${CHANNEL}"][data-state="on"]`).waitFor();
    await page.getByLabel("JSON").fill(`{"text":"it's \\"quoted\\" $HOME"}`);
    await inShell(await copy("this publication", "curl"), /"seq":\d+/);
    await page.locator("#frames > li", { hasText: `it's \\"quoted\\" $HOME` }).waitFor();
    const { messages } = await call(server, "StreamService/GetHistory", { channel: CHANNEL });
    assert(messages.at(-1).data.text === `it's "quoted" $HOME`, JSON.stringify(messages));
  });

  await check("the JavaScript snippet publishes it too", async () => {
    await inNode(await copy("this publication", "JavaScript"), /seq: \d+/);
  });

  await check("the JavaScript snippet subscribes to the channels of the explorer", async () => {
    const code = await copy("these channels", "JavaScript");
    assert(code.includes(CHANNEL), code);
    await inNode(code, /type: 'subscribed'/);
  });

  await check("a page without a clipboard shows the snippet in a dialog", async () => {
    const bare = await page.context().newPage();
    await bare.addInitScript(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
    await bare.goto(server);
    await bare.getByRole("button", { name: "Copy the market as curl" }).click();
    await bare.getByRole("dialog", { name: "Copy as curl" }).waitFor();
    assert((await bare.locator("#code-text").inputValue()).startsWith("curl -N "), "no snippet is shown");
    await bare.keyboard.press("Escape");
    await bare.getByRole("dialog").waitFor({ state: "hidden" });
    await bare.close();
  });

  await page.close();
}
