/** Price hooks: prices of symbols, and the market at a glance. */
import type { MarketOverview, PriceUpdate, TidewireError } from "@tidewire/client";
import { useMemo, useState } from "react";
import { useRefusal } from "./connection.ts";
import { type Names, useSelection } from "./selection.ts";
import type { Value } from "./follow.ts";
import type { Source } from "./live.ts";
import { useSources } from "./session.ts";
import { channelSource, useValue } from "./value.ts";

/** Prices of symbols. */
export interface PriceStream {
  /** The newest price of each symbol that has one, by symbol. The same map until one of them changes. */
  readonly prices: ReadonlyMap<string, PriceUpdate>;
  /** Whether a symbol has neither a price nor an error yet. */
  readonly loading: boolean;
  /** Why a symbol has no price: the server refused it, or the connection. */
  readonly error: TidewireError | undefined;
  /** Adds symbols to this component's. */
  readonly subscribe: (symbols: Names) => void;
  /** Removes symbols from this component's, also those that the hook was called with. */
  readonly unsubscribe: (symbols: Names) => void;
}

/** Options of `usePriceStream`. */
export interface PriceStreamOptions {
  /** Prices to show until newer ones arrive, for example those that the server rendered. Read once. */
  readonly initial?: readonly PriceUpdate[] | undefined;
}

function priceSource(symbol: string): Source<Value<PriceUpdate | undefined>> {
  return channelSource(`prices:${symbol}`, (message) => (message.type === "price" ? message.data : undefined));
}

/**
 * Live prices of symbols such as `BTC-USD`. The component renders at most once a frame, and only
 * when a price of its own symbols changed.
 */
export function usePriceStream(symbols: Names, { initial = [] }: PriceStreamOptions = {}): PriceStream {
  const [sources, subscribe, unsubscribe] = useSelection(symbols, priceSource);
  const [first] = useState(initial);
  const values = useSources(sources);
  const refusal = useRefusal();
  return useMemo(() => {
    const prices = new Map<string, PriceUpdate>();
    let error = refusal;
    let loading = false;
    for (const [index, { name }] of sources.entries()) {
      const value = values[index];
      const price = value?.data ?? first.find(({ symbol }) => symbol === name);
      if (price) {
        prices.set(name, price);
      }
      error = value?.error ?? error;
      loading ||= !price && !value?.error && !refusal;
    }
    return { prices, loading, error, subscribe, unsubscribe };
  }, [sources, first, values, refusal, subscribe, unsubscribe]);
}

/** The market at a glance. */
export interface Market {
  readonly overview: MarketOverview | undefined;
  readonly loading: boolean;
  readonly error: TidewireError | undefined;
}

// Pure: an application without this hook drops it, although all hooks are one file.
const MARKET = [/* @__PURE__ */ channelSource("market:overview", (message) => (message.type === "market_overview" ? message.data : undefined))];

/** Market capitalisation, volume, dominance, movers and recent trades. `initial` is shown until newer data arrives. */
export function useMarketOverview(initial?: MarketOverview): Market {
  const { data, error, loading } = useValue(MARKET);
  const overview = data ?? initial;
  return { overview, loading: loading && overview === undefined, error };
}
