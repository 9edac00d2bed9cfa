/**
 * Link: one connection from opening to its end, with the heartbeat that detects
 * a dead one. What carries the frames is a wire. Reconnecting is the client's part.
 */
import type { TransportName } from "./api.ts";
import type { Clock, Timer } from "./environment.ts";
import { reasonOf } from "./errors.ts";
import type { ServerMessage } from "./messages.ts";
import type { OnEnd, OnFrame, Wire } from "./wires.ts";

/** The protocol's limit on the time between a ping and any frame. */
const PONG_TIMEOUT_MS = 1_500;
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
  readonly transport: TransportName;
  /** Whether `welcome` came and the link has not ended. */
  isOpen(): boolean;
  /** Sends a frame. Returns `false` if the link is not open. */
  send(frame: string): boolean;
  /** Requests a ping now, and ends the link unless a frame comes in time. */
  probe(): void;
  /** Sets the silence in milliseconds after which a ping is due. */
  setHeartbeat(ms: number): void;
  /** Closes normally. No callback is called. */
  close(): void;
}

/**
 * Opens a link. `welcomeMs` limits the time from the start of the handshake to
 * `welcome`. `parse` throws for what is no message. `onSilence` must send a
 * ping. Nothing is called after `onEnd`.
 */
export function openLink(
  clock: Clock,
  parse: (frame: string) => ServerMessage,
  transport: TransportName,
  welcomeMs: number,
  open: (onOpen: () => void, onFrame: OnFrame, onEnd: OnEnd) => Wire,
  onMessage: (message: ServerMessage) => void,
  onInvalid: (reason: string) => void,
  onSilence: () => void,
  onEnd: (end: ConnectionEnd) => void,
): Link {
  let phase: "opening" | "open" | "ended" = "opening";
  let heartbeatMs = 0;
  let lastFrameAt = 0;
  let timer: Timer | undefined;

  const end = (code: number, reason: string): void => {
    if (phase !== "ended") {
      phase = "ended";
      timer?.cancel();
      onEnd({ code, reason });
    }
  };
  /** Ends at once: a dead peer answers no close handshake, and some browsers never fire `close`. */
  const giveUp = (reason: string): void => {
    wire.close();
    end(ABNORMAL_CLOSE, reason);
  };
  const setTimer = (delayMs: number, run: () => void): void => {
    timer?.cancel();
    const due = clock.now() + delayMs;
    timer = clock.after(delayMs, () => {
      if (clock.now() - due > LATE_MS) {
        // A throttled or stopped page runs its timers before it reads the frames that wait. They come first.
        timer = clock.after(LATE_MS, run);
      } else {
        run();
      }
    });
  };
  const probe = (): void => {
    if (phase === "open") {
      lastFrameAt = -1;
      setTimer(PONG_TIMEOUT_MS, () => {
        if (lastFrameAt < 0) {
          giveUp("no frame came after a ping");
        } else {
          watch();
        }
      });
      onSilence();
    }
  };
  /** Waits for the end of the heartbeat. A frame only stores its time, so a busy link resets no timers. */
  const watch = (): void => {
    const left = lastFrameAt + heartbeatMs - clock.now();
    if (left > 0) {
      setTimer(left, watch);
    } else {
      probe();
    }
  };
  const wire = open(
    () => {
      // Some runtimes open a socket that was closed before.
      if (phase === "ended") {
        wire.close();
      }
    },
    (frame) => {
      if (phase === "ended") {
        return;
      }
      lastFrameAt = clock.now();
      let message: ServerMessage;
      try {
        message = parse(frame as string);
        if (message.type === "welcome") {
          ({ heartbeatMs } = message.data);
          phase = "open";
          watch();
        }
      } catch (error) {
        onInvalid(reasonOf(error));
        return;
      }
      onMessage(message);
    },
    (code = ABNORMAL_CLOSE, reason) => {
      end(code, reason);
    },
  );
  setTimer(welcomeMs, () => {
    giveUp("the server did not answer in time");
  });

  return {
    transport,
    probe,
    isOpen: () => phase === "open",
    send(frame) {
      try {
        if (phase === "open") {
          wire.send(frame);
          return true;
        }
      } catch {
        // The socket is closing: its end is on the way.
      }
      return false;
    },
    setHeartbeat(ms) {
      const isSooner = ms < heartbeatMs;
      heartbeatMs = ms;
      if (isSooner && lastFrameAt >= 0) {
        watch();
      }
    },
    close() {
      if (phase !== "ended") {
        phase = "ended";
        timer?.cancel();
        wire.close(1000);
      }
    },
  };
}
