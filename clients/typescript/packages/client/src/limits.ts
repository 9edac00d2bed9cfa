/** Limits of the client: the times and the numbers of attempts after which it does something else. */

/** The time for a handshake. It doubles with each attempt: a slow network needs longer. */
export const WELCOME_TIMEOUT_MS = 2_500;
export const LONGEST_WELCOME_MS = 20_000;
/** Attempts without a `welcome` before the other transport is tried, and where a WebSocket has worked before. */
export const FALLBACK_ATTEMPTS = 2;
export const PATIENT_ATTEMPTS = 6;
export const PING_INTERVAL_MS = 5_000;
/** The first time on an event stream after which a WebSocket is tried again. It doubles. */
export const RETURN_MS = 15_000;
export const LONGEST_RETURN_MS = 300_000;
/** The time for what was requested over an event stream before it is closed for a WebSocket. */
export const LEAVING_MS = 10_000;
/** The close code for a frame that is too large. */
export const TOO_BIG = 1009;
