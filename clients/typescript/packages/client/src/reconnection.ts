/**
 * Reconnection: when to connect again, what wakes a sleeping page, and the
 * quality of the link.
 *
 * Delays have full jitter: number n waits a random time up to 250 ms × 2ⁿ, so
 * that the clients of a server that restarts spread evenly
 * (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 */
import type { Quality } from "./api.ts";
import type { Clock, Page } from "./environment.ts";
import { openTimer } from "./timer.ts";

const FIRST_DELAY_MS = 250;
/** First delay after a close for rate or load: the server needs the pause. */
const OVERLOAD_DELAY_MS = 2_000;
/** The longest delay while somebody looks at the page. */
const VISIBLE_DELAY_MS = 4_000;
/** The longest delay of a hidden page, and the time over which hidden pages return to a server that drains. */
const HIDDEN_DELAY_MS = 30_000;
/** A connection that lived this long resets the delay. */
const STEADY_MS = 5_000;
/** Pings that `loss` counts over. */
const LOSS_PINGS = 20;

/**
 * Returns whether to reconnect after a close code. The protocol allows it for
 * 4000–4499 and forbids it for 4500–4999. Of the standard codes, those that
 * blame what this client sent forbid it too: another connection would end the same way.
 */
export function shouldReconnect(code: number): boolean {
  return code < 4500 && !/10(0[23789]|10)/.test(`${code}`);
}

/** Decides when to connect again, and measures the link. It opens nothing itself. */
export type Reconnection = readonly [
  /** Returns the attempts since the last steady connection. */
  attempts: () => number,
  /** Returns whether the page is visible. */
  isVisible: () => boolean,
  /** Plans the next attempt after an end with this code. Returns its delay in milliseconds. */
  schedule: (code: number) => number,
  /** The server asked to come back after `afterMs`. Hidden pages leave the first places to visible ones. */
  onReconnect: (afterMs: number) => void,
  /** The server refuses connections for this time in milliseconds. */
  bar: (forMs: number) => void,
  /** Plans the next attempt for the earliest time that the server allows. Returns its delay in milliseconds, below 0 for none. */
  hurry: () => number,
  /** Listens to the page from now on. */
  start: () => void,
  /** Forgets the page, the timer and the attempts: what the application asked for outranks events. */
  stop: () => void,
  /** Cancels the next attempt. */
  cancel: () => void,
  /** A connection works. */
  onConnected: () => void,
  /** Counts a ping: its round trip in milliseconds, or `undefined` if it was lost. */
  onPing: (rttMs: number | undefined) => void,
  /** Returns the quality of the link now. */
  getQuality: (isConnected: boolean) => Quality,
];

/**
 * Opens what decides. `onRetry`: the time for the next connection has come. `onWake`: the page
 * woke, or the network came back, for which `isOnline` is set; the link may be dead. `onSleep`: the page
 * goes away, perhaps into the browser's cache. `onVisibility`: it was shown or hidden.
 */
export function openReconnection(
  clock: Clock,
  page: Page,
  random: () => number,
  onRetry: () => void,
  onWake: (isOnline: boolean) => void,
  onSleep: () => void,
  onVisibility: () => void,
): Reconnection {
  let attempts = 0;
  let isVisible = true;
  /** The start of a connection, unless there was none. */
  let connectedAt = NaN;
  /** The earliest time of the next connection that the server allows, by the clock. */
  let notBefore = -Infinity;
  /** How much later it is while the page is hidden. */
  let spreadMs = 0;
  const setTimer = openTimer(clock);
  let removeListener: (() => void) | undefined;
  let rttMs: number | undefined;
  let jitterMs = 0;
  /** The round trips of the last pings. */
  let pings: (number | undefined)[] = [];

  const isSteady = (): boolean => clock.now() - connectedAt >= STEADY_MS;
  /** Plans the next attempt. */
  const wait = (delayMs: number): number => {
    setTimer(delayMs, onRetry);
    return delayMs;
  };
  const bar = (forMs: number): void => {
    notBefore = clock.now() + forMs;
  };
  return [
    () => attempts,
    () => isVisible,
    (code) => {
      if (isSteady()) {
        attempts = 0;
      }
      connectedAt = NaN;
      const first = [4004, 1013].includes(code) ? OVERLOAD_DELAY_MS : FIRST_DELAY_MS;
      const longest = Math.min(isVisible ? VISIBLE_DELAY_MS : HIDDEN_DELAY_MS, first * 2 ** attempts++);
      const barMs = notBefore - clock.now() + (isVisible ? 0 : spreadMs);
      return wait(barMs > 0 ? barMs : Math.round(longest * random()));
    },
    (afterMs) => {
      attempts = isSteady() ? 0 : attempts + 1;
      spreadMs = isVisible ? 0 : HIDDEN_DELAY_MS * random();
      // A server that says so to each new connection gets no storm of them.
      bar((afterMs = Math.max(afterMs, Math.min(VISIBLE_DELAY_MS, FIRST_DELAY_MS * (2 ** attempts - 1)))));
      wait(afterMs + spreadMs);
    },
    bar,
    () => wait(notBefore - clock.now()),
    () => {
      isVisible = page.isVisible();
      removeListener ??= page.onChange((event) => {
        const wasVisible = isVisible;
        const isOnline = event === "online";
        isVisible = page.isVisible();
        if (wasVisible !== isVisible) {
          onVisibility();
        }
        if (event === "pagehide") {
          onSleep();
        } else if (event !== "freeze" && (isVisible || isOnline)) {
          onWake(isOnline);
        }
      });
    },
    () => {
      removeListener?.();
      removeListener = undefined;
      attempts = 0;
      notBefore = -Infinity;
    },
    setTimer,
    () => {
      connectedAt = clock.now();
      notBefore = -Infinity;
      jitterMs = 0;
      rttMs = undefined;
      pings = [];
    },
    (ms) => {
      pings = [...pings, ms].slice(-LOSS_PINGS);
      if (ms !== undefined) {
        const change = ms - (rttMs ??= ms);
        // Smoothed as TCP does it: RFC 6298, section 2.3.
        jitterMs += (Math.abs(change) - jitterMs) / 4;
        rttMs += change / 8;
      }
    },
    (isConnected) => {
      const loss = pings.filter((one) => one === undefined).length / (pings.length || 1);
      // The wait that a user feels: the usual one, its changes, and each lost ping as a second.
      const feltMs = (rttMs ?? 0) + 2 * jitterMs + 1_000 * loss;
      return { rttMs, jitterMs, loss, grade: isConnected ? (feltMs < 100 ? "excellent" : feltMs < 250 ? "good" : feltMs < 600 ? "fair" : "poor") : "offline" };
    },
  ];
}
