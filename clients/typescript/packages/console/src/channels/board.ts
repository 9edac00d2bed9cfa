/**
 * Board: channels side by side, each with its newest messages, a pause, its history and its limits.
 *
 * A paused pane shows what it had, and still collects: what came meanwhile shows at the end of the
 * pause. A pane keeps 200 messages and 1,000,000 characters, and drops the oldest beyond.
 */
import type { ChannelMessage, SubscribeOptions, SubscriptionResult, TidewireError } from "@tidewire/client";
import { entriesOf, member } from "./json.ts";

/** Panes at once: more would not fit beside each other. */
export const MAX_PANES = 12;
/** Messages of a pane. */
export const MAX_MESSAGES = 200;
/** Characters of all messages of a pane. */
export const MAX_CHARACTERS = 1_000_000;

/** A message in a pane. */
export interface PaneMessage {
  /** Counts the messages of the pane from 1, for keys. Those of the history count down from 0. */
  readonly number: number;
  /** When it was published, or arrived, in milliseconds since the Unix epoch. */
  readonly at: number;
  readonly type: string;
  readonly seq: number | undefined;
  /** Published before the subscription took effect. */
  readonly isOld: boolean;
  /** The text of the data, byte for byte where the frame is known. */
  readonly text: string;
}

/** A channel on the board. It is replaced and never changed. */
export interface Pane {
  readonly channel: string;
  readonly phase: "waiting" | "on" | "refused";
  readonly error: TidewireError | undefined;
  /** The server's answer: the class of the channel, and its position. */
  readonly info: SubscriptionResult | undefined;
  /** Newest first. */
  readonly messages: readonly PaneMessage[];
  /** Messages since the subscription, also those that were dropped. */
  readonly total: number;
  readonly isPaused: boolean;
  /** Messages that came during the pause. */
  readonly held: readonly PaneMessage[];
}

/** The client's part that a board needs. */
export interface BoardClient {
  readonly subscribe: (channel: string, handler: (message: ChannelMessage) => void, options?: SubscribeOptions) => () => void;
}

/** A board and what one can do with it. */
export interface Board {
  readonly panes: () => readonly Pane[];
  /** Returns why not, or nothing. */
  readonly add: (channel: string) => string;
  readonly remove: (channel: string) => void;
  readonly pause: (channel: string, isPaused: boolean) => void;
  readonly clear: (channel: string) => void;
  /** Adds messages of the history, given as the JSON text of a response of `GetHistory`. Returns how many were new. */
  readonly addHistory: (channel: string, response: string) => number;
  /** Ends all subscriptions. */
  readonly close: () => void;
}

/** Opens a board. `show` is called after each change, `frameText` returns the text of the frame that is being handled. */
export function openBoard(client: BoardClient, show: () => void, frameText: () => string, clock: () => number = Date.now): Board {
  let panes: readonly Pane[] = [];
  const stops = new Map<string, () => void>();
  const change = (channel: string, next: (pane: Pane) => Partial<Pane>): void => {
    panes = panes.map((pane) => (pane.channel === channel ? { ...pane, ...next(pane) } : pane));
    show();
  };
  const receive = (channel: string, message: ChannelMessage): void => {
    const text = textOf(message, frameText());
    change(channel, ({ total, isPaused, messages, held }) => {
      const { type, seq, timestamp, replayed = false } = message;
      const own: PaneMessage = { number: total + 1, at: timestamp ?? clock(), type, seq, isOld: replayed, text };
      return isPaused ? { total: total + 1, held: bounded([own, ...held]) } : { total: total + 1, messages: bounded([own, ...messages]) };
    });
  };
  const remove = (channel: string): void => {
    stops.get(channel)?.();
    stops.delete(channel);
    panes = panes.filter((pane) => pane.channel !== channel);
    show();
  };
  return {
    panes: () => panes,
    add(channel) {
      if (stops.has(channel)) {
        return `Already subscribed to ${channel}.`;
      }
      if (panes.length >= MAX_PANES) {
        return `At most ${MAX_PANES} channels at once: unsubscribe from one first.`;
      }
      panes = [...panes, { channel, phase: "waiting", error: undefined, info: undefined, messages: [], total: 0, isPaused: false, held: [] }];
      show();
      stops.set(
        channel,
        client.subscribe(
          channel,
          (message) => {
            receive(channel, message);
          },
          {
            onError: (error) => {
              change(channel, () => ({ phase: "refused", error }));
            },
            onSubscribed: (info) => {
              change(channel, () => ({ phase: "on", error: undefined, info }));
            },
          },
        ),
      );
      return "";
    },
    remove,
    pause(channel, isPaused) {
      change(channel, ({ messages, held }) => (isPaused ? { isPaused } : { isPaused, messages: bounded([...held, ...messages]), held: [] }));
    },
    clear(channel) {
      change(channel, () => ({ messages: [], held: [], total: 0 }));
    },
    addHistory(channel, response) {
      const pane = panes.find((each) => each.channel === channel);
      const known = new Set([...(pane?.held ?? []), ...(pane?.messages ?? [])].map(({ seq }) => seq));
      const lowest = Math.min(1, ...(pane?.messages ?? []).map(({ number }) => number));
      const older = entriesOf(member(response, "messages") ?? "[]")
        .map(({ text }) => ({ ...(JSON.parse(text) as { readonly seq: number; readonly type: string; readonly timestamp: number }), text: member(text, "data") ?? "null" }))
        .filter(({ seq }) => !known.has(seq))
        .reverse();
      change(channel, ({ messages }) => ({
        messages: bounded([...messages, ...older.map(({ seq, type, timestamp, text }, index) => ({ number: lowest - 1 - index, at: timestamp, type, seq, isOld: true, text }))].sort((a, b) => (b.seq ?? 0) - (a.seq ?? 0))),
      }));
      return older.length;
    },
    close() {
      for (const stop of stops.values()) {
        stop();
      }
      stops.clear();
      panes = [];
    },
  };
}

