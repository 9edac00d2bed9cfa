/**
 * Feed: the newest messages of one history channel, live, oldest first.
 *
 * It subscribes first and reads the history then, so that nothing is missing between the two.
 * After a `gap` it begins anew: what it had may not lead to what follows.
 *
 * Example: the subscription takes effect at seq 7, and 8 arrives while the history is read. The
 * history returns 5, 6, 7 and 8. The feed is 5, 6, 7, 8: each seq is listed once.
 */
import type { ChannelMessage, HistoryItem, TidewireError, WebSocketClient } from "@tidewire/client";

/** A message of the channel. */
export type FeedItem = Pick<HistoryItem, "type" | "data"> & { readonly seq: number; readonly timestamp: number };

/** What a feed shows. It is replaced and never changed. */
export interface FeedState {
  /** `waiting`: the first page is not here yet. `refused`: `error` says why. */
  readonly phase: "waiting" | "live" | "refused";
  readonly items: readonly FeedItem[];
  readonly error: TidewireError | undefined;
}

/** A feed before its first page. */
export const EMPTY_FEED: FeedState = { phase: "waiting", items: [], error: undefined };

/** The client's part that a feed needs. */
export type FeedClient = Pick<WebSocketClient, "subscribe" | "request" | "state">;

/** Follows a channel with its newest `limit` messages. Returns a function that ends it. */
export function openFeed(client: FeedClient, channel: string, limit: number, show: (state: FeedState) => void): () => void {
  let state = EMPTY_FEED;
  /** Counts the reads of the history: a reply to an older one comes too late. */
  let generation = 0;
  let isLoaded = false;
  const set = (change: Partial<FeedState>): void => {
    state = { ...state, ...change };
    show(state);
  };
  const load = (): void => {
    generation += 1;
    const own = generation;
    client.request("history", { channel, limit }).then(
      ({ messages }) => {
        if (own === generation) {
          isLoaded = true;
          const last = messages.at(-1)?.seq ?? 0;
          set({ phase: "live", error: undefined, items: [...messages, ...state.items.filter(({ seq }) => seq > last)].slice(-limit) });
        }
      },
      (error: unknown) => {
        // A lost connection refuses nothing: the next one reads again.
        if (own === generation && client.state.status === "connected") {
          set({ phase: "refused", error: error as TidewireError });
        }
      },
    );
  };
  const receive = (message: ChannelMessage): void => {
    if (message.type === "gap") {
      isLoaded = false;
      set({ items: [] });
      load();
      return;
    }
    const { type, data, seq = 0, timestamp = 0 } = message;
    if (!state.items.some((item) => item.seq === seq)) {
      set({ items: [...state.items, { type, data: data as FeedItem["data"], seq, timestamp }].slice(-limit) });
    }
  };
  const stop = client.subscribe(channel, receive, {
    onError: (error) => {
      set({ phase: "refused", error });
    },
    onSubscribed: () => {
      if (!isLoaded) {
        load();
      }
    },
  });
  return () => {
    generation += 1;
    stop();
  };
}
