/** Fake event streams: a `fetch` whose server side the test plays. */
import type { Fetch } from "../environment.ts";
import type { ClientMessage, ServerMessage } from "../messages.ts";

/** One open event stream. */
export class FakeStream {
  readonly url: string;
  readonly headers: Headers;
  readonly response: Response;
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;

  constructor(url: string, headers: Headers) {
    this.url = url;
    this.headers = headers;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
      },
    });
    this.response = new Response(body);
  }

  /** Plays an event. */
  receive(message: ServerMessage): void {
    this.receiveRaw(JSON.stringify(message), message.type);
  }

  /** Plays an event with any data, in two chunks. */
  receiveRaw(data: string, type = "message"): void {
    const text = `event: ${type}\ndata: ${data}\n\n`;
    const bytes = new TextEncoder().encode(text);
    this.#controller?.enqueue(bytes.slice(0, 9));
    this.#controller?.enqueue(bytes.slice(9));
  }

  welcome(subscriptions: { channel: string; epoch: string; seq: number }[] = []): void {
    this.receive({ type: "welcome", data: { connectionId: "s1", heartbeatMs: 2_000, serverTime: 1, version: "0", subscriptions, postKey: "k" } });
  }

  /** Ends the stream. */
  end(): void {
    this.#controller?.close();
  }
}

/** A server of event streams. */
export class FakeStreams {
  readonly streams: FakeStream[] = [];
  /** The messages that clients posted. */
  readonly posts: { readonly url: string; readonly message: ClientMessage }[] = [];
  /** The status of the next stream, if it is refused. */
  refusal: Response | undefined;
  /** Streams that were refused. */
  refused = 0;
  /** The answer to a POST. */
  answer: (message: ClientMessage) => Promise<Response> = ({ id }) => Promise.resolve(Response.json({ type: "pong", id, data: { serverTime: 1, heartbeatMs: 2_000 } }));

  readonly fetch: Fetch = async (url, init = {}) => {
    if (init.method === "POST") {
      const message = JSON.parse(init.body as string) as ClientMessage;
      this.posts.push({ url, message });
      return this.answer(message);
    }
    if (!url.includes("/sse")) {
      return new Response("", { status: 426 });
    }
    if (this.refusal !== undefined) {
      this.refused += 1;
      return this.refusal;
    }
    const stream = new FakeStream(url, new Headers(init.headers));
    this.streams.push(stream);
    return Promise.resolve(stream.response);
  };

  /** The newest stream. */
  get stream(): FakeStream {
    const stream = this.streams.at(-1);
    if (stream === undefined) {
      throw new Error("no stream was opened");
    }
    return stream;
  }
}

/** Waits until `isTrue`, while the runtime's streams move. Time does not pass. */
export async function until(isTrue: () => boolean): Promise<void> {
  for (let round = 0; round < 200 && !isTrue(); round += 1) {
    await new Promise((resolve) => setTimeout(resolve));
  }
  if (!isTrue()) {
    throw new Error("it did not happen");
  }
}
