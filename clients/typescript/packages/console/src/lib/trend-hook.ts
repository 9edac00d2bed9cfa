/** Trend hook: reads the candles of a symbol, and follows its price. */
import type { CandlePage, PriceUpdate } from "@tidewire/client";
import { usePoll } from "./poll.ts";
import { type Trend, trendOf } from "./trend.ts";

/** Candles of a minute in a trend. */
const CANDLES = 60;
/** Time between two reads of the candles, in milliseconds. The price moves the end of the trend meanwhile. */
const CANDLES_MS = 60_000;

/** The trend of a symbol: not empty on load, and current with each price. */
export function useTrend(symbol: string, price: PriceUpdate | undefined): Trend {
  const { data } = usePoll<CandlePage>("PriceService", "GetCandles", { symbol, interval: "1m", limit: CANDLES }, CANDLES_MS);
  return trendOf(symbol, data, price);
}
