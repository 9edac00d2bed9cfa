import { expect, test } from "vitest";
import type { FeedItem } from "../feed.ts";
import { units, walletLines } from "./wallet.ts";

const ADDRESS = `0x${"a1".repeat(20)}`;
const OTHER = `0x${"b2".repeat(20)}`;
const HASH = `0x${"cd".repeat(32)}`;
let seq = 0;
const item = (type: string, data: object, rest: object = {}): FeedItem => {
  seq += 1;
  return { type: "wallet_update", seq, timestamp: seq, data: { type, address: ADDRESS, chain: 1, timestamp: 0, data, ...rest } as unknown as FeedItem["data"] };
};

test("amounts keep all digits before the point", () => {
  expect(units("1940000000000000000", 18)).toBe("1.94");
  expect(units("123456789012345678901234567890", 18)).toBe("123,456,789,012.345678");
  expect(units("-5", 0)).toBe("−5");
  expect(units("1", 18)).toBe("< 0.000001");
  expect(units("-1", 18)).toBe("−< 0.000001");
  expect(units("0", 18)).toBe("0");
  expect(units("1000", 0)).toBe("1,000");
});

test("a transaction is one line, with its newest state, and moves up", () => {
  const transaction = (status: string) => item("transaction", { hash: HASH, from: OTHER, to: ADDRESS, value: "1000000000000000000", direction: "in", status });
  const lines = walletLines([transaction("pending"), item("balance", { delta: "-2", current: "7", decimals: 0, symbol: "SHELL", blockNumber: 9, how: "balance" }), transaction("confirming")]);
  expect(lines.map(({ what, amount, detail, state }) => [what, amount, detail, state])).toEqual([
    ["Receives", "1 ETH", "from 0xb2b2b2b2…b2b2", "Confirming"],
    ["Balance", "−2 SHELL", "now 7 SHELL · block 9", ""],
  ]);
  expect(lines[0]?.hash).toBe(HASH);
});

test("an update that a reorg took back says so, once", () => {
  const data = { delta: "5", current: "5", blockNumber: 9, how: "trace" };
  const lines = walletLines([item("balance", data), item("balance", data, { removed: true })]);
  expect(lines.map(({ amount, removed }) => [amount, removed])).toEqual([["+< 0.000001 ETH", true]]);
});

test("approvals and NFTs are told in words, and what is suspicious is marked", () => {
  const approval = { token: OTHER, owner: ADDRESS, spender: OTHER, amount: "9", unlimited: true, standard: "erc20", txHash: HASH, blockNumber: 1 };
  const nft = { contract: OTHER, standard: "erc721", tokenId: "7", amount: "1", from: OTHER, to: ADDRESS, txHash: HASH, blockNumber: 1 };
  const lines = walletLines([item("approval", approval), item("nft", nft, { suspicious: "moves nothing" }), item("nft", { ...nft, items: [{ tokenId: "1", amount: "1" }, { tokenId: "2", amount: "3" }] })]);
  expect(lines.map(({ what, amount, suspicious }) => [what, amount, suspicious])).toEqual([
    ["Receives NFT", "2 tokens", undefined],
    ["Receives NFT", "token 7", "moves nothing"],
    ["Approval", "without limit", undefined],
  ]);
});

test("other messages of the channel are no lines", () => {
  expect(walletLines([{ type: "message", seq: 1, timestamp: 1, data: "hello" }])).toEqual([]);
});
