/**
 * Environment of the client: clock, WebSocket, fetch, the page and random
 * numbers. Tests replace it. No other file of the core uses a global of the
 * runtime that a test would have to fake.
 */

import { findWebSocket } from "#runtime";
import type { OpenEventStream } from "./wires.ts";

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
  addEventListener(type: "open", listener: () => void): void;
  addEventListener(type: "error", listener: (event: { readonly message?: string }) => void): void;
  addEventListener(type: "message", listener: (event: { readonly data: unknown }) => void): void;
  addEventListener(type: "close", listener: (event: { readonly code?: number; readonly reason?: string }) => void): void;
}

/** The WebSocket class: `globalThis.WebSocket`, or the `ws` package's. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** A function like the global `fetch`. */
export type Fetch = (url: string, init?: RequestInit) => Promise<Response>;

/** The page: whether it is visible, and the events that tell of sleep and wake. */
export interface Page {
  isVisible(): boolean;
  /**
   * Calls `listener` with the name of each event of the page: `visibilitychange`,
   * `online`, `offline`, `resume`, `freeze`, `pageshow`, `pagehide`. Returns a function that removes it.
   */
  onChange(listener: (event: string) => void): () => void;
}

/** Everything that the client uses of its runtime. */
export interface Environment {
  readonly clock: Clock;
  /** `undefined` where there is none: then only Server-Sent Events are left. */
  readonly webSocket: WebSocketConstructor | undefined;
  readonly fetch: Fetch;
  readonly page: Page;
  /** Opens event streams in place of `fetch` alone: tabs share one. */
  readonly eventStream?: OpenEventStream;
  /** A number from 0 up to but not including 1. */
  readonly random: () => number;
}

/** Completes the parts that the application gave from the globals of a browser, Node, Deno or Bun. */
export function environmentWith({ environment, webSocket }: { readonly environment?: Partial<Environment>; readonly webSocket?: WebSocketConstructor }): Environment {
  return {
    clock: systemClock,
    fetch: (url, init) => fetch(url, init),
    page: documentPage,
    random: Math.random,
    ...environment,
    webSocket: webSocket ?? environment?.webSocket ?? findWebSocket(),
  };
}

const systemClock: Clock = {
  now: () => performance.now(),
  wallTime: () => Date.now(),
  after(delayMs, run) {
    // Longer ones, such as `Infinity`, would be over at once.
    const id = setTimeout(run, Math.min(delayMs, 2 ** 31 - 1));
    return {
      cancel: () => {
        clearTimeout(id);
      },
    };
  },
};

/** The page of a browser. Elsewhere, always visible. */
const documentPage: Page = {
  isVisible: () => !page()?.hidden,
  onChange(listener) {
    const abort = new AbortController();
    for (const name of page() ? "visibilitychange online offline resume freeze pageshow pagehide".split(" ") : []) {
      // Captured: `freeze` and `resume` are events of the document that do not bubble.
      addEventListener(
        name,
        () => {
          listener(name);
        },
        { capture: true, signal: abort.signal },
      );
    }
    return () => {
      abort.abort();
    };
  },
};

function page(): Document | undefined {
  return (globalThis as { readonly document?: Document }).document;
}
