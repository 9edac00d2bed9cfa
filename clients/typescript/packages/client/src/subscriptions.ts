/**
 * Subscriptions: the application's channels, the position reached on each, and
 * the routing of pushes to handlers. It decides what a new connection requests
 * and drops duplicates. It sends nothing itself.
 *
 * Example: the connection is lost after seq 41 of epoch `a` on `orders:7`. The
 * next connection subscribes with `since {a, 41}`. If the reply has
 * `recovered: true`, 42 and later follow, and any seq up to 41 is dropped. If
 * not, the handler gets a `gap` with the new position and continues from there.
 */
import { TidewireError } from "./errors.ts";
import { callSafely } from "./listeners.ts";
import type { ServerMessage, ServerMessageOf, ServerType } from "./messages.ts";
import type { Position } from "./types/common.ts";
import type { ActiveSubscription, ChannelClass, ChannelSubscription, SubscriptionResult } from "./types/session.ts";

/** A push on a channel, as its handler gets it. `gap` is one of them. */
export type ChannelMessage = ServerMessage & { readonly channel: string };

/** Called for each push on a channel, in order. */
export type ChannelHandler = (message: ChannelMessage) => void;

/** Options of a subscription. */
export interface SubscribeOptions {
  /** Replay everything after this position. */
  readonly since?: Position;
  /** On a latest channel: the shortest time between two messages, in milliseconds. */
  readonly minIntervalMs?: number;
  /** Called when the server refuses the channel. The next connection requests it again. */
  readonly onError?: (error: TidewireError) => void;
}

/** A channel with at least one handler. */
export interface Subscription {
  /** The name as the application wrote it. */
  readonly name: string;
  /** The name as the server writes it. */
  canonical: string;
  readonly minIntervalMs: number | undefined;
  readonly subscribers: Set<Subscriber>;
  /** The channel's class, once the server has named it. */
  class: ChannelClass | undefined;
  /** Whether its publications may come in a `price_batch`, once the server has named it. */
  batched: boolean | undefined;
  /** The position to resume from. */
  position: Position | undefined;
  /** The highest seq delivered in the position's epoch. */
  lastSeq: number;
  /** A replay is requested and not yet confirmed. Pushes before the reply come again with the replay. */
  recovering: boolean;
  /** On a latest channel: the value for handlers that are added later. */
  latest: ChannelMessage | undefined;
}

/** One handler of a channel. */
export interface Subscriber {
  readonly handler: ChannelHandler;
  readonly onError: ((error: TidewireError) => void) | undefined;
}

/**
 * Message types that the protocol sends on latest channels only. They show the
 * class of a channel when an older server does not name it.
 */
const LATEST_TYPES: ReadonlySet<ServerType> = new Set<ServerType>(["price", "market_overview"]);

/** All channels that the application subscribes to. */
export class Subscriptions {
  readonly #byName = new Map<string, Subscription>();
  /** Two subscriptions share a canonical name when the application wrote it in two ways. */
  readonly #byCanonical = new ListMap<Subscription>();
  /** By the part after the namespace: an update in a batch names no channel. */
  readonly #byLocalName = new ListMap<Subscription>();

