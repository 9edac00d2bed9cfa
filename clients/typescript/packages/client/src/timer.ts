/** Timer that replaces itself: most parts of the client wait for one thing at a time. */
import type { Clock, Timer } from "./environment.ts";

/** Sets the timer, in place of the one before. Without arguments, there is none. */
export type SetTimer = (delayMs?: number, run?: () => void) => void;

/** Opens a timer. */
export function openTimer(clock: Clock): SetTimer {
  let timer: Timer | undefined;
  return (delayMs = 0, run) => {
    timer?.cancel();
    timer = run && clock.after(delayMs, run);
  };
}
