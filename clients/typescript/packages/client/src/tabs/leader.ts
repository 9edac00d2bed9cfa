/**
 * Leader: the tab that has the one real connection of all tabs, a WebSocket or an event stream.
 *
 * It forwards the frames of all tabs with ids of its own, and counts who follows each channel. On
 * a WebSocket a reply comes before the replay that it announces. On an event stream the reply is
 * that of a POST, and a replay for one tab could not be told from what the others receive. There,
 * a tab that resumes a channel which is live already gets what it missed from the history:
 *
 * Example: tab A follows `orders:7` and has seq 10. Tab B subscribes since seq 8. The leader keeps
 * pushes of the channel for B and requests the history since 8: it has 9 and 10. Meanwhile 11 is
 * pushed: A gets it at once, B gets the reply, 9, 10, and 11.
 */
import type { Clock, WebSocketConstructor, WebSocketLike } from "../environment.ts";
import { TOO_BIG } from "../limits.ts";
import type { ErrorData } from "../types/common.ts";
import type { ChannelSubscription, History, SubscriptionResult } from "../types/session.ts";

/** Messages of a history that a tab may have missed. After more, it gets a `gap`. */
const MAX_MISSED = 1_000;
/** Channels in one `unsubscribe`, so that its frame stays far below the server's limit. */
const CHANNELS_PER_FRAME = 100;
/** The close code after which a tab connects again. */
const SERVICE_RESTART = 1012;

/** What a tab says: it opens its socket, sends a frame, or closes. */
export type TabNote =
  | { readonly from: string; readonly open: readonly string[] }
  | { readonly from: string; readonly frame: string }
  | { readonly from: string; readonly gone: true };

/** A note of a leader, without its name: it has heard of the tab, or passes a frame or the end on. */
export type Answer = { readonly to: string } & ({ readonly heard: true } | { readonly frame: string } | { readonly code: number; readonly reason: string });

/** A frame of a tab or of the server, as far as the leader reads it. */
interface Frame {
  readonly type: string;
  readonly id?: string;
  readonly channel?: string;
  readonly data?: unknown;
}

/** The leader's side of the tabs. */
export interface Leader {
  _onNote(note: TabNote): void;
  /** Ends the real connection. The tabs notice by the next leader, or by their heartbeats. */
  _close(): void;
}

