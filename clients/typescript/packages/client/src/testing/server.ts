/**
 * Fake server: a server without a network for the tests of applications. It
 * answers as a real one does: subscriptions with recovery, publications with
 * idempotency keys, histories, pings. A test answers the rest with `answer`. Time moves by its clock alone.
 *
 * ```ts
 * const server = new FakeServer();
 * const client = new WebSocketClient("ws://test", { environment: server.environment });
 * client.connect();
 * await server.settle();
 * server.publish("demo:a", { n: 1 });
 * ```
 */
import type { Environment } from "../environment.ts";
import { reasonOf, type TidewireError } from "../errors.ts";
import type { ClientMessage, ReplyOf, Requests, RequestType, ServerMessage } from "../messages.ts";
import type { ErrorData, Json } from "../types/common.ts";
import type { ChannelClass, ChannelSubscription, HistoryItem } from "../types/session.ts";
import { FakeEnvironment, FakeSocket, settle } from "./fakes.ts";

interface FakeChannel {
  epoch: string;
  seq: number;
  class: ChannelClass;
  readonly history: HistoryItem[];
}

interface FakeConnection {
  readonly socket: FakeSocket;
  readonly channels: Set<string>;
}

/** An answer to a request, whose data it gets. */
type Answer<Type extends RequestType> = (data: Requests[Type]["data"]) => ReplyOf<Type> | Promise<ReplyOf<Type>>;

/** The type of the reply to each request. */
const REPLIES: { readonly [Type in RequestType]: Requests[Type]["reply"] } = {
  auth: "authenticated",
  subscribe: "subscribed",
  unsubscribe: "unsubscribed",
  history: "history",
  publish: "published",
  watch: "watching",
  unwatch: "unwatched",
  get_price: "price",
  get_candles: "candles",
  get_block: "block",
  notifications: "notifications",
  mark_read: "read",
  dismiss: "dismissed",
  mark_all_read: "read",
  unread_count: "unread_count",
  preferences: "preferences",
  alert_register: "alert_registered",
  alert_update: "alert_updated",
  alerts: "alerts",
  alert_delete: "alert_deleted",
  alert_explain: "alert_explained",
  alert_log: "alert_log",
  visibility: "visibility",
  ping: "pong",
};

/** Bytes of the longest name of a channel. */
const MAX_NAME = 255;
/** Publications that a channel's history keeps. */
const HISTORY_ITEMS = 1_000;

/** A server in memory. */
export class FakeServer {
  readonly #fake = new FakeEnvironment();
  readonly #channels = new Map<string, FakeChannel>();
  readonly #connections = new Set<FakeConnection>();
  readonly #keys = new Map<string, number>();
  readonly #refusals = new Map<string, ErrorData>();
  readonly #answers = new Map<RequestType, Answer<RequestType>>();
  /** The user of the next connections: each is subscribed to the channel `user:{user}`. */
  user: string | undefined;
  /** Whether new connections are answered. Otherwise they hang until they are given up. */
  isReachable = true;
  /** Every message of the clients, over all connections, in order. */
  readonly received: ClientMessage[] = [];
  /** The environment for the clients' options. */
  readonly environment: Environment;

  constructor() {
    const fake = this.#fake;
    const accept = (socket: ServedSocket): void => {
      this.#accept(socket);
    };
    const receive = (socket: ServedSocket, message: ClientMessage): void => {
      this.#receive(socket, message);
    };
    /** Connects to this server in the next microtasks. */
    class ServedSocket extends FakeSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        fake.sockets.push(this);
        queueMicrotask(() => {
          accept(this);
        });
      }

