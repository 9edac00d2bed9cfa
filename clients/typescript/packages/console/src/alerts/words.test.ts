import type { AlertCondition, AlertRule } from "@tidewire/client";
import { expect, test } from "vitest";
import { conditionText, duration, explained, fireText, parseDuration, repeatText, ruleState, ruleTitle } from "./words.ts";

const RULE: AlertRule = { id: "r", condition: { kind: "price_above", symbol: "BTC-USD", threshold: 70_000 }, enabled: true, state: "armed" };

test("each condition is a sentence", () => {
  const text = (condition: object) => conditionText(condition as AlertCondition);
  expect(text({ kind: "price_above", symbol: "BTC-USD", threshold: 70000.5 })).toBe("BTC-USD is at 70,000.5 or above");
  expect(text({ kind: "price_crosses", symbol: "BTC-USD", threshold: "1234567.00000001", direction: "up" })).toBe("BTC-USD crosses 1,234,567.00000001 upwards");
  expect(text({ kind: "price_crosses", symbol: "BTC-USD", threshold: 1 })).toBe("BTC-USD crosses 1");
  expect(text({ kind: "price_channel", symbol: "BTC-USD", low: 1, high: 2, on: "exit" })).toBe("BTC-USD leaves 1 to 2");
  expect(text({ kind: "percent_change", symbol: "ETH-USD", percent: -2, windowMs: 300_000 })).toBe("ETH-USD falls by 2 % within 5 min");
  expect(text({ kind: "moving_average_cross", symbol: "ETH-USD", fastMs: 60_000, slowMs: 3_600_000, direction: "down" })).toBe("ETH-USD: the average of 1 min crosses that of 1 h downwards");
  expect(text({ kind: "volume_spike", symbol: "ETH-USD", multiple: 5, windowMs: 60_000 })).toBe("ETH-USD trades 5 times its usual volume within 1 min");
  expect(text({ kind: "price_stale", symbol: "ETH-USD", afterMs: 90_000 })).toBe("ETH-USD has no live price for 90 s");
  expect(text({ kind: "gas_below", chain: 1, gwei: 5 })).toBe("Gas of chain 1 is at 5 gwei or below");
  expect(text({ kind: "portfolio_drawdown", portfolio: "main", percent: 10 })).toBe("Portfolio main falls from its highest value by 10 %");
  expect(text({ kind: "transaction_state", chain: 1, txHash: `0x${"ab".repeat(32)}`, state: "finalized" })).toBe("Transaction 0xabababab…abab is finalized");
  const gas = { kind: "gas_above", chain: 1, gwei: 5 };
  expect(text({ kind: "all", conditions: [gas, { kind: "any", conditions: [gas, gas] }] })).toBe(
    "Gas of chain 1 is at 5 gwei or above and (Gas of chain 1 is at 5 gwei or above or Gas of chain 1 is at 5 gwei or above)",
  );
  expect([ruleTitle(RULE), ruleTitle({ ...RULE, name: "High" })]).toEqual(["BTC-USD is at 70,000 or above", "High"]);
});

test("durations are read and written", () => {
  expect([500, 1_000, 90_000, 300_000, 7_200_000, 86_400_000].map(duration)).toEqual(["500 ms", "1 s", "90 s", "5 min", "2 h", "1 d"]);
  expect(["90", "90 s", "5min", "1.5 h", " 2 d ", "250ms"].map(parseDuration)).toEqual([90_000, 90_000, 300_000, 5_400_000, 172_800_000, 250]);
  expect(["", "soon", "-1 s", "5 weeks"].map(parseDuration)).toEqual([undefined, undefined, undefined, undefined]);
});

test("every state of the protocol has a word, with the time that is left", () => {
  for (const state of ["pending", "armed", "firing", "recovering", "cooldown", "snoozed", "expired", "exhausted", "disabled", "stopped"]) {
    expect(ruleState({ ...RULE, state }, 0).word).not.toBe(state);
  }
  expect(ruleState({ ...RULE, state: "cooldown", cooldownMs: 60_000, lastFiredAt: 1_000 }, 21_500).text).toContain("40 s left.");
  expect(ruleState({ ...RULE, state: "snoozed", snoozedUntil: 3_600_000 }, 0).text).toContain("1 h left.");
  expect(ruleState({ ...RULE, state: "stopped", stoppedReason: "16 fires within 3 minutes" }, 0).text).toBe("16 fires within 3 minutes");
  expect(ruleState({ ...RULE, state: "new" }, 0).word).toBe("new");
  expect(repeatText({ ...RULE, repeat: { times: 3 }, cooldownMs: 60_000, fires: 1 })).toBe("Fires 3 times, 1 min apart at least · fired 1 time");
});

