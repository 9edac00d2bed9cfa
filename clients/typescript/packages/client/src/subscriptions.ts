/**
 * Subscriptions: the application's channels, the position reached on each, and
 * the routing of pushes to handlers. It decides what a new connection requests
 * and drops duplicates. It sends nothing itself.
 *
 * Example: the connection is lost after seq 41 of epoch `a` on `orders:7`. The
 * next connection subscribes with `since {a, 41}`. If the reply has
 * `recovered: true`, 42 and later follow, and any seq up to 41 is dropped. If
 * not, the handler gets a `gap` with the new position and continues from there.
 *
 * The state of a channel is in variables of a closure, and callbacks are
 * positional: names of properties would stay in the minified code.
 */
import { TidewireError } from "./errors.ts";
import type { ServerMessage } from "./messages.ts";
import type { Position } from "./types/common.ts";
import type { ActiveSubscription, ChannelSubscription, SubscriptionResult } from "./types/session.ts";

/**
 * A push on a channel, as its handler gets it. `gap` is one of them. `replayed`
 * marks what was published before the subscription took effect: sounds and
 * toasts skip it.
 */
export type ChannelMessage = ServerMessage & { readonly channel: string; readonly replayed?: true };

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
  /**
   * Called each time the server confirms the subscription, before any message that follows: on every
   * connection. A later handler of a confirmed channel is called with the position that was reached.
   */
  readonly onSubscribed?: (result: SubscriptionResult) => void;
}

/** One handler of a channel. */
export interface Subscriber extends SubscribeOptions {
  readonly handler: ChannelHandler;
  readonly onError: (error: TidewireError) => void;
}

/** Calls a function of the application, if there is one: what it throws reaches nobody else. */
type Call = <Event>(listener: ((event: Event) => void) | undefined, event: Event) => void;

/** A channel that the application subscribes to. */
export type Subscription = ReturnType<typeof openSubscription>;