  /** All channels. */
  all(): Subscription[] {
    return [...this.#byName.values()];
  }

  /** Returns whether the channel still has a handler. */
  has(subscription: Subscription): boolean {
    return this.#byName.get(subscription.name) === subscription;
  }

  /** Returns whether another name stands for the same channel. */
  isShared(subscription: Subscription): boolean {
    return this.#byCanonical.get(subscription.canonical).some((other) => other !== subscription);
  }

  /** Adds a handler. The options of a channel's first handler apply until its last handler is removed. */
  add(name: string, subscriber: Subscriber, options: SubscribeOptions): { subscription: Subscription; isNew: boolean } {
    const existing = this.#byName.get(name);
    if (existing !== undefined) {
      existing.subscribers.add(subscriber);
      sendLatestSoon(existing, subscriber);
      return { subscription: existing, isNew: false };
    }
    const subscription: Subscription = {
      name,
      canonical: name,
      minIntervalMs: options.minIntervalMs,
      subscribers: new Set([subscriber]),
      class: undefined,
      batched: undefined,
      position: options.since,
      lastSeq: options.since?.seq ?? 0,
      recovering: false,
      latest: undefined,
    };
    this.#byName.set(name, subscription);
    this.#index(subscription, name);
    return { subscription, isNew: true };
  }

  /** Removes a handler. Returns `true` if it was the channel's last. */
  remove(subscription: Subscription, subscriber: Subscriber): boolean {
    subscription.subscribers.delete(subscriber);
    if (subscription.subscribers.size > 0 || !this.has(subscription)) {
      return false;
    }
    this.#byName.delete(subscription.name);
    this.#unindex(subscription);
    return true;
  }

  /** Returns the channel's entry in a `subscribe`, and expects the reply from now on. */
  startSubscribe(subscription: Subscription): string | ChannelSubscription {
    const { name: channel, position, minIntervalMs } = subscription;
    // A latest channel has no replay: it sends its newest value.
    const since = subscription.class === "latest" ? undefined : position;
    subscription.recovering = since !== undefined;
    if (since === undefined && minIntervalMs === undefined) {
      return channel;
    }
    return { channel, ...(since && { since }), ...(minIntervalMs !== undefined && { minIntervalMs }) };
  }

  /** Applies the channel's entry in a `subscribed`. */
  finishSubscribe(subscription: Subscription, result: SubscriptionResult): void {
    const wasRecovering = subscription.recovering;
    if (result.error !== undefined) {
      this.refuse(subscription, new TidewireError(result.error));
      return;
    }
    subscription.recovering = false;
    subscription.class = result.class ?? subscription.class;
    subscription.batched = result.batched ?? subscription.batched;
    this.#index(subscription, result.channel);
    if (wasRecovering && result.recovered) {
      return;
    }
    const before = subscription.position;
    moveTo(subscription, result);
    const hasMoved = before?.epoch !== result.epoch || before.seq !== result.seq;
    // The newest value of a latest channel follows, so nothing is missed on one.
    if (wasRecovering && hasMoved && subscription.class !== "latest") {
      const { channel, epoch, seq } = result;
      deliver(subscription, { type: "gap", channel, data: { channel, epoch, seq } });
    }
  }

  /** Reports a refused channel to its handlers. */
  refuse(subscription: Subscription, error: TidewireError): void {
    subscription.recovering = false;
    for (const subscriber of [...subscription.subscribers]) {
      if (subscriber.onError !== undefined) {
        callSafely(subscriber.onError, error);
      }
    }
  }

  /** Applies the server's own subscriptions of this connection, such as the user's channel. */
  applyServerSide(active: readonly ActiveSubscription[]): void {
    for (const { channel, epoch, seq } of active) {
      for (const subscription of this.#byCanonical.get(channel)) {
        // A subscription with a position resumes from there: the reply to its `since` is still to come.
        if (subscription.position === undefined) {
          moveTo(subscription, { epoch, seq });
        }
      }
    }
  }

  /** Forgets pending replays: the connection that they were requested on is lost. */
  onDisconnect(): void {
    for (const subscription of this.#byName.values()) {
      subscription.recovering = false;
    }
  }

  /** Delivers a push to the handlers of its channel. */
  dispatch(message: ServerMessage): void {
    if (message.type === "price_batch") {
      this.#dispatchBatch(message);
      return;
    }
    const channel = message.channel ?? (message.type === "gap" ? message.data.channel : undefined);
    if (channel === undefined) {
      return;
    }
    for (const subscription of this.#byCanonical.get(channel)) {
      if (message.type === "gap") {
        subscription.recovering = false;
        moveTo(subscription, message.data);
      } else if (!accept(subscription, message.seq)) {
        continue;
      } else {
        subscription.class ??= LATEST_TYPES.has(message.type) ? "latest" : "history";
      }
      deliver(subscription, { ...message, channel });
    }
  }

  /** Delivers each update to the channel that it would have come on alone. */
  #dispatchBatch({ data, timestamp }: ServerMessageOf<"price_batch">): void {
    for (const update of data.updates) {
      const localName = update.source === "aggregate" ? update.symbol : `${update.symbol}@${update.source}`;
      for (const subscription of this.#byLocalName.get(localName)) {
        if (!mayBeBatched(subscription)) {
          continue;
        }
        subscription.class ??= "latest";
        const channel = subscription.canonical;
        deliver(subscription, { type: "price", channel, data: update, timestamp: timestamp ?? data.timestamp });
      }
    }
  }

