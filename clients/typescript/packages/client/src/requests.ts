/** Requests that wait for their replies: ids, time-outs, and what ends them. */
import type { Clock, Timer } from "./environment.ts";
import { TidewireError } from "./errors.ts";
import type { ServerMessage } from "./messages.ts";
import type { ErrorCode } from "./types/common.ts";

/** How a request ended. */
export type Outcome =
  | { readonly kind: "reply"; readonly data: ServerMessage["data"] }
  | { readonly kind: "failure"; readonly error: TidewireError };

interface Waiting {
  readonly settle: (outcome: Outcome) => void;
  readonly timer: Timer;
}

/**
 * The requests in flight on one connection. Outcomes are called back at once
 * and not by promise: a reply must take effect before the frame after it.
 */
export class PendingRequests {
  readonly #clock: Clock;
  readonly #waiting = new Map<string, Waiting>();
  #lastId = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Opens a request: `send` gets the fresh id and says whether the frame went out. */
  open(timeoutMs: number, send: (id: string) => boolean, settle: (outcome: Outcome) => void): void {
    this.#lastId += 1;
    const id = String(this.#lastId);
    if (!send(id)) {
      settle(failure("unavailable", "not connected"));
      return;
    }
    const timer = this.#clock.after(timeoutMs, () => {
      this.#waiting.delete(id);
      settle(failure("deadline_exceeded", `no reply within ${timeoutMs} ms`));
    });
    this.#waiting.set(id, { settle, timer });
  }

  /** Settles the request that `message` answers; `false` if it answers none. */
  settle(message: ServerMessage): boolean {
    if (message.id === undefined) {
      return false;
    }
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) {
      return false;
    }
    this.#waiting.delete(message.id);
    waiting.timer.cancel();
    if (message.type === "error") {
      waiting.settle({ kind: "failure", error: new TidewireError(message.data) });
    } else {
      waiting.settle({ kind: "reply", data: message.data });
    }
    return true;
  }

  /** The connection is gone: nobody knows what became of these. */
  failAll(): void {
    const all = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const waiting of all) {
      waiting.timer.cancel();
      waiting.settle(failure("unavailable", "the connection was lost before the reply came"));
    }
  }
}

function failure(code: ErrorCode, message: string): Outcome {
  return { kind: "failure", error: new TidewireError({ code, message }) };
}
