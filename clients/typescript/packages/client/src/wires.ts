/** Wires: a WebSocket, and Server-Sent Events with one POST for each message of the client. */
import type { Fetch, WebSocketConstructor } from "./environment.ts";
import { reasonOf, TidewireError, textOf } from "./errors.ts";
import type { ClientMessage, ServerMessage, ServerMessageOf } from "./messages.ts";
import { BAD_MESSAGE, HTTP_STATUS, STREAM_ENDED } from "./texts.ts";
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

/** A response with a body. */
type Loaded = Response & { readonly body: NonNullable<Response["body"]> };

/** Opens a WebSocket, of which there must be a class. Throws what the constructor throws: no retry would help. */
export function openWebSocket(webSocket: WebSocketConstructor | undefined, url: string, token: string | undefined, onOpen: () => void, onFrame: OnFrame, onEnd: OnEnd): Wire {
  const socket = new (webSocket as unknown as WebSocketConstructor)(url, ["tidewire.v1.json", ...(token ? [`tidewire.bearer.${token}`] : [])]);
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
  let target: string;
  let welcomed: () => void;
  /** The last POST. They go one by one: two at once could arrive in another order. Before the welcome there is nowhere to post to. */
  let posted = new Promise<void>((resolve) => {
    welcomed = resolve;
  });

  const onEvent = (event: string): void => {
    // A document with line breaks has a `data:` for each line.
    const text = event.replace(/^(?!data:).*\n?|^data:/gm, "");
    if (/^event: *welcome/m.test(event)) {
      const { data } = JSON.parse(text) as ServerMessageOf<"welcome">;
      target = `${url}/${data.connectionId}?key=${data.postKey ?? ""}`;
      welcomed();
    }
    if (text) {
      onFrame(text);
    }
  };
  /** Fetches a response. Throws the error that any other answer holds, or its status, since a proxy may answer with anything. */
  const load = async (to: string, body?: string): Promise<Loaded> => {
    const response = await fetch(to, {
      ...(body && { method: "POST", body }),
      headers: { ...(token && { authorization: `Bearer ${token}` }), ...(!body && cursor && { "last-event-id": cursor }) },
      signal: abort.signal,
    });
    if (!response.ok) {
      // As JSON RPC has it, or as the message `error`.
      const answer = (await response.json().catch(() => undefined)) as (ErrorData & { data?: ErrorData }) | undefined;
      const error = answer?.data ?? answer;
      const seconds = Number(response.headers.get("retry-after"));
      throw new TidewireError({
        code: "unavailable",
        message: textOf(HTTP_STATUS, response.status),
        ...(seconds > 0 && { retryAfterMs: seconds * 1_000 }),
        // A proxy's has a number, if any.
        ...(typeof error?.code === "string" && error),
      });
    }
    return response as Loaded;
  };
  /** Calls back with why something failed. */
  const dataOf = (error: unknown): ErrorData => ({ code: "unavailable", message: reasonOf(error), ...(error as Partial<ErrorData>) });

  load(url)
    .then(async ({ body }) => {
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) {
          // Also after an expired token: each connection fetches one.
          throw new Error(textOf(STREAM_ENDED));
        }
        const events = (rest + value).split("\n\n");
        rest = events.pop() ?? "";
        events.forEach(onEvent);
      }
    })
    .catch((error: unknown) => {
      const data = dataOf(error);
      if (data.retryAfterMs) {
        // As before the end of a WebSocket.
        onFrame(JSON.stringify({ type: "error", data }));
      }
      // By the server's own word: a proxy, or the page of a hotel's network, may answer 403 for a while.
      onEnd(["unauthenticated", "permission_denied"].includes(data.code) ? 4500 : 1006, data.message);
    });
  return {
    send(frame) {
      const message = JSON.parse(frame) as ClientMessage;
      posted = posted
        .then(() => load(target, frame))
        .then((response) => response.text())
        .then((text) => {
          // It may be the page of a proxy, which means nothing but that the server did not answer.
          if ((JSON.parse(text) as ServerMessage).id !== message.id) {
            throw new TypeError(textOf(BAD_MESSAGE, text));
          }
          return text;
        })
        .catch((error: unknown) => JSON.stringify({ ...message, type: "error", data: dataOf(error) }))
        .then(onFrame);
    },
    close() {
      abort.abort();
    },
  };
};
