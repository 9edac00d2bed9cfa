/**
 * The client: one conversation with a server that survives the loss of its
 * connection. The parts are elsewhere: one connection's life in `link.ts`, the
 * channels in `subscriptions.ts`, replies in `requests.ts`, waits in `backoff.ts`.
 */
import { judgeClose, retryDelay } from "./backoff.ts";
import { callSafely } from "./call.ts";
import { type Environment, environmentWith, type Timer } from "./environment.ts";
import type { TidewireError } from "./errors.ts";
import { Link, type LinkEnd } from "./link.ts";
import type { ReplyOf, RequestType, Requests, ServerMessage } from "./messages.ts";
import { PendingRequests } from "./requests.ts";
import { type ChannelHandler, type SubscribeOptions, type Subscription, Subscriptions } from "./subscriptions.ts";
import type { ErrorData, Json } from "./types/common.ts";
import type { ActiveSubscription, ServerStatus, Welcome } from "./types/session.ts";

const REQUEST_TIMEOUT_MS = 10_000;
const RTT_INTERVAL_MS = 5_000;
/** A connection that lived this long starts the backoff anew. */
const STEADY_MS = 5_000;
/** Channels in one `subscribe`, so that its frame stays far below any server's limit. */
const CHANNELS_PER_FRAME = 100;

/** How the conversation stands. */
export type ClientState =
  | { readonly status: "idle" }
  | { readonly status: "connecting"; readonly attempt: number }
  | { readonly status: "live"; readonly welcome: Welcome; readonly heartbeatMs: number }
  /** Lost: the next try is at `retryAt` (milliseconds since the Unix epoch). */
  | { readonly status: "offline"; readonly retryAt: number; readonly attempt: number; readonly end: LinkEnd }
  /** Ended, by the application or by a code that says stay away. Only `connect` leaves this state. */
  | { readonly status: "closed"; readonly end: LinkEnd };

/** A token, or how to get a fresh one: asked before each connection and when the server says that it expires. */
export type TokenSource = string | (() => string | Promise<string>);

/** How to reach a server. */
export interface ClientOptions {
  /** For example `ws://127.0.0.1:8080/v1/ws`. */
  readonly url: string;
  readonly token?: TokenSource;
  /** How long a request waits for its reply, in milliseconds; 10,000 if not given. */
  readonly requestTimeoutMs?: number;
  /** Parts of the world to replace, in tests or where no global `WebSocket` exists. */
  readonly environment?: Partial<Environment>;
}

/** What can be listened to. */
export interface ClientEvents {
  state: ClientState;
  /** The round trip, in milliseconds, measured every few seconds while the page is visible. */
  rtt: number;
  /** How the server feels. */
  status: ServerStatus;
  /** An error that answers no request, or a frame that could not be understood. */
  error: ErrorData;
  /** Every message, replies included, before anyone else sees it. */
  message: ServerMessage;
}

type Listeners = { [Name in keyof ClientEvents]: Set<(event: ClientEvents[Name]) => void> };

/**
 * A conversation with a Tidewire server.
 *
 * ```ts
 * const client = new TidewireClient({ url: "ws://127.0.0.1:8080/v1/ws" });
 * const stop = client.subscribe("prices:BTC-USD", (message) => {
 *   if (message.type === "price") console.log(message.data.price);
 * });
 * client.connect();
 * ```
 */
