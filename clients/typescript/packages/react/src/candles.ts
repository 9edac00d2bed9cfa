/** Candles hook: the candles of a symbol, the forming one included. */
import type { Candle, CandleInterval, CandlePage, TidewireError } from "@tidewire/client";
import { useMemo } from "react";
import { stateSource, type Value } from "./follow.ts";
import type { Source } from "./live.ts";
import { useValue } from "./value.ts";

/** Candles that are loaded and kept, unless the hook is told otherwise. */
const DEFAULT_LIMIT = 100;

/** Length of each interval, in milliseconds. */
const LENGTHS: Readonly<Partial<Record<CandleInterval, number>>> = { "1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000 };

/** Candles of a symbol. */
export interface Candles {
  /** Oldest first. The last one may still be forming. An interval without a price has none. */
  readonly candles: readonly Candle[];
  readonly loading: boolean;
  /** Why there are no candles: no such symbol or interval, or the connection is refused. */
  readonly error: TidewireError | undefined;
}

/** Options of `useCandles`. */
export interface CandleOptions {
  /** Candles to load and to keep, the newest: 100 by default, 1,000 at most. */
  readonly limit?: number | undefined;
}

const NONE: readonly Candle[] = [];

/** Returns the candles with a newer one, in order. One of the same start replaces the old one. */
function withCandle(candles: readonly Candle[], candle: Candle, limit: number): readonly Candle[] {
  const others = candles.filter(({ start }) => start !== candle.start);
  return [...others, candle].sort((a, b) => a.start - b.start).slice(-limit);
}

/**
 * Loads the candles, and follows their channel. The channel sends only the newest candle, so a slow
 * or interrupted connection may miss the end of one, and whole ones: then they are loaded again.
 */
function candleSource(symbol: string, interval: CandleInterval, limit: number): Source<Value<readonly Candle[] | undefined>> {
  const channel = `candles:${symbol}:${interval}`;
  return stateSource<readonly Candle[] | undefined, CandlePage>(`${channel} ${limit}`, undefined, (client) => ({
    _channel: channel,
    _load: () => client.request("get_candles", { symbol, interval, limit }),
    _onPage: ({ items }) => items,
    _next(candles, { type, data }, reload) {
      if (type !== "candle" || !candles) {
        return candles;
      }
      const last = candles.at(-1);
      if (last && data.start > last.start && !(last.closed && data.start - last.start <= (LENGTHS[interval] ?? 0))) {
        reload();
      }
      return withCandle(candles, data, limit);
    },
  }));
}

/**
 * The candles of a symbol, live: `useCandles("BTC-USD", "1m")`. The last one changes up to four
 * times a second while it is forming.
 */
export function useCandles(symbol: string | undefined, interval: CandleInterval, { limit = DEFAULT_LIMIT }: CandleOptions = {}): Candles {
  const { data = NONE, loading, error } = useValue(useMemo(() => (symbol ? [candleSource(symbol, interval, limit)] : []), [symbol, interval, limit]));
  return { candles: data, loading, error };
}
