import type { SourceDetail } from "@tidewire/client";
import { describe, expect, it } from "vitest";
import { spreadOf } from "./spread.ts";

function source(name: string, price: number | null, state: SourceDetail["state"] = "live"): SourceDetail {
  return { source: name, price, ageMs: 1, weight: 0.5, state, trades: 1, min: price, max: price };
}

describe("spread", () => {
  it("is between the lowest and the highest live source", () => {
    expect(spreadOf([source("a", 101), source("b", 100), source("c", 200, "excluded"), source("d", null)])).toEqual({ absolute: 1, points: expect.closeTo(100) as number, low: "b", high: "a" });
  });

  it("needs two live sources", () => {
    expect(spreadOf([source("a", 1), source("b", 2, "stale")])).toBeUndefined();
    expect(spreadOf([])).toBeUndefined();
  });
});
