/**
 * Reconnection: when to connect again, what wakes a sleeping page, and the
 * quality of the link.
 *
 * Delays have full jitter: number n waits a random time up to 250 ms × 2ⁿ, so
 * that the clients of a server that restarts spread evenly
 * (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 */
import type { Quality } from "./api.ts";
import type { Environment, Timer } from "./environment.ts";

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
  return code < 4500 && ![1002, 1003, 1007, 1008, 1009, 1010].includes(code);
}

/** Decides when to connect again, and measures the link. It opens nothing itself. */
export class ReconnectionManager {
  /** Attempts since the last steady connection. */
  attempt = 0;
  /** Whether the page is visible. */
  isVisible = true;
  /** Plans the next attempt after an end with this code. Returns its delay in milliseconds. */
  declare readonly schedule: (code: number) => number;
  /** The server asked to come back after `afterMs`. Hidden pages leave the first places to visible ones. */
  declare readonly onReconnect: (afterMs: number) => void;
  /** The server refuses connections for this time in milliseconds. */
  declare readonly bar: (forMs: number) => void;
  /** Plans the next attempt for the earliest time that the server allows. Returns its delay in milliseconds, below 0 for none. */
  declare readonly hurry: () => number;
  /** Listens to the page from now on. */
  declare readonly start: () => void;
  /** Forgets the page, the timer and the attempts: what the application asked for outranks events. */
  declare readonly stop: () => void;
  /** Cancels the next attempt. */
  declare readonly cancel: () => void;
  /** A connection works. */
  declare readonly onConnected: () => void;
  /** Counts a ping: its round trip in milliseconds, or `undefined` if it was lost. */
  declare readonly onPing: (rttMs: number | undefined) => void;
  /** The quality of the link now. */
  declare readonly getQuality: (isConnected: boolean) => Quality;

  /**
   * `onRetry`: the time for the next connection has come. `onWake`: the page
   * woke, or the network came back; the link may be dead. `onSleep`: the page
   * goes away, perhaps into the browser's cache. `onVisibility`: it was shown or hidden.
   */
  constructor({ clock, page, random }: Environment, onRetry: () => void, onWake: () => void, onSleep: () => void, onVisibility: () => void) {
    let connectedAt: number | undefined;
    /** The earliest time of the next connection that the server allows, by the clock. */
    let notBefore = 0;
    /** The earliest time of it while the page is hidden. */
    let notBeforeHidden = 0;
    let timer: Timer | undefined;
    let removeListener: (() => void) | undefined;
    let rttMs: number | undefined;
    let jitterMs = 0;
    /** 1 for each of the last pings that was lost, else 0. */
    let losses: number[] = [];

    const wait = (delayMs: number): number => {
      this.cancel();
      timer = clock.after(delayMs, onRetry);
      return delayMs;
    };
    this.cancel = () => {
      timer?.cancel();
    };
    this.bar = (forMs) => {
      notBefore = clock.now() + forMs;
    };
    this.hurry = () => wait(notBefore - clock.now());
    this.start = () => {
      this.isVisible = page.isVisible();
      removeListener ??= page.onChange((event) => {
        const wasVisible = this.isVisible;
        this.isVisible = page.isVisible();
        if (wasVisible !== this.isVisible) {
          onVisibility();
        }
        if (event === "pagehide") {
          onSleep();
        } else if (event !== "freeze" && (this.isVisible || event === "online")) {
          onWake();
        }
      });
    };
    this.stop = () => {
      removeListener?.();
      removeListener = undefined;
      this.cancel();
      this.attempt = notBefore = notBeforeHidden = 0;
    };
    this.onConnected = () => {
      connectedAt = clock.now();
      notBefore = notBeforeHidden = jitterMs = 0;
      rttMs = undefined;
      losses = [];
    };
    this.schedule = (code) => {
      if (connectedAt !== undefined && clock.now() - connectedAt >= STEADY_MS) {
        this.attempt = 0;
      }
      connectedAt = undefined;
      const first = code === 4004 || code === 1013 ? OVERLOAD_DELAY_MS : FIRST_DELAY_MS;
      const longest = Math.min(this.isVisible ? VISIBLE_DELAY_MS : HIDDEN_DELAY_MS, first * 2 ** this.attempt++);
      const barMs = (this.isVisible ? notBefore : Math.max(notBefore, notBeforeHidden)) - clock.now();
      return wait(barMs > 0 ? barMs : Math.round(longest * random()));
    };
    this.onReconnect = (afterMs) => {
      const spreadMs = this.isVisible ? 0 : HIDDEN_DELAY_MS * random();
      this.attempt = 0;
      this.bar(afterMs);
      notBeforeHidden = notBefore + spreadMs;
      wait(afterMs + spreadMs);
    };
    this.onPing = (ms) => {
      losses = [...losses, ms === undefined ? 1 : 0].slice(-LOSS_PINGS);
      if (ms !== undefined) {
        const change = ms - (rttMs ??= ms);
        // Smoothed as TCP does it: RFC 6298, section 2.3.
        jitterMs += (Math.abs(change) - jitterMs) / 4;
        rttMs += change / 8;
      }
    };
    this.getQuality = (isConnected) => {
      const loss = losses.reduce((sum, one) => sum + one, 0) / (losses.length || 1);
      // The wait that a user feels: the usual one, its changes, and each lost ping as a second.
      const feltMs = (rttMs ?? 0) + 2 * jitterMs + 1_000 * loss;
      return { rttMs, jitterMs, loss, grade: !isConnected ? "offline" : feltMs < 100 ? "excellent" : feltMs < 250 ? "good" : feltMs < 600 ? "fair" : "poor" };
    };
  }
}
