/** Notifications hook: the user's inbox, live, with changes that show at once. */
import { type NotificationPage, TidewireError } from "@tidewire/client";
import { stateSource, type Value } from "./follow.ts";
import { apply, change, EMPTY, firstPage, type Inbox, type InboxChange, type InboxItem } from "./inbox.ts";
import type { Names } from "./selection.ts";
import type { Source } from "./live.ts";
import { useSource } from "./session.ts";

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

const INBOX: readonly [Source<Value<Notifications>>] = [
  /* @__PURE__ */ stateSource<Inbox, NotificationPage, Notifications>(
    "inbox",
    EMPTY,
    (client, update) => {
      /** Changes that the server has not answered, in their order. They go with their connection, and so before another user comes. */
      const unconfirmed = new Set<InboxChange>();
      let newest: InboxItem | undefined;

      const act = (made: InboxChange, request: () => Promise<unknown>): Promise<void> => {
        unconfirmed.add(made);
        update();
        return quiet(
          request()
            .then(() => {
              // A push may have brought it already, with the exact count.
              update((inbox) => change(inbox, made));
            })
            .finally(() => {
              unconfirmed.delete(made);
              update();
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
          const upTo = newest?.id;
          return upTo ? act(["read", (id: string) => id <= upTo], () => client.request("mark_all_read", { upTo })) : Promise.resolve();
        },
        dismiss: byIds("dismissed", "dismiss"),
      };
      return {
        _load: () => client.request("notifications", { limit: PAGE_ITEMS }),
        _onPage: firstPage,
        _next: apply,
        _view(inbox) {
          const now = Date.now() + client.clockOffsetMs;
          const { items, unreadCount } = [...unconfirmed].reduce((shown, made) => change(shown, made), inbox);
          [newest] = inbox.items;
          return { notifications: items.filter(({ expiresAt }) => !expiresAt || expiresAt > now), unreadCount, ...actions };
        },
      };
    },
    { notifications: [], unreadCount: 0, markAsRead: notStarted, markAllRead: notStarted, dismiss: notStarted },
  ),
];

/** The user's inbox. It is empty without a token. */
export function useNotifications(): Notifications {
  return useSource(INBOX, ({ data }) => data);
}
