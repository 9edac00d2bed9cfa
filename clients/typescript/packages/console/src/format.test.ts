import { describe, expect, it } from "vitest";
import { age, amount, percent, price, sparkline } from "./format.ts";
import { snippet } from "./snippets.ts";

describe("format", () => {
  it("shows what is not known as a dash, never as zero", () => {
    expect([price(null), percent(undefined), amount(null), age(undefined)]).toEqual(["—", "—", "—", "—"]);
  });

  it("gives a price the digits that it needs", () => {
    expect([price(61837.634), price(2.5), price(0.105)]).toEqual(["61,837.63", "2.50", "0.105"]);
    expect([percent(1.234), percent(-0.5)]).toEqual(["+1.23 %", "-0.50 %"]);
    expect([age(1_400), age(180_000)]).toEqual(["1 s", "3 min"]);
  });

  it("keeps a sparkline in its box", () => {
    expect(sparkline([1, 3, 2], 100, 24)).toBe("0.0,22.0 50.0,2.0 100.0,12.0");
    expect(sparkline([5], 100, 24)).toBe("0.0,22.0");
  });
});

describe("snippets", () => {
  it("name exactly the channels", () => {
    for (const kind of ["curl", "JavaScript", "Rust"] as const) {
      expect(snippet(kind, "http://h:1", ["prices:BTC-USD", "demo:a"])).toContain("prices:BTC-USD");
    }
    expect(snippet("curl", "http://h:1", ["a:b", "c:&"])).toBe("curl -N 'http://h:1/v1/sse?channels=a:b,c:%26'");
  });
});
