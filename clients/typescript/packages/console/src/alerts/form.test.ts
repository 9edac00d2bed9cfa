import { expect, test } from "vitest";
import { COMMON, draftOf, draftOfJson, faultOf, initialValues, jsonOf, KINDS, valuesOf } from "./form.ts";

const filled = (kind: string, values: Record<string, string>) => ({ ...initialValues(kind), ...values });

test("a filled form makes a rule, with exact decimals as they were typed", () => {
  expect(draftOf(filled("price_crosses", { symbol: "btc-usd", threshold: "70,000.10", direction: "up", cooldownMs: "1 min", name: " High " }))).toEqual({
    draft: { condition: { kind: "price_crosses", symbol: "BTC-USD", threshold: "70000.10", direction: "up" }, name: "High", repeat: "recurring", cooldownMs: 60_000, priority: "medium" },
  });
  expect(draftOf(filled("percent_change", { percent: "-2.5", windowMs: "90" }))).toMatchObject({ draft: { condition: { percent: -2.5, windowMs: 90_000 } } });
});

test("a new rule that fires each time has a cooldown, which may be emptied", () => {
  expect(draftOf(filled("price_above", { threshold: "1" }))).toMatchObject({ draft: { repeat: "recurring", cooldownMs: 300_000 } });
  expect(draftOf(filled("price_above", { threshold: "1", cooldownMs: "" }))).not.toHaveProperty("draft.cooldownMs");
});

test("what is missing or malformed is named beside its field, before anything is sent", () => {
  expect(draftOf(filled("price_above", {}))).toEqual({ fault: { field: "threshold", text: "Threshold: nothing typed." } });
  expect(draftOf(filled("price_above", { threshold: "many" }))).toEqual({ fault: { field: "threshold", text: "Threshold: expected a number." } });
  expect(draftOf(filled("price_stale", { afterMs: "soon" }))).toEqual({ fault: { field: "afterMs", text: "For: expected a time such as 90 s, 5 min or 1 h." } });
  expect(draftOf(filled("gas_above", { gwei: "1", chain: "1.5" }))).toEqual({ fault: { field: "chain", text: "Chain id: expected a whole number." } });
});

test("a rule of each kind comes back from its form unchanged", () => {
  for (const kind of Object.keys(KINDS)) {
    const values = filled(kind, { threshold: "5", low: "1", high: "2", gwei: "3", txHash: `0x${"ab".repeat(32)}`, cooldownMs: "2 min" });
    const first = draftOf(values);
    if ("fault" in first) {
      throw new Error(first.fault.text);
    }
    const again = valuesOf({ ...first.draft, id: "r", enabled: true, state: "armed" });
    expect(draftOf(again ?? {})).toEqual(first);
  }
});

test("an emptied field of an existing rule is removed from it", () => {
  expect(draftOf(filled("price_above", { threshold: "1", cooldownMs: "" }), true)).toMatchObject({ draft: { name: "", cooldownMs: 0, template: "" } });
});

test("a rule that only JSON can say has no form", () => {
  const rule = { id: "r", enabled: true, state: "armed", condition: { kind: "all", conditions: [] } } as const;
  expect(valuesOf(rule)).toBeUndefined();
  expect(valuesOf({ id: "r", enabled: true, state: "armed", condition: { kind: "gas_above", chain: 1, gwei: 2 }, repeat: { times: 3 } })).toBeUndefined();
  expect(draftOfJson(jsonOf(rule))).toEqual({ draft: { condition: { kind: "all", conditions: [] } } });
  expect(draftOfJson("{")).toMatchObject({ fault: { field: "json" } });
  expect(draftOfJson("[]")).toEqual({ fault: { field: "json", text: "Expected an object with `condition`." } });
});

test("a refusal of the server is beside the field that it names", () => {
  const fields = ["symbol", "threshold", "cooldownMs", "template"];
  expect(faultOf('`condition.symbol`: unknown symbol "BTC-US", did you mean BTC-USD?', fields)).toEqual({ field: "symbol", text: 'unknown symbol "BTC-US", did you mean BTC-USD?' });
  expect(faultOf("`rule.cooldownMs`: expected a whole number", fields)).toEqual({ field: "cooldownMs", text: "expected a whole number" });
  expect(faultOf("`condition.conditions[0].low`: 5", fields)).toEqual({ field: undefined, text: "`condition.conditions[0].low`: 5" });
  expect(faultOf("you have 1000 rules", fields)).toEqual({ field: undefined, text: "you have 1000 rules" });
});

test("another kind keeps what was typed where it fits", () => {
  const before = filled("price_above", { threshold: "5", name: "n" });
  expect(initialValues("price_crosses", before)).toMatchObject({ kind: "price_crosses", threshold: "5", name: "n", direction: "either" });
  expect(COMMON.map(({ name }) => name)).toContain("template");
});
