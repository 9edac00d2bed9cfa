/**
 * Client: one session with a server that survives the loss of its connection.
 * Its parts: the WebSocket in `connection.ts`, channels in `subscriptions.ts`,
 * replies in `requests.ts`, reconnect delays in `backoff.ts`.
 */
import { retryDelay, shouldReconnect } from "./backoff.ts";
import { Connection, type ConnectionEnd } from "./connection.ts";
import type { ClientEvents, ClientOptions, ClientState, PublishOptions, Quality } from "./api.ts";
import { type Environment, environmentWith, type Timer } from "./environment.ts";
import { TidewireError } from "./errors.ts";
import { callSafely } from "./listeners.ts";
import type { ClientMessage, ReplyOf, RequestType, Requests, ServerMessage } from "./messages.ts";
import { PendingRequests } from "./requests.ts";
import { type ChannelHandler, type SubscribeOptions, type Subscriber, type Subscription, Subscriptions } from "./subscriptions.ts";
import type { Json } from "./types/common.ts";
import type { ActiveSubscription, Welcome } from "./types/session.ts";

const REQUEST_TIMEOUT_MS = 10_000;
const RTT_INTERVAL_MS = 5_000;
/** A connection that lived this long resets the reconnect delay. */
const STEADY_MS = 5_000;
/** Channels in one `subscribe`, so that its frame stays far below the server's limit. */
const CHANNELS_PER_FRAME = 100;

type Listeners = { [Name in keyof ClientEvents]: Set<(event: ClientEvents[Name]) => void> };

/**
 * A session with a Tidewire server.
 *
 * ```ts
 * const client = new WebSocketClient("ws://127.0.0.1:8080/v1/ws");
 * const unsubscribe = client.subscribe("prices:BTC-USD", (message) => {
 *   if (message.type === "price") console.log(message.data.price);
 * });
 * client.connect();
 * ```
 */
