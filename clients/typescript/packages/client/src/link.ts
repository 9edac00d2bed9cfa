/**
 * Links: connections from opening to their end, with the heartbeat that detects a dead one. What
 * carries the frames is a wire. Reconnecting is the client's part.
 *
 * One link is in use. Beside an event stream a WebSocket is tried. Once it works, it is in use, and the
 * stream remains until it has answered.
 */
import type { Clock } from "./environment.ts";
import { textOf } from "./errors.ts";
import type { ServerMessage } from "./messages.ts";
import { BAD_MESSAGE, NO_PONG, NO_WELCOME } from "./texts.ts";
import { openTimer, type SetTimer } from "./timer.ts";
import type { ErrorCode } from "./types/common.ts";
import type { OnEnd, OnFrame, Wire } from "./wires.ts";

/** The protocol's limit on the time between a ping and any frame. */
const PONG_TIMEOUT_MS = 1_500;
/** The heartbeat where the server names none: a ping for each pong would be a storm. */
const HEARTBEAT_MS = 2_000;
/** A timer that runs later than this was held back by the page. */
const LATE_MS = 500;
/** The close code for a connection that died without a close frame: "abnormal", as a browser reports it. */
export const ABNORMAL_CLOSE = 1006;

/** Why a connection ended. */
export interface ConnectionEnd {
  readonly code: number;
  readonly reason: string;
}

/** Ends a link: normally, unless with another code. With `isClosed`, its wire has ended. */
type End = (code?: number, reason?: string, isClosed?: boolean) => void;

/** Opens a link. `isBeside`: it is tried beside the one in use. `welcomeMs` limits the time from the start of the handshake to `welcome`. */
export type OpenLink = (
  stream: boolean,
  isBeside: boolean,
  welcomeMs: number,
  parse: (frame: string) => ServerMessage,
  connect: (onOpen: () => void, onFrame: OnFrame, onEnd: OnEnd) => Wire,
) => void;

/**
 * Opens the links of a client. `onMessage` gets what comes on the link in use, and `onOther` on another.
 * `onReplace`: a link that was tried will be in use, or another connection is behind that in use, as when
 * another tab leads. `ping` must send one. `onEnd`: the link in use ended by
 * itself, `onLost`: another one. On a stream (`isStream`) a reply, which has an id, takes another way and
 * is no proof of life: the server's own `ping` is one.
 *
 * Returns `[open, release, endOthers, isOpen, transmit, probe, setHeartbeat]`. `release`: no link is in use. `transmit`
 * returns `false` where none is open. `probe` requests a ping now, and ends the link unless a frame comes in time.
 */
export function openLinks(
  clock: Clock,
  isStream: () => boolean,
  onMessage: (message: ServerMessage) => void,
  onOther: (message: ServerMessage) => void,
  onReplace: (stream: boolean) => void,
  ping: () => void,
  onEnd: (end: ConnectionEnd) => void,
  onLost: () => void,
  report: (code: ErrorCode, number: number, cause: unknown) => void,
): [
  open: OpenLink,
  release: () => void,
  endOthers: () => void,
  isOpen: () => boolean,
  transmit: (frame: string) => boolean,
  probe: () => void,
  setHeartbeat: (ms: number) => void,
] {
  let inUse: End | undefined;
  /** The wire of the link in use, from `welcome` on. */
  let open: Wire | undefined;
  let links: readonly (End | undefined)[] = [];
  let heartbeatMs = 0;
  let lastFrameAt = 0;
  const setBeatTimer = openTimer(clock);

  const wait = (setTimer: SetTimer, delayMs: number, run: () => void): void => {
    const due = clock.now() + delayMs;
    setTimer(delayMs, () => {
      if (clock.now() - due > LATE_MS) {
        // A throttled or stopped page runs its timers before it reads the frames that wait. They come first.
        setTimer(LATE_MS, run);
      } else {
        run();
      }
    });
  };
  const probe = (): void => {
    lastFrameAt = -1;
    wait(setBeatTimer, PONG_TIMEOUT_MS, () => {
      if (lastFrameAt < 0) {
        inUse?.(ABNORMAL_CLOSE, textOf(NO_PONG));
      } else {
        watch();
      }
    });
    ping();
  };
  /** Waits for the end of the heartbeat. A frame only stores its time, so a busy link resets no timers. */
  const watch = (): void => {
    const left = lastFrameAt + heartbeatMs - clock.now();
    if (left > 0) {
      wait(setBeatTimer, left, watch);
    } else {
      probe();
    }
  };
  const setHeartbeat = (ms: number): void => {
    heartbeatMs = ms || HEARTBEAT_MS;
    // A probe goes on: its own pong sets the heartbeat.
    if (lastFrameAt >= 0) {
      watch();
    }
  };

  return [
    (stream, isBeside, welcomeMs, parse, connect) => {
      let hasEnded = false;
      const setTimer = openTimer(clock);
      const end: End = (code = 1000, reason = "", isClosed = false) => {
        // At once: a dead peer answers no close handshake, and some browsers never fire `close`.
        if (!hasEnded) {
          hasEnded = true;
          setTimer();
          if (!isClosed) {
            wire.close(code === 1000 ? code : undefined);
          }
          if (end === inUse) {
            onEnd({ code, reason });
          } else {
            onLost();
          }
        }
      };
      const wire = connect(
        () => {
          // Some runtimes open a socket that was closed before.
          if (hasEnded) {
            wire.close();
          }
        },
        (frame) => {
          if (!hasEnded) {
            try {
              const message = parse(frame as string);
              const isWelcome = message.type === "welcome";
              if (isWelcome) {
                setTimer();
                if (end !== inUse || open) {
                  // All others may end.
                  hasEnded = true;
                  onReplace(stream);
                  hasEnded = false;
                  inUse = end;
                }
                open = wire;
              }
              if (end === inUse) {
                if (!stream || !message.id) {
                  lastFrameAt = clock.now();
                }
                if (isWelcome) {
                  setHeartbeat(message.data.heartbeatMs);
                }
                onMessage(message);
              } else {
                onOther(message);
              }
            } catch (error) {
              report("invalid_argument", BAD_MESSAGE, error);
            }
          }
        },
        (code = ABNORMAL_CLOSE, reason) => {
          end(code, reason, true);
        },
      );
      wait(setTimer, welcomeMs, () => {
        end(ABNORMAL_CLOSE, textOf(NO_WELCOME));
      });
      links = [inUse, end];
      if (!isBeside) {
        inUse = end;
      }
    },
    () => {
      inUse = open = undefined;
      setBeatTimer();
    },
    () => {
      for (const end of links) {
        if (end !== inUse) {
          end?.();
        }
      }
    },
    () => !!open,
    (frame) => {
      try {
        open?.send(frame);
        return !!open;
      } catch {
        // The socket is closing: its end is on the way.
        return false;
      }
    },
    () => {
      if (isStream()) {
        // The server is silent for a heartbeat before it sends a `ping`.
        lastFrameAt = clock.now();
        watch();
        ping();
      } else {
        probe();
      }
    },
    setHeartbeat,
  ];
}
