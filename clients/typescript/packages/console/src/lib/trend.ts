/** Trends: the last hour of a symbol, from the server's candles and the newest price. */
import type { CandlePage, PriceUpdate } from "@tidewire/client";
import { digitsOf } from "./digits.ts";
import type { Point } from "./sparkline.ts";

/** The least span of a trend as a part of the price: below it a move looks as small as it is. */
const LEAST_SPAN = 0.001;
const MINUTE_MS = 60_000;

/** The trend of a symbol. */
export interface Trend {
  readonly points: readonly Point[];
  /** The least span of the axis. */
  readonly leastSpan: number;
  /** The change over the points, in percent. */
  readonly change: number | undefined;
}

/** Makes the trend of candles, oldest first, and a price that is newer. */
export function trendOf(symbol: string, page: CandlePage | undefined, price: PriceUpdate | undefined): Trend {
  const items = page?.items ?? [];
  for (const { open, high, low, close } of items) {
    digitsOf(symbol, open, high, low, close);
  }
  const first = items[0];
  const points: Point[] = first ? [[first.start, first.open]] : [];
  for (const { start, close } of items) {
    points.push([start + MINUTE_MS, close]);
  }
  if (price?.price !== null && price?.price !== undefined) {
    // The last candle was forming when it was read: the price replaces its end.
    while (points.length > 1 && (points.at(-1)?.[0] ?? 0) >= price.timestamp) {
      points.pop();
    }
    points.push([price.timestamp, price.price]);
  }
  const begin = points[0]?.[1];
  const end = points.at(-1)?.[1];
  return { points, leastSpan: Math.abs(end ?? 1) * LEAST_SPAN, change: begin && end && points.length > 1 ? (end / begin - 1) * 100 : undefined };
}
