/**
 * Live values: what hooks show, and the work that keeps it current.
 *
 * A value starts its work with the first component that shows it, and all components share it.
 * The work ends a while after the last one left, so that a remount (StrictMode, hot reload) or a
 * change of symbols and back sends nothing to the server.
 */
import { frames } from "./frame.ts";

/** Time in milliseconds from the last component's leave to the end of the work. */
const LINGER_MS = 500;

/** A value that components share. */
export interface Live<T> {
  /** What components show. It changes in frames only. */
  shown: T;
  /** The newest value. */
  next: T;
  /** Sets the newest value. Components show it from the next frame on. */
  readonly set: (next: T) => void;
  /** Sets what `compute` returns in the next frame: once, however often it changes until then. */
  readonly setLater: (compute: () => T) => void;
}

interface Entry {
  readonly live: Live<unknown>;
  readonly listeners: Set<() => void>;
  /** Ends the work. */
  readonly stop: () => void;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** The live values of one client, by key. */
export interface LiveValues {
  /** The value that components show now. Reading starts nothing: React may drop a render. */
  readonly read: <T>(key: string, initial: T) => T;
  /** Keeps a value current for `listener`. `start` returns what ends the work. Returns a function that ends it for this listener. */
  readonly watch: <T>(key: string, initial: T, start: (live: Live<T>) => () => void, listener: () => void) => () => void;
  /** Ends all work at once. */
  readonly stopAll: () => void;
}

/** Creates the live values of one client. */
export function liveValues(): LiveValues {
  const nextFrame = frames();
  const entries = new Map<string, Entry>();

  const open = <T>(initial: T, start: (live: Live<T>) => () => void): Entry => {
    const listeners = new Set<() => void>();
    let later: (() => T) | undefined;
    const commit = (): void => {
      live.next = later ? later() : live.next;
      later = undefined;
      if (live.shown !== live.next) {
        live.shown = live.next;
        for (const listener of [...listeners]) {
          listener();
        }
      }
    };
    const live: Live<T> = {
      shown: initial,
      next: initial,
      set(next) {
        live.next = next;
        nextFrame(commit);
      },
      setLater(compute) {
        later = compute;
        nextFrame(commit);
      },
    };
    return { live: live as unknown as Live<unknown>, listeners, stop: start(live), timer: undefined };
  };
  const end = (key: string, entry: Entry): void => {
    clearTimeout(entry.timer);
    if (entries.get(key) === entry) {
      entries.delete(key);
      entry.stop();
    }
  };

  return {
    read: (key, initial) => (entries.get(key)?.live.shown ?? initial) as typeof initial,
    watch(key, initial, start, listener) {
      const entry = entries.get(key) ?? open(initial, start);
      entries.set(key, entry);
      entry.listeners.add(listener);
      clearTimeout(entry.timer);
      return () => {
        entry.listeners.delete(listener);
        if (entry.listeners.size === 0) {
          entry.timer = setTimeout(end, LINGER_MS, key, entry);
        }
      };
    },
    stopAll() {
      for (const [key, entry] of entries) {
        end(key, entry);
      }
    },
  };
}