test("an explanation is told in sentences", () => {
  const told = explained(
    {
      decision: "not_met",
      holds: false,
      value: 61843.4,
      rule: { ...RULE, condition: { kind: "price_crosses", symbol: "BTC-USD", threshold: 61_800, direction: "either" } },
      reason: "in its cooldown; price of BTC-USD is 61843.4, wanted to cross 61800: not crossed by this value",
      tick: { value: 61843.4, timestamp: 9_000, sources: ["coinbase", "kraken"] },
      previousTick: { value: 61836.775, timestamp: 8_000, sources: [] },
    },
    11_000,
    (ms) => `${ms / 1_000} s`,
  );
  expect(told).toEqual({
    title: "It did not fire: its condition is not true",
    tone: "plain",
    lines: [
      "In its cooldown.",
      "Price of BTC-USD is 61,843.40, wanted to cross 61,800: not crossed by this value.",
      "The newest value is 61,843.40, 2 s old, from coinbase, kraken. The value before was 61,836.78.",
    ],
  });
  // After a fire, the newest value is another one than that which fired.
  const last = { alertId: "r", value: 61_805, previous: 61_790, sources: [], timestamp: 6_000, symbol: "BTC-USD" };
  const after = explained({ decision: "not_met", holds: false, value: 61_810, reason: "not crossed by this value" }, 11_000, (ms) => `${ms / 1_000} s`, last);
  expect(after.title).toBe("By the newest value it does not fire again: its condition is not true now");
  expect(after.lines).toEqual(["Not crossed by this value.", "It last fired 5 s ago: BTC-USD at 61,805, before 61,790."]);
  expect(explained({ holds: true, value: null, reason: "", decision: "suppressed" }, 0, String).title).toBe("Its condition is true, and yet it does not fire");
});

test("a price is written as in the tables, unless that would make it equal to its threshold", () => {
  const rule = { ...RULE, condition: { kind: "price_above", symbol: "BTC-USD", threshold: 61_800 } } as const;
  const line = (value: number, reason: string) => explained({ rule, decision: "not_met", holds: false, value, reason }, 0, String).lines[0];
  expect(line(61_799.5, "price of BTC-USD is 61799.5, wanted at least 61800: false")).toBe("Price of BTC-USD is 61,799.50, wanted at least 61,800: false.");
  expect(line(61_799.999, "price of BTC-USD is 61799.999, wanted at least 61800: false")).toBe("Price of BTC-USD is 61,799.999, wanted at least 61,800: false.");
  expect(line(1, "gas price of chain 7357 in gwei is 12345.5, wanted at least 20000")).toBe("Gas price of chain 7357 in gwei is 12,345.5, wanted at least 20,000.");
  const fire = { alertId: "r", rule, value: 61_800.125, previous: 61_700, sources: [], timestamp: 0, symbol: "BTC-USD" };
  expect(fireText(fire)).toBe("BTC-USD at 61,800.13, before 61,700.00");
});

test("a fire says what made it", () => {
  const event = { alertId: "r", value: 70_000.5, previous: 69_000, sources: [], timestamp: 0 };
  expect(fireText({ ...event, symbol: "BTC-USD" })).toBe("BTC-USD at 70,000.5, before 69,000");
  expect(fireText({ ...event, previous: null, chain: 7357 })).toBe("gas of chain 7357 at 70,000.5 gwei");
  const gas = { ...RULE, condition: { kind: "gas_above", chain: 7357, gwei: 14 } } as const;
  expect(fireText({ ...event, rule: gas, value: 14.401805823, previous: 13.99999, chain: 7357 })).toBe("gas of chain 7357 at 14.4 gwei, before 13.99999");
  expect(fireText({ ...event, value: null, chain: 1, txHash: "0x12", state: "failed" })).toBe("transaction 0x12 is failed");
  expect(fireText({ ...event, manual: true })).toBe("fired by hand");
  // A passage during the cooldown fires at its end, and has no value before it.
  const cooling = { ...RULE, cooldownMs: 60_000, fires: 2 };
  expect(fireText({ ...event, previous: null, rule: cooling, symbol: "BTC-USD" })).toBe("BTC-USD at 70,000.50, deferred, fired at the end of the cooldown");
  expect(fireText({ ...event, previous: null, rule: { ...cooling, fires: 1 }, symbol: "BTC-USD" })).toBe("BTC-USD at 70,000.50");
  const percent = { ...RULE, condition: { kind: "percent_change", symbol: "ETH-USD", percent: 0.05, windowMs: 1 } } as const;
  expect(fireText({ ...event, rule: percent, symbol: "ETH-USD", value: -0.050895044 })).toBe("ETH-USD changed by −0.0509 %");
});
