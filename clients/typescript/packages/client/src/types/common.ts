/** Shared types: JSON values, times, errors, positions. */

/** A set of names that a newer server may extend. Handle the known ones and have a default. */
export type Open<Known extends string> = Known | (string & Record<never, never>);

/** Any JSON value. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** Milliseconds since the Unix epoch. */
export type Millis = number;

/** Kinds of error: the names of the gRPC status codes. */
export type ErrorCode = Open<
  | "cancelled"
  | "invalid_argument"
  | "deadline_exceeded"
  | "not_found"
  | "already_exists"
  | "permission_denied"
  | "resource_exhausted"
  | "failed_precondition"
  | "unimplemented"
  | "internal"
  | "unavailable"
  | "data_loss"
  | "unauthenticated"
>;

/** An error from the server. */
export interface ErrorData {
  readonly code: ErrorCode;
  /** Description of the fault and of the expected value, for a human reader. */
  readonly message: string;
  /** The delay before another try, in milliseconds. */
  readonly retryAfterMs?: number;
}

/** A position in a channel's history. */
export interface Position {
  /** The history that `seq` counts in. A new epoch starts a new count. */
  readonly epoch: string;
  /** The last publication seen, 0 for none. */
  readonly seq: number;
}
