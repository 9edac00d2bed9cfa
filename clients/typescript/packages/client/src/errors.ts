/** Client error: the only error that this client throws or rejects with. */
import type { ErrorCode, ErrorData } from "./types/common.ts";

/** Why a request failed: the server's `error`, or the client's own reason under the same codes. */
export class TidewireError extends Error {
  /** The kind of failure: a gRPC status code by name. */
  readonly code: ErrorCode;
  /** The delay before another try, in milliseconds, if the server names one. */
  readonly retryAfterMs: number | undefined;

  constructor(error: ErrorData) {
    super(error.message);
    this.name = "TidewireError";
    this.code = error.code;
    this.retryAfterMs = error.retryAfterMs;
  }
}
