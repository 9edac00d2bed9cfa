/** Pending requests: message ids, timeouts, and the reply or failure that settles each. */
import type { Clock, Timer } from "./environment.ts";
import { TidewireError } from "./errors.ts";
import type { ServerMessage } from "./messages.ts";
import type { ErrorCode } from "./types/common.ts";

/** How a request ended. */
export type Outcome =
  | { readonly kind: "reply"; readonly data: ServerMessage["data"] }
  | { readonly kind: "failure"; readonly error: TidewireError };

interface PendingRequest {
  readonly settle: (outcome: Outcome) => void;
  readonly timer: Timer;
}

/**
 * The requests in flight on one connection. They call back at once and return
 * no promise: a reply must take effect before the frame after it.
 */
export class PendingRequests {
  readonly #clock: Clock;
  readonly #pending = new Map<string, PendingRequest>();
  #lastId = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Starts a request. `send` gets the new id and returns whether the frame was sent. */
  start(timeoutMs: number, send: (id: string) => boolean, settle: (outcome: Outcome) => void): void {
    this.#lastId += 1;
    const id = String(this.#lastId);
    if (!send(id)) {
      settle(failure("unavailable", "not connected"));
      return;
    }
    const timer = this.#clock.after(timeoutMs, () => {
      this.#pending.delete(id);
      settle(failure("deadline_exceeded", `no reply within ${timeoutMs} ms`));
    });
    this.#pending.set(id, { settle, timer });
  }

  /** Settles the request that `message` replies to. Returns `false` if there is none. */
  settle(message: ServerMessage): boolean {
    if (message.id === undefined) {
      return false;
    }
    const request = this.#pending.get(message.id);
    if (request === undefined) {
      return false;
    }
    this.#pending.delete(message.id);
    request.timer.cancel();
    if (message.type === "error") {
      request.settle({ kind: "failure", error: new TidewireError(message.data) });
    } else {
      request.settle({ kind: "reply", data: message.data });
    }
    return true;
  }

  /** Fails every request: the connection is lost, and their effects are unknown. */
  failAll(): void {
    const requests = [...this.#pending.values()];
    this.#pending.clear();
    for (const request of requests) {
      request.timer.cancel();
      request.settle(failure("unavailable", "the connection was lost before the reply came"));
    }
  }
}

function failure(code: ErrorCode, message: string): Outcome {
  return { kind: "failure", error: new TidewireError({ code, message }) };
}
