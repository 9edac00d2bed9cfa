/**
 * What the client needs from the world around it: time, sockets, chance, and
 * whether anyone is looking. Tests hand in their own; nothing else in this
 * package touches a global.
 */

/** A running timer. */
export interface Timer {
  cancel(): void;
}

/** Time. */
export interface Clock {
  /** Milliseconds that only grow, from any start. */
  now(): number;
  /** Milliseconds since the Unix epoch. */
  wallTime(): number;
  /** Calls `run` once after `delayMs`. */
  after(delayMs: number, run: () => void): Timer;
}

/** What this client uses of a WebSocket. */
export interface WebSocketLike {
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "error", listener: () => void): void;
  addEventListener(type: "message", listener: (event: { readonly data: unknown }) => void): void;
  addEventListener(type: "close", listener: (event: { readonly code: number; readonly reason: string }) => void): void;
}

/** Makes WebSockets: `globalThis.WebSocket`, or the `ws` package's. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** Whether anyone is looking at the page, and whether the network came back. */
export interface Page {
  isVisible(): boolean;
  /** Calls back when `isVisible` may have changed or the network came back; returns how to stop. */
  onChange(listener: () => void): () => void;
}

/** All of it. */
export interface Environment {
  readonly clock: Clock;
  readonly webSocket: WebSocketConstructor;
  readonly page: Page;
  /** A number from 0 up to but not including 1. */
  readonly random: () => number;
}

/**
 * What is given, and for the rest the environment of a browser, of Node 22 and up, of
 * Deno and Bun. Throws where there is no WebSocket: no number of tries would help.
 */
export function environmentWith(given: Partial<Environment> = {}): Environment {
  return { clock: systemClock, page: documentPage(), random: Math.random, ...given, webSocket: given.webSocket ?? globalWebSocket() };
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

/** Outside of a browser somebody is always looking. */
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
