/**
 * Reconnection: when to connect again, what wakes a sleeping page, and the
 * quality of the link.
 *
 * Delays have full jitter: number n waits a random time up to 250 ms × 2ⁿ, so
 * that the clients of a server that restarts spread evenly
 * (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 */
import type { Quality } from "./api.ts";
import type { Environment } from "./environment.ts";
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
  return code < 4500 && !/^10(0[23789]|10)$/.test(`${code}`);
}

/** Decides when to connect again, and measures the link. It opens nothing itself. */
export interface Reconnection {
  /** Attempts since the last steady connection. */
  _attempt: number;
  /** Whether the page is visible. */
  _isVisible: boolean;
  /** Plans the next attempt after an end with this code. Returns its delay in milliseconds. */
  readonly _schedule: (code: number) => number;
  /** The server asked to come back after `afterMs`. Hidden pages leave the first places to visible ones. */
  readonly _onReconnect: (afterMs: number) => void;
  /** The server refuses connections for this time in milliseconds. */
  readonly _bar: (forMs: number) => void;
  /** Plans the next attempt for the earliest time that the server allows. Returns its delay in milliseconds, below 0 for none. */
  readonly _hurry: () => number;
  /** Listens to the page from now on. */
  readonly _start: () => void;
  /** Forgets the page, the timer and the attempts: what the application asked for outranks events. */
  readonly _stop: () => void;
  /** Cancels the next attempt. */
  readonly _cancel: () => void;
  /** A connection works. */
  readonly _onConnected: () => void;
  /** Counts a ping: its round trip in milliseconds, or `undefined` if it was lost. */
  readonly _onPing: (rttMs: number | undefined) => void;
  /** The quality of the link now. */
  readonly _getQuality: (isConnected: boolean) => Quality;
}

/**
 * Opens what decides. `onRetry`: the time for the next connection has come. `onWake`: the page
 * woke, or the network came back; the link may be dead. `onSleep`: the page
 * goes away, perhaps into the browser's cache. `onVisibility`: it was shown or hidden.
 */
export function openReconnection(
  { clock, page, random }: Environment,
  onRetry: () => void,
  onWake: () => void,
  onSleep: () => void,
  onVisibility: () => void,
): Reconnection {
  /** The start of a connection, unless there was none. */
  let connectedAt = NaN;
  /** The earliest time of the next connection that the server allows, by the clock. */
  let notBefore = 0;
  /** The earliest time of it while the page is hidden. */
  let notBeforeHidden = 0;
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
  const self: Reconnection = {
    _attempt: 0,
    _isVisible: true,
    _bar: bar,
    _cancel: setTimer,
    _hurry: () => wait(notBefore - clock.now()),
    _start() {
      self._isVisible = page.isVisible();
      removeListener ??= page.onChange((event) => {
        const wasVisible = self._isVisible;
        self._isVisible = page.isVisible();
        if (wasVisible !== self._isVisible) {
          onVisibility();
        }
        if (event === "pagehide") {
          onSleep();
        } else if (event !== "freeze" && (self._isVisible || event === "online")) {
          onWake();
        }
      });
    },
    _stop() {
      removeListener?.();
      removeListener = undefined;
      setTimer();
      self._attempt = notBefore = notBeforeHidden = 0;
    },
    _onConnected() {
      connectedAt = clock.now();
      notBefore = notBeforeHidden = jitterMs = 0;
      rttMs = undefined;
      pings = [];
    },
    _schedule(code) {
      if (isSteady()) {
        self._attempt = 0;
      }
      connectedAt = NaN;
      const first = [4004, 1013].includes(code) ? OVERLOAD_DELAY_MS : FIRST_DELAY_MS;
      const longest = Math.min(self._isVisible ? VISIBLE_DELAY_MS : HIDDEN_DELAY_MS, first * 2 ** self._attempt++);
      const barMs = (self._isVisible ? notBefore : Math.max(notBefore, notBeforeHidden)) - clock.now();
      return wait(barMs > 0 ? barMs : Math.round(longest * random()));
    },
    _onReconnect(afterMs) {
      const spreadMs = self._isVisible ? 0 : HIDDEN_DELAY_MS * random();
      self._attempt = isSteady() ? 0 : self._attempt + 1;
      // A server that says so to each new connection gets no storm of them.
      bar((afterMs = Math.max(afterMs, Math.min(VISIBLE_DELAY_MS, FIRST_DELAY_MS * (2 ** self._attempt - 1)))));
      notBeforeHidden = notBefore + spreadMs;
      wait(afterMs + spreadMs);
    },
    _onPing(ms) {
      pings = [...pings, ms].slice(-LOSS_PINGS);
      if (ms !== undefined) {
        const change = ms - (rttMs ??= ms);
        // Smoothed as TCP does it: RFC 6298, section 2.3.
        jitterMs += (Math.abs(change) - jitterMs) / 4;
        rttMs += change / 8;
      }
    },
    _getQuality(isConnected) {
      const loss = pings.filter((one) => one === undefined).length / (pings.length || 1);
      // The wait that a user feels: the usual one, its changes, and each lost ping as a second.
      const feltMs = (rttMs ?? 0) + 2 * jitterMs + 1_000 * loss;
      return { rttMs, jitterMs, loss, grade: !isConnected ? "offline" : feltMs < 100 ? "excellent" : feltMs < 250 ? "good" : feltMs < 600 ? "fair" : "poor" };
    },
  };
  return self;
}
