/** Test harness: an application of React on a client whose server the test plays, in virtual time. */
import { type ClientMessage, type ServerMessage, WebSocketClient } from "@tidewire/client";
import { FakeEnvironment, type FakeSocket, settle } from "@tidewire/client/testing";
import { Profiler, type ReactNode, StrictMode } from "react";
import { flushSync } from "react-dom";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { vi } from "vitest";
import { WebSocketProvider, type WebSocketProviderProps } from "../index.ts";

/** Time of one animation frame in virtual milliseconds. */
export const FRAME = 16;

/** Fakes the timers and frames of the hooks. Call it in `beforeEach`. */
export function fakeTime(): void {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "requestAnimationFrame", "cancelAnimationFrame"] });
}

type Answer = (data: never) => Omit<ServerMessage, "id"> | undefined;

/** One application on one client. */
export class Application {
  readonly environment = new FakeEnvironment();
  readonly client: WebSocketClient;
  readonly container = document.createElement("div");
  /** Commits of React in this application. */
  commits = 0;
  /** Errors that React or the page reported. */
  readonly errors: unknown[] = [];
  /** How the server answers requests by their type. Without an entry it does not answer. */
  readonly answers: Partial<Record<string, Answer>> = {
    subscribe: ({ channels }: { channels: (string | { channel: string })[] }) => ({
      type: "subscribed",
      data: {
        channels: channels.map((each) => ({ channel: typeof each === "string" ? each : each.channel, epoch: "e", seq: 0, recovered: typeof each !== "string" })),
      },
    }),
    unsubscribe: (data: { channels: string[] }) => ({ type: "unsubscribed", data }),
  };
  #root: Root | undefined;
  #answered = new Map<FakeSocket, number>();

  constructor() {
    this.client = new WebSocketClient("ws://test/v1/ws", { environment: this.environment.environment });
    this.client.on("error", (error) => this.errors.push(error));
  }

  /** Renders below a provider with this client. */
  render(children: ReactNode, { strict = false, ...props }: { strict?: boolean } & Partial<WebSocketProviderProps> = {}): void {
    this.#root ??= createRoot(this.container);
    this.#show(this.#root, this.tree(children, { strict, ...props }));
  }

  /** Hydrates the HTML of a server. */
  hydrate(html: string, tree: ReactNode): void {
    this.container.innerHTML = html;
    this.#root = flushSync(() => hydrateRoot(this.container, tree, { onRecoverableError: (error) => this.errors.push(error) }));
  }

  /** What `render` renders. */
  tree(children: ReactNode, { strict = false, ...props }: { strict?: boolean } & Partial<WebSocketProviderProps> = {}): ReactNode {
    const all = { client: this.client, ...props } as WebSocketProviderProps;
    const tree = (
      <Profiler
        id="application"
        onRender={() => {
          this.commits += 1;
        }}
      >
        <WebSocketProvider {...all}>{children}</WebSocketProvider>
      </Profiler>
    );
    return strict ? <StrictMode>{tree}</StrictMode> : tree;
  }

  #show(root: Root, tree: ReactNode): void {
    flushSync(() => {
      root.render(tree);
    });
  }

  unmount(): void {
    flushSync(() => this.#root?.unmount());
    this.#root = undefined;
  }

  get text(): string {
    return this.container.textContent;
  }

  get socket(): FakeSocket {
    return this.environment.socket;
  }

  /** Messages that the client sent on all connections. */
  get sent(): ClientMessage[] {
    return this.environment.sockets.flatMap(({ sent }) => sent);
  }

  /** The channels that the client named in messages of one type, in order. */
  channels(type: "subscribe" | "unsubscribe"): string[] {
    return this.sent.flatMap((message) =>
      message.type === type ? ((message.data as { channels: (string | { channel: string })[] }).channels.map((each) => (typeof each === "string" ? each : each.channel))) : [],
    );
  }

  /** Opens the session, of a user if there is one. */
  async welcome(userId?: string): Promise<void> {
    await settle();
    const subscriptions = userId === undefined ? [] : [{ channel: `user:${userId}`, epoch: "e", seq: 0 }];
    const connectionId = `c${this.environment.sockets.length}`;
    this.push({
      type: "welcome",
      data: { connectionId, heartbeatMs: 1_000_000, serverTime: 1_800_000_000_000, version: "1", subscriptions, ...(userId !== undefined && { userId }) },
    });
    await this.idle();
  }

  /** Delivers a push of the server. */
  push(message: ServerMessage): void {
    this.socket.receive(message);
  }

  /** Answers requests until there are no more, and paints. */
  async idle(): Promise<void> {
    for (let round = 0; round < 5; round += 1) {
      await settle();
      this.answer();
      await settle();
      vi.advanceTimersByTime(FRAME);
    }
  }

  /** Answers the requests that came since. */
  answer(): void {
    for (const socket of this.environment.sockets) {
      const from = this.#answered.get(socket) ?? 0;
      this.#answered.set(socket, socket.sent.length);
      for (const { id, type, data } of socket.sent.slice(from)) {
        const reply = this.answers[type]?.(data as never);
        if (id !== undefined && reply !== undefined) {
          socket.receive({ ...reply, id } as ServerMessage);
        }
      }
    }
  }

  /** Lets virtual time pass, frame by frame. */
  async pass(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += FRAME) {
      vi.advanceTimersByTime(FRAME);
      await this.environment.clock.advance(FRAME);
      this.answer();
    }
    await settle();
  }
}

/** A price of the server. */
export function price(symbol: string, value: number, seq?: number): ServerMessage {
  return {
    type: "price",
    channel: `prices:${symbol}`,
    ...(seq !== undefined && { seq }),
    data: { symbol, price: value, change24h: 1, volume24h: 1, timestamp: 1, source: "aggregate", confidence: 0, sources: 1, stale: false, twap: value },
  };
}
