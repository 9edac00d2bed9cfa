import type { AlertCondition, Candle } from "@tidewire/client";
import { expect, test } from "vitest";
import { chartOf, fitting, levelsOf, pricesOf, symbolsOf } from "./backtest.ts";

const candle = (start: number, open: number, high: number, low: number, close: number, symbol = "A-B"): Candle => ({
  symbol,
  interval: "1m",
  start,
  open,
  high,
  low,
  close,
  volume: null,
  closed: true,
  sources: 1,
});

test("a candle is four prices in the order of its direction, within its time", () => {
  const prices = pricesOf([candle(0, 10, 14, 9, 12), candle(60_000, 12, 13, 8, 9)], 60_000);
  expect(prices.map(({ price }) => price)).toEqual([10, 9, 14, 12, 12, 13, 8, 9]);
  expect(prices.map(({ timestamp }) => timestamp)).toEqual([0, 19_999, 39_999, 59_999, 60_000, 79_999, 99_999, 119_999]);
});

test("the prices of two symbols are in the order of their times", () => {
  const prices = pricesOf([candle(0, 1, 1, 1, 1), candle(0, 2, 2, 2, 2, "C-D")], 60_000);
  expect(prices.map(({ symbol }) => symbol)).toEqual(["A-B", "C-D", "A-B", "C-D", "A-B", "C-D", "A-B", "C-D"]);
});

test("a request has the newest prices that fit", () => {
  const prices = pricesOf(Array.from({ length: 500 }, (_, n) => candle(1_800_000_000_000 + n * 60_000, 61_849.09, 61_900.1, 61_800.2, 61_850.3, "BTC-USD")), 60_000);
  const kept = fitting(prices, 500);
  expect(kept.at(-1)).toBe(prices.at(-1));
  expect(kept.length).toBeGreaterThan(850);
  expect(JSON.stringify(kept).length).toBeLessThan(62_000);
  expect(fitting(prices.slice(0, 4), 500)).toEqual(prices.slice(0, 4));
});

test("the symbols and thresholds of nested conditions are found", () => {
  const condition = {
    kind: "any",
    conditions: [
      { kind: "price_channel", symbol: "A-B", low: "1.5", high: 2, on: "enter" },
      { kind: "all", conditions: [{ kind: "price_above", symbol: "C-D", threshold: 3 }, { kind: "gas_above", chain: 1, gwei: 1 }] },
      { kind: "price_below", symbol: "A-B", threshold: 1 },
    ],
  } as unknown as AlertCondition;
  expect(symbolsOf(condition)).toEqual(["A-B", "C-D"]);
  expect(levelsOf(condition, "A-B")).toEqual([1.5, 2, 1]);
  expect(levelsOf(condition, "C-D")).toEqual([3]);
});

test("fires are marked at the price of their time", () => {
  const prices = pricesOf([candle(0, 10, 14, 9, 12), candle(0, 5, 5, 5, 5, "C-D")], 60_000);
  expect(chartOf(prices, "A-B", [{ timestamp: 39_999 }, { timestamp: 70_000 }, { timestamp: -1 }])).toEqual({
    times: [0, 19.999, 39.999, 59.999],
    prices: [10, 9, 14, 12],
    fires: [null, null, 14, 12],
  });
});