/** Returns the newest messages that a pane may keep. */
function bounded(messages: readonly PaneMessage[]): readonly PaneMessage[] {
  let characters = 0;
  const cut = messages.findIndex(({ text }, index) => index >= MAX_MESSAGES || (characters += text.length) > MAX_CHARACTERS);
  // The newest one always shows, however long it is.
  return cut < 0 ? messages : messages.slice(0, Math.max(1, cut));
}

/**
 * Returns the text of a message's data: that of the frame if it is this message's, so that no digit
 * and no repeated key is lost. In a batch of prices, it is the update of this symbol.
 */
export function textOf({ channel, seq, data, type }: ChannelMessage, frame: string): string {
  if (isContainer(frame)) {
    const value = (key: string): string | undefined => member(frame, key);
    if (value("channel") === JSON.stringify(channel) && value("seq") === (seq === undefined ? undefined : String(seq))) {
      return value("data") ?? "null";
    }
    if (type === "price" && value("type") === '"price_batch"') {
      const { symbol, source } = data;
      const updates = entriesOf(member(value("data") ?? "{}", "updates") ?? "[]");
      const own = updates.find(({ text }) => member(text, "symbol") === JSON.stringify(symbol) && member(text, "source") === JSON.stringify(source));
      if (own !== undefined) {
        return own.text;
      }
    }
  }
  return JSON.stringify(data);
}

function isContainer(frame: string): boolean {
  return frame.startsWith("{");
}

/** A plain word for the state of a pane, and a sentence. */
export function paneState({ phase, info, error, total, messages }: Pane, isOnline: boolean): { readonly word: string; readonly tone: "up" | "plain" | "warn" | "bad"; readonly text: string } {
  if (phase === "refused") {
    const word = error?.code === "permission_denied" || error?.code === "unauthenticated" ? "No right to read" : error?.code === "cancelled" ? "Ended by the server" : "Refused";
    return { word, tone: "bad", text: error?.message ?? "The server gave no reason." };
  }
  if (!isOnline) {
    const text = messages.length === 0 ? "The subscription is made as soon as the server can be reached." : "What is shown is old. The subscription is made again with the connection.";
    return { word: "Offline", tone: "warn", text };
  }
  if (phase === "waiting") {
    return { word: "Asking", tone: "plain", text: "The server has not answered yet." };
  }
  const quiet = total === 0 ? "Nothing was published since. " : "";
  return info?.class === "latest"
    ? { word: "Live", tone: "up", text: `${quiet}Only the newest value counts here: a slow connection skips older ones.` }
    : { word: "Live", tone: "up", text: `${quiet}Every message counts here: after a lost connection the missed ones follow.` };
}
