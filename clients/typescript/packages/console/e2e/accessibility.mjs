// Accessibility of the console by axe, in each state that a page has: with data, with extreme values, on a
// phone, offline, without data, without a user: `node e2e/accessibility.mjs target/debug/tidewire`. It
// prints a line for each check: `ok …` or `not ok …`.
import { resolve } from "node:path";
import axeCore from "axe-core";
import { useFakeServer } from "./fake-server.mjs";
import { assert, check, failed, openBrowser } from "./harness.mjs";
import { PUBLIC_PAGES } from "./pages.mjs";
import { startProxy } from "./proxy.mjs";
import { startServer } from "./server.mjs";

const binary = process.argv[2];
if (binary === undefined) {
  console.error("usage: node e2e/accessibility.mjs BINARY");
  process.exit(2);
}

/** The rules: WCAG 2.2 AA, and what axe's authors hold for good practice. */
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const DESKTOP = { width: 1280, height: 900 };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const CHAIN = 7357;
const WALLET = "0x5a3b1e00000000000000000000000000000000a1";
const HASH = `0x${"12".repeat(32)}`;

/** The pages, each with what it shows once the data of the sample is there. */
const PAGES = [
  ...PUBLIC_PAGES,
  [`chains/${CHAIN}/wallet/${WALLET}`, ".wallet-lines li"],
  [`chains/${CHAIN}/tx/${HASH}`, ".chip"],
  ["inbox", "#notifications > li"],
  ["alerts", ".fires li"],
  ["alerts/new", ".editor"],
];

const UNREACHABLE = { TIDEWIRE_PRICES__SYMBOLS: '["BTC-USD"]', TIDEWIRE_PRICES__SOURCE: '[{kind = "coinbase", url = "ws://127.0.0.1:1"}]' };
const [sample, empty, silent] = await Promise.all([
  startServer(resolve(binary), { isSample: true }),
  startServer(resolve(binary)),
  startServer(resolve(binary), { variables: UNREACHABLE }),
]);
const proxy = await startProxy(sample.url);
const [desktop, phone] = await Promise.all([openBrowser({ viewport: DESKTOP }), openBrowser(PHONE)]);

/** Opens a tab, as a user if there is a token. */
async function open(browser, url, token) {
  const page = await browser.context.newPage();
  await page.addInitScript((text) => text && window.sessionStorage.setItem("tidewire.token", text), token);
  await page.goto(`${url}/#/overview`);
  await page.evaluate(axeCore.source);
  return page;
}

/** Goes to a page of the console, and waits for what it shows. */
async function go(page, route, shown = "h1") {
  await page.evaluate((hash) => (window.location.hash = `#/${hash}`), route);
  await page.locator(shown).first().waitFor();
}

/** Runs all rules in light mode, and that of the contrast in dark: no other depends on colours. */
async function axe(page, name) {
  await check(`axe finds nothing on ${name}`, async () => {
    const faults = [];
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      const found = await page.evaluate(
        async ([tags, isDark]) => {
          const only = isDark ? { type: "rule", values: ["color-contrast"] } : { type: "tag", values: tags };
          const { violations } = await window.axe.run({ runOnly: only, resultTypes: ["violations"] });
          return violations.flatMap(({ id, help, nodes }) => nodes.slice(0, 5).map(({ html, failureSummary }) => `${id}: ${help}\n  ${html.slice(0, 200)}\n  ${failureSummary.replace(/\n/g, "\n  ")}`));
        },
        [TAGS, colorScheme === "dark"],
      );
      faults.push(...found.map((fault) => `in ${colorScheme} mode: ${fault}`));
    }
    assert(faults.length === 0, faults.join("\n"));
  });
}