  #index(subscription: Subscription, canonical: string): void {
    if (this.#byCanonical.get(canonical).includes(subscription)) {
      return;
    }
    this.#unindex(subscription);
    subscription.canonical = canonical;
    this.#byCanonical.add(canonical, subscription);
    this.#byLocalName.add(localNameOf(canonical), subscription);
  }

  #unindex(subscription: Subscription): void {
    this.#byCanonical.remove(subscription.canonical, subscription);
    this.#byLocalName.remove(localNameOf(subscription.canonical), subscription);
  }
}

/** A map from a key to the values that share it. */
class ListMap<Value> {
  readonly #lists = new Map<string, Value[]>();

  get(key: string): readonly Value[] {
    return this.#lists.get(key) ?? [];
  }

  add(key: string, value: Value): void {
    this.#lists.set(key, [...this.get(key), value]);
  }

  remove(key: string, value: Value): void {
    const others = this.get(key).filter((other) => other !== value);
    if (others.length > 0) {
      this.#lists.set(key, others);
    } else {
      this.#lists.delete(key);
    }
  }
}

/** The part of a channel's name after its namespace: `BTC-USD` of `prices:BTC-USD`. */
function localNameOf(channel: string): string {
  return channel.slice(channel.indexOf(":") + 1);
}

/** An older server does not name batched channels: then any may be, unless it is known to be a history. */
function mayBeBatched(subscription: Subscription): boolean {
  return subscription.batched ?? subscription.class !== "history";
}

/** Sets a new position to resume from. The seqs of another epoch mean nothing in this one. */
function moveTo(subscription: Subscription, { epoch, seq }: Position): void {
  const sameEpoch = subscription.position?.epoch === epoch;
  subscription.position = { epoch, seq };
  subscription.lastSeq = sameEpoch ? subscription.lastSeq : 0;
}

/** Returns whether a push with `seq` is new, and advances the position if it is. */
function accept(subscription: Subscription, seq: number | undefined): boolean {
  if (subscription.recovering) {
    return false;
  }
  if (seq === undefined) {
    return true;
  }
  if (seq <= subscription.lastSeq) {
    return false;
  }
  subscription.lastSeq = seq;
  if (subscription.position !== undefined) {
    subscription.position = { epoch: subscription.position.epoch, seq: Math.max(seq, subscription.position.seq) };
  }
  return true;
}

/** Gives a later handler the latest value: the server sends it once for each connection. */
function sendLatestSoon(subscription: Subscription, subscriber: Subscriber): void {
  queueMicrotask(() => {
    if (subscription.latest !== undefined && subscription.subscribers.has(subscriber)) {
      subscriber.handler(subscription.latest);
    }
  });
}

function deliver(subscription: Subscription, message: ChannelMessage): void {
  // A gap is no value.
  if (subscription.class === "latest" && message.type !== "gap") {
    subscription.latest = message;
  }
  for (const { handler } of [...subscription.subscribers]) {
    callSafely(handler, message);
  }
}
