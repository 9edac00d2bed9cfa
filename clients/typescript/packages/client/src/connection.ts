/**
 * WebSocket connection: frames in and out, from opening to close, and the
 * heartbeat that detects a dead connection. Reconnecting is the client's part.
 */
import type { Clock, Environment, Timer, WebSocketLike } from "./environment.ts";
import type { ServerMessage } from "./messages.ts";
import { parseServerMessage } from "./parse.ts";

/** The protocol's limit on the time between a ping and any frame. */
const PONG_TIMEOUT_MS = 1_500;
/** The limit on the time from the start of the handshake to `welcome`. */
const WELCOME_TIMEOUT_MS = 10_000;
/** The close code for a connection that died without a close frame: "abnormal", as a browser reports it. */
const ABNORMAL_CLOSE = 1006;

/** Why a connection ended. */
export interface ConnectionEnd {
  readonly code: number;
  readonly reason: string;
}

/** Callbacks of a connection. None is called after `onEnd`. */
export interface ConnectionEvents {
  onMessage(message: ServerMessage): void;
  /** A frame is not a valid message of this protocol. */
  onInvalidFrame(reason: string): void;
  /** No frame came for a heartbeat: send a ping. */
  onSilence(): void;
  onEnd(end: ConnectionEnd): void;
}

type Phase = "opening" | "welcomed" | "ended";

/** An open or opening connection. */
export class Connection {
  readonly #clock: Clock;
  readonly #socket: WebSocketLike;
  readonly #events: ConnectionEvents;
  #phase: Phase = "opening";
  #heartbeatMs = 2_000;
  #lastFrameAt: number;
  #timer: Timer;

  constructor(environment: Environment, url: string, protocols: string[], events: ConnectionEvents) {
    this.#clock = environment.clock;
    this.#events = events;
    this.#lastFrameAt = this.#clock.now();
    this.#socket = new environment.webSocket(url, protocols);
    this.#timer = this.#clock.after(WELCOME_TIMEOUT_MS, () => {
      this.#giveUp("the server did not answer in time");
    });
    this.#socket.addEventListener("message", (event) => {
      this.#onFrame(event.data);
    });
    this.#socket.addEventListener("close", (event) => {
      this.#end({ code: event.code, reason: event.reason });
    });
    // A `close` follows every `error`. Without a listener, Node's sockets throw.
    this.#socket.addEventListener("error", () => undefined);
  }

  /** The silence in milliseconds after which the connection requests a ping. */
  set heartbeatMs(value: number) {
    const sooner = value < this.#heartbeatMs;
    this.#heartbeatMs = value;
    if (sooner && this.#phase === "welcomed") {
      this.#watchHeartbeat();
    }
  }

  /** Sends a frame. Returns `false` if the connection has ended. */
  send(frame: string): boolean {
    if (this.#phase !== "welcomed") {
      return false;
    }
    try {
      this.#socket.send(frame);
      return true;
    } catch {
      // The socket is closing: its `close` event is on the way.
      return false;
    }
  }

  /** Requests a ping now, and ends the connection unless a frame comes in time. */
  probe(): void {
    if (this.#phase !== "welcomed") {
      return;
    }
    const startedAt = this.#clock.now();
    this.#setTimer(PONG_TIMEOUT_MS, () => {
      if (this.#lastFrameAt >= startedAt) {
        this.#watchHeartbeat();
        return;
      }
      this.#giveUp("the connection is dead: no frame came after a ping");
    });
    this.#events.onSilence();
  }

  /** Closes normally. No callback is called. */
  close(): void {
    if (this.#phase === "ended") {
      return;
    }
    this.#phase = "ended";
    this.#timer.cancel();
    this.#socket.close(1000);
  }

  #onFrame(data: unknown): void {
    if (this.#phase === "ended") {
      return;
    }
    this.#lastFrameAt = this.#clock.now();
    if (typeof data !== "string") {
      this.#events.onInvalidFrame("a binary frame on a JSON connection");
      return;
    }
    const parsed = parseServerMessage(data);
    if (parsed.kind === "invalid") {
      this.#events.onInvalidFrame(parsed.reason);
      return;
    }
    if (parsed.kind === "unknown") {
      return;
    }
    if (parsed.message.type === "welcome") {
      this.#phase = "welcomed";
      this.#heartbeatMs = parsed.message.data.heartbeatMs;
      this.#watchHeartbeat();
    }
    this.#events.onMessage(parsed.message);
  }

  /** Waits for the end of the heartbeat. A frame only stores its time, so a busy connection resets no timers. */
  #watchHeartbeat(): void {
    const left = this.#lastFrameAt + this.#heartbeatMs - this.#clock.now();
    if (left <= 0) {
      this.probe();
      return;
    }
    this.#setTimer(left, () => {
      this.#watchHeartbeat();
    });
  }

  #setTimer(delayMs: number, run: () => void): void {
    this.#timer.cancel();
    this.#timer = this.#clock.after(delayMs, run);
  }

  /** Ends at once: a dead peer answers no close handshake. */
  #giveUp(reason: string): void {
    this.#socket.close();
    this.#end({ code: ABNORMAL_CLOSE, reason });
  }

  #end(end: ConnectionEnd): void {
    if (this.#phase === "ended") {
      return;
    }
    this.#phase = "ended";
    this.#timer.cancel();
    this.#events.onEnd(end);
  }
}
