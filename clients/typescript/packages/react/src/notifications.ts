/** Notifications hook: the user's inbox, live, with changes that show at once. */
import { TidewireError, type WebSocketClient } from "@tidewire/client";
import { follow } from "./follow.ts";
import { apply, change, EMPTY, firstPage, type InboxChange, type InboxItem } from "./inbox.ts";
import type { Show } from "./live.ts";
import type { Names } from "./selection.ts";
import { type Source, useSource } from "./session.ts";

/** Notifications of the page that is loaded first. */
const PAGE_ITEMS = 50;

/** The user's inbox. */
export interface Notifications {
  /** The newest notifications, newest first: 50, and all that arrived since, up to 500. */
  readonly notifications: readonly InboxItem[];
  /** Unread notifications in the whole inbox. */
  readonly unreadCount: number;
  /** Marks as read, at once. Rejects, and takes it back, if the server does not accept it. */
  readonly markAsRead: (ids: Names) => Promise<void>;
  /** Marks all of the list as read. One that arrives meanwhile stays unread. */
  readonly markAllRead: () => Promise<void>;
  /** Removes from the inbox, at once. Rejects, and takes it back, if the server does not accept it. */
  readonly dismiss: (ids: Names) => Promise<void>;
}

/** A component may ignore the result: the list shows it. */
function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

/** Rejects the requests of a component before its work runs. */
export function notStarted(): Promise<never> {
  return quiet(Promise.reject(new TidewireError({ code: "unavailable", message: "not connected" })));
}

function start(client: WebSocketClient, showNext: Show<Notifications>): () => void {
  let inbox = EMPTY;
  /** Changes that the server has not answered, in their order. A new set for another user. */
  let unconfirmed = new Set<InboxChange>();

  const act = (made: InboxChange, request: () => Promise<unknown>): Promise<void> => {
    const own = unconfirmed.add(made);
    show();
    return quiet(
      request()
        .then(() => {
          // A push may have brought it already, with the exact count.
          inbox = own === unconfirmed ? change(inbox, made) : inbox;
        })
        .finally(() => {
          own.delete(made);
          show();
        }),
    );
  };
  const byIds =
    (kind: InboxChange[0], type: "mark_read" | "dismiss") =>
    (names: Names): Promise<void> => {
      const ids = [names].flat();
      return act([kind, (id) => ids.includes(id)], () => client.request(type, { ids }));
    };
  const actions = {
    markAsRead: byIds("read", "mark_read"),
    markAllRead: () => {
      const upTo = inbox.items[0]?.id;
      return upTo ? act(["read", (id: string) => id <= upTo], () => client.request("mark_all_read", { upTo })) : Promise.resolve();
    },
    dismiss: byIds("dismissed", "dismiss"),
  };
  const show = (): void => {
    showNext(() => {
      const now = Date.now() + client.clockOffsetMs;
      const { items, unreadCount } = [...unconfirmed].reduce((shown, made) => change(shown, made), inbox);
      return { notifications: items.filter(({ expiresAt }) => !expiresAt || expiresAt > now), unreadCount, ...actions };
    });
  };
  show();
  return follow(client, {
    _reset: () => {
      inbox = EMPTY;
      unconfirmed = new Set();
      show();
    },
    _load: () => client.request("notifications", { limit: PAGE_ITEMS }),
    _onPage: (page, meanwhile) => {
      inbox = meanwhile.reduce((before, message) => apply(before, message) ?? before, firstPage(page));
      show();
    },
    // Refused only on the first connection of another user, before the subscription ends.
    onError: () => undefined,
    _onMessage: (message) => {
      const next = apply(inbox, message);
      inbox = next ?? inbox;
      show();
      return !!next;
    },
  });
}

const INBOX: readonly [Source<Notifications>] = [
  {
    _key: "inbox",
    _initial: { notifications: [], unreadCount: 0, markAsRead: notStarted, markAllRead: notStarted, dismiss: notStarted },
    _start: start,
  },
];

/** The user's inbox. It is empty without a token. */
export function useNotifications(): Notifications {
  return useSource(INBOX);
}
