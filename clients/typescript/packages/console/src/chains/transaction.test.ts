import type { TransactionStatus } from "@tidewire/client";
import { expect, test } from "vitest";
import { isFinal, pastedAddress, pastedHash, reasonText, stateText, stationOf, statusText, stepNote, stepsOf } from "./transaction.ts";

const status = (state: string, change: Partial<TransactionStatus> = {}): TransactionStatus => ({
  chain: 1,
  hash: "0x1",
  state,
  confirmations: 0,
  required: 3,
  timestamp: 0,
  ...change,
});

test("every state of the protocol has a word, and an unknown one is shown as it is", () => {
  for (const state of ["unknown", "pending", "confirming", "confirmed", "finalized", "failed", "replaced", "cancelled", "dropped"]) {
    expect(stateText(state).word).not.toBe(state);
  }
  expect(stateText("teleported").word).toBe("teleported");
  expect([stationOf("pending"), stationOf("finalized"), stationOf("failed")]).toEqual([0, 3, -1]);
  expect([isFinal(status("confirmed")), isFinal(status("dropped"))]).toEqual([false, true]);
});

test("confirmations are one step, and a reorg begins another", () => {
  const steps = stepsOf([
    status("pending", { timestamp: 1 }),
    status("confirming", { timestamp: 2, confirmations: 1 }),
    status("confirming", { timestamp: 3, confirmations: 2 }),
    status("pending", { timestamp: 4, reorged: true }),
    status("confirming", { timestamp: 5, confirmations: 1 }),
  ]);
  expect(steps.map(({ status: { state, confirmations }, since }) => [state, confirmations, since])).toEqual([
    ["pending", 0, 1],
    ["confirming", 2, 2],
    ["pending", 0, 4],
    ["confirming", 1, 5],
  ]);
});

test("a step says what the server says of it", () => {
  expect(stepNote(status("confirming", { blockNumber: 1234, confirmations: 2 }))).toBe("block 1,234 · 2 of 3 confirmations");
  expect(stepNote(status("failed", { blockNumber: 7, reason: "ERC20: insufficient balance" }))).toBe("block 7 · ERC20: insufficient balance");
  expect(stepNote(status("replaced", { replacedBy: `0x${"ab".repeat(32)}` }))).toBe("by 0xabababab…abab");
  expect(stepNote(status("pending", { reorged: true }))).toBe("a reorg took it out of its block");
});

test("a hash that no node has says since when it is searched for, once", () => {
  const reason = "no node has seen it, looking since 2026-11-30T01:06:33Z";
  expect(stepNote(status("unknown", { reason }))).toBe("");
  expect(reasonText(reason, (time) => new Date(time).toISOString().slice(11, 19))).toBe("no node has seen it, searched for since 01:06:33");
  expect(reasonText("out of gas", String)).toBe("out of gas");
});

test("a hash is found in what was pasted, or the fault is named", () => {
  const hash = `0x${"aB".repeat(32)}`;
  expect(pastedHash(` ${hash}\n`)).toEqual({ hash: hash.toLowerCase() });
  expect(pastedHash(`https://etherscan.io/tx/${hash}?a=1`)).toEqual({ hash: hash.toLowerCase() });
  expect(pastedHash("")).toEqual({ fault: "Paste a transaction's hash: 0x and 64 digits." });
  expect(pastedHash(`0x${"a".repeat(41)}`)).toEqual({ fault: "This hash has 41 digits, expected 64." });
  expect(pastedHash(`${hash}00`)).toEqual({ fault: "This hash has 66 digits, expected 64." });
  expect(pastedHash("hello")).toEqual({ fault: "This is no hash: expected 0x and 64 digits of 0 to 9 and a to f." });
  expect(pastedAddress(`0x${"Cd".repeat(20)}`)).toEqual({ hash: `0x${"cd".repeat(20)}` });
  expect(pastedAddress("0x12")).toEqual({ fault: "This address has 2 digits, expected 40." });
});

test("what belongs into the other field says so", () => {
  expect(pastedHash(`https://etherscan.io/address/0x${"Cd".repeat(20)}`)).toEqual({ fault: "This is an address: paste it into the field of the wallet." });
  expect(pastedAddress(`0x${"aB".repeat(32)}`)).toEqual({ fault: "This is a hash: paste it into the field of the transaction." });
});

test("nodes that do not answer are a fault, and say nothing of the hash", () => {
  const silent = statusText({ state: "unknown", reason: "no node has answered, looking since 2026-11-30T01:06:33Z" });
  expect(silent.tone).toBe("bad");
  expect(silent.text).not.toContain("has this hash");
  expect(statusText({ state: "unknown", reason: "no node has seen it" })).toEqual(stateText("unknown"));
  expect(statusText({ state: "failed", reason: "no node has answered" })).toEqual(stateText("failed"));
});
