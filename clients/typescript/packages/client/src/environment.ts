/**
 * Environment of the client: clock, WebSocket, page visibility and random
 * numbers. Tests replace it. No other file of this package uses a global.
 */

/** A running timer. */
export interface Timer {
  cancel(): void;
}

/** Time and timers. */
export interface Clock {
  /** Monotonic time in milliseconds, from any start. */
  now(): number;
  /** Milliseconds since the Unix epoch. */
  wallTime(): number;
  /** Calls `run` once after `delayMs`. */
  after(delayMs: number, run: () => void): Timer;
}

/** The part of a WebSocket that this client uses. */
export interface WebSocketLike {
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "error", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { readonly data: unknown }) => void): void;
  addEventListener(type: "close", listener: (event: { readonly code: number; readonly reason: string }) => void): void;
}

/** The WebSocket class: `globalThis.WebSocket`, or the `ws` package's. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** Visibility of the page, and return of the network. */
export interface Page {
  isVisible(): boolean;
  /** Calls `listener` when `isVisible` may have changed or the network came back. Returns a function that removes it. */
  onChange(listener: () => void): () => void;
}

/** Everything that the client uses of its runtime. */
export interface Environment {
  readonly clock: Clock;
  readonly webSocket: WebSocketConstructor;
  readonly page: Page;
  /** A number from 0 up to but not including 1. */
  readonly random: () => number;
}

/**
 * Completes `parts` from the globals of a browser, Node 22 and up, Deno or Bun.
 * Throws a `TypeError` where there is no WebSocket: no retry would help.
 */
export function environmentWith(parts: Partial<Environment> = {}): Environment {
  return { clock: systemClock, page: documentPage(), random: Math.random, ...parts, webSocket: parts.webSocket ?? globalWebSocket() };
}

function globalWebSocket(): WebSocketConstructor {
  const { WebSocket: found } = globalThis as { readonly WebSocket?: WebSocketConstructor };
  if (found === undefined) {
    throw new TypeError("there is no global WebSocket here, expected one as `environment.webSocket`, for example that of the package `ws`");
  }
  return found;
}

const systemClock: Clock = {
  now: () => performance.now(),
  wallTime: () => Date.now(),
  after(delayMs, run) {
    const id = setTimeout(run, delayMs);
    return {
      cancel: () => {
        clearTimeout(id);
      },
    };
  },
};

/** The page of a browser. Elsewhere, always visible. */
function documentPage(): Page {
  if (typeof document === "undefined") {
    return { isVisible: () => true, onChange: () => () => undefined };
  }
  return {
    isVisible: () => document.visibilityState === "visible",
    onChange(listener) {
      document.addEventListener("visibilitychange", listener);
      globalThis.addEventListener("online", listener);
      return () => {
        document.removeEventListener("visibilitychange", listener);
        globalThis.removeEventListener("online", listener);
      };
    },
  };
}
