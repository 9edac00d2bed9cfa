/**
 * One WebSocket's life, from opening to its end: frames in and out, and the
 * heartbeat that notices a dead link. Coming back is not its business.
 */
import type { Clock, Environment, Timer, WebSocketLike } from "./environment.ts";
import type { ServerMessage } from "./messages.ts";
import { parseServerMessage } from "./parse.ts";

/** The protocol's wait for a sign of life after a ping. */
const PONG_TIMEOUT_MS = 1_500;
/** How long `welcome` may take, from the start of the handshake. */
const WELCOME_TIMEOUT_MS = 10_000;
/** The code this client gives to a link that died without a word: "abnormal", as a browser would. */
const LOST = 1006;

/** Why a link ended. */
export interface LinkEnd {
  readonly code: number;
  readonly reason: string;
}

/** What a link tells its owner. Nothing is told after `onEnd`. */
export interface LinkEvents {
  onMessage(message: ServerMessage): void;
  /** A frame that is no message of this protocol. */
  onFault(reason: string): void;
  /** Nothing was heard for a heartbeat: send a ping. */
  onSilence(): void;
  onEnd(end: LinkEnd): void;
}

type Phase = "opening" | "welcomed" | "ended";

/** An open or opening connection. */
export class Link {
  readonly #clock: Clock;
  readonly #socket: WebSocketLike;
  readonly #events: LinkEvents;
  #phase: Phase = "opening";
  #heartbeatMs = 2_000;
  #lastHeard: number;
  #timer: Timer;

  constructor(environment: Environment, url: string, protocols: string[], events: LinkEvents) {
    this.#clock = environment.clock;
    this.#events = events;
    this.#lastHeard = this.#clock.now();
    this.#socket = new environment.webSocket(url, protocols);
    this.#timer = this.#clock.after(WELCOME_TIMEOUT_MS, () => {
      this.#giveUp("the server did not answer in time");
    });
    this.#socket.addEventListener("message", (event) => {
      this.#hear(event.data);
    });
    this.#socket.addEventListener("close", (event) => {
      this.#finish({ code: event.code, reason: event.reason });
    });
    // A `close` follows every `error`; a listener keeps Node's sockets from throwing.
    this.#socket.addEventListener("error", () => undefined);
  }

  /** After this much silence the link asks for a ping, in milliseconds. */
  set heartbeatMs(value: number) {
    const sooner = value < this.#heartbeatMs;
    this.#heartbeatMs = value;
    if (sooner && this.#phase === "welcomed") {
      this.#watch();
    }
  }

  /** Sends a frame; `false` if the link has ended. */
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

  /** Asks for a sign of life now: ends the link unless something is heard in time. */
  probe(): void {
    if (this.#phase !== "welcomed") {
      return;
    }
    const asked = this.#clock.now();
    this.#rearm(PONG_TIMEOUT_MS, () => {
      if (this.#lastHeard >= asked) {
        this.#watch();
        return;
      }
      this.#giveUp("the link is dead: no sign of life");
    });
    this.#events.onSilence();
  }

  /** Closes in good order, without telling the owner. */
  close(): void {
    if (this.#phase === "ended") {
      return;
    }
    this.#phase = "ended";
    this.#timer.cancel();
    this.#socket.close(1000);
  }

  #hear(data: unknown): void {
    if (this.#phase === "ended") {
      return;
    }
    this.#lastHeard = this.#clock.now();
    if (typeof data !== "string") {
      this.#events.onFault("a binary frame on a JSON connection");
      return;
    }
    const parsed = parseServerMessage(data);
    if (parsed.kind === "invalid") {
      this.#events.onFault(parsed.reason);
      return;
    }
    if (parsed.kind === "unknown") {
      return;
    }
    if (parsed.message.type === "welcome") {
      this.#phase = "welcomed";
      this.#heartbeatMs = parsed.message.data.heartbeatMs;
      this.#watch();
    }
    this.#events.onMessage(parsed.message);
  }

  /** Waits for the end of the heartbeat. Frames only note their time, so a busy link moves no timers. */
  #watch(): void {
    const left = this.#lastHeard + this.#heartbeatMs - this.#clock.now();
    if (left <= 0) {
      this.probe();
      return;
    }
    this.#rearm(left, () => {
      this.#watch();
    });
  }

  #rearm(delayMs: number, run: () => void): void {
    this.#timer.cancel();
    this.#timer = this.#clock.after(delayMs, run);
  }

  /** A dead peer answers no close handshake, so the end is not waited for. */
  #giveUp(reason: string): void {
    this.#socket.close();
    this.#finish({ code: LOST, reason });
  }

  #finish(end: LinkEnd): void {
    if (this.#phase === "ended") {
      return;
    }
    this.#phase = "ended";
    this.#timer.cancel();
    this.#events.onEnd(end);
  }
}