      override send(data: string): void {
        super.send(data);
        const message = JSON.parse(data) as ClientMessage;
        queueMicrotask(() => {
          receive(this, message);
        });
      }
    }
    this.environment = { ...fake.environment, webSocket: ServedSocket };
  }

  /** The page, the clock and the sockets of the clients. */
  get fake(): FakeEnvironment {
    return this.#fake;
  }

  /** The number of open connections. */
  get connections(): number {
    return [...this.#connections].filter(({ socket }) => socket.closedWith === undefined).length;
  }

  /** The channels that at least one open connection is subscribed to. */
  get subscribed(): string[] {
    return [...new Set(this.#open().flatMap(({ channels }) => [...channels]))].sort();
  }

  /** Runs everything that waits on promises. */
  async settle(): Promise<void> {
    await settle();
  }

  /** Moves the time, and runs due timers. */
  async advance(ms: number): Promise<void> {
    await this.#fake.clock.advance(ms);
  }

  /** Publishes to a channel, as another client would. Returns its seq. */
  publish(channel: string, data: Json, type = "message"): number {
    const state = this.#channel(channel);
    state.seq += 1;
    const item: HistoryItem = { type, seq: state.seq, data, timestamp: this.#fake.clock.wallTime() };
    state.history.push(item);
    state.history.splice(0, state.history.length - HISTORY_ITEMS);
    this.#push(channel, item);
    return state.seq;
  }

  /** Makes a channel `latest`: only its newest value counts. Prices and the market are so by themselves. */
  setLatest(channel: string): void {
    this.#channel(channel).class = "latest";
  }

  /** Refuses subscriptions of and publications to a channel. */
  refuse(channel: string, error: ErrorData): void {
    this.#refusals.set(channel, error);
  }

  /** Takes a refusal of a channel back. */
  allow(channel: string): void {
    this.#refusals.delete(channel);
  }

  /**
   * Answers the requests of a type from now on, in place of what the server itself does with them.
   * To refuse one, throw a `TidewireError`.
   *
   * ```ts
   * server.answer("get_candles", ({ symbol, interval }) => ({ symbol, interval, items: [] }));
   * ```
   */
  answer<Type extends RequestType>(type: Type, answer: Answer<Type>): void {
    this.#answers.set(type, answer as unknown as Answer<RequestType>);
  }

  /** Sends a message to every connection. */
  send(message: ServerMessage): void {
    for (const { socket } of this.#open()) {
      socket.receive(message);
    }
  }

  /** Starts a new epoch of a channel, as after a lost history, and sends `gap`. */
  loseHistory(channel: string): void {
    const state = this.#channel(channel);
    state.epoch += "+";
    state.seq = 0;
    state.history.length = 0;
    for (const { socket, channels } of this.#open()) {
      if (channels.has(channel)) {
        socket.receive({ type: "gap", channel, data: { channel, epoch: state.epoch, seq: 0 } });
      }
    }
  }

  /** Ends every connection. */
  cut(code = 1006, reason = ""): void {
    for (const connection of this.#open()) {
      this.#connections.delete(connection);
      connection.socket.end(code, reason);
    }
  }

  /** Loses every connection without a close: nothing arrives any more, in both directions. */
  blackHole(): void {
    this.#connections.clear();
  }

  #open(): FakeConnection[] {
    return [...this.#connections].filter(({ socket }) => socket.closedWith === undefined);
  }

  #channel(name: string): FakeChannel {
    const existing = this.#channels.get(name);
    if (existing !== undefined) {
      return existing;
    }
    const isLatest = name.startsWith("prices:") || name.startsWith("market:");
    const created: FakeChannel = { epoch: "e", seq: 0, class: isLatest ? "latest" : "history", history: [] };
    this.#channels.set(name, created);
    return created;
  }

  #push(channel: string, item: HistoryItem, only?: FakeConnection): void {
    const message = { ...item, channel } as unknown as ServerMessage;
    for (const connection of only === undefined ? this.#open() : [only]) {
      if (connection.channels.has(channel)) {
        connection.socket.receive(message);
      }
    }
  }

  #accept(socket: FakeSocket): void {
    if (!this.isReachable || socket.closedWith !== undefined) {
      return;
    }
    const own = this.user === undefined ? [] : [`user:${this.user}`];
    this.#connections.add({ socket, channels: new Set(own) });
    socket.open();
    const subscriptions = own.map((channel) => ({ channel, epoch: this.#channel(channel).epoch, seq: this.#channel(channel).seq }));
    const serverTime = this.#fake.clock.wallTime();
    const connectionId = `c${this.#fake.sockets.length}`;
    const user = this.user === undefined ? {} : { userId: this.user };
    socket.receive({ type: "welcome", data: { connectionId, ...user, heartbeatMs: 2_000, serverTime, version: "0.0.0", subscriptions } });
  }

  #receive(socket: FakeSocket, message: ClientMessage): void {
    const connection = this.#open().find((other) => other.socket === socket);
    if (connection === undefined) {
      return;
    }
    this.received.push(message);
    const id = message.id === undefined ? {} : { id: message.id };
    const reply = (answer: Omit<ServerMessage, "id">): void => {
      socket.receive({ ...answer, ...id } as ServerMessage);
    };
    const answer = this.#answers.get(message.type);
    if (answer !== undefined) {
      const { type, data = {} } = message;
      void Promise.resolve(data)
        .then(answer)
        .then(
          (data) => {
            reply({ type: REPLIES[type], data });
          },
          (error: unknown) => {
            const { code = "internal", retryAfterMs } = error as Partial<TidewireError>;
            reply({ type: "error", data: { code, message: reasonOf(error), ...(retryAfterMs !== undefined && { retryAfterMs }) } });
          },
        );
      return;
    }
    switch (message.type) {
      case "subscribe":
        this.#subscribe(connection, message.data?.channels ?? [], reply);
        return;
      case "unsubscribe":
        for (const channel of message.data?.channels ?? []) {
          connection.channels.delete(channel);
        }
        reply({ type: "unsubscribed", data: { channels: message.data?.channels ?? [] } });
        return;
      case "publish": {
        const { channel = "", data = null, idempotencyKey } = message.data ?? {};
        const refusal = this.#refusals.get(channel);
        if (refusal !== undefined) {
          reply({ type: "error", data: refusal });
          return;
        }
        // As at the server, a key is one of its channel.
        const key = JSON.stringify([channel, idempotencyKey]);
        const seq = (idempotencyKey === undefined ? undefined : this.#keys.get(key)) ?? this.publish(channel, data);
        if (idempotencyKey !== undefined) {
          this.#keys.set(key, seq);
        }
        reply({ type: "published", data: { channel, epoch: this.#channel(channel).epoch, seq } });
        return;
      }
      case "history": {
        const { channel = "", since, limit = 100 } = message.data ?? {};
        const { epoch, seq, history } = this.#channel(channel);
        const first = history[0]?.seq ?? seq + 1;
        if (since !== undefined && since.seq + 1 < first) {
          reply({ type: "error", data: { code: "failed_precondition", message: `the history begins at ${first}` } });
          return;
        }
        const found = history.filter((item) => since === undefined || item.seq > since.seq);
        const messages = since === undefined ? found.slice(found.length - Math.min(limit, found.length)) : found.slice(0, limit);
        reply({ type: "history", data: { channel, epoch, seq, messages } });
        return;
      }
      case "ping": {
        const { t } = message.data ?? {};
        reply({ type: "pong", data: { ...(t !== undefined && { t }), serverTime: this.#fake.clock.wallTime(), heartbeatMs: 2_000 } });
        return;
      }
      case "visibility": {
        const state = message.data?.state ?? "active";
        reply({ type: "visibility", data: { state, heartbeatMs: state === "active" ? 2_000 : 30_000 } });
        return;
      }
      case "auth":
        reply({ type: "authenticated", data: { userId: this.user ?? "", expiresAt: 0, subscriptions: [] } });
        return;
      default:
        reply({ type: "error", data: { code: "unimplemented", message: `the fake server has no ${message.type}: give it one by \`server.answer("${message.type}", (data) => …)\`` } });
    }
  }

  #subscribe(connection: FakeConnection, channels: readonly (string | ChannelSubscription)[], reply: (answer: Omit<ServerMessage, "id">) => void): void {
    const requests = channels.map((entry) => (typeof entry === "string" ? { channel: entry } : entry));
    if (requests.some(({ channel }) => typeof channel !== "string")) {
      reply({ type: "error", data: { code: "invalid_argument", message: "expected channels by name" } });
      return;
    }
    const replays: [string, HistoryItem[]][] = [];
    const results = requests.map(({ channel, since }: ChannelSubscription) => {
      const { epoch, seq, class: kind, history } = this.#channel(channel);
      const error = channel.length > MAX_NAME ? { code: "invalid_argument" as const, message: `channel name is ${channel.length} bytes long, expected at most ${MAX_NAME}` } : this.#refusals.get(channel);
      if (error !== undefined) {
        return { channel, epoch: "", seq: 0, recovered: false, error };
      }
      connection.channels.add(channel);
      const recovered = kind === "history" && since?.epoch === epoch && (history[0]?.seq ?? seq + 1) <= since.seq + 1;
      replays.push([channel, kind === "latest" ? history.slice(-1) : recovered ? history.filter((item) => item.seq > since.seq) : []]);
      return { channel, epoch, seq, recovered, class: kind, batched: false };
    });
    reply({ type: "subscribed", data: { channels: results } });
    for (const [channel, items] of replays) {
      for (const item of items) {
        this.#push(channel, item, connection);
      }
    }
  }
}