/** Opens the leader's side. `isStream`: replies and pushes take two ways. `watch` says by a note when a tab is gone without a word. */
export function openLeader(webSocket: WebSocketConstructor, isStream: boolean, url: string, clock: Clock, post: (note: Answer) => void, watch: (tab: string) => void): Leader {
  /** Each tab, and whether it is visible. */
  const tabs = new Map<string, boolean>();
  /** The tabs that follow each channel. */
  const followers = new Map<string, Set<string>>();
  /** The channels that are live on an event stream, also by the names that tabs gave them, and their canonical names. */
  const live = new Map<string, string>();
  /** The pushes that are kept for the tabs that resume a channel, by channel and tab. */
  const kept = new Map<string, Map<string, string[]>>();
  /** The shortest time between two messages that each tab wants on a channel, 0 for none: by the name that it gave, and from the reply on by the canonical one. */
  const intervals = new Map<string, Map<string, number>>();
  /** The shortest time between two messages of a channel as the connection has it, by the same names. */
  const paces = new Map<string, number>();
  /** What has no reply yet, with its frame and the tab that it is for, "" for none. */
  const requests = new Map<string, readonly [onReply: (reply: Frame) => void, frame: string, tab: string]>();
  /** Requests of subscriptions that are not answered: who follows what is not known yet. */
  let joining = 0;
  let socket: WebSocketLike | undefined;
  /** The `welcome`, with the server's time less that of the clock. */
  let welcome: (Frame & { readonly data: { serverTime: number } }) | undefined;
  let lastId = 0;

  const send = (to: string, message: object): void => {
    if (tabs.has(to)) {
      post({ to, frame: JSON.stringify(message) });
    }
  };
  const clear = (): void => {
    for (const map of [tabs, followers, live, kept, intervals, paces, requests]) {
      map.clear();
    }
    socket = welcome = undefined;
    joining = 0;
  };
  const endAll = (code: number, reason: string): void => {
    const all = [...tabs.keys()];
    /** The tab whose frame was too long: the longest on the way is it. The others connect again, and keep what they sent. */
    const culprit = code === TOO_BIG ? [...requests.values()].sort(([, a], [, b]) => bytesOf(b) - bytesOf(a))[0]?.[2] : undefined;
    clear();
    // The leader's own tab is the first, and closes the channel.
    for (const to of all.reverse()) {
      post({ to, code: (culprit ?? to) === to ? code : SERVICE_RESTART, reason });
    }
  };
  const close = (): void => {
    socket?.close(1000);
    clear();
  };
  const request = (type: string, data: unknown, onReply: (reply: Frame) => void = () => undefined, tab = ""): void => {
    const id = `${++lastId}`;
    const frame = JSON.stringify({ type, id, data });
    const joins = type === "subscribe" || type === "history";
    joining += +joins;
    const settle = (reply: Frame): void => {
      joining -= +joins;
      onReply(reply);
      if (joins) {
        sweep();
      }
    };
    requests.set(id, [settle, frame, tab]);
    socket?.send(frame);
  };
  /** The connection does not get the channel any more. */
  const forget = (gone: string): void => {
    followers.delete(gone);
    intervals.delete(gone);
    for (const [name, channel] of live) {
      if (gone === channel) {
        live.delete(name);
      }
    }
  };
  /** Ends what no tab follows, on the connection too, and lets no channel be faster than the tabs that are left want it. */
  const sweep = (): void => {
    // A tab that joins now may follow what another has left.
    if (joining) {
      return;
    }
    const left = [...followers].filter(([, all]) => !all.size).map(([channel]) => channel);
    left.forEach(forget);
    while (left.length) {
      request("unsubscribe", { channels: left.splice(0, CHANNELS_PER_FRAME) });
    }
    for (const [channel, wanted] of intervals) {
      const least = Math.min(...wanted.values());
      if (!wanted.size) {
        intervals.delete(channel);
        paces.delete(channel);
      } else if (followers.has(channel) && least !== paces.get(channel)) {
        request("subscribe", { channels: [paced({ channel }, least)] });
      }
    }
  };
  const leave = (tab: string, channels: Iterable<string>): void => {
    for (const channel of channels) {
      intervals.get(channel)?.delete(tab);
      followers.get(channel)?.delete(tab);
    }
    sweep();
  };
  /** Returns what the connection subscribes to for a tab: no tab gets less of a channel than it wants because another wants less. */
  const shared = (one: ChannelSubscription, tab: string): ChannelSubscription => {
    const least = Math.min(...want(one.channel, tab, one.minIntervalMs ?? 0).values());
    return paced(one, least);
  };
  const paced = (one: ChannelSubscription, least: number): ChannelSubscription => {
    paces.set(one.channel, least);
    return { ...one, minIntervalMs: least || undefined };
  };
  const want = (channel: string, tab: string, minIntervalMs: number): Map<string, number> => {
    const wanted = (intervals.get(channel) ?? new Map<string, number>()).set(tab, minIntervalMs);
    intervals.set(channel, wanted);
    return wanted;
  };
  /** The server has answered a tab for a channel that it gave a name: the tab follows its canonical name, or nothing. */
  const settle = (name: string, tab: string, { channel, error }: SubscriptionResult): void => {
    const minIntervalMs = intervals.get(name)?.get(tab);
    intervals.get(name)?.delete(tab);
    if (!error) {
      const all = followers.get(channel) ?? new Set();
      followers.set(channel, all);
      // It may have left before the reply.
      if (minIntervalMs !== undefined) {
        all.add(tab);
        want(channel, tab, minIntervalMs);
        paces.set(channel, paces.get(name) ?? 0);
      }
    }
  };
  /** Passes a request on, and its reply back. `wanted`: the channels of a subscription. */
  const pass = ({ type, id, data }: Frame, tab: string, wanted?: readonly ChannelSubscription[]): void => {
    const onReply = (reply: Frame): void => {
      if (reply.type === "authenticated") {
        // The connection is that of all tabs: the new token may read more.
        for (const to of tabs.keys()) {
          if (to !== tab) {
            send(to, { ...reply, id: undefined });
          }
        }
      }
      for (const [index, { channel }] of wanted?.entries() ?? []) {
        settle(channel, tab, resultOf(reply, index, channel));
      }
      if (id !== undefined) {
        send(tab, { ...reply, id });
      }
    };
    request(type, data, onReply, tab);
  };
  /** Subscribes to channels on the connection. Calls back with the result of each. */
  const subscribe = (channels: readonly ChannelSubscription[], done: (one: ChannelSubscription, result: SubscriptionResult) => void): void => {
    for (const { channel } of channels) {
      live.set(channel, channel);
    }
    if (channels.length) {
      request("subscribe", { channels }, (reply) => {
        for (const [index, one] of channels.entries()) {
          const { channel } = one;
          const result = resultOf(reply, index, channel);
          if (result.error) {
            live.delete(channel);
          } else {
            live.set(channel, result.channel).set(result.channel, result.channel);
          }
          done(one, result);
        }
      });
    }
  };
  /** Subscribes a tab on an event stream: to live channels by their history. Its reply has the results in their order. */
  const subscribeOnStream = ({ id }: Frame, tab: string, wanted: readonly ChannelSubscription[]): void => {
    const results: SubscriptionResult[] = [];
    const after: (() => void)[] = [];
    let open = wanted.length;
    if (!open) {
      return;
    }
    const finish = (one: ChannelSubscription, result: SubscriptionResult): void => {
      results[wanted.indexOf(one)] = result;
      open -= 1;
      if (!open) {
        send(tab, { type: "subscribed", id, data: { channels: results } });
        for (const run of after) {
          run();
        }
      }
    };
    const followed = (one: ChannelSubscription, result: SubscriptionResult): void => {
      settle(one.channel, tab, result);
      finish(one, result);
    };
    const fresh: ChannelSubscription[] = [];
    for (const one of wanted) {
      const { channel: name, since } = one;
      const channel = live.get(name);
      if (!since || channel === undefined) {
        fresh.push(one);
        continue;
      }
      const pushes: string[] = [];
      kept.set(channel, (kept.get(channel) ?? new Map<string, string[]>()).set(tab, pushes));
      request("history", { channel, since, limit: MAX_MISSED }, (reply) => {
        const { epoch, seq, messages } = reply.data as History;
        if (reply.type !== "history" || epoch !== since.epoch || (messages.at(-1)?.seq ?? since.seq) < seq) {
          // Too much was missed: the server's answer to a subscription without a position makes a gap of it.
          kept.get(channel)?.delete(tab);
          subscribe([{ channel }], (_, result) => {
            followed(one, { ...result, recovered: false });
          });
          return;
        }
        const result: SubscriptionResult = { channel, epoch, seq, recovered: true, class: "history" };
        after.push(() => {
          kept.get(channel)?.delete(tab);
          for (const message of messages) {
            send(tab, { ...message, channel });
          }
          for (const frame of pushes) {
            if (((JSON.parse(frame) as { seq?: number }).seq ?? Infinity) > seq) {
              post({ to: tab, frame });
            }
          }
          settle(name, tab, result);
        });
        finish(one, result);
      });
    }
    subscribe(fresh, followed);
  };
  const showAny = (): void => {
    request("visibility", { state: [...tabs.values()].includes(true) ? "active" : "background" });
  };

  const onFrame = (text: string): void => {
    const message = parse(text) as (Frame & { readonly data: { channel?: string; channels?: string[]; afterMs?: number; subscriptions?: { channel: string }[] } | null });
    const { type, id = "", data } = message;
    const [onReply] = requests.get(id) ?? [];
    if (onReply) {
      requests.delete(id);
      onReply(message);
    } else if (type === "reconnect") {
      // All tabs move at once: the leader's socket is theirs.
      const draining = socket;
      clock.after(data?.afterMs ?? 0, () => {
        if (socket === draining) {
          draining?.close(1000);
          endAll(4003, "the server drains");
        }
      });
    } else {
      if (type === "welcome" && data) {
        welcome = message as typeof welcome & Frame;
        welcome.data.serverTime -= clock.wallTime();
        for (const { channel } of data.subscriptions ?? []) {
          live.set(channel, channel);
        }
      }
      const channel = message.channel ?? data?.channel ?? "";
      const keeping = kept.get(channel);
      // A new token is for the connection: the leader's own tab, which is the first, fetches it.
      const all = type === "token_expiring" ? [...tabs.keys()].slice(0, 1) : (followers.get(channel) ?? tabs.keys());
      for (const to of all) {
        if (!keeping?.has(to)) {
          post({ to, frame: text });
        }
      }
      for (const pushes of keeping?.values() ?? []) {
        pushes.push(text);
      }
      for (const ended of type === "unsubscribed" ? (data?.channels ?? []) : []) {
        forget(ended);
      }
    }
  };
  const connect = (protocols: readonly string[]): void => {
    const mine = new webSocket(url, [...protocols]);
    socket = mine;
    mine.addEventListener("open", () => {
      if (socket !== mine) {
        mine.close();
      }
    });
    mine.addEventListener("message", ({ data }) => {
      if (socket === mine) {
        onFrame(data as string);
      }
    });
    mine.addEventListener("error", () => undefined);
    mine.addEventListener("close", ({ code = 1006, reason = "" }) => {
      if (socket === mine) {
        endAll(code, reason);
      }
    });
  };

  return {
    _close: close,
    _onNote(note) {
      const tab = note.from;
      if ("open" in note) {
        if (!tabs.has(tab)) {
          watch(tab);
        }
        tabs.set(tab, true);
        post({ to: tab, heard: true });
        if (!socket) {
          connect(note.open);
        } else if (welcome) {
          send(tab, { ...welcome, data: { ...welcome.data, serverTime: welcome.data.serverTime + clock.wallTime() } });
          showAny();
        }
      } else if ("gone" in note) {
        if (tabs.delete(tab)) {
          for (const map of [...kept.values(), ...intervals.values()]) {
            map.delete(tab);
          }
          leave(tab, followers.keys());
          if (!tabs.size) {
            close();
          } else if (welcome) {
            showAny();
          }
        }
      } else if (welcome && tabs.has(tab)) {
        // Before, it still has the link of the leader of before: it says again what matters once it gets the `welcome`.
        const frame = parse(note.frame) as (Frame & { readonly data?: { channels?: unknown; state?: string } });
        const { type, id, data } = frame;
        // Anything but a channel has no name here, and the server refuses it.
        const channels = [data?.channels].flat().map((one) => (typeof one === "string" ? { channel: one } : (Object(one) as ChannelSubscription)));
        if (type === "visibility") {
          const isActive = data?.state === "active";
          tabs.set(tab, isActive);
          showAny();
          send(tab, { type, id, data: { state: data?.state, heartbeatMs: isActive ? 2_000 : 30_000 } });
        } else if (type === "unsubscribe") {
          leave(
            tab,
            channels.map(({ channel }) => channel),
          );
          send(tab, { type: "unsubscribed", id, data });
        } else if (type === "subscribe") {
          const wanted = channels.map((one) => shared(one, tab));
          if (isStream) {
            subscribeOnStream(frame, tab, wanted);
          } else {
            pass({ ...frame, data: { channels: wanted } }, tab, wanted);
          }
        } else {
          pass(frame, tab);
        }
      }
    },
  };
}

/** The length of a frame as the server counts it. */
function bytesOf(frame: string): number {
  return new TextEncoder().encode(frame).length;
}

/** Parses a frame. One that is no message has nothing in it: each tab reports it, or the server does. */
function parse(text: string): Partial<Frame> {
  try {
    return Object(JSON.parse(text)) as Frame;
  } catch {
    return {};
  }
}

/** Returns what the server answered for one of the channels that were asked for. */
function resultOf({ data }: Frame, index: number, channel: string): SubscriptionResult {
  return (data as { channels?: SubscriptionResult[] }).channels?.[index] ?? { channel, epoch: "", seq: 0, recovered: false, error: data as ErrorData };
}