export class WebSocketClient {
  readonly #url: string;
  #options: ClientOptions;
  readonly #environment: Environment;
  readonly #subscriptions = new Subscriptions();
  readonly #requests: PendingRequests;
  readonly #listeners: Listeners = {
    state: new Set(),
    quality: new Set(),
    status: new Set(),
    error: new Set(),
    message: new Set(),
  };
  /** Channels to subscribe to at the end of this microtask, in one frame. */
  readonly #unsentSubscribes = new Set<Subscription>();
  #state: ClientState = { status: "disconnected" };
  #connection: Connection | undefined;
  /** Counts connections, so that a token that comes late opens none. */
  #generation = 0;
  #attempt = 0;
  #liveSince = 0;
  #retryTimer: Timer | undefined;
  #rttTimer: Timer | undefined;
  #drainTimer: Timer | undefined;
  #removePageListener: (() => void) | undefined;
  #visible = true;
  /** The server's `reconnect`: the earliest time of the next connection, by the clock. */
  #notBefore = 0;
  #rttMs: number | undefined;
  #clockOffsetMs = 0;

  /** `url` is for example `ws://127.0.0.1:8080/v1/ws`. Throws a `TypeError` for a URL that can not work. */
  constructor(url: string | URL, options: ClientOptions = {}) {
    this.#url = String(url);
    this.#options = options;
    this.#environment = environmentWith({ ...options.environment, ...(options.webSocket && { webSocket: options.webSocket }) });
    this.#requests = new PendingRequests(this.#environment.clock);
  }

  /** The state of the session now. */
  get state(): ClientState {
    return this.#state;
  }

  /** The quality of the link now. */
  getQuality(): Quality {
    const grade = this.#state.status === "connected" ? "good" : "offline";
    return { rttMs: this.#rttMs, jitterMs: 0, loss: 0, grade };
  }

  /** The server's time minus this machine's time, in milliseconds. */
  get clockOffsetMs(): number {
    return this.#clockOffsetMs;
  }

  /** Connects now, also while waiting to reconnect or closed. Does nothing while connecting or live. */
  connect(): void {
    if (this.#state.status === "connecting" || this.#state.status === "connected") {
      return;
    }
    if (this.#removePageListener === undefined) {
      this.#visible = this.#environment.page.isVisible();
      this.#removePageListener = this.#environment.page.onChange(() => {
        this.#onPageChange();
      });
    }
    if (this.#state.status === "closed") {
      this.#attempt = 0;
    }
    void this.#open();
  }

  /** Resolves when connected. Rejects if the state is, or becomes, `closed` or `disconnected`. */
  ready(): Promise<Welcome> {
    return new Promise((resolve, reject) => {
      let remove: (() => void) | undefined;
      const check = (state: ClientState): boolean => {
        if (state.status === "connected") {
          resolve(state.welcome);
        } else if (state.status === "closed") {
          reject(new TidewireError({ code: "unavailable", message: state.end.reason }));
        } else if (state.status === "disconnected") {
          reject(new TidewireError({ code: "unavailable", message: "disconnected: call connect() first" }));
        } else {
          return false;
        }
        remove?.();
        return true;
      };
      if (!check(this.#state)) {
        remove = this.on("state", check);
      }
    });
  }

  /** Replaces options without a new connection: the queue and pending requests stay. */
  setOptions(options: Partial<ClientOptions>): void {
    this.#options = { ...this.#options, ...options };
  }

  /** Finds out at once whether the link works, and opens another if it does not. Resolves when connected. */
  recoverState(): Promise<Welcome> {
    this.#connection?.probe();
    return this.ready();
  }

  /** Ends the session until the next `connect`, which restores the subscriptions. No event of the page undoes it. */
  disconnect(): void {
    this.#removePageListener?.();
    this.#removePageListener = undefined;
    this.#dropConnection();
    if (this.#state.status !== "disconnected") {
      this.#setState({ status: "disconnected" });
    }
  }

  /** Adds a listener. Returns a function that removes it. */
  on<Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void): () => void {
    this.#listeners[name].add(listener);
    return () => {
      this.#listeners[name].delete(listener);
    };
  }

  /** Removes a listener. */
  off<Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void): void {
    this.#listeners[name].delete(listener);
  }

  /**
   * Subscribes to a channel, across connections and in any state. Returns a
   * function that removes the handler. The options of a channel's first handler
   * apply until its last handler is removed.
   */
  subscribe(channel: string, handler: ChannelHandler, options: SubscribeOptions = {}): () => void {
    const subscriber = { handler, onError: options.onError };
    const { subscription, isNew } = this.#subscriptions.add(channel, subscriber, options);
    if (isNew && this.#state.status === "connected") {
      this.#subscribeSoon(subscription);
    }
    return () => {
      this.#remove(subscription, subscriber);
    };
  }

  #remove(subscription: Subscription, subscriber: Subscriber): void {
      if (!this.#subscriptions.remove(subscription, subscriber)) {
        return;
      }
      const wasSent = !this.#unsentSubscribes.delete(subscription);
      if (wasSent && this.#state.status === "connected" && !this.#subscriptions.isShared(subscription)) {
        this.#start("unsubscribe", { channels: [subscription.canonical] });
      }
  }

  /** Removes a handler of a channel, or all of them. */
  unsubscribe(channel: string, handler?: ChannelHandler): void {
    for (const subscription of this.#subscriptions.all()) {
      for (const subscriber of [...subscription.subscribers]) {
        if (subscription.name === channel && (handler === undefined || subscriber.handler === handler)) {
          this.#remove(subscription, subscriber);
        }
      }
    }
  }

  /**
   * Publishes a JSON document. Resolves to its position in the channel. Without
   * a connection it waits in the queue, which survives a reload.
   */
  publish(channel: string, data: Json, options: PublishOptions = {}): Promise<ActiveSubscription> {
    const { idempotencyKey } = options;
    return this.request("publish", { channel, data, ...(idempotencyKey !== undefined && { idempotencyKey }) });
  }

  /** Sends a message without waiting for a reply. Returns whether it was sent. */
  send(message: ClientMessage): boolean {
    return this.#connection?.send(JSON.stringify(message)) ?? false;
  }

  /**
   * Sends a request and resolves to the data of its reply. Rejects with a
   * `TidewireError`: the server's own, `unavailable` when the connection is
   * missing or lost before the reply, or `deadline_exceeded` after the time limit.
   */
  request<Type extends RequestType>(type: Type, data: Requests[Type]["data"]): Promise<ReplyOf<Type>> {
    return new Promise((resolve, reject) => {
      this.#start(type, data, resolve, reject);
    });
  }

  // ------------------------------------------------------------ connection

  async #open(): Promise<void> {
    this.#dropConnection();
    this.#notBefore = 0;
    const generation = this.#generation;
    this.#setState({ status: "connecting", attempt: this.#attempt });
    const protocols = ["tidewire.v1.json"];
    try {
      const token = await this.#token();
      if (generation !== this.#generation) {
        return;
      }
      if (token !== undefined) {
        protocols.push(`tidewire.bearer.${token}`);
      }
      this.#connection = new Connection(this.#environment, this.#url, protocols, {
        onMessage: (message) => {
          this.#onMessage(message);
        },
        onInvalidFrame: (reason) => {
          this.#emit("error", { code: "invalid_argument", message: reason });
        },
        onSilence: () => {
          this.#ping();
        },
        onEnd: (end) => {
          this.#onEnd(end);
        },
      });
    } catch (error) {
      if (generation === this.#generation) {
        this.#onEnd({ code: 1006, reason: error instanceof Error ? error.message : String(error) });
      }
    }
  }

  async #token(): Promise<string | undefined> {
    const { token, getToken } = this.#options;
    return getToken ? await getToken() : token;
  }

  /** Drops the connection, its timers and its requests. */
  #dropConnection(): void {
    this.#generation += 1;
    this.#retryTimer?.cancel();
    this.#rttTimer?.cancel();
    this.#drainTimer?.cancel();
    this.#connection?.close();
    this.#connection = undefined;
    this.#rttMs = undefined;
    this.#unsentSubscribes.clear();
    this.#subscriptions.onDisconnect();
    this.#requests.failAll();
  }

  #onEnd(end: ConnectionEnd): void {
    const { clock, random } = this.#environment;
    if (this.#state.status === "connected" && clock.now() - this.#liveSince >= STEADY_MS) {
      this.#attempt = 0;
    }
    this.#dropConnection();
    if (!shouldReconnect(end.code)) {
      this.#removePageListener?.();
      this.#removePageListener = undefined;
      this.#setState({ status: "closed", end });
      return;
    }
    const requested = this.#notBefore - clock.now();
    const delay = requested > 0 ? requested : retryDelay(this.#attempt, end.code, random);
    this.#attempt += 1;
    this.#retryTimer = clock.after(delay, () => {
      void this.#open();
    });
    this.#setState({ status: "reconnecting", retryAt: clock.wallTime() + delay, attempt: this.#attempt, end });
  }

  /** The server drains. The client keeps this connection until the requested time, then opens another. */
  #onReconnect(afterMs: number): void {
    const { clock } = this.#environment;
    this.#notBefore = clock.now() + afterMs;
    this.#drainTimer?.cancel();
    this.#drainTimer = clock.after(afterMs, () => {
      this.#attempt = 0;
      void this.#open();
    });
  }

  // -------------------------------------------------------------- messages

  #onMessage(message: ServerMessage): void {
    this.#emit("message", message);
    this.#applyToSession(message);
    const isReply = this.#requests.settle(message);
    if (isReply) {
      return;
    }
    if (message.type === "error") {
      this.#emit("error", message.data);
      return;
    }
    this.#subscriptions.dispatch(message);
  }

  /** Updates the session from a message, reply or not. */
  #applyToSession(message: ServerMessage): void {
    switch (message.type) {
      case "welcome":
        this.#onWelcome(message.data);
        return;
      case "authenticated":
        this.#subscriptions.applyServerSide(message.data.subscriptions);
        return;
      case "pong":
      case "visibility":
        this.#onHeartbeat(message.data.heartbeatMs);
        return;
      case "reconnect":
        this.#onReconnect(message.data.afterMs);
        return;
      case "token_expiring":
        void this.#renewToken();
        return;
      case "status":
        this.#emit("status", message.data);
        return;
      default:
        return;
    }
  }

  #onWelcome(welcome: Welcome): void {
    const { clock } = this.#environment;
    this.#liveSince = clock.now();
    this.#clockOffsetMs = welcome.serverTime - clock.wallTime();
    this.#subscriptions.applyServerSide(welcome.subscriptions);
    this.#state = { status: "connected", welcome, heartbeatMs: welcome.heartbeatMs, transport: "websocket" };
    if (!this.#visible) {
      this.#start("visibility", { state: "background" });
    }
    for (const subscription of this.#subscriptions.all()) {
      this.#unsentSubscribes.add(subscription);
    }
    // Before the event: a listener that publishes at once then receives its own publication.
    this.#sendSubscribes();
    this.#emit("state", this.#state);
    this.#measureRtt();
  }

  #onHeartbeat(heartbeatMs: number): void {
    if (this.#connection !== undefined) {
      this.#connection.heartbeatMs = heartbeatMs;
    }
    if (this.#state.status === "connected" && this.#state.heartbeatMs !== heartbeatMs) {
      this.#setState({ ...this.#state, heartbeatMs });
    }
  }

  async #renewToken(): Promise<void> {
    if (this.#options.getToken === undefined) {
      return;
    }
    try {
      const token = await this.#token();
      await this.request("auth", { token: token ?? "" });
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#emit("error", { code: "unauthenticated", message: `the token could not be renewed: ${message}` });
    }
  }

  // --------------------------------------------------------- subscriptions

  #subscribeSoon(subscription: Subscription): void {
    if (this.#unsentSubscribes.size === 0) {
      queueMicrotask(() => {
        this.#sendSubscribes();
      });
    }
    this.#unsentSubscribes.add(subscription);
  }

  #sendSubscribes(): void {
    const all = [...this.#unsentSubscribes];
    this.#unsentSubscribes.clear();
    for (let start = 0; start < all.length; start += CHANNELS_PER_FRAME) {
      this.#sendSubscribe(all.slice(start, start + CHANNELS_PER_FRAME));
    }
  }

  #sendSubscribe(subscriptions: readonly Subscription[]): void {
    const generation = this.#generation;
    const channels = subscriptions.map((subscription) => this.#subscriptions.startSubscribe(subscription));
    const onReply = (reply: ReplyOf<"subscribe">): void => {
      // The results come in the order of the request.
      for (const [index, result] of reply.channels.entries()) {
        const subscription = subscriptions[index];
        if (subscription !== undefined && this.#subscriptions.has(subscription)) {
          this.#subscriptions.finishSubscribe(subscription, result);
        }
      }
    };
    const onFailure = (error: TidewireError): void => {
      // The next connection subscribes to everything again.
      if (generation !== this.#generation || this.#state.status !== "connected") {
        return;
      }
      for (const subscription of subscriptions) {
        this.#subscriptions.refuse(subscription, error);
      }
    };
    this.#start("subscribe", { channels }, onReply, onFailure);
  }

  // ------------------------------------------------------------- heartbeat

  /** Sends a ping and measures the round trip by its reply. */
  #ping(): void {
    const { clock } = this.#environment;
    const sent = clock.now();
    this.#start("ping", { t: sent }, (pong) => {
      const rttMs = clock.now() - sent;
      this.#rttMs = rttMs;
      this.#clockOffsetMs = pong.serverTime + rttMs / 2 - clock.wallTime();
      this.#emit("quality", this.getQuality());
    });
  }

  /** Measures the round trip now and every few seconds, while the page is visible. */
  #measureRtt(): void {
    this.#rttTimer?.cancel();
    if (!this.#visible || this.#state.status !== "connected") {
      return;
    }
    this.#ping();
    this.#rttTimer = this.#environment.clock.after(RTT_INTERVAL_MS, () => {
      this.#measureRtt();
    });
  }

  #onPageChange(): void {
    const visible = this.#environment.page.isVisible();
    const changed = visible !== this.#visible;
    this.#visible = visible;
    if (this.#state.status === "connected") {
      if (changed) {
        this.#start("visibility", { state: visible ? "active" : "background" });
      }
      if (visible) {
        // The machine may have slept: find out at once whether the connection is dead.
        this.#connection?.probe();
      }
      this.#measureRtt();
      return;
    }
    if (visible && this.#state.status === "reconnecting" && this.#notBefore <= this.#environment.clock.now()) {
      void this.#open();
    }
  }

  // --------------------------------------------------------------- helpers

  #start<Type extends RequestType>(
    type: Type,
    data: Requests[Type]["data"],
    onReply?: (reply: ReplyOf<Type>) => void,
    onFailure?: (error: TidewireError) => void,
  ): void {
    this.#requests.start(
      this.#options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS,
      (id) => this.#connection?.send(JSON.stringify({ type, id, data })) ?? false,
      (outcome) => {
        if (outcome.kind === "failure") {
          onFailure?.(outcome.error);
          return;
        }
        // The protocol fixes the reply type of each request, and the parser checked the data by its type.
        onReply?.(outcome.data as ReplyOf<Type>);
      },
    );
  }

  #setState(state: ClientState): void {
    this.#state = state;
    this.#emit("state", state);
  }

  #emit<Name extends keyof ClientEvents>(name: Name, event: ClientEvents[Name]): void {
    for (const listener of [...this.#listeners[name]]) {
      callSafely(listener, event);
    }
  }
}
