/** Texts of the client's own failures, for development and Node. Tests hold the README's table against it. */
import * as texts from "../texts.ts";

/** What each failure says, given what is known about it. */
export const TEXTS: Readonly<Record<number, (detail: string) => string>> = {
  [texts.BAD_URL]: (url) => `the URL \`${url}\` can not work, expected one like ws://127.0.0.1:8080/v1/ws`,
  [texts.NO_WEB_SOCKET]: () => "there is no global WebSocket: pass a class as the option `webSocket`; for Node 20, install the package `ws`",
  [texts.NOT_CONNECTED]: (reason) => reason || "not connected",
  [texts.CONNECTION_LOST]: () => "the connection was lost before the reply came",
  [texts.NO_REPLY]: (ms) => `no reply within ${ms} ms`,
  [texts.NO_WELCOME]: () => "the server did not answer in time",
  [texts.NO_PONG]: () => "no frame came after a ping",
  [texts.HTTP_STATUS]: (status) => `HTTP status ${status}`,
  [texts.STREAM_ENDED]: () => "the event stream ended",
  [texts.PAGE_LEFT]: () => "the page was left",
  [texts.BAD_MESSAGE]: (reason) => `a frame is no message: ${reason}`,
  [texts.LISTENER_THREW]: (reason) => `a listener threw: ${reason}`,
  [texts.CHANNEL_ENDED]: (reason) => reason || "the server ended the subscription",
  [texts.NO_TOKEN]: (reason) => `getToken failed: ${reason}`,
  [texts.NOT_RENEWED]: (reason) => `the token could not be renewed: ${reason}`,
  [texts.TOKEN_TIMEOUT]: (ms) => `getToken took over ${ms} ms`,
  [texts.NOT_A_TOKEN]: (text) => `it returned no token: ${text}`.slice(0, 60),
  [texts.QUEUE_FULL]: (size) => `the queue is full: ${size} publications wait`,
  [texts.NOT_STORED]: (reason) => `the queue can not be stored, and ends with the page: ${reason}`,
  [texts.SENT_ELSEWHERE]: () => "another tab has sent it, or the storage was cleared",
  [texts.WAITED_TOO_LONG]: () => "it waited too long, and may have been published",
  [texts.OTHER_USER]: () => "another user signed in",
  [texts.STORED_FAILED]: (what) => `a stored publication on ${what}`,
  [texts.STORED_DAMAGED]: (text) => `a stored publication is damaged: ${text}`,
  [texts.WRONG_PATH]: (path) => `nothing is at ${path} on the server, expected /v1/ws`,
  [texts.PLAIN_TEXT]: () => "the server speaks plain text: use ws:, not wss:",
  [texts.TLS]: () => "the server speaks TLS: use wss:, not ws:",
  [texts.TOO_LARGE]: () => "the frame is larger than the server takes",
  [texts.NO_JSON]: (reason) => `it has no form in JSON: ${reason}`,
  [texts.NOT_SENT]: () => "it waited too long, or the clock was changed, and this page did not send it",
};

/** Returns the text of a failure. */
export function say(code: number, detail: string): string {
  return TEXTS[code]?.(detail) ?? detail;
}
