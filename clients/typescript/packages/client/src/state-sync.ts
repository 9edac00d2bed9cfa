/**
 * State that follows a history channel, with changes shown before the server
 * confirms them.
 *
 * Example: the server's list is `[a]`. The application applies optimistic
 * changes that add `b` and `c`: shown is `[a, b, c]`. The server publishes an
 * older change that adds `d`: shown is `[a, d, b, c]`. It refuses `b`, and
 * `rollbackUpdate` shows `[a, d, c]`: changes are applied anew on what the
 * server said, never undone.
 *
 * A publication arrives before the reply to its `publish`, which names its
 * `seq`. Applied at once, it would show beside its own optimistic change. So
 * while a change has no `seq`, publications are held for one round trip: the
 * server replies in order, and the reply to a request that is sent now comes
 * after that to the `publish`.
 */
import type { WebSocketClient } from "./client.ts";
import { TidewireError } from "./errors.ts";
import type { ChannelMessage } from "./subscriptions.ts";
import type { ErrorData, Json, Millis, Position } from "./types/common.ts";
import type { History, HistoryItem } from "./types/session.ts";

/** Publications of one page of the history. */
const PAGE_ITEMS = 1_000;
/** Publications that are kept while the state is read, or cannot be. */
const MAX_HELD = 1_000;

/** A publication as `reduce` gets it, live or from the history. */
export interface StateMessage {
  readonly type: string;
  readonly seq?: number;
  readonly data: Json;
  readonly timestamp?: Millis;
}

/** A state that was read at once. */
export interface LoadedState<State> {
  readonly state: State;
  /** The last publication that it includes. Without it, publications that arrive meanwhile are applied on top. */
  readonly seq?: number;
}

/** Options of a `StateSync`. */
export interface StateSyncOptions<State> {
  /** The state before the first publication. */
  readonly initial: State;
  /** Returns the state after a publication. It must not change its input. */
  readonly reduce: (state: State, message: StateMessage) => State;
  /** Reads the whole state. Without it, the state is `initial` and what the server has of the history. */
  readonly load?: () => Promise<LoadedState<State>>;
  /** Called when the state could not be read after a `gap`, and with what `reduce`, a change or a listener throws: it is left out. The default writes to the console. */
  readonly onError?: (error: unknown) => void;
}

/** A change that is shown and not confirmed. */
interface Pending<State> {
  readonly _change: (state: State) => State;
  /** The publication that brings the change, once the server has named it. */
  _seq?: number;
}

/** The state of one channel: what the server confirmed, and on top the changes that wait. */
export class StateSync<State> {
  /** The state with all changes that wait. The same object until it changes. */
  declare readonly getState: () => State;
  /** Calls `listener` after each change. Returns a function that removes it. */
  declare readonly subscribe: (listener: () => void) => () => void;
  /** Reads what is missing: `load`, or the history after the last publication. Calls at once share one reading. */
  declare readonly syncState: () => Promise<State>;
  /** Returns the publications after `lastSeq`, oldest first. Rejects if the history does not reach back so far. */
  declare readonly getMissedMessages: (lastSeq: number) => Promise<readonly HistoryItem[]>;
  /** Shows a change before the server knows of it. Returns its id. */
  declare readonly applyOptimistic: (change: (state: State) => State) => string;
  /**
   * The server took the change. With the `seq` of its publication, the change
   * is shown until that publication takes its place. Without one, it becomes part of the state.
   */
  declare readonly confirmUpdate: (id: string, seq?: number) => void;
  /** The server refused the change: takes it back, and leaves the others. */
  declare readonly rollbackUpdate: (id: string) => void;
  /** Ends the subscription. */
  declare readonly dispose: () => void;

