/**
 * Live values: what hooks show, and the work that keeps it current.
 *
 * A value starts its work with the first component that shows it, and all components share it.
 * The work ends a while after the last one left, so that a remount (StrictMode, hot reload) or a
 * change of symbols and back sends nothing to the server.
 */
import type { WebSocketClient } from "@tidewire/client";
import { frames } from "./frame.ts";

/** Time in milliseconds from the last component's leave to the end of the work. */
const LINGER_MS = 500;

/** Shows what `compute` returns, from the next frame on: it is called once, however often the value changes until then. */
export type Show<T> = (compute: () => T) => void;

/** A kind of live value: how it begins, and the work that keeps it current. Sources of one key are the same. */
export interface Source<T> {
  /** Names the value among all of a session. */
  readonly _key: string;
  /** The value before the work has a result. A server renders it, and so does hydration. */
  readonly _initial: T;
  /** Starts the work. Returns a function that ends it. */
  readonly _start: (client: WebSocketClient, show: Show<T>) => () => void;
}

interface Entry {
  _shown: unknown;
  readonly _listeners: Set<() => void>;
  /** Ends the work. */
  readonly _stop: () => void;
  _timer: ReturnType<typeof setTimeout> | undefined;
}

/** The live values of one client. */
export interface LiveValues {
  /** The value that components show now. Reading starts nothing: React may drop a render. */
  readonly _read: <T>(source: Source<T>) => T;
  /** Keeps a value current for `listener`. Returns a function that ends it for this listener. */
  readonly _watch: <T>(source: Source<T>, listener: () => void) => () => void;
  /** Ends all work at once. */
  readonly _stopAll: () => void;
}

/** Creates the live values of one client. */
export function liveValues(client: () => WebSocketClient): LiveValues {
  const nextFrame = frames();
  const entries = new Map<string, Entry>();

  const open = <T>({ _initial: initial, _start: start }: Source<T>): Entry => {
    let newest: () => T;
    const commit = (): void => {
      const next = newest();
      if (entry._shown !== next) {
        entry._shown = next;
        for (const listener of [...entry._listeners]) {
          listener();
        }
      }
    };
    const stop = start(client(), (compute) => {
      newest = compute;
      nextFrame(commit);
    });
    const entry: Entry = { _shown: initial, _listeners: new Set(), _stop: stop, _timer: undefined };
    return entry;
  };
  const end = (key: string, { _timer: timer, _stop: stop }: Entry): void => {
    clearTimeout(timer);
    entries.delete(key);
    stop();
  };

  return {
    _read: <T>({ _key: key, _initial: initial }: Source<T>) => (entries.get(key)?._shown ?? initial) as T,
    _watch(source, listener) {
      const { _key: key } = source;
      const entry = entries.get(key) ?? open(source);
      const { _listeners: listeners } = entry;
      entries.set(key, entry);
      listeners.add(listener);
      clearTimeout(entry._timer);
      return () => {
        listeners.delete(listener);
        if (!listeners.size && entries.get(key) === entry) {
          entry._timer = setTimeout(end, LINGER_MS, key, entry);
        }
      };
    },
    _stopAll() {
      for (const [key, entry] of entries) {
        end(key, entry);
      }
    },
  };
}
