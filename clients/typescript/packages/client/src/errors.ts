/** Client error: the only error that this client throws or rejects with, except a `TypeError` for a bad argument. */
import { say } from "#runtime";
import type { ErrorCode, ErrorData } from "./types/common.ts";

/** The longest delay that is obeyed: a proxy may name years, a longer timer than 24.8 days runs at once, and after five minutes a publication may not be sent again. */
const LONGEST_DELAY_MS = 240_000;

/** Why a request failed: the server's `error`, or the client's own reason under the same codes. */
export class TidewireError extends Error {
  override readonly name = "TidewireError";
  /** The kind of failure: a gRPC status code by name. */
  declare readonly code: ErrorCode;
  /** The delay before another try, in milliseconds and at most four minutes, if the server names one. */
  declare readonly retryAfterMs: number | undefined;

  constructor(error: ErrorData) {
    super(error.message);
    const { retryAfterMs: ms = 0 } = error;
    Object.assign(this, error, { retryAfterMs: ms > 0 ? Math.min(ms, LONGEST_DELAY_MS) : undefined });
  }
}

/** Returns the text of a failure by its number in `texts.ts`, with what was thrown or else is known. */
export function textOf(number: number, detail: unknown = ""): string {
  return say(number, reasonOf(detail));
}

/** Returns the error of a code, with the text of a number. */
export function failure(code: ErrorCode, number: number, detail?: unknown): TidewireError {
  return new TidewireError({ code, message: textOf(number, detail) });
}

/** Returns the message of anything that was thrown. */
export function reasonOf(error: unknown): string {
  return (error as Error | null)?.message ?? String(error);
}
