/** Test doubles of the environment: a manual clock, sockets without a network, a page to show and hide. */
import type { Clock, Environment, Fetch, Page, Timer, WebSocketLike } from "../environment.ts";
import type { ClientMessage, ServerMessage, Requests, RequestType } from "../messages.ts";

/** A clock that only `advance` moves. */
export class FakeClock implements Clock {
  #now = 0;
  readonly #timers = new Map<number, { readonly at: number; readonly run: () => void }>();
  #lastId = 0;

  now(): number {
    return this.#now;
  }

  wallTime(): number {
    return 1_800_000_000_000 + this.#now;
  }

  after(delayMs: number, run: () => void): Timer {
    this.#lastId += 1;
    const id = this.#lastId;
    this.#timers.set(id, { at: this.#now + delayMs, run });
    return {
      cancel: () => {
        this.#timers.delete(id);
      },
    };
  }

  /** The number of running timers. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Lets time pass without running a timer, as on a machine that sleeps. The next `advance` runs them late. */
  jump(ms: number): void {
    this.#now += ms;
  }

  /** Advances the time and runs due timers in order. Promises settle in between. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await settle();
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (due === undefined) {
        break;
      }
      const [id, timer] = due;
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, timer.at);
      timer.run();
    }
    this.#now = end;
    await settle();
  }
}

/** Runs everything that waits on promises. */
export async function settle(): Promise<void> {
  for (let round = 0; round < 20; round += 1) {
    await Promise.resolve();
  }
}

interface SocketListeners {
  open: (() => void)[];
  error: ((event: { readonly message?: string }) => void)[];
  message: ((event: { readonly data: unknown }) => void)[];
  close: ((event: { readonly code?: number; readonly reason?: string }) => void)[];
}

/** A socket whose server side the test plays. */
export class FakeSocket implements WebSocketLike {
  readonly url: string;
  readonly protocols: string[];
  readonly sent: ClientMessage[] = [];
  closedWith: number | "no code" | undefined;
  readonly #listeners: SocketListeners = { open: [], error: [], message: [], close: [] };

  constructor(url: string, protocols: string[]) {
    this.url = url;
    this.protocols = protocols;
  }

  send(data: string): void {
    this.sent.push(JSON.parse(data) as ClientMessage);
  }

  close(code?: number): void {
    this.closedWith = code ?? "no code";
  }

  addEventListener<Type extends keyof SocketListeners>(type: Type, listener: SocketListeners[Type][number]): void {
    (this.#listeners[type] as SocketListeners[Type][number][]).push(listener);
  }

  /** Plays a message from the server. */
  receive(message: ServerMessage): void {
    this.receiveRaw(JSON.stringify(message));
  }

  /** Plays any frame from the server. */
  receiveRaw(data: unknown): void {
    for (const listener of this.#listeners.message) {
      listener({ data });
    }
  }

  /** Closes the connection. Without a code, as React Native does for a lost one. */
  end(code?: number, reason = ""): void {
    for (const listener of this.#listeners.close) {
      listener(code === undefined ? {} : { code, reason });
    }
  }

  /** The handshake is done. */
  open(): void {
    for (const listener of this.#listeners.open) {
      listener();
    }
  }

  /** The messages of one type that the client sent. */
  sentOf<Type extends RequestType>(type: Type): { readonly id: string; readonly data: Requests[Type]["data"] }[] {
    return this.sent
      .filter((message) => message.type === type)
      .map(({ id, data }) => ({ id: id ?? "none", data: data as Requests[Type]["data"] }));
  }

  /** The last message of one type that the client sent. */
  last<Type extends RequestType>(type: Type): { readonly id: string; readonly data: Requests[Type]["data"] } {
    const found = this.sentOf(type).at(-1);
    if (found === undefined) {
      throw new Error(`the client sent no ${type}`);
    }
    return found;
  }

  welcome(subscriptions: { channel: string; epoch: string; seq: number }[] = []): void {
    this.receive({
      type: "welcome",
      data: { connectionId: "c1", heartbeatMs: 2_000, serverTime: 1_800_000_000_500, version: "0.1.0", subscriptions },
    });
  }

  /** Replies to the last ping. */
  pong(): void {
    this.receive({ type: "pong", id: this.last("ping").id, data: { serverTime: 1_800_000_000_500, heartbeatMs: 2_000 } });
  }
}

/** An environment of fakes, and the sockets that a client opened in it. */
export class FakeEnvironment {
  readonly clock = new FakeClock();
  readonly sockets: FakeSocket[] = [];
  readonly environment: Environment;
  /** What `random` returns: just below 1, so that each delay is its longest. */
  random = 1 - Number.EPSILON;
  /** What `fetch` does. There is no server behind it unless a test sets one. */
  fetch: Fetch = () => Promise.reject(new TypeError("fetch failed"));
  #visible = true;
  readonly #pageListeners = new Set<(event: string) => void>();

  constructor() {
    const { sockets } = this;
    const page: Page = {
      isVisible: () => this.#visible,
      onChange: (listener) => {
        this.#pageListeners.add(listener);
        return () => this.#pageListeners.delete(listener);
      },
    };
    class RecordedSocket extends FakeSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        sockets.push(this);
      }
    }
    this.environment = { clock: this.clock, webSocket: RecordedSocket, fetch: (url, init) => this.fetch(url, init), page, random: () => this.random };
  }

  /** The newest socket. */
  get socket(): FakeSocket {
    const socket = this.sockets.at(-1);
    if (socket === undefined) {
      throw new Error("no socket was opened");
    }
    return socket;
  }

  /** Shows or hides the page. */
  show(visible: boolean): void {
    this.#visible = visible;
    this.fire("visibilitychange");
  }

  /** Plays an event of the page, for example `online` or `pageshow`. */
  fire(event: string): void {
    for (const listener of [...this.#pageListeners]) {
      listener(event);
    }
  }
}
