// Checks of the pages of an operator: the tabs, the overview, the connections and the setup.
import { call } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";

const TABS = ["Overview", "Prices", "Market", "Chains", "Inbox", "Alerts", "Channels", "Connections", "Setup"];

export async function checkOperator(open, server) {
  const page = await open();

  await check("each tab has a page with an address and a title", async () => {
    for (const name of TABS) {
      const tab = page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: new RegExp(`^${name}`) });
      await tab.click();
      await page.getByRole("heading", { level: 1, name: new RegExp(`^${name}`) }).waitFor();
      assert(page.url().endsWith(`#/${name.toLowerCase()}`), page.url());
      assert((await tab.getAttribute("aria-current")) === "page", `the tab ${name} is not the current one`);
      await until("the title of the window", async () => (await page.title()).includes(`${name} · Tidewire`));
    }
    await page.goBack();
    await page.getByRole("heading", { level: 1, name: "Connections" }).waitFor();
  });

  await check("an address without a page says so", async () => {
    await page.goto(`${server}/#/nowhere`);
    await page.getByRole("heading", { level: 1, name: "No such page" }).waitFor();
  });

  await check("the overview shows six figures, each with its history", async () => {
    await page.goto(`${server}/#/overview`);
    // The server takes a sample every ten seconds.
    for (const [name, value] of [["Venues up", /^3 of 3$/], ["Chains at head", /^1 of 1$/], ["Clients", /^[1-9]/], ["Messages", /^[\d.,]+ \/s$/], ["Delivery p99", /^[\d.]+ ms$/], ["Alerts fired", /^\d/]]) {
      const tile = page.locator(".tile").filter({ has: page.locator(".tile-name", { hasText: new RegExp(`^${name}$`) }) });
      await tile.locator(".tile-value", { hasText: value }).waitFor();
      await tile.getByRole("img", { name: /in the last hour$/ }).waitFor();
    }
  });

  await check("the figures equal those of the API", async () => {
    await until("the same alerts on both", async () => {
      const { samples } = await call(server, "AdminService/GetServerSeries", {});
      const fired = samples.reduce((sum, { alertsFired }) => sum + Number(alertsFired), 0);
      return (await page.locator(".tile", { hasText: "Alerts fired" }).locator(".tile-value").textContent()) === String(fired);
    });
  });

  await check("the venues are shown with their state", async () => {
    await until("three venues", async () => (await page.locator("tr[data-venue] .chip", { hasText: /^live$/ }).count()) === 3);
  });

  await check("the connections are listed, this page among them, with the quality of each", async () => {
    await page.goto(`${server}/#/connections`);
    const own = page.locator("tr[data-connection-id]", { hasText: "this page" });
    await own.locator(".chip", { hasText: /^(good|fair|slow|open)$/ }).waitFor();
    await own.locator("td", { hasText: /^websocket$/ }).waitFor();
    await own.locator("td", { hasText: /^\d+\.\d ms ± / }).waitFor();
  });

  await check("the filter finds who follows a channel, and the button disconnects", async () => {
    const other = await open("prices/SOL-USD");
    await other.locator(".chart").waitFor();
    await page.getByLabel("Subscribed to").fill("candles:SOL-USD:1m");
    await page.getByRole("button", { name: "Filter" }).click();
    const rows = page.locator("tr[data-connection-id]");
    await until("the other page alone", async () => (await rows.count()) === 1 && !(await rows.first().innerText()).includes("this page"));
    await rows.getByRole("button", { name: /^Disconnect/ }).click();
    await rows.getByRole("button", { name: "Keep" }).click();
    await rows.getByRole("button", { name: /^Disconnect/ }).click();
    await rows.getByRole("button", { name: "Disconnect this connection" }).click();
    await other.locator("#state", { hasText: /^Disconnected$/ }).waitFor();
    await other.locator("#connection-text", { hasText: "operator" }).waitFor();
    await page.getByRole("status").filter({ hasText: "1 connection closed" }).waitFor();
    await page.locator("tbody", { hasText: "No connection matches the filter." }).waitFor();
    await other.close();
  });

  await check("the setup shows the health, and for each part whether it is configured", async () => {
    const refused = [];
    const note = (response) => response.status() >= 400 && refused.push(response.url());
    page.on("response", note);
    await page.goto(`${server}/#/setup`);
    await page.locator("dd", { hasText: "ready" }).locator(".chip", { hasText: /^yes$/ }).waitFor();
    await page.locator(".chip", { hasText: /^store: ok$/ }).waitFor();
    for (const [part, state] of [["Venues", "replay"], ["Symbols", "ok"], ["Chains", "ok"], ["Web Push", "optional"], ["Delivery", "optional"], ["TLS", "optional"]]) {
      await page.locator(`tr[data-part="${part}"][data-state="${state}"]`).waitFor();
    }
    await page.locator('tr[data-part="Web Push"]', { hasText: "[delivery.push]" }).waitFor();
    page.off("response", note);
    assert(refused.length === 0, `the server refused ${refused.join(", ")}`);
  });

  await check("a symbol that is not there is refused once, with a link to the one that is meant", async () => {
    await page.goto(`${server}/#/prices/BTC-USB`);
    await page.getByText("There is no price of BTC-USB").waitFor();
    const text = await page.getByRole("main").innerText();
    assert(text.split("There is no symbol").length === 2 && text.includes("Did you mean BTC-USD?") && !text.includes("waiting"), text);
    await page.getByRole("link", { name: "BTC-USD", exact: true }).click();
    await page.locator(".symbol-price").waitFor();
  });

  await check("the dialog of the account closes when the address changes", async () => {
    await page.getByRole("button", { name: "Sign in", exact: true }).click();
    await page.getByRole("dialog", { name: "Sign in" }).waitFor();
    await page.evaluate(() => { window.location.hash = "#/market"; });
    await page.getByRole("dialog", { name: "Sign in" }).waitFor({ state: "hidden" });
  });

  await check("without the rights of an operator, a page says which right is missing", async () => {
    const visitor = await page.context().newPage();
    await visitor.route("**/v1/rpc/AdminService/**", (route) => route.fulfill({ status: 403, json: { code: "permission_denied", message: "this needs a token with the `admin` scope" } }));
    for (const name of ["overview", "connections"]) {
      await visitor.goto(`${server}/#/${name}`);
      await visitor.getByRole("alert").filter({ hasText: "This needs a token with the `admin` scope." }).waitFor();
    }
    await visitor.close();
  });

  await check("the colours follow the choice, and it is kept", async () => {
    const brightness = () => page.evaluate(() => window.getComputedStyle(document.body).backgroundColor);
    const seen = new Set();
    for (const choice of ["light", "dark", "auto"]) {
      await page.getByRole("button", { name: /^Colours: / }).click();
      await page.getByRole("button", { name: `Colours: ${choice}` }).waitFor();
      seen.add(await brightness());
      if (choice === "dark") {
        await page.reload();
        await page.getByRole("button", { name: "Colours: dark" }).waitFor();
      }
    }
    assert(seen.size === 2, `the backgrounds are ${[...seen].join(" and ")}`);
  });

  await page.close();
}
