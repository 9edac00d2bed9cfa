/** Polled calls: the newest reply of an RPC, shared by all components that show it. */
import type { TidewireError } from "@tidewire/client";
import { useMemo } from "react";
import { call, type CallOptions } from "./rpc.ts";
import { followSession, onlineStore } from "./session.ts";
import { createStore, type Store, useStore } from "./store.ts";

/** A reply that may still be missing, or refused. */
export interface Loaded<T> {
  /** The newest reply. It stays while later calls fail. */
  readonly data?: T;
  /** Why the last call failed. */
  readonly error?: TidewireError;
  /** When the newest reply came, in milliseconds since the Unix epoch. */
  readonly at?: number;
}

/** A polled call: its reply, and how to ask for a newer one. */
export interface Poll<T> extends Loaded<T> {
  /** Neither a reply nor an error so far. */
  readonly loading: boolean;
  readonly refresh: () => void;
}

interface Entry {
  readonly store: Store<Loaded<unknown>>;
  readonly refresh: () => void;
  readonly follow: (listener: () => void) => () => void;
}

const entries = new Map<string, Entry>();

function entryOf(service: string, method: string, body: string, everyMs: number, options: CallOptions): Entry {
  const key = JSON.stringify([service, method, body, everyMs, options]);
  const found = entries.get(key);
  if (found) {
    return found;
  }
  const store = createStore<Loaded<unknown>>({});
  let users = 0;
  let inFlight = false;
  let isRefused = false;
  /** The user or the connection changed during a call, whose answer is that to the one before. */
  let isOutdated = false;
  const refresh = (): void => {
    if (inFlight || !onlineStore.get()) {
      return;
    }
    inFlight = true;
    isOutdated = false;
    call(service, method, body, options)
      .then(
        (data) => {
          isRefused = false;
          store.set({ data, at: Date.now() });
        },
        (error: unknown) => {
          const failure = error as TidewireError;
          isRefused = failure.code === "permission_denied" || failure.code === "unauthenticated";
          store.set({ ...store.get(), error: failure });
        },
      )
      .finally(() => {
        inFlight = false;
        if (isOutdated) {
          refresh();
        }
      });
  };
  const change = (): void => {
    isOutdated = inFlight;
    refresh();
  };
  /** Functions that end the polling. */
  let stops: readonly (() => void)[] = [];
  const follow = (listener: () => void): (() => void) => {
    if (++users === 1) {
      const timer = setInterval(() => {
        // The rights of a refused call change with the token only.
        if (!document.hidden && !isRefused) {
          refresh();
        }
      }, everyMs);
      stops = [
        () => {
          clearInterval(timer);
        },
        onlineStore.follow(change),
        followSession(change),
      ];
      refresh();
    }
    const off = store.follow(listener);
    return () => {
      off();
      if (--users === 0) {
        for (const stop of stops) {
          stop();
        }
        entries.delete(key);
      }
    };
  };
  const entry = { store, refresh, follow };
  entries.set(key, entry);
  return entry;
}

/**
 * The reply of `Service/Method`, read again every `everyMs`, after a lost connection and when the
 * user changes. While the page is hidden or offline it is not read, nor while `isOn` is false.
 */
export function usePoll<T>(service: string, method: string, body: object = {}, everyMs = 5_000, { asUser = false, isOn = true }: CallOptions & { readonly isOn?: boolean } = {}): Poll<T> {
  const text = JSON.stringify(body);
  const entry = useMemo(() => entryOf(service, method, text, everyMs, { asUser }), [service, method, text, everyMs, asUser]);
  const loaded = useStore({ ...entry.store, follow: isOn ? entry.follow : entry.store.follow }) as Loaded<T>;
  return { ...loaded, loading: loaded.data === undefined && loaded.error === undefined, refresh: entry.refresh };
}
