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

/** What is thrown for a response: nothing of it for one that did not come. */
type Refusal = Partial<{ readonly data: ErrorData }>;
/** A response with a body. */
type Loaded = Response & { readonly body: NonNullable<Response["body"]> };

/** Opens a WebSocket. Throws what the constructor throws: no retry would help. */
export function openWebSocket(webSocket: WebSocketConstructor, url: string, token: string | undefined, onOpen: () => void, onFrame: OnFrame, onEnd: OnEnd): Wire {
  const socket = new webSocket(url, ["tidewire.v1.json", ...(token ? [`tidewire.bearer.${token}`] : [])]);
  let failure = "";
  socket.addEventListener("open", onOpen);
  socket.addEventListener("message", ({ data }) => {
    onFrame(data);
  });
  // A `close` follows every `error`. Node's sockets say here why, and throw if nobody listens.
  socket.addEventListener("error", ({ message = "" }) => {
    failure = message;
  });
  socket.addEventListener("close", ({ code, reason = "" }) => {
    onEnd(code, reason || failure);
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
  /** Fetches what has a body. Throws the error that any other answer holds, or its status: a proxy may answer with anything. */
  const load = async (to: string, headers: "" | HeadersInit, init?: RequestInit): Promise<Loaded> => {
    const response = await fetch(to, { ...init, headers: { ...(token && { authorization: `Bearer ${token}` }), ...(headers as object) }, signal: abort.signal });
    const { ok, status, body } = response;
    if (ok && body) {
      return response as Loaded;
    }
    const text = await response.text();
    const error: ErrorData = { code: "unavailable", message: `HTTP status ${status}` };
    try {
      Object.assign(error, JSON.parse(text));
    } catch {
      // The status is all there is.
    }
    throw Object.assign(new Error(error.message), { data: error });
  };
  const read = async (): Promise<void> => {
    const { body } = await load(url, cursor && { "last-event-id": cursor });
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) {
        // Also after an expired token: each connection fetches one.
        throw new Error("the event stream ended");
      }
      const events = (rest + value).split("\n\n");
      rest = events.pop() ?? "";
      events.forEach(onEvent);
    }
  };
  read().catch((error: unknown) => {
    // By the server's own word: a proxy, or the page of a hotel's network, may answer 403 for a while.
    onEnd(["unauthenticated", "permission_denied"].includes((error as Refusal).data?.code ?? "") ? 4500 : 1006, reasonOf(error));
  });
  return {
    send(frame) {
      posted = posted
        .then(() => load(target, "", { method: "POST", body: frame }))
        .then((response) => response.text())
        .catch((error: unknown) => JSON.stringify({ ...JSON.parse(frame), type: "error", data: (error as Refusal).data ?? { code: "unavailable", message: reasonOf(error) } }))
        .then(onFrame);
    },
    close() {
      abort.abort();
    },
  };
};
