/**
 * Book of a user's rules: the rules with their states, and what they fired, live.
 *
 * The server pushes each fire. Other changes of a state, such as the end of a cooldown, are read with
 * `refresh`, which the page calls every few seconds.
 */
import type { AlertDraft, AlertEvent, AlertRule, ChannelMessage, TidewireError, WebSocketClient } from "@tidewire/client";

/** Rules of one request, and fires of one page. */
const PAGE_RULES = 200;
const PAGE_FIRES = 30;
/** Pages of rules: the default of `alerts.rules_per_user` is 1,000. */
const MAX_PAGES = 5;
/** Fires in the list. */
const MAX_FIRES = 300;

/** What the page shows. It is replaced and never changed. */
export interface BookView {
  /** Newest first. `undefined` before the first page. */
  readonly rules: readonly AlertRule[] | undefined;
  readonly fires: readonly AlertEvent[];
  /** The `before` of the next page of fires. */
  readonly next: string | undefined;
  readonly error: TidewireError | undefined;
}

/** A book without rules. */
export const EMPTY_BOOK: BookView = { rules: undefined, fires: [], next: undefined, error: undefined };

/** A book, and what its owner may do. Changes reject with the server's refusal. */
export interface Book {
  readonly refresh: () => void;
  readonly moreFires: () => void;
  readonly save: (draft: AlertDraft, id?: string) => Promise<AlertRule>;
  readonly change: (id: string, change: Partial<AlertDraft>) => Promise<AlertRule>;
  readonly remove: (id: string) => Promise<void>;
  readonly close: () => void;
}

/** Follows the rules and fires of a connection's user. */
export function openBook(client: WebSocketClient, show: (view: BookView) => void): Book {
  let view = EMPTY_BOOK;
  let isClosed = false;
  let isReading = false;
  let channel: string | undefined;
  let stop = (): void => undefined;
  const set = (part: Partial<BookView>): void => {
    view = { ...view, ...part };
    if (!isClosed) {
      show(view);
    }
  };
  const put = (rule: AlertRule): AlertRule => {
    const { rules = [] } = view;
    set({ rules: rules.some(({ id }) => id === rule.id) ? rules.map((each) => (each.id === rule.id ? rule : each)) : [rule, ...rules] });
    return rule;
  };
  const fail = (error: unknown): void => {
    // A lost connection refuses nothing.
    if (client.state.status === "connected") {
      set({ error: error as TidewireError });
    }
  };
  const readRules = async (): Promise<void> => {
    const rules: AlertRule[] = [];
    let after: string | undefined;
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const { items, next } = await client.request("alerts", { limit: PAGE_RULES, ...(after !== undefined && { after }) });
      rules.push(...items);
      after = next;
      if (after === undefined) {
        break;
      }
    }
    set({ rules: rules.reverse(), error: undefined });
  };
  const readFires = async (before?: string): Promise<void> => {
    const { items, next } = await client.request("alert_log", { limit: PAGE_FIRES, ...(before !== undefined && { before }) });
    set({ fires: merged(before === undefined ? items : view.fires, before === undefined ? view.fires : items), next });
  };
  const refresh = (): void => {
    if (!isReading && client.state.status === "connected") {
      isReading = true;
      readRules().catch(fail).finally(() => {
        isReading = false;
      });
    }
  };
  const receive = ({ type, data }: ChannelMessage): void => {
    if (type === "alert") {
      const fires = merged([data], view.fires);
      set({ fires });
      refresh();
    } else if (type === "gap") {
      refresh();
      readFires().catch(fail);
    }
  };
  const onState = (): void => {
    const { state } = client;
    const own = state.status === "connected" ? state.welcome.subscriptions.find((each) => each.channel.startsWith("user:"))?.channel : undefined;
    if (state.status === "connected" && channel === undefined) {
      channel = own ?? "";
      stop = own === undefined ? stop : client.subscribe(own, receive, { onError: fail });
      readFires().catch(fail);
    }
    refresh();
  };
  const off = client.on("state", onState);
  onState();
  return {
    refresh,
    moreFires: () => {
      readFires(view.next).catch(fail);
    },
    save: async (draft, id) => put(await (id === undefined ? client.request("alert_register", draft) : client.request("alert_update", { ...draft, id }))),
    change: async (id, change) => put(await client.request("alert_update", { ...change, id } as AlertDraft & { readonly id: string })),
    remove: async (id) => {
      await client.request("alert_delete", { id });
      set({ rules: view.rules?.filter((rule) => rule.id !== id) });
    },
    close: () => {
      isClosed = true;
      off();
      stop();
    },
  };
}

/** Returns the fires of both, newest first, each once. A retraction replaces what it takes back. */
function merged(newer: readonly AlertEvent[], older: readonly AlertEvent[]): readonly AlertEvent[] {
  const known = new Set(newer.map(({ id }) => id));
  return [...newer, ...older.filter(({ id }) => id === undefined || !known.has(id))].sort((a, b) => b.timestamp - a.timestamp).slice(0, MAX_FIRES);
}
