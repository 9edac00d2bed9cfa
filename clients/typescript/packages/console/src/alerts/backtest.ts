/**
 * Backtest: the prices of past candles for `AlertService/Backtest`, and its fires on their chart.
 *
 * A candle becomes four prices: its opening, its low and high in the order that its direction
 * suggests, and its close. Where inside the minute they were is not known, so a fire is exact to the
 * length of a candle.
 */
import type { AlertCondition, AlertEvent, Candle } from "@tidewire/client";

/** A past price. */
export interface PastPrice {
  readonly symbol: string;
  readonly price: number;
  readonly timestamp: number;
}

/** A time to test, with the candles that cover it. */
export interface Period {
  readonly label: string;
  readonly interval: "1m" | "5m" | "1h";
  readonly intervalMs: number;
  readonly candles: number;
}

/** The periods to choose from: each has as many candles as one request has room for. */
export const PERIODS: readonly Period[] = [
  { label: "4 hours", interval: "1m", intervalMs: 60_000, candles: 240 },
  { label: "20 hours", interval: "5m", intervalMs: 300_000, candles: 240 },
  { label: "10 days", interval: "1h", intervalMs: 3_600_000, candles: 240 },
];

/** Bytes of a request at most: the default of `limits.frame_bytes` is 65,536. */
const MAX_BYTES = 62_000;

/** The symbols that a condition tests, each once. */
export function symbolsOf(condition: AlertCondition): readonly string[] {
  const symbols = condition.kind === "all" || condition.kind === "any" ? condition.conditions.flatMap(symbolsOf) : "symbol" in condition ? [condition.symbol] : [];
  return [...new Set(symbols)];
}

/** The thresholds that a condition has for a symbol, to draw them. */
export function levelsOf(condition: AlertCondition, symbol: string): readonly number[] {
  if (condition.kind === "all" || condition.kind === "any") {
    return condition.conditions.flatMap((each) => levelsOf(each, symbol));
  }
  const { threshold, low, high } = condition as { readonly threshold?: number; readonly low?: number; readonly high?: number };
  return "symbol" in condition && condition.symbol === symbol ? [threshold, low, high].filter((level) => level !== undefined).map(Number) : [];
}

/** Returns the prices of candles, oldest first. */
export function pricesOf(candles: readonly Candle[], intervalMs: number): readonly PastPrice[] {
  return candles
    .flatMap(({ symbol, start, open, high, low, close }) => {
      const inside = close >= open ? [low, high] : [high, low];
      const path = [open, ...inside, close];
      return path.map((price, index) => ({ symbol, price, timestamp: start + Math.floor((index * (intervalMs - 1)) / 3) }));
    })
    .sort((a, b) => a.timestamp - b.timestamp);
}

/** Returns the newest prices for which one request has room, beside a rule of `ruleBytes`. */
export function fitting(prices: readonly PastPrice[], ruleBytes: number): readonly PastPrice[] {
  let bytes = ruleBytes + 100;
  let from = prices.length;
  while (from > 0) {
    bytes += JSON.stringify(prices[from - 1]).length + 1;
    if (bytes > MAX_BYTES) {
      break;
    }
    from -= 1;
  }
  return prices.slice(from);
}

/** What a chart draws: times in seconds, the price of a symbol, and the price at each fire. */
export interface ChartData {
  readonly times: readonly number[];
  readonly prices: readonly number[];
  readonly fires: readonly (number | null)[];
}

/** Returns the chart of one symbol. A fire is at the price before or at its time. */
export function chartOf(prices: readonly PastPrice[], symbol: string, fired: readonly Pick<AlertEvent, "timestamp">[]): ChartData {
  const own = prices.filter((price) => price.symbol === symbol);
  const fires: (number | null)[] = own.map(() => null);
  for (const { timestamp } of fired) {
    const index = own.findLastIndex((price) => price.timestamp <= timestamp);
    const at = own[index];
    if (at !== undefined) {
      fires[index] = at.price;
    }
  }
  return { times: own.map(({ timestamp }) => timestamp / 1_000), prices: own.map(({ price }) => price), fires };
}