function openSubscription(name: string, call: Call, onRename: () => void) {
  /** The position to resume from. */
  let position: Position | undefined;
  let minIntervalMs: number | undefined;
  const subscribers = new Set<Subscriber>();
  let canonical = name;
  /** The highest seq delivered in the epoch of `position`. */
  let lastSeq = 0;
  /** The channel's seq when the subscription took effect: messages up to it are replayed. */
  let top = 0;
  /**
   * The reply to a `subscribe` is awaited. On a WebSocket, pushes before the
   * reply come again with the replay and are dropped: `true`. On an event
   * stream the reply takes another way, and they are kept until it arrives.
   */
  let waiting: boolean | ServerMessage[] = false;
  let isLatest: boolean | undefined;
  let isBatched: boolean | undefined;
  /** Why the server refused the channel. */
  let refusal: TidewireError | undefined;
  /** The server's confirmation, on this connection. */
  let confirmed: SubscriptionResult | undefined;
  /** On a latest channel: the value for handlers that are added later. */
  let latest: ChannelMessage | undefined;
  let isDelivering = false;

  /** Sets a new position to resume from. The seqs of another epoch mean nothing in this one. */
  const moveTo = ({ epoch, seq }: Position): void => {
    lastSeq = position?.epoch === epoch ? lastSeq : 0;
    position = { epoch, seq };
  };

  const deliver = (message: ChannelMessage): void => {
    // A gap is no value.
    if (isLatest && message.type !== "gap") {
      latest = message;
    }
    isDelivering = true;
    for (const subscriber of [...subscribers]) {
      // Unless one before it removed it.
      if (subscribers.has(subscriber)) {
        call(subscriber.handler, message);
      }
    }
    isDelivering = false;
  };

  const refuse = (error: TidewireError, only?: Subscriber): void => {
    waiting = false;
    confirmed = undefined;
    refusal = error;
    for (const { onError } of only ? [only] : [...subscribers]) {
      call(onError, error);
    }
  };

  /** Delivers a push, if it is new. */
  const push = (message: ServerMessage): void => {
    const { seq, type } = message;
    if (Array.isArray(waiting)) {
      waiting.push(message);
      return;
    }
    if (type === "gap") {
      waiting = false;
      top = message.data.seq;
      moveTo(message.data);
    } else {
      if (waiting || (seq && seq <= lastSeq)) {
        return;
      }
      // An older server does not name the class.
      isLatest ??= /^(price|market)/.test(type);
      if (seq) {
        lastSeq = seq;
        position &&= { epoch: position.epoch, seq: Math.max(seq, position.seq) };
      }
    }
    deliver({ ...message, channel: canonical, ...(seq && seq <= top && { replayed: true }) });
  };

  return {
    _name: name,
    _subscribers: subscribers,
    _push: push,
    _refuse: refuse,
    _canonical: () => canonical,
    _isRefused: () => refusal,
    /** Delivers an update of a `price_batch`, if its updates may come in one. Before the reply, only a price channel is known for that. */
    _pushBatched(message: ServerMessage): void {
      if (isBatched ?? isLatest ?? canonical.startsWith("prices:")) {
        push(message);
      }
    },

    /** Adds a handler. Returns whether the server must be asked again. */
    _add(subscriber: Subscriber): boolean {
      // The last handler left a moment ago, and the channel is still subscribed to.
      const isNew = !subscribers.size && (!!subscriber.since || subscriber.minIntervalMs !== minIntervalMs);
      subscribers.add(subscriber);
      if (isNew) {
        minIntervalMs = subscriber.minIntervalMs;
        position = subscriber.since ?? position;
        lastSeq = subscriber.since?.seq ?? lastSeq;
      }
      // A handler that subscribes again does not get the message that it handles.
      const value = isDelivering ? undefined : latest;
      const error = refusal;
      queueMicrotask(() => {
        if (subscribers.has(subscriber)) {
          if (error) {
            refuse(error, subscriber);
            return;
          }
          if (!isNew && confirmed) {
            call(subscriber.onSubscribed, { ...confirmed, ...position, recovered: false });
          }
          if (value) {
            call(subscriber.handler, latest ?? value);
          }
        }
      });
      return isNew;
    },

    /** Returns the channel's entry in a `subscribe`, and expects the reply from now on. */
    _start(isWebSocket: boolean): string | ChannelSubscription {
      // A latest channel has no replay: it sends its newest value.
      const from = isLatest ? undefined : position;
      waiting = isWebSocket ? !!from : [];
      refusal = undefined;
      return from || minIntervalMs ? { channel: name, since: from, minIntervalMs } : name;
    },

    /** Applies the channel's entry in a `subscribed`: a reply, or one that the server pushes, which another reply may follow. */
    _finish(result: SubscriptionResult, isPushed = false): void {
      const { channel, epoch, seq, error } = result;
      if (isPushed && waiting === true) {
        return;
      }
      if (error) {
        refuse(new TidewireError(error));
        return;
      }
      const held = waiting;
      /** Where it resumed. */
      const before = held && position;
      waiting = false;
      refusal = undefined;
      confirmed = result;
      isLatest = result.class ? result.class === "latest" : isLatest;
      isBatched = result.batched ?? isBatched;
      top = seq;
      if (canonical !== channel) {
        canonical = channel;
        onRename();
      }
      for (const { onSubscribed } of [...subscribers]) {
        call(onSubscribed, result);
      }
      if (!(before && result.recovered)) {
        moveTo(result);
        // The newest value of a latest channel follows, so nothing is missed on one.
        if (before && !isLatest && (before.epoch !== epoch || before.seq !== seq)) {
          deliver({ type: "gap", channel, data: { channel, epoch, seq } });
        }
      }
      if (Array.isArray(held)) {
        held.forEach(push);
      }
    },

    /** The server subscribed to the channel by itself. */
    _onServerSide(at: Position): void {
      // A subscription with a position resumes from there: the reply to its `since` is still to come.
      if (!position) {
        moveTo(at);
      }
    },

    /** Forgets a pending replay: the connection that it was requested on is lost. */
    _onDisconnect(): void {
      waiting = false;
      confirmed = undefined;
    },

    /** Returns its line of a new event stream's cursor, if the server subscribes the stream to it. Then a `subscribed` is to come. */
    _cursorLine(isServerSide: boolean): string {
      if (!isServerSide || !position) {
        return "";
      }
      waiting = [];
      return `${position.epoch} ${position.seq} ${canonical}`;
    },
    /** On a new connection: the cursor has it. */
    _isResumed: () => waiting,

    /** Sets an interval where it is allowed and none is set. Returns whether it was. */
    _slowDown(intervalMs: number): boolean {
      const isSlower = !!isLatest && minIntervalMs === undefined;
      minIntervalMs = isSlower ? intervalMs : minIntervalMs;
      return isSlower;
    },
  };
}

