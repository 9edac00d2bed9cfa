/**
 * The channels that the application follows, and how far each has come. It
 * decides what a fresh connection must ask for, which message reaches which
 * handler, and what is a duplicate. It sends nothing itself.
 *
 * An example. `orders:7` was followed up to seq 41 of epoch `a` when the link
 * died. The next connection asks for it `since {a, 41}`. If the reply says
 * `recovered`, 42 and on follow, and whatever comes with 41 or less is dropped.
 * If not, the handler gets a `gap` with the new position and goes on from there.
 */
import { callSafely } from "./call.ts";
import { TidewireError } from "./errors.ts";
import type { ServerMessage, ServerMessageOf } from "./messages.ts";
import type { Position } from "./types/common.ts";
import type { ActiveSubscription, ChannelSubscription, SubscriptionResult } from "./types/session.ts";

/** What a handler gets: a push on its channel, `gap` among them. */
export type ChannelMessage = ServerMessage & { readonly channel: string };

/** Called for each push on a channel, in order. */
export type ChannelHandler = (message: ChannelMessage) => void;

/** How to follow a channel. */
export interface SubscribeOptions {
  /** Replay everything after this position. */
  readonly since?: Position;
  /** On a latest channel: at most one message in so many milliseconds. */
  readonly minIntervalMs?: number;
  /** The server refused the channel. It is asked for again on the next connection. */
  readonly onError?: (error: TidewireError) => void;
}

/** A channel that at least one handler follows. */
export interface Subscription {
  /** As the application wrote it. */
  readonly name: string;
  /** As the server writes it. */
  canonical: string;
  readonly minIntervalMs: number | undefined;
  readonly handlers: Set<Follower>;
  /** Where to resume. */
  position: Position | undefined;
  /** Messages of the position's epoch up to this one were seen. */
  seen: number;
  /** A replay was asked for and not yet answered: until then, what comes will come again. */
  replayDue: boolean;
  /** On a latest channel: what a later handler gets at once. */
  newest: ChannelMessage | undefined;
}

/** One handler of a channel. */
export interface Follower {
  readonly handler: ChannelHandler;
  readonly onError: ((error: TidewireError) => void) | undefined;
}

/** Only the newest counts on these: nothing is ever replayed. */
function isLatest(channel: string): boolean {
  return channel.startsWith("prices:") || channel.startsWith("market:");
}

/** The registry of channels. */
export class Subscriptions {
  readonly #byName = new Map<string, Subscription>();
  /** Usually one each; two when the application wrote the same channel in two ways. */
  readonly #byCanonical = new Map<string, Subscription[]>();