  constructor(client: Pick<WebSocketClient, "request" | "subscribe">, channel: string, { initial, reduce, load, onError = console.error }: StateSyncOptions<State>) {
    const pending = new Map<string, Pending<State>>();
    const listeners = new Set<() => void>();
    let base = initial;
    let shown = initial;
    let lastSeq = 0;
    let lastId = 0;
    /** Publications that wait: for the state that is read, or for a reply that may name one as a pending change. */
    let held: StateMessage[] | undefined;
    let reading: Promise<State> | undefined;
    /** The state is of before a gap, until it is read. */
    let isLost = false;
    /** The next reading, at the time that a refusal named. */
    let timer: ReturnType<typeof setTimeout> | undefined;
    /** The state was read: before, it lacks what was published before the subscription. */
    let isWhole = false;

    /** Calls a function of the application: what it throws goes to `onError` alone. */
    const attempt = (run: () => void): void => {
      try {
        run();
      } catch (error) {
        onError(error);
      }
    };
    const history = (more: { readonly limit: number; readonly since?: Position }): Promise<History> => client.request("history", { channel, ...more });
    const show = (): void => {
      shown = base;
      pending.forEach(({ _change: change, _seq: seq }, id) => {
        if (seq && seq <= lastSeq) {
          // Its publication has taken its place.
          pending.delete(id);
        } else {
          attempt(() => {
            shown = change(shown);
          });
        }
      });
      [...listeners].forEach(attempt);
    };
    const step = (message: StateMessage): void => {
      const { seq } = message;
      if (!seq || seq > lastSeq) {
        attempt(() => {
          base = reduce(base, message);
        });
        lastSeq = seq ?? lastSeq;
      }
    };
    /** Applies what is held: at once, or while a change has no `seq`, what arrived before a round trip at its end. */
    const release = (): void => {
      const waiting = held;
      const count = waiting?.length;
      const apply = (): void => {
        if (waiting && held === waiting && !reading && !isLost) {
          held = undefined;
          waiting.splice(0, count).forEach(step);
          if (waiting.length) {
            held = waiting;
            release();
          }
          show();
        }
      };
      if ([...pending.values()].some((one) => !one._seq)) {
        history({ limit: 0 }).then(apply, apply).catch(onError);
      } else {
        apply();
      }
    };
    /** Returns what has to be done with what was read. */
    const fetchState = async (): Promise<() => void> => {
      if (load) {
        const { state, seq = lastSeq } = await load();
        // It may be older than what is shown.
        const newer = seq < lastSeq ? await getMissedMessages(seq) : [];
        return () => {
          base = state;
          lastSeq = seq;
          newer.forEach(step);
        };
      }
      const from = isWhole ? lastSeq : 0;
      const missed = await getMissedMessages(from).catch(async (error: unknown) => {
        if (from) {
          throw error;
        }
        // The history begins later: the state is what there is of it.
        return (await history({ limit: PAGE_ITEMS })).messages;
      });
      return () => {
        if (isLost || from < lastSeq) {
          base = initial;
          lastSeq = 0;
        }
        missed.forEach(step);
      };
    };
    const read = (): Promise<State> => {
      const mine: Promise<State> = fetchState()
        .catch((error: unknown) => () => {
          throw error;
        })
        .then((apply) => {
          if (reading !== mine) {
            // It was read before a gap.
            return syncState();
          }
          try {
            apply();
            isLost = false;
            isWhole = true;
          } finally {
            reading = undefined;
            release();
          }
          show();
          return shown;
        });
      return mine;
    };
    const retry = (): void => {
      if (isLost) {
        syncState().catch((error: unknown) => {
          onError(error);
          clearTimeout(timer);
          const { retryAfterMs } = new TidewireError({ ...(error as ErrorData) });
          timer = isLost && retryAfterMs ? setTimeout(retry, retryAfterMs) : undefined;
        });
      }
    };
    const onMessage = (message: ChannelMessage): void => {
      // Of more than it keeps, nothing is kept: the state is read anew.
      if (message.type === "gap" || held?.length === MAX_HELD) {
        lastSeq = 0;
        isLost = true;
        // The state that is read has what was confirmed, and until then that of before has it. Another epoch has other seqs.
        pending.forEach(({ _seq: seq }, id) => {
          if (seq) {
            confirmUpdate(id);
          }
        });
        // The running reading is of before the gap.
        held = reading = undefined;
        retry();
      } else {
        const count = (held ??= []).push(message as unknown as StateMessage);
        // A failed reading is repeated more and more seldom: after 1, 2, 4, 8 publications.
        if (!(count & (count - 1))) {
          retry();
        }
        if (count < 2) {
          release();
        }
      }
    };
    // Also on the next connection: perhaps it failed for the loss of the one before.
    const unsubscribe = client.subscribe(channel, onMessage, { onSubscribed: retry });

    const getMissedMessages = async (from: number): Promise<readonly HistoryItem[]> => {
      const { epoch, seq: top } = await history({ limit: 0 });
      const missed: HistoryItem[] = [];
      for (let seq = from; seq < top; ) {
        const { messages } = await history({ limit: PAGE_ITEMS, since: { epoch, seq } });
        missed.push(...messages);
        seq = messages.at(-1)?.seq ?? top;
      }
      return missed;
    };
    const syncState = (): Promise<State> => (reading ??= read());
    const rollbackUpdate = (id: string): void => {
      pending.delete(id);
      show();
    };
    const confirmUpdate = (id: string, seq?: number): void => {
      const update = pending.get(id);
      if (update && seq && seq > lastSeq) {
        update._seq = seq;
      } else {
        if (update && !seq) {
          attempt(() => {
            base = update._change(base);
          });
        }
        rollbackUpdate(id);
      }
    };
    Object.assign(this, {
      getMissedMessages,
      syncState,
      rollbackUpdate,
      getState: () => shown,
      subscribe(listener) {
        listeners.add(listener);
        return () => {
          listeners.delete(listener);
        };
      },
      applyOptimistic(change) {
        const id = String(++lastId);
        pending.set(id, { _change: change });
        show();
        return id;
      },
      confirmUpdate,
      dispose() {
        isLost = false;
        clearTimeout(timer);
        unsubscribe();
        listeners.clear();
      },
    } satisfies Omit<StateSync<State>, never>);
  }
}
