/** Types that several message families share. */

/** A set of known names that the server may add to: handle what you know, and have a default. */
export type Open<Known extends string> = Known | (string & Record<never, never>);

/** Any JSON value. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** Milliseconds since the Unix epoch. */
export type Millis = number;

/** What went wrong: the names of the gRPC status codes. */
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
  | "unauthenticated"
>;

/** Why the server refused something. */
export interface ErrorData {
  readonly code: ErrorCode;
  /** What was wrong and what was expected, for a person. */
  readonly message: string;
  /** How long to wait before another try, in milliseconds. */
  readonly retryAfterMs?: number;
}

/** A place in a channel's history. */
export interface Position {
  /** The history that `seq` counts in: a new epoch starts a new count. */
  readonly epoch: string;
  /** The last publication seen, 0 for none. */
  readonly seq: number;
}