const token = sample.token("sample");
{
  const page = await open(desktop, sample.url, token);
  for (const [route, shown] of PAGES) {
    await go(page, route, shown);
    await axe(page, route);
  }

  // What opens: menus, dialogs, questions, the tree of a message, a rule with its reason.
  await go(page, "channels/demo:axe", ".pane");
  await fetch(`${sample.url}/v1/rpc/StreamService/Publish`, { method: "POST", body: JSON.stringify({ channel: "demo:axe", data: { a: { b: [1, "two", null] } } }) });
  await page.locator(".frames > li .json-toggle").first().waitFor();
  await axe(page, "channels with a message");
  await go(page, "connections", "tr[data-connection-id]");
  await page.getByRole("button", { name: /^Disconnect / }).first().click();
  await axe(page, "the question before a disconnect");
  await go(page, "alerts", ".rules a");
  await page.locator(".rules a").first().click();
  await page.locator(".why li").first().waitFor();
  await page.getByRole("button", { name: "4 hours", exact: true }).click();
  await page.locator(".backtest-chart canvas, .backtest .failure").first().waitFor();
  await axe(page, "a rule with its backtest");
  await page.getByRole("link", { name: "Edit" }).click();
  await page.locator(".editor").waitFor();
  await page.getByLabel("Threshold").fill("");
  await page.getByRole("button", { name: "Save", exact: true }).click();
  await page.locator('[aria-invalid="true"]').waitFor();
  await axe(page, "a rule with a fault");
  await go(page, "prices", "tr[data-symbol] .digits");
  await page.getByRole("button", { name: "Copy the prices as code" }).click();
  await page.getByRole("menuitem", { name: "curl" }).waitFor();
  await axe(page, "an open copy menu");
  await page.keyboard.press("Escape");
  await page.locator(".account").click();
  await page.getByRole("dialog").waitFor();
  await axe(page, "the dialog of the account");
  await page.keyboard.press("Escape");
  await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
  await page.getByRole("button", { name: "Copy the prices as code" }).click();
  await page.getByRole("menuitem", { name: "curl" }).click();
  await page.locator("#code-text").waitFor();
  await axe(page, "the dialog with code");
  await page.close();
}
{
  const page = await open(phone, sample.url, token);
  for (const [route, shown] of PAGES) {
    await go(page, route, shown);
    await axe(page, `${route} on a phone`);
    const more = page.locator(".more:visible").first();
    if (await more.isVisible()) {
      await more.tap();
      await page.locator(".term:visible").first().tap({ timeout: 2_000 }).catch(() => undefined);
      await axe(page, `${route} on a phone, with the details of a row`);
    }
  }
  await page.close();
}
{
  const page = await open(desktop, proxy.url, token);
  for (const [route, shown] of PAGES) {
    // The page shows its data, then the connection is lost.
    await go(page, route, shown);
    proxy.cut();
    await page.locator("#connection-bar").waitFor();
    await axe(page, `${route}, offline`);
    proxy.restore();
    await page.getByRole("button", { name: "Try now" }).click({ timeout: 2_000 }).catch(() => undefined);
    await page.locator("#state", { hasText: /^Connected$/ }).waitFor();
  }
  await page.close();
}
{
  const page = await open(desktop, empty.url, empty.token("nobody"));
  for (const [route] of PAGES) {
    await go(page, route);
    // What was asked for is answered: nothing waits any more.
    await page.locator(".loading").first().waitFor({ state: "detached" });
    await axe(page, `${route} without data`);
  }
  await page.close();
}
{
  const page = await open(desktop, silent.url);
  for (const route of ["overview", "setup"]) {
    await go(page, route);
    await check(`where no venue answers, ${route} says how to go on`, async () => {
      const hint = page.getByRole("region", { name: "No venue answers" });
      await hint.getByText("tidewire replay --loop", { exact: true }).waitFor();
    });
    await axe(page, `${route} where no venue answers`);
  }
  await page.close();
}
{
  const page = await open(desktop, sample.url);
  for (const route of ["inbox", "alerts", "nothing"]) {
    await go(page, route);
    await axe(page, `${route} without a user`);
  }
  await page.locator(".account").click();
  await page.getByRole("dialog").waitFor();
  await axe(page, "the dialog of the account without a user");
  await page.close();
}
{
  const page = await desktop.context.newPage();
  await useFakeServer(page);
  await page.addInitScript(() => window.sessionStorage.setItem("tidewire.token", "a.b.c"));
  await page.goto(`${sample.url}/#/overview`);
  await page.evaluate(axeCore.source);
  for (const [route, shown] of PAGES) {
    await go(page, route.replace(String(CHAIN), "1"), shown);
    await axe(page, `${route} with extreme values`);
  }
  await page.close();
}

proxy.close();
await Promise.all([desktop.close(), phone.close()]);
await Promise.all([sample.close(), empty.close(), silent.close()]);
process.exit(failed() === 0 ? 0 : 1);
