// Checks of the Alerts page: create, change, explain, snooze, disable, backtest, fires, delete.
import { call } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";
import { checkPage } from "./layout.mjs";

export async function checkAlerts(open, server, signIn) {
  const page = await open("alerts");
  const rules = page.getByRole("list", { name: "Rules, newest first" });
  const rule = (text) => rules.getByRole("listitem").filter({ hasText: text });
  const press = (name) => page.getByRole("button", { name, exact: true }).click();

  await check("without a user the page asks for one", async () => {
    await page.getByText("Sign in to see a user's alerts").waitFor();
    await signIn(page);
    await rule("Bitcoin at a million").waitFor();
  });

  await check("a rule is created with the form, and faults are beside their fields", async () => {
    await page.getByRole("link", { name: "New rule" }).click();
    await page.getByLabel("Condition").selectOption("price_above");
    await press("Create");
    await page.getByText("Threshold: nothing typed.").waitFor();
    assert((await page.getByLabel("Threshold").getAttribute("aria-invalid")) === "true", "the field is not marked");
    await page.getByLabel("Threshold").fill("1,000.50");
    await page.getByLabel("Symbol").fill("BTC-US");
    await press("Create");
    await page.getByText('unknown symbol "BTC-US", did you mean').waitFor();
    assert((await page.getByLabel("Symbol").getAttribute("aria-invalid")) === "true", "the server's fault is not beside its field");
    await page.getByLabel("Symbol").fill("btc-usd");
    await page.getByLabel("Name").fill("From the page");
    await page.getByLabel("Cooldown").fill("2 min");
    await press("Create");
    await rule("From the page").waitFor();
    await page.getByRole("heading", { name: "From the page" }).waitFor();
  });

  await check("it fired at once, and the page says why and when", async () => {
    await page.locator(".why").getByText(/^(It fired|Its condition is true)/).waitFor();
    await page.getByText(/Price of BTC-USD is [\d,]+\.\d{2}, wanted at least 1,000.5/).waitFor();
    await page.locator(".fires li", { hasText: "BTC-USD at" }).first().waitFor();
  });

  await check("why a rule did not fire is told in words", async () => {
    await rule("Bitcoin at a million").getByRole("link").click();
    await page.getByText("It did not fire: its condition is not true").waitFor();
    await page.getByText(/The newest value is 6[\d,.]+, \d+ s old, from/).waitFor();
  });

  await check("a rule is changed", async () => {
    await rule("From the page").getByRole("link").click();
    await page.getByRole("link", { name: "Edit" }).click();
    assert((await page.getByLabel("Cooldown").inputValue()) === "2 min", "the form does not show the rule");
    assert((await page.getByLabel("Threshold").inputValue()) === "1000.5", `the threshold is ${await page.getByLabel("Threshold").inputValue()}`);
    await page.getByLabel("Name").fill("Renamed");
    await page.getByLabel("Cooldown").fill("");
    await press("Save");
    await rule("Renamed").waitFor();
    assert(!(await rule("Renamed").innerText()).includes("apart"), "the cooldown stayed");
  });

  await check("a rule sleeps, wakes, is disabled and enabled", async () => {
    const state = (name) => page.locator(`li[data-state="${name}"]`, { hasText: "Renamed" }).waitFor();
    await page.getByRole("combobox", { name: "Snooze" }).selectOption({ label: "1 h" });
    await state("snoozed");
    await press("End the snooze");
    await page.getByRole("combobox", { name: "Snooze" }).waitFor();
    await press("Disable");
    await state("disabled");
    await page.getByText("It is disabled, and fires nothing.").waitFor();
    await press("Enable");
    await until("another state", async () => (await rule("Renamed").getAttribute("data-state")) !== "disabled");
  });

  await check("a backtest is drawn, with its fires", async () => {
    const { items } = await call(server, "PriceService/GetCandles", { symbol: "BTC-USD", interval: "1m" });
    assert(items.length > 0, "the sample has no candle");
    await press("4 hours");
    await page.getByText(/^It would have fired \d+ times?\.$/).waitFor();
    await page.getByRole("img", { name: /^BTC-USD over 4 hours, with \d+ fires?$/ }).locator("canvas").waitFor();
  });

  await check("a backtest that cannot be says why", async () => {
    await rule("Gas is dear").getByRole("link").click();
    await page.getByRole("heading", { name: "Gas is dear" }).waitFor();
    await press("4 hours");
    await page.getByText("Could not load a backtest of this rule").waitFor();
  });

  await check("a rule of several conditions is written as JSON", async () => {
    await page.getByRole("link", { name: "New rule" }).click();
    await page.getByLabel("Condition").selectOption("json");
    await page.getByLabel("Rule as JSON").fill("{broken");
    await press("Create");
    await page.getByText("This is no JSON").waitFor();
    const condition = { kind: "all", conditions: [{ kind: "price_above", symbol: "BTC-USD", threshold: 1 }, { kind: "price_below", symbol: "ETH-USD", threshold: "x" }] };
    await page.getByLabel("Rule as JSON").fill(JSON.stringify({ name: "Both", condition }));
    await press("Create");
    await page.getByText("expected a number of at most 256 digits").waitFor();
    condition.conditions[1].threshold = 2;
    await page.getByLabel("Rule as JSON").fill(JSON.stringify({ name: "Both", condition }));
    await press("Create");
    await rule("BTC-USD is at 1 or above and ETH-USD is at 2 or below").waitFor();
    await page.getByRole("heading", { name: "Both" }).waitFor();
  });

  await checkPage(page, "an alert");

  await check("a rule is deleted after a second click, and the fires stay", async () => {
    await rule("Renamed").getByRole("link").click();
    await page.getByRole("heading", { name: "Renamed" }).waitFor();
    await press("Delete");
    await press("Delete for good");
    await rule("Renamed").waitFor({ state: "detached" });
    await page.getByRole("list", { name: "Fires, newest first" }).getByText("From the page").first().waitFor();
  });

  await check("a fire shows as it comes", async () => {
    await page.getByRole("link", { name: "New rule" }).click();
    await page.getByLabel("Condition").selectOption("price_below");
    await page.getByLabel("Threshold").fill("99999999");
    await page.getByLabel("Name").fill("Comes at once");
    await press("Create");
    await page.getByRole("heading", { name: "Comes at once" }).waitFor();
    await page.goto(`${server}/#/alerts`);
    await page.getByRole("list", { name: "Fires, newest first" }).getByText("Comes at once").first().waitFor();
  });

  await checkPage(page, "alerts");
  await page.close();
}
