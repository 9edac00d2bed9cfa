/** Reconnect policy: whether a close code allows a reconnect, and after which delay. */

const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 15_000;
/** First delay after a close for rate or load: the server needs the pause. */
const OVERLOAD_DELAY_MS = 2_000;
/** Standard close codes that blame what this client sent: another connection would end the same way. */
const FATAL_CODES: ReadonlySet<number> = new Set([1002, 1003, 1007, 1008, 1009, 1010]);

/**
 * Returns whether to reconnect after a close code. The protocol allows it for
 * 4000–4499 and forbids it for 4500–4999. Of the standard codes, those that
 * blame this client forbid it too.
 */
export function shouldReconnect(code: number): boolean {
  return !(code >= 4500 && code <= 4999) && !FATAL_CODES.has(code);
}

/**
 * Returns the delay in milliseconds before reconnect number `attempt`, where 0
 * is the first after a loss. The delay doubles from 250 ms up to 15 s. Jitter
 * takes off up to half, so that many clients do not reconnect at once.
 */
export function retryDelay(attempt: number, code: number, random: () => number): number {
  const first = code === 4004 || code === 1013 ? OVERLOAD_DELAY_MS : FIRST_DELAY_MS;
  const longest = Math.min(LONGEST_DELAY_MS, first * 2 ** Math.min(attempt, 10));
  return Math.round(longest * (1 - random() / 2));
}
