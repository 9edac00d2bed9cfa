/** Client error: the only error that this client throws or rejects with, except a `TypeError` for a bad argument. */
import { say } from "#runtime";
import type { ErrorCode, ErrorData } from "./types/common.ts";

/** Why a request failed: the server's `error`, or the client's own reason under the same codes. */
export class TidewireError extends Error {
  override readonly name = "TidewireError";
  /** The kind of failure: a gRPC status code by name. */
  declare readonly code: ErrorCode;
  /** The delay before another try, in milliseconds, if the server names one. */
  declare readonly retryAfterMs: number | undefined;

  constructor(error: ErrorData) {
    super(error.message);
    Object.assign(this, error);
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