  /** All channels. */
  all(): Subscription[] {
    return [...this.#byName.values()];
  }

  /** Is the channel still followed? */
  has(subscription: Subscription): boolean {
    return this.#byName.get(subscription.name) === subscription;
  }

  /** Does another name stand for the same channel? */
  isShared(subscription: Subscription): boolean {
    return this.#on(subscription.canonical).some((other) => other !== subscription);
  }

  /** Adds a handler. The options of a channel's first handler count for as long as the channel is followed. */
  add(name: string, follower: Follower, options: SubscribeOptions): { subscription: Subscription; fresh: boolean } {
    const known = this.#byName.get(name);
    if (known !== undefined) {
      known.handlers.add(follower);
      this.#catchUp(known, follower);
      return { subscription: known, fresh: false };
    }
    const subscription: Subscription = {
      name,
      canonical: name,
      minIntervalMs: options.minIntervalMs,
      handlers: new Set([follower]),
      position: options.since,
      seen: options.since?.seq ?? 0,
      replayDue: false,
      newest: undefined,
    };
    this.#byName.set(name, subscription);
    this.#index(subscription, name);
    return { subscription, fresh: true };
  }

  /** Removes a handler; `true` if it was the channel's last. */
  remove(subscription: Subscription, follower: Follower): boolean {
    subscription.handlers.delete(follower);
    if (subscription.handlers.size > 0 || !this.has(subscription)) {
      return false;
    }
    this.#byName.delete(subscription.name);
    this.#unindex(subscription);
    return true;
  }

  /** What to ask the server for. */
  ask(subscription: Subscription): string | ChannelSubscription {
    const { name: channel, position, minIntervalMs } = subscription;
    const since = isLatest(channel) ? undefined : position;
    subscription.replayDue = since !== undefined;
    if (since === undefined && minIntervalMs === undefined) {
      return channel;
    }
    return { channel, ...(since && { since }), ...(minIntervalMs !== undefined && { minIntervalMs }) };
  }

  /** The server's answer for one channel. */
  answer(subscription: Subscription, result: SubscriptionResult): void {
    const asked = subscription.replayDue;
    subscription.replayDue = false;
    if (result.error !== undefined) {
      this.refuse(subscription, new TidewireError(result.error));
      return;
    }
    this.#index(subscription, result.channel);
    if (asked && result.recovered) {
      return;
    }
    const before = subscription.position;
    this.#move(subscription, result);
    // A latest channel never recovers, and misses nothing as long as nothing new was published.
    if (asked && (before?.epoch !== result.epoch || before.seq !== result.seq)) {
      const { channel, epoch, seq } = result;
      deliver(subscription, { type: "gap", channel, data: { channel, epoch, seq } });
    }
  }

  /** The server does not let us follow the channel: the next connection asks again. */
  refuse(subscription: Subscription, error: TidewireError): void {
    subscription.replayDue = false;
    for (const follower of [...subscription.handlers]) {
      if (follower.onError !== undefined) {
        callSafely(follower.onError, error);
      }
    }
  }

  /** The server subscribed the connection by itself, as it does for the user's own channel. */
  note(active: readonly ActiveSubscription[]): void {
    for (const { channel, epoch, seq } of active) {
      for (const subscription of this.#on(channel)) {
        // A position of our own is where we resume: an answer with `since` is still to come.
        if (subscription.position === undefined) {
          this.#move(subscription, { epoch, seq });
        }
      }
    }
  }

  /** The connection is gone; so is what it was asked. */
  detach(): void {
    for (const subscription of this.#byName.values()) {
      subscription.replayDue = false;
    }
  }

  /** Hands a push to the handlers of its channel. */
  dispatch(message: ServerMessage): void {
    if (message.type === "price_batch") {
      this.#dispatchBatch(message);
      return;
    }
    const channel = message.channel ?? (message.type === "gap" ? message.data.channel : undefined);
    if (channel === undefined) {
      return;
    }
    for (const subscription of this.#on(channel)) {
      if (message.type === "gap") {
        subscription.replayDue = false;
        this.#move(subscription, message.data);
      } else if (!this.#isNew(subscription, message.seq)) {
        continue;
      }
      deliver(subscription, { ...message, channel });
    }
  }

  /** Each update goes to the channel that it would have come on alone. */
  #dispatchBatch({ data, timestamp }: ServerMessageOf<"price_batch">): void {
    for (const update of data.updates) {
      const channel = update.source === "aggregate" ? `prices:${update.symbol}` : `prices:${update.symbol}@${update.source}`;
      for (const subscription of this.#on(channel)) {
        deliver(subscription, { type: "price", channel, data: update, timestamp: timestamp ?? data.timestamp });
      }
    }
  }

  #on(channel: string): readonly Subscription[] {
    return this.#byCanonical.get(channel) ?? [];
  }

  #index(subscription: Subscription, canonical: string): void {
    if (this.#on(canonical).includes(subscription)) {
      return;
    }
    this.#unindex(subscription);
    subscription.canonical = canonical;
    this.#byCanonical.set(canonical, [...this.#on(canonical), subscription]);
  }

  #unindex(subscription: Subscription): void {
    const others = this.#on(subscription.canonical).filter((other) => other !== subscription);
    if (others.length > 0) {
      this.#byCanonical.set(subscription.canonical, others);
    } else {
      this.#byCanonical.delete(subscription.canonical);
    }
  }

  /** The server sends the newest value once a connection; a handler that comes later gets it from here. */
  #catchUp(subscription: Subscription, follower: Follower): void {
    queueMicrotask(() => {
      if (subscription.newest !== undefined && subscription.handlers.has(follower)) {
        follower.handler(subscription.newest);
      }
    });
  }

  /** A new place to resume from. Numbers seen in another epoch mean nothing in this one. */
  #move(subscription: Subscription, { epoch, seq }: Position): void {
    const sameEpoch = subscription.position?.epoch === epoch;
    subscription.position = { epoch, seq };
    subscription.seen = sameEpoch ? subscription.seen : 0;
  }

  #isNew(subscription: Subscription, seq: number | undefined): boolean {
    if (subscription.replayDue) {
      return false;
    }
    if (seq === undefined) {
      return true;
    }
    if (seq <= subscription.seen) {
      return false;
    }
    subscription.seen = seq;
    if (subscription.position !== undefined) {
      subscription.position = { epoch: subscription.position.epoch, seq: Math.max(seq, subscription.position.seq) };
    }
    return true;
  }
}

function deliver(subscription: Subscription, message: ChannelMessage): void {
  if (isLatest(message.channel)) {
    subscription.newest = message;
  }
  for (const { handler } of [...subscription.handlers]) {
    callSafely(handler, message);
  }
}
