/** Notifications hook: the user's inbox, live, with changes that show at once. */
import { type ChannelMessage, TidewireError, type WebSocketClient } from "@tidewire/client";
import { useMemo } from "react";
import { apply, change, EMPTY, type Inbox, type InboxChange, type InboxItem, load } from "./inbox.ts";
import type { Live } from "./live.ts";
import type { Names } from "./selection.ts";
import { type Source, useSession, useSource } from "./session.ts";
import { followUser } from "./user.ts";

/** Notifications of the page that is loaded first. */
const PAGE_ITEMS = 50;
/** Pushes that may arrive while the page is loaded. After more, it is loaded again. */
const MAX_MEANWHILE = 1_000;

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

type Act = (change: InboxChange, send: () => Promise<unknown>) => Promise<void>;

interface View {
  /** With the user's own changes on top. */
  readonly inbox: Inbox;
  /** Makes a change, once the work runs. */
  readonly act?: Act;
}

const INBOX: Source<View> = { key: "inbox", initial: { inbox: EMPTY }, start: follow };

function follow(client: WebSocketClient, live: Live<View>): () => void {
  let inbox = EMPTY;
  /** Changes that the server has not answered, in their order. */
  const unconfirmed = new Set<InboxChange>();
  /** Pushes since the request for a page, while one is in flight: they are applied to the page too. */
  let meanwhile: ChannelMessage[] | undefined;
  let isStale = true;
  /** Counts users, and the end of the work: a late reply belongs to the one before. */
  let generation = 0;

  const show = (): void => {
    live.setLater(() => {
      const now = Date.now() + client.clockOffsetMs;
      const current = { ...inbox, items: inbox.items.filter(({ expiresAt }) => expiresAt === undefined || expiresAt > now) };
      return { inbox: [...unconfirmed].reduce(change, current), act };
    });
  };
  const receive = (message: ChannelMessage): void => {
    const next = apply(inbox, message, message.replayed === true);
    inbox = next ?? inbox;
    isStale ||= next === undefined;
  };
  const read = (): void => {
    if (!isStale || meanwhile !== undefined) {
      return;
    }
    const own = generation;
    const pushes: ChannelMessage[] = (meanwhile = []);
    isStale = false;
    client.request("notifications", { limit: PAGE_ITEMS }).then(
      (page) => {
        if (own === generation) {
          inbox = load(page);
          isStale = pushes.length > MAX_MEANWHILE;
          pushes.forEach(receive);
          meanwhile = undefined;
          read();
          show();
        }
      },
      () => {
        // The next connection reads again.
        if (own === generation) {
          meanwhile = undefined;
          isStale = true;
        }
      },
    );
  };
  const act: Act = async (made, send) => {
    const own = generation;
    unconfirmed.add(made);
    show();
    try {
      await send();
      if (own === generation) {
        inbox = change(inbox, made);
      }
    } finally {
      unconfirmed.delete(made);
      show();
    }
  };
  const end = followUser(client, {
    onUser: () => {
      generation += 1;
      inbox = EMPTY;
      unconfirmed.clear();
      meanwhile = undefined;
      isStale = true;
      show();
    },
    onReady: read,
    onMessage: (message) => {
      if (meanwhile !== undefined && meanwhile.length <= MAX_MEANWHILE) {
        meanwhile.push(message);
      }
      receive(message);
      read();
      show();
    },
  });
  show();
  return () => {
    generation += 1;
    end();
  };
}

/** The user's inbox. It is empty without a token. */
export function useNotifications(): Notifications {
  const session = useSession();
  const { inbox } = useSource(INBOX, INBOX.initial);
  const actions = useMemo(() => {
    const view = (): View => session.values.read(INBOX.key, INBOX.initial);
    const act = (made: InboxChange, send: () => Promise<unknown>): Promise<void> => {
      const done = view().act?.(made, send) ?? Promise.reject(new TidewireError({ code: "unavailable", message: "not connected" }));
      // A component may ignore the result: the list shows it.
      done.catch(() => undefined);
      return done;
    };
    const byIds = (kind: InboxChange["kind"], type: "mark_read" | "dismiss") => (names: Names) => {
      const ids = [names].flat();
      return act({ kind, has: (id) => ids.includes(id) }, () => session.client.request(type, { ids }));
    };
    return {
      markAsRead: byIds("read", "mark_read"),
      markAllRead: () => {
        const upTo = view().inbox.items[0]?.id;
        return upTo === undefined ? Promise.resolve() : act({ kind: "read", has: (id) => id <= upTo }, () => session.client.request("mark_all_read", { upTo }));
      },
      dismiss: byIds("dismiss", "dismiss"),
    };
  }, [session]);
  return useMemo(() => ({ notifications: inbox.items, unreadCount: inbox.unreadCount, ...actions }), [inbox, actions]);
}