/** The channels of a client. */
export type Subscriptions = [
  /** Returns the channels of a canonical name. */
  find: (key: string) => readonly Subscription[],
  all: () => readonly Subscription[],
  /** Returns whether the channel still has a handler, or had one a moment ago. */
  has: (subscription: Subscription) => boolean,
  /** Adds a handler. Returns whether the server must be asked. The options of a channel's first handler apply. */
  add: (name: string, subscriber: Subscriber) => [subscription: Subscription, isNew: boolean],
  /** Forgets a channel without handlers. Returns whether nothing stands for it any more. */
  drop: (subscription: Subscription) => boolean,
  /** Applies the server's own subscriptions of this connection, such as the user's channel. */
  applyServerSide: (active: readonly ActiveSubscription[]) => void,
  /** Delivers a push to the handlers of its channel. */
  dispatch: (message: ServerMessage) => void,
  /**
   * Returns the cursor with which an event stream resumes the channels that the
   * server subscribes it to by itself: base64url of lines `EPOCH SEQ CHANNEL`.
   */
  cursor: () => string,
];

/** One more than the longest name has. The rest of a longer one is left out: the server refuses it, and no frame is too large for it. */
const NAME_CHARACTERS = 256;

/** Opens the channels of a client. */
export function openSubscriptions(call: Call): Subscriptions {
  const byName = new Map<string, Subscription>();
  /**
   * The channels that were found by canonical name, and for batches by ":" and the part after the
   * namespace: an update names no channel.
   */
  let index: Record<string, readonly Subscription[]> = {};
  const reindex = (): void => {
    index = {};
  };
  const all = (): Subscription[] => [...byName.values()];
  const find = (key: string): readonly Subscription[] =>
    (index[key] ??= all().filter((subscription) => {
      const canonical = subscription._canonical();
      return key === canonical || key === canonical.slice(canonical.indexOf(":"));
    }));
  /** The channels that the server subscribes each connection to, as the user's own one. */
  const serverSide = new Set<string>();
  const has = (subscription: Subscription): boolean => byName.get(subscription._name) === subscription;

  return [
    find,
    all,
    has,

    (channel, subscriber) => {
      const name = channel.slice(0, NAME_CHARACTERS);
      const isKnown = byName.has(name);
      if (!isKnown) {
        const made = openSubscription(name, call, reindex);
        byName.set(name, made);
        reindex();
      }
      const subscription = byName.get(name) as unknown as Subscription;
      return [subscription, subscription._add(subscriber) || !isKnown];
    },

    (subscription) => {
      if (subscription._subscribers.size || !has(subscription)) {
        return false;
      }
      byName.delete(subscription._name);
      reindex();
      // The application may have written one channel in two ways.
      return !find(subscription._canonical()).length;
    },

    (active) => {
      for (const at of active) {
        serverSide.add(at.channel);
        for (const subscription of find(at.channel)) {
          subscription._onServerSide(at);
        }
      }
    },

    (message) => {
      if (message.type === "price_batch") {
        // Each update goes to the channel that it would have come on alone.
        const { data, timestamp = data.timestamp } = message;
        for (const update of data.updates) {
          const { symbol, source } = update;
          for (const subscription of find(`:${symbol}${source === "aggregate" ? "" : `@${source}`}`)) {
            subscription._pushBatched({ type: "price", data: update, timestamp });
          }
        }
      } else {
        for (const subscription of find(message.channel ?? (message.data as { channel?: string } | null)?.channel ?? "")) {
          subscription._push(message);
        }
      }
    },

    () => {
      const lines = all().map((one) => one._cursorLine(serverSide.has(one._canonical())));
      // A canonical name is ASCII.
      return btoa(lines.filter(Boolean).join("\n")).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
    },
  ];
}
