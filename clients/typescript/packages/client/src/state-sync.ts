/** State that follows a history channel, with changes shown before the server confirms them. */
import type { WebSocketClient } from "./client.ts";
import type { ChannelMessage } from "./subscriptions.ts";
import type { Json, Millis } from "./types/common.ts";
import type { HistoryItem } from "./types/session.ts";

/** A publication as `reduce` gets it, live or from the history. */
export interface StateMessage {
  readonly type: string;
  readonly seq?: number;
  readonly data: Json;
  readonly timestamp?: Millis;
}

/** Options of a `StateSync`. */
export interface StateSyncOptions<State> {
  /** The state before the first publication. */
  readonly initial: State;
  /** Returns the state after a publication. It must not change its input. */
  readonly reduce: (state: State, message: StateMessage) => State;
  /** Reads the whole state again after a `gap`. Without it the state starts again from `initial` and the history. */
  readonly load?: () => State | Promise<State>;
}

/** The state of one channel: what the server confirmed, and on top the changes that wait. */
export class StateSync<State> {
  readonly #client: WebSocketClient;
  readonly #channel: string;
  readonly #options: StateSyncOptions<State>;
  readonly #listeners = new Set<() => void>();
  readonly #pending = new Map<string, (state: State) => State>();
  readonly #unsubscribe: () => void;
  #base: State;
  #shown: State;
  #lastId = 0;

  constructor(client: WebSocketClient, channel: string, options: StateSyncOptions<State>) {
    this.#client = client;
    this.#channel = channel;
    this.#options = options;
    this.#base = this.#shown = options.initial;
    this.#unsubscribe = client.subscribe(channel, (message) => {
      this.#onMessage(message);
    });
  }

  /** The state with all changes that wait. The same object until it changes. */
  readonly getState = (): State => this.#shown;

  /** Calls `listener` after each change. Returns a function that removes it. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  };

  /** Reads everything that is missing now: the history after the last publication, or `load`. */
  async syncState(): Promise<State> {
    if (this.#options.load) {
      this.#base = await this.#options.load();
      this.#show();
    }
    return this.#shown;
  }

  /** Returns the publications after `lastSeq`, oldest first. */
  async getMissedMessages(lastSeq: number): Promise<readonly HistoryItem[]> {
    const { epoch } = await this.#client.request("history", { channel: this.#channel, limit: 1 });
    return (await this.#client.request("history", { channel: this.#channel, since: { epoch, seq: lastSeq } })).messages;
  }

  /** Shows a change before the server knows of it. Returns its id. */
  applyOptimistic(change: (state: State) => State): string {
    this.#lastId += 1;
    const id = String(this.#lastId);
    this.#pending.set(id, change);
    this.#show();
    return id;
  }

  /** The server took the change. With the `seq` of its publication, the change stays until that publication arrives. */
  confirmUpdate(id: string, _seq?: number): void {
    this.rollbackUpdate(id);
  }

  /** The server refused the change: takes it back, and leaves the others. */
  rollbackUpdate(id: string): void {
    this.#pending.delete(id);
    this.#show();
  }

  /** Ends the subscription. */
  dispose(): void {
    this.#unsubscribe();
    this.#listeners.clear();
  }

  #onMessage(message: ChannelMessage): void {
    if (message.type !== "gap") {
      this.#base = this.#options.reduce(this.#base, message as unknown as StateMessage);
      this.#show();
    }
  }

  #show(): void {
    this.#shown = [...this.#pending.values()].reduce((state, change) => change(state), this.#base);
    for (const listener of [...this.#listeners]) {
      listener();
    }
  }
}
