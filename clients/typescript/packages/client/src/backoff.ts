/** When to come back after a connection ended, and whether at all. */

const FIRST_MS = 250;
const LONGEST_MS = 15_000;
/** The server said that this client asks too much, or that it has too much to do. */
const CROWDED_MS = 2_000;

/** Whether a close code allows another try. */
export type Verdict = "come_back" | "stay_away";

/**
 * Judges a close code: 4000–4499 come back and 4500–4999 stay away, as the
 * protocol says. So do the standard codes that blame what this client sent;
 * after any other another try may help.
 */
export function judgeClose(code: number): Verdict {
  if (code >= 4500 && code <= 4999) {
    return "stay_away";
  }
  return [1002, 1003, 1007, 1008, 1009, 1010].includes(code) ? "stay_away" : "come_back";
}

/**
 * How long to wait before try number `attempt` (0 is the first after a loss),
 * in milliseconds: it doubles from 250 ms up to 15 s, and chance takes off up to
 * half, so that many clients do not come back at once.
 */
export function retryDelay(attempt: number, code: number, random: () => number): number {
  const floor = code === 4004 || code === 1013 ? CROWDED_MS : FIRST_MS;
  const full = Math.min(LONGEST_MS, floor * 2 ** Math.min(attempt, 10));
  return Math.round(full * (1 - random() / 2));
}
