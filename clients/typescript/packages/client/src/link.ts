/**
 * Link: one connection from opening to its end, with the heartbeat that detects
 * a dead one. What carries the frames is a wire. Reconnecting is the client's part.
 */
import type { Clock } from "./environment.ts";
import { textOf } from "./errors.ts";
import type { ServerMessage } from "./messages.ts";
import { BAD_MESSAGE, NO_PONG, NO_WELCOME } from "./texts.ts";
import { openTimer } from "./timer.ts";
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

/** An open or opening connection. */
export interface Link {
  /** Whether `welcome` came and the link has not ended. */
  _isOpen: boolean;
  /** Sends a frame. Returns `false` if the link is not open. */
  readonly _send: (frame: string) => boolean;
  /** Requests a ping now, and ends an open link unless a frame comes in time. */
  readonly _probe: () => void;
  /** Sets the silence in milliseconds after which a ping is due. */
  readonly _setHeartbeat: (ms: number) => void;
  /** Ends the link: normally, unless with another code. */
  readonly _end: (code?: number, reason?: string) => void;
}

/**
 * Opens a link. `welcomeMs` limits the time from the start of the handshake to
 * `welcome`. `parse` throws for what is no message. `onSilence` must send a
 * ping. Nothing is called after `onEnd`. With `isStream` a reply, which has an id,
 * takes another way and is no proof of life: the server's own `ping` is one.
 */
export function openLink(
  clock: Clock,
  parse: (frame: string) => ServerMessage,
  welcomeMs: number,
  open: (onOpen: () => void, onFrame: OnFrame, onEnd: OnEnd) => Wire,
  onMessage: (message: ServerMessage) => void,
  report: (code: ErrorCode, number: number, cause: unknown) => void,
  onSilence: () => void,
  onEnd: (end: ConnectionEnd) => void,
  isStream: boolean,
): Link {
  let hasEnded = false;
  let heartbeatMs = 0;
  let lastFrameAt = 0;
  const setTimer = openTimer(clock);

  /** Ends the link. With `isClosed`, the wire has ended. */
  const end = (code = 1000, reason = "", isClosed = false): void => {
    // At once: a dead peer answers no close handshake, and some browsers never fire `close`.
    if (!hasEnded) {
      hasEnded = true;
      link._isOpen = false;
      setTimer();
      if (!isClosed) {
        wire.close(code === 1000 ? code : undefined);
      }
      onEnd({ code, reason });
    }
  };
  const wait = (delayMs: number, run: () => void): void => {
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
    wait(PONG_TIMEOUT_MS, () => {
      if (lastFrameAt < 0) {
        end(ABNORMAL_CLOSE, textOf(NO_PONG));
      } else {
        watch();
      }
    });
    onSilence();
  };
  /** Waits for the end of the heartbeat. A frame only stores its time, so a busy link resets no timers. */
  const watch = (): void => {
    const left = lastFrameAt + heartbeatMs - clock.now();
    if (left > 0) {
      wait(left, watch);
    } else {
      probe();
    }
  };
  const link: Link = {
    _isOpen: false,
    _probe() {
      if (isStream) {
        // The server is silent for a heartbeat before it sends a `ping`.
        lastFrameAt = clock.now();
        watch();
        onSilence();
      } else {
        probe();
      }
    },
    _send(frame) {
      try {
        if (link._isOpen) {
          wire.send(frame);
          return true;
        }
      } catch {
        // The socket is closing: its end is on the way.
      }
      return false;
    },
    _setHeartbeat(ms) {
      heartbeatMs = ms || HEARTBEAT_MS;
      // A probe goes on: its own pong sets the heartbeat.
      if (lastFrameAt >= 0) {
        watch();
      }
    },
    _end: end,
  };
  const wire = open(
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
          if (!isStream || !message.id) {
            lastFrameAt = clock.now();
          }
          if (message.type === "welcome") {
            link._isOpen = true;
            link._setHeartbeat(message.data.heartbeatMs);
          }
          onMessage(message);
        } catch (error) {
          report("invalid_argument", BAD_MESSAGE, error);
        }
      }
    },
    (code = ABNORMAL_CLOSE, reason) => {
      end(code, reason, true);
    },
  );
  wait(welcomeMs, () => {
    end(ABNORMAL_CLOSE, textOf(NO_WELCOME));
  });
  return link;
}
