/** The one error that this client throws or rejects with. */
import type { ErrorCode, ErrorData } from "./types/common.ts";

/** Why a request failed: the server's `error`, or the client's own reason under the same codes. */
export class TidewireError extends Error {
  /** The kind of failure: the names of the gRPC status codes. */
  readonly code: ErrorCode;
  /** How long to wait before another try, in milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor(error: ErrorData) {
    super(error.message);
    this.name = "TidewireError";
    this.code = error.code;
    this.retryAfterMs = error.retryAfterMs;
  }
}
