/** Store: a value that components follow, and that code outside of components may set. */
import { useSyncExternalStore } from "react";

/** A value with listeners. */
export interface Store<T> {
  readonly get: () => T;
  /** Replaces the value and tells the listeners, unless it is the same. */
  readonly set: (next: T) => void;
  /** Calls `listener` after each change. Returns a function that removes it. */
  readonly follow: (listener: () => void) => () => void;
}

/** Creates a store. */
export function createStore<T>(value: T): Store<T> {
  const listeners = new Set<() => void>();
  return {
    get: () => value,
    set: (next) => {
      if (!Object.is(next, value)) {
        value = next;
        for (const listener of [...listeners]) {
          listener();
        }
      }
    },
    follow: (listener) => {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
      };
    },
  };
}

/** The value of a store, followed. */
export function useStore<T>(store: Store<T>): T {
  return useSyncExternalStore(store.follow, store.get);
}
