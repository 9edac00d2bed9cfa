/** A world for tests: time that stands still until told, sockets without a network. */
import type { Clock, Environment, Page, Timer, WebSocketLike } from "../environment.ts";
import type { ClientMessage, ServerMessage, Requests, RequestType } from "../messages.ts";

/** Time that moves when told. */
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

  /** How many timers are running. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Moves time on, running what is due in order and letting promises settle in between. */
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

/** Lets everything that waits on promises run. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 10; turn += 1) {
    await Promise.resolve();
  }
}

interface SocketListeners {
  open: (() => void)[];
  error: (() => void)[];
  message: ((event: { readonly data: unknown }) => void)[];
  close: ((event: { readonly code: number; readonly reason: string }) => void)[];
}

/** The server's end is in the test's hands. */
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

  /** The server sends a frame. */
  receive(message: ServerMessage): void {
    this.receiveRaw(JSON.stringify(message));
  }

  /** The server sends any frame. */
  receiveRaw(data: unknown): void {
    for (const listener of this.#listeners.message) {
      listener({ data });
    }
  }

  /** The connection ends. */
  end(code: number, reason = ""): void {
    for (const listener of this.#listeners.close) {
      listener({ code, reason });
    }
  }

  /** The messages of one type that the client sent. */
  sentOf<Type extends RequestType>(type: Type): { readonly id: string; readonly data: Requests[Type]["data"] }[] {
    return this.sent
      .filter((message) => message.type === type)
      .map(({ id, data }) => ({ id: id ?? "none", data: data as Requests[Type]["data"] }));
  }

  /** The last message of one type. */
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

  /** Answers the last ping. */
  pong(): void {
    this.receive({ type: "pong", id: this.last("ping").id, data: { serverTime: 1_800_000_000_500, heartbeatMs: 2_000 } });
  }
}

/** All of it. */
export class FakeWorld {
  readonly clock = new FakeClock();
  readonly sockets: FakeSocket[] = [];
  readonly environment: Environment;
  #visible = true;
  readonly #pageListeners = new Set<() => void>();

  constructor() {
    const { sockets } = this;
    const page: Page = {
      isVisible: () => this.#visible,
      onChange: (listener) => {
        this.#pageListeners.add(listener);
        return () => this.#pageListeners.delete(listener);
      },
    };
    class WorldSocket extends FakeSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        sockets.push(this);
      }
    }
    this.environment = { clock: this.clock, webSocket: WorldSocket, page, random: () => 0 };
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
    for (const listener of this.#pageListeners) {
      listener();
    }
  }
}
