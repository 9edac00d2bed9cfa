// Checks of the Chains page: blocks, reorgs, a transaction, a wallet, endpoints.
import { call } from "./api.mjs";
import { assert, check, until } from "./harness.mjs";
import { checkPage } from "./layout.mjs";

const CHAIN = 7357;
const WALLET = "0x5a3b1e00000000000000000000000000000000a1";

export async function checkChains(open, server) {
  const page = await open("chains");
  const card = (name) => page.getByRole("region", { name, exact: true });

  await check("blocks come by themselves, the newest first", async () => {
    const rows = page.locator("tr[data-block]");
    await rows.first().waitFor();
    const top = async () => Number(await rows.first().getAttribute("data-block"));
    const first = await top();
    await until("the next block", async () => (await top()) > first);
    const numbers = await rows.evaluateAll((all) => all.map((row) => Number(row.dataset.block)));
    assert(numbers.every((number, index) => index === 0 || number === numbers[index - 1] - 1), `they are ${numbers.join(", ")}`);
    const { hash } = await call(server, "WatchService/GetLatestBlock", { chain: CHAIN });
    await page.locator(`td[data-hash="${hash}"]`).waitFor();
  });

  await check("the reorgs say of which blocks they are, and since when", async () => {
    const tile = page.locator(".tile", { hasText: "Reorgs" });
    await tile.getByText(/^in the last \d+ blocks?/).waitFor();
    await tile.getByText(/\d+ since the server started$/).waitFor();
  });

  await check("the sample's newest transactions are a click away", async () => {
    await page.getByRole("list", { name: "Newest transactions of the sample" }).getByRole("link").first().click();
    await page.locator(".tracked").waitFor();
    await page.goto(`${server}/#/chains`);
  });

  await check("a pasted address is followed, and a wrong one is named", async () => {
    const address = card("Wallet").getByLabel("Address");
    await address.fill("0x12");
    await card("Wallet").getByRole("button", { name: "Follow" }).click();
    await card("Wallet").getByText("This address has 2 digits, expected 40.").waitFor();
    assert((await address.getAttribute("aria-invalid")) === "true", "the field is not marked");
    await address.fill(`0x${"12".repeat(32)}`);
    await card("Wallet").getByRole("button", { name: "Follow" }).click();
    await card("Wallet").getByText("This is a hash: paste it into the field of the transaction.").waitFor();
    await address.fill(`https://explorer.example/address/${WALLET.toUpperCase().replace("0X", "0x")}`);
    await card("Wallet").getByRole("button", { name: "Follow" }).click();
    await card("Wallet").locator(".wallet-lines li", { hasText: "TIDE" }).first().waitFor();
    assert(page.url().endsWith(`#/chains/${CHAIN}/wallet/${WALLET}`), `the address is ${page.url()}`);
  });

  await check("a pasted hash is tracked to its end, as the server tells it", async () => {
    await card("Transaction").getByLabel("Hash").fill("0xabc");
    await card("Transaction").getByRole("button", { name: "Track" }).click();
    await card("Transaction").getByText("This hash has 3 digits, expected 64.").waitFor();
    await card("Transaction").getByLabel("Hash").fill(WALLET);
    await card("Transaction").getByRole("button", { name: "Track" }).click();
    await card("Transaction").getByText("This is an address: paste it into the field of the wallet.").waitFor();
    const hash = await until("a transaction of the wallet", async () => {
      const { messages } = await call(server, "StreamService/GetHistory", { channel: `wallet:${WALLET}` });
      return messages.findLast(({ data }) => data.type === "transaction" && data.data.status === "pending")?.data.data.hash;
    });
    await card("Transaction").getByLabel("Hash").fill(hash);
    await card("Transaction").getByRole("button", { name: "Track" }).click();
    await page.locator(".tracked").waitFor();
    await page.locator('.tracked:is([data-state="confirming"], [data-state="confirmed"])').waitFor();
    await page.locator(".steps li", { hasText: /Confirming block [\d,]+/ }).waitFor();
    await card("Wallet").locator(".wallet-lines li").first().waitFor();
  });

  await check("a hash that no node has says so", async () => {
    await page.goto(`${server}/#/chains/${CHAIN}/tx/0x${"12".repeat(32)}`);
    await card("Transaction").locator(".chip", { hasText: "Not seen yet" }).waitFor();
    await card("Transaction").getByText(/^No node has seen it, searched for since \d\d:\d\d:\d\d\.$/).waitFor();
  });

  await check("the endpoints show their health", async () => {
    const row = card("Endpoints").locator("tbody tr");
    await row.getByText("healthy").waitFor();
    await row.getByText("100.0 %").waitFor();
  });

  await checkPage(page, "chains");

  await check("a reorg is drawn as a branch beside the blocks that replaced it", async () => {
    // The sample has one each minute.
    page.setDefaultTimeout(90_000);
    await page.locator("tr[data-block]", { hasText: "undone" }).first().waitFor();
    const row = page.locator('tr[data-undone="1"]').first();
    assert((await row.locator("rect.undone").count()) === 1, "the undone block is not drawn");
    assert((await row.locator("rect:not(.undone)").count()) === 1, "the block that replaced it is not drawn");
    await page.locator("tr[data-block]", { hasText: "replaced" }).first().waitFor();
  });
  await page.close();
}