export class TidewireClient {
  readonly #options: ClientOptions;
  readonly #environment: Environment;
  readonly #subscriptions = new Subscriptions();
  readonly #requests: PendingRequests;
  readonly #listeners: Listeners = {
    state: new Set(),
    rtt: new Set(),
    status: new Set(),
    error: new Set(),
    message: new Set(),
  };
  /** Channels to ask for at the end of this turn, in one frame. */
  readonly #toAsk = new Set<Subscription>();
  #state: ClientState = { status: "idle" };
  #link: Link | undefined;
  /** Counts the starts and stops, so that a token that comes late opens nothing. */
  #generation = 0;
  #attempt = 0;
  #liveSince = 0;
  #retryTimer: Timer | undefined;
  #rttTimer: Timer | undefined;
  #drainTimer: Timer | undefined;
  #stopPage: (() => void) | undefined;
  #visible = true;
  /** The server's `reconnect`: not before this time of the clock. */
  #notBefore = 0;
  #rttMs: number | undefined;
  #clockOffsetMs = 0;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#environment = environmentWith(options.environment);
    this.#requests = new PendingRequests(this.#environment.clock);
  }

  /** How the conversation stands now. */
  get state(): ClientState {
    return this.#state;
  }

  /** The last round trip in milliseconds, if one was measured on this connection. */
  get rttMs(): number | undefined {
    return this.#rttMs;
  }

  /** Add this to this machine's time to get the server's, in milliseconds. */
  get clockOffsetMs(): number {
    return this.#clockOffsetMs;
  }

  /** Starts, or comes back at once when waiting or closed. Does nothing while connecting or live. */
  connect(): void {
    if (this.#state.status === "connecting" || this.#state.status === "live") {
      return;
    }
    if (this.#stopPage === undefined) {
      this.#visible = this.#environment.page.isVisible();
      this.#stopPage = this.#environment.page.onChange(() => {
        this.#onPageChange();
      });
    }
    if (this.#state.status === "closed") {
      this.#attempt = 0;
    }
    void this.#open();
  }

  /** Ends the conversation. Subscriptions are kept for a later `connect`. */
  close(): void {
    this.#stopPage?.();
    this.#stopPage = undefined;
    this.#dropLink();
    if (this.#state.status !== "idle" && this.#state.status !== "closed") {
      this.#setState({ status: "closed", end: { code: 1000, reason: "closed by the application" } });
    }
  }

  /** Listens to what happens; returns how to stop. */
  on<Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void): () => void {
    this.#listeners[name].add(listener);
    return () => {
      this.#listeners[name].delete(listener);
    };
  }

  /**
   * Follows a channel from now on, across connections; returns how to stop.
   * Works in any state. The options of a channel's first handler count for as
   * long as the channel is followed.
   */
  subscribe(channel: string, handler: ChannelHandler, options: SubscribeOptions = {}): () => void {
    const follower = { handler, onError: options.onError };
    const { subscription, fresh } = this.#subscriptions.add(channel, follower, options);
    if (fresh && this.#state.status === "live") {
      this.#askSoon(subscription);
    }
    return () => {
      if (!this.#subscriptions.remove(subscription, follower)) {
        return;
      }
      const wasAsked = !this.#toAsk.delete(subscription);
      if (wasAsked && this.#state.status === "live" && !this.#subscriptions.isShared(subscription)) {
        this.#ask("unsubscribe", { channels: [subscription.canonical] });
      }
    };
  }

  /** Publishes a JSON document; resolves to its place in the channel. */
  publish(channel: string, data: Json, idempotencyKey?: string): Promise<ActiveSubscription> {
    return this.request("publish", { channel, data, ...(idempotencyKey !== undefined && { idempotencyKey }) });
  }

  /**
   * Asks the server and resolves to the data of its reply. Rejects with a
   * `TidewireError`: the server's, `unavailable` when there is no connection or
   * it is lost before the reply, `deadline_exceeded` when none comes in time.
   */
  request<Type extends RequestType>(type: Type, data: Requests[Type]["data"]): Promise<ReplyOf<Type>> {
    return new Promise((resolve, reject) => {
      this.#ask(type, data, resolve, reject);
    });
  }

  // ------------------------------------------------------------ connecting

  async #open(): Promise<void> {
    this.#dropLink();
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
      this.#link = new Link(this.#environment, this.#options.url, protocols, {
        onMessage: (message) => {
          this.#onMessage(message);
        },
        onFault: (reason) => {
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
    const { token } = this.#options;
    return typeof token === "function" ? await token() : token;
  }

  /** Forgets the connection and all that waits on it. */
  #dropLink(): void {
    this.#generation += 1;
    this.#retryTimer?.cancel();
    this.#rttTimer?.cancel();
    this.#drainTimer?.cancel();
    this.#link?.close();
    this.#link = undefined;
    this.#rttMs = undefined;
    this.#toAsk.clear();
    this.#subscriptions.detach();
    this.#requests.failAll();
  }

  #onEnd(end: LinkEnd): void {
    const { clock, random } = this.#environment;
    if (this.#state.status === "live" && clock.now() - this.#liveSince >= STEADY_MS) {
      this.#attempt = 0;
    }
    this.#dropLink();
    if (judgeClose(end.code) === "stay_away") {
      this.#stopPage?.();
      this.#stopPage = undefined;
      this.#setState({ status: "closed", end });
      return;
    }
    const askedFor = this.#notBefore - clock.now();
    const delay = askedFor > 0 ? askedFor : retryDelay(this.#attempt, end.code, random);
    this.#attempt += 1;
    this.#retryTimer = clock.after(delay, () => {
      void this.#open();
    });
    this.#setState({ status: "offline", retryAt: clock.wallTime() + delay, attempt: this.#attempt, end });
  }

  /** The server drains: what it still sends is welcome, but at the time it named we move. */
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
    this.#learn(message);
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

  /** What the client itself takes from a message, reply or not. */
  #learn(message: ServerMessage): void {
    switch (message.type) {
      case "welcome":
        this.#onWelcome(message.data);
        return;
      case "authenticated":
        this.#subscriptions.note(message.data.subscriptions);
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
    this.#subscriptions.note(welcome.subscriptions);
    this.#state = { status: "live", welcome, heartbeatMs: welcome.heartbeatMs };
    if (!this.#visible) {
      this.#ask("visibility", { state: "background" });
    }
    for (const subscription of this.#subscriptions.all()) {
      this.#toAsk.add(subscription);
    }
    // Before anyone hears of it: who publishes as soon as we are live is heard on the channels followed.
    this.#askNow();
    this.#emit("state", this.#state);
    this.#measure();
  }

  #onHeartbeat(heartbeatMs: number): void {
    if (this.#link !== undefined) {
      this.#link.heartbeatMs = heartbeatMs;
    }
    if (this.#state.status === "live" && this.#state.heartbeatMs !== heartbeatMs) {
      this.#setState({ ...this.#state, heartbeatMs });
    }
  }

  async #renewToken(): Promise<void> {
    if (typeof this.#options.token !== "function") {
      return;
    }
    try {
      const token = await this.#token();
      await this.request("auth", { token: token ?? "" });
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#emit("error", { code: "unauthenticated", message: `the token was not renewed: ${message}` });
    }
  }

  // -------------------------------------------------------------- channels

  #askSoon(subscription: Subscription): void {
    if (this.#toAsk.size === 0) {
      queueMicrotask(() => {
        this.#askNow();
      });
    }
    this.#toAsk.add(subscription);
  }

  #askNow(): void {
    const all = [...this.#toAsk];
    this.#toAsk.clear();
    for (let start = 0; start < all.length; start += CHANNELS_PER_FRAME) {
      this.#askFor(all.slice(start, start + CHANNELS_PER_FRAME));
    }
  }

  #askFor(subscriptions: readonly Subscription[]): void {
    const generation = this.#generation;
    const channels = subscriptions.map((subscription) => this.#subscriptions.ask(subscription));
    const onReply = (reply: ReplyOf<"subscribe">): void => {
      // The results are in the order of the request.
      for (const [index, result] of reply.channels.entries()) {
        const subscription = subscriptions[index];
        if (subscription !== undefined && this.#subscriptions.has(subscription)) {
          this.#subscriptions.answer(subscription, result);
        }
      }
    };
    const onFailure = (error: TidewireError): void => {
      // A lost connection asks again for everything by itself.
      if (generation !== this.#generation || this.#state.status !== "live") {
        return;
      }
      for (const subscription of subscriptions) {
        this.#subscriptions.refuse(subscription, error);
      }
    };
    this.#ask("subscribe", { channels }, onReply, onFailure);
  }

  // ------------------------------------------------------------- heartbeat

  /** Sends a ping and takes the round trip from its reply. */
  #ping(): void {
    const { clock } = this.#environment;
    const sent = clock.now();
    this.#ask("ping", { t: sent }, (pong) => {
      const rttMs = clock.now() - sent;
      this.#rttMs = rttMs;
      this.#clockOffsetMs = pong.serverTime + rttMs / 2 - clock.wallTime();
      this.#emit("rtt", rttMs);
    });
  }

  /** Measures the round trip now and every few seconds, as long as somebody looks. */
  #measure(): void {
    this.#rttTimer?.cancel();
    if (!this.#visible || this.#state.status !== "live") {
      return;
    }
    this.#ping();
    this.#rttTimer = this.#environment.clock.after(RTT_INTERVAL_MS, () => {
      this.#measure();
    });
  }

  #onPageChange(): void {
    const visible = this.#environment.page.isVisible();
    const changed = visible !== this.#visible;
    this.#visible = visible;
    if (this.#state.status === "live") {
      if (changed) {
        this.#ask("visibility", { state: visible ? "active" : "background" });
      }
      if (visible) {
        // The machine may have slept: find out at once whether the link did not survive it.
        this.#link?.probe();
      }
      this.#measure();
      return;
    }
    if (visible && this.#state.status === "offline" && this.#notBefore <= this.#environment.clock.now()) {
      void this.#open();
    }
  }

  // --------------------------------------------------------------- helpers

  #ask<Type extends RequestType>(
    type: Type,
    data: Requests[Type]["data"],
    onReply?: (reply: ReplyOf<Type>) => void,
    onFailure?: (error: TidewireError) => void,
  ): void {
    this.#requests.open(
      this.#options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS,
      (id) => this.#link?.send(JSON.stringify({ type, id, data })) ?? false,
      (outcome) => {
        if (outcome.kind === "failure") {
          onFailure?.(outcome.error);
          return;
        }
        // The protocol ties a reply's type to its request's, and the parser checked its data by its type.
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
