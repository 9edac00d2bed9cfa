/** Ticks: the prices of the last minutes of a symbol, kept while the console is open. */
import { useClient } from "@tidewire/react";
import { useEffect } from "react";
import { createStore, type Store, useStore } from "./store.ts";

/** A price at a time in milliseconds. */
export type Tick = readonly [time: number, price: number];

/** How long ticks are kept, in milliseconds. */
export const TICKS_MS = 60_000;
/** Ticks of one symbol at most. */
const MAX_TICKS = 2_000;

const ticks = new Map<string, Store<readonly Tick[]>>();

function storeOf(symbol: string): Store<readonly Tick[]> {
  let store = ticks.get(symbol);
  if (!store) {
    ticks.set(symbol, (store = createStore<readonly Tick[]>([])));
  }
  return store;
}

/** Returns the ticks with a newer one, without those that are older than a minute before it. */
export function withTick(list: readonly Tick[], tick: Tick): readonly Tick[] {
  const last = list.at(-1);
  if (last && tick[0] <= last[0]) {
    return list;
  }
  // One tick before the minute stays, so that the line begins at its left edge.
  const first = list.findIndex(([time]) => time >= tick[0] - TICKS_MS);
  return [...list.slice(first === -1 ? -1 : Math.max(0, first - 1)), tick].slice(-MAX_TICKS);
}

/** The ticks of a symbol since the console was opened, a minute at most. */
export function useTicks(symbol: string): readonly Tick[] {
  const client = useClient();
  const store = storeOf(symbol);
  useEffect(
    () =>
      client.subscribe(`prices:${symbol}`, (message) => {
        if (message.type === "price" && message.data.price !== null) {
          store.set(withTick(store.get(), [message.data.timestamp, message.data.price]));
        }
      }),
    [client, store, symbol],
  );
  return useStore(store);
}
