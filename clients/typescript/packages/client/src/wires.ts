/** Wires: a WebSocket, and Server-Sent Events with one POST for each message of the client. */
import type { Fetch, WebSocketConstructor } from "./environment.ts";
import { reasonOf } from "./errors.ts";
import type { ServerMessage } from "./messages.ts";
import type { ErrorData } from "./types/common.ts";

/** What carries frames. */
export interface Wire {
  send(frame: string): void;
  close(code?: number): void;
}

/** Called with each frame. */
export type OnFrame = (frame: unknown) => void;
/** Called at the end, also after `close`. Without a code it is as 1006. */
export type OnEnd = (code: number | undefined, reason: string) => void;

/** Opens an event stream. `cursor` returns where it resumes the channels that the server subscribes it to. */
export type OpenEventStream = (fetch: Fetch, url: string, token: string | undefined, cursor: () => string, onFrame: OnFrame, onEnd: OnEnd) => Wire;

/** Opens a WebSocket. Throws what the constructor throws: no retry would help. */
export function openWebSocket(webSocket: WebSocketConstructor, url: string, token: string | undefined, onOpen: () => void, onFrame: OnFrame, onEnd: OnEnd): Wire {
  const socket = new webSocket(url, ["tidewire.v1.json", ...(token ? [`tidewire.bearer.${token}`] : [])]);
  let failure = "";
  socket.addEventListener("open", onOpen);
  socket.addEventListener("message", (event) => {
    onFrame(event.data);
  });
  // A `close` follows every `error`. Node's sockets say here why, and throw if nobody listens.
  socket.addEventListener("error", (event) => {
    failure = event.message ?? "";
  });
  socket.addEventListener("close", ({ code, reason }) => {
    onEnd(code, reason === undefined || reason === "" ? failure : reason);
  });
  return socket;
}

/**
 * Opens an event stream. It reads the stream by `fetch` rather than by
 * `EventSource`, which hides the status of a refusal, gives up for ever on a
 * 502, can send no `Authorization` and does not exist in Node.
 */
export const openEventStream: OpenEventStream = (fetch, url, token, cursorOf, onFrame, onEnd) => {
  const cursor = cursorOf();
  const abort = new AbortController();
  const { signal } = abort;
  const authorization = token && { authorization: `Bearer ${token}` };
  let target = "";
  /** The last POST. They go one by one: two at once could arrive in another order. */
  let posted = Promise.resolve();

  const onEvent = (event: string): void => {
    // A document with line breaks has a `data:` for each line.
    const text = event.replace(/^(?!data:).*\n?|^data:/gm, "");
    if (text) {
      try {
        const { type, data } = JSON.parse(text) as ServerMessage;
        if (type === "welcome") {
          target = `${url}/${data.connectionId}?key=${data.postKey ?? ""}`;
        }
      } catch {
        // No message: who parses the frame reports it.
      }
      onFrame(text);
    }
  };
  const read = async (): Promise<void> => {
    const response = await fetch(url, { headers: { ...authorization, ...(cursor && { "last-event-id": cursor }) }, signal });
    const { ok, status, body } = response;
    if (!ok || !body) {
      onEnd(status === 401 || status === 403 ? 4500 : 1006, errorOf(await response.text(), status).message);
      return;
    }
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) {
        // Also after an expired token: each connection fetches one.
        onEnd(1006, "the event stream ended");
        return;
      }
      const events = (rest + value).split("\n\n");
      rest = events.pop() ?? "";
      events.forEach(onEvent);
    }
  };
  const post = async (frame: string): Promise<void> => {
    let error: ErrorData;
    try {
      const response = await fetch(target, { method: "POST", body: frame, headers: { ...authorization }, signal });
      const text = await response.text();
      if (response.ok) {
        onFrame(text);
        return;
      }
      error = errorOf(text, response.status);
    } catch (reason) {
      error = { code: "unavailable", message: reasonOf(reason) };
    }
    onFrame(JSON.stringify({ ...JSON.parse(frame), type: "error", data: error }));
  };
  read().catch((error: unknown) => {
    onEnd(1006, reasonOf(error));
  });
  return {
    send(frame) {
      posted = posted.then(() => post(frame));
    },
    close() {
      abort.abort();
    },
  };
};

/** The error in the body of a response, or one that names its status: a proxy may answer with anything. */
function errorOf(body: string, status: number): ErrorData {
  const error: ErrorData = { code: "unavailable", message: `HTTP status ${status}` };
  try {
    return { ...error, ...(JSON.parse(body) as ErrorData) };
  } catch {
    return error;
  }
}
