/** Pings: measure the round trip, now and every few seconds while somebody looks. */
import type { Clock, Timer } from "./environment.ts";
import type { StartRequest } from "./requests.ts";

const PING_INTERVAL_MS = 5_000;

/**
 * Opens `[ping, loop, stop]`. `onPing` gets the round trip in milliseconds and
 * the server's time minus this machine's, or nothing for a ping that was lost.
 */
export function openPings(
  clock: Clock,
  start: StartRequest,
  isActive: () => boolean,
  onPing: (rttMs?: number, clockOffsetMs?: number) => void,
): [ping: () => void, loop: () => void, stop: () => void] {
  let timer: Timer | undefined;
  const stop = (): void => {
    timer?.cancel();
  };
  const ping = (): void => {
    const t = clock.now();
    start("ping", { t }, (_, pong) => {
      if (pong) {
        const rttMs = clock.now() - t;
        onPing(rttMs, pong.serverTime + rttMs / 2 - clock.wallTime());
      } else {
        onPing();
      }
    });
  };
  const loop = (): void => {
    stop();
    if (isActive()) {
      ping();
      timer = clock.after(PING_INTERVAL_MS, loop);
    }
  };
  return [ping, loop, stop];
}
