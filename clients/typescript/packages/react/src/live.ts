/**
 * Live values: what hooks show, and the work that keeps it current.
 *
 * A value starts its work with the first component that shows it, and all components share it.
 * The work ends a while after the last one left, so that a remount (StrictMode, hot reload) or a
 * change of symbols and back sends nothing to the server.
 */
import { frames } from "./frame.ts";

/** Time in milliseconds between two looks for values that no component shows. Work ends at the second look. */
const SWEEP_MS = 500;
/** Values that may wait for a component to return. With one more, all but the newest end. */
const MAX_IDLE = 64;

/** Starts the work of a value. Returns a function that ends it. */
export type Start<T> = (live: Live<T>) => () => void;

/** A value that components share. */
export class Live<T> {
  /** What components show. It changes in frames only. */
  value: T;
  /** The newest value. */
  next: T;
  readonly listeners = new Set<() => void>();
  /** Ends the work, while it runs. */
  stop: (() => void) | undefined;
  /** Looks for idle values since the last component left. */
  sweeps = 0;

  readonly #nextFrame: (commit: () => void) => void;
  #compute: (() => T) | undefined;

  constructor(initial: T, nextFrame: (commit: () => void) => void) {
    this.value = this.next = initial;
    this.#nextFrame = nextFrame;
  }

  /** Sets the newest value. Components show it from the next frame on. */
  set(next: T): void {
    this.next = next;
    this.#nextFrame(this.#commit);
  }

  /** Sets what `compute` returns in the next frame: once, however often it changes until then. */
  setLater(compute: () => T): void {
    this.#compute = compute;
    this.set(this.next);
  }

  readonly #commit = (): void => {
    this.next = this.#compute?.() ?? this.next;
    this.#compute = undefined;
    if (this.value !== this.next) {
      this.value = this.next;
      for (const listener of [...this.listeners]) {
        listener();
      }
    }
  };
}

/** The live values of one client, by key. */
export class LiveValues {
  readonly #nextFrame = frames();
  readonly #values = new Map<string, Live<unknown>>();
  /** Values without a component, in the order in which they lost it. */
  readonly #idle = new Set<string>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** The value that components show now. Reading starts nothing: React may drop a render. */
  read<T>(key: string, initial: T): T {
    const live = this.#values.get(key) as Live<T> | undefined;
    return live === undefined ? initial : live.value;
  }

  /** Keeps a value current for `listener`. Returns a function that ends it. */
  watch<T>(key: string, initial: T, start: Start<T>, listener: () => void): () => void {
    let live = this.#values.get(key) as Live<T> | undefined;
    if (live === undefined) {
      live = new Live(initial, this.#nextFrame);
      this.#values.set(key, live);
    }
    live.listeners.add(listener);
    this.#idle.delete(key);
    live.stop ??= start(live);
    return () => {
      live.listeners.delete(listener);
      if (live.listeners.size === 0 && this.#values.get(key) === live) {
        this.#wait(key, live);
      }
    };
  }

  /** Ends all work at once. Components that still show a value keep it. */
  stopAll(): void {
    for (const key of [...this.#values.keys()]) {
      this.#end(key);
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #wait(key: string, live: Live<unknown>): void {
    live.sweeps = 0;
    this.#idle.add(key);
    if (this.#idle.size > MAX_IDLE) {
      // All at once, so that the client unsubscribes from them in one message.
      for (const other of [...this.#idle].slice(0, -1)) {
        this.#end(other);
      }
    }
    this.#timer ??= setTimeout(this.#sweep, SWEEP_MS);
  }

  readonly #sweep = (): void => {
    for (const key of [...this.#idle]) {
      const live = this.#values.get(key);
      if (live === undefined || (live.sweeps += 1) > 1) {
        this.#end(key);
      }
    }
    this.#timer = this.#idle.size > 0 ? setTimeout(this.#sweep, SWEEP_MS) : undefined;
  };

  #end(key: string): void {
    this.#values.get(key)?.stop?.();
    this.#values.delete(key);
    this.#idle.delete(key);
  }
}
