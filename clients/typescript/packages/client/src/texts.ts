/**
 * Numbers of the client's own failures. What each says is in `runtime/texts.ts`: a build of an
 * application for production has the numbers alone, as React and Vue have theirs. Never use one again.
 */
export const BAD_URL = 1;
export const NO_WEB_SOCKET = 2;
export const NOT_CONNECTED = 3;
export const CONNECTION_LOST = 4;
export const NO_REPLY = 5;
export const NO_WELCOME = 6;
export const NO_PONG = 7;
export const HTTP_STATUS = 8;
export const STREAM_ENDED = 9;
export const PAGE_LEFT = 10;
export const BAD_MESSAGE = 11;
export const LISTENER_THREW = 12;
export const CHANNEL_ENDED = 13;
export const NO_TOKEN = 14;
export const NOT_RENEWED = 15;
export const TOKEN_TIMEOUT = 16;
export const NOT_A_TOKEN = 17;
export const QUEUE_FULL = 18;
export const NOT_STORED = 19;
export const SENT_ELSEWHERE = 20;
export const WAITED_TOO_LONG = 21;
export const OTHER_USER = 22;
export const STORED_FAILED = 23;
export const STORED_DAMAGED = 24;
export const WRONG_PATH = 25;
export const PLAIN_TEXT = 26;
export const TLS = 27;
export const TOO_LARGE = 28;
export const NO_JSON = 29;
export const NOT_SENT = 30;
