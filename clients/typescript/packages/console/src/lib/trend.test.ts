import type { Candle, PriceUpdate } from "@tidewire/client";
import { describe, expect, it } from "vitest";
import { trendOf } from "./trend.ts";

const MINUTE = 60_000;

function candle(minute: number, open: number, close: number): Candle {
  return { symbol: "A-USD", interval: "1m", start: minute * MINUTE, open, high: Math.max(open, close), low: Math.min(open, close), close, volume: null, closed: true, sources: 1 };
}

function price(timestamp: number, value: number | null): PriceUpdate {
  return { symbol: "A-USD", price: value, change24h: null, volume24h: null, timestamp, source: "aggregate", confidence: null, sources: 1, stale: false, twap: null };
}

describe("trend", () => {
  it("begins with the first opening, has each close, and ends with the newest price", () => {
    const { points, change } = trendOf("A-USD", { items: [candle(1, 100, 101), candle(2, 101, 103)] }, price(2.5 * MINUTE, 102));
    expect(points).toEqual([
      [MINUTE, 100],
      [2 * MINUTE, 101],
      [2.5 * MINUTE, 102],
    ]);
    expect(change).toBeCloseTo(2);
  });

  it("is one point with a price alone, and none without anything", () => {
    expect(trendOf("A-USD", undefined, price(5, 100))).toMatchObject({ points: [[5, 100]], change: undefined });
    expect(trendOf("A-USD", { items: [] }, price(5, null)).points).toEqual([]);
    expect(trendOf("A-USD", { items: [candle(1, 1, 1)] }, undefined).points).toHaveLength(2);
  });

  it("has an axis of a thousandth of the price at least", () => {
    expect(trendOf("A-USD", undefined, price(5, 50_000)).leastSpan).toBe(50);
  });
});
