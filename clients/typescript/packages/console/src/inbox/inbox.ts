/**
 * Inbox of the user who signed in: it follows the user's channel while the page is open, so that the
 * count is right on every tab, and loads the list by pages.
 */
import type { NotificationPage, ServerData, WebSocketClient } from "@tidewire/client";
import { type InboxFilter, type InboxMessage, InboxState } from "./state.ts";

/** Notifications of one page. */
const PAGE_ITEMS = 20;
/** Delay in milliseconds before the list is loaded again, so that a burst of changes loads it once. */
const RELOAD_MS = 250;
/** Messages that arrive while a page is loaded, at most. After more, the page is loaded again. */
const MAX_MEANWHILE = 1_000;

/** What the page shows. It is replaced and never changed. */
export interface InboxView {
  readonly items: InboxState["items"];
  readonly next: string | undefined;
  readonly unreadCount: number;
  readonly filter: InboxFilter;
  /** Whether the list was loaded once with this filter. */
  readonly isLoaded: boolean;
  /** The state of the user's connection, `none` without a user. */
  readonly session: string;
  /** Why the last request failed. */
  readonly note: string;
}

/** The inbox without a user. */
export const NO_INBOX: InboxView = { items: [], next: undefined, unreadCount: 0, filter: {}, isLoaded: false, session: "none", note: "" };

/** The inbox, and what the user may do with it. */
export interface Inbox {
  readonly markRead: (id: string) => void;
  readonly dismiss: (id: string) => void;
  /** Marks what is listed: a notification that the user has not seen yet stays unread. */
  readonly markAllRead: () => void;
  /** Loads the next older page, or the list again if it could not be loaded. */
  readonly more: () => void;
  readonly setFilter: (filter: InboxFilter) => void;
  /** Removes what has expired. */
  readonly expire: (now: number) => void;
  /** Ends it: late replies change nothing. */
  readonly close: () => void;
}

/** Follows the inbox of a connection. */
export function openInbox(client: WebSocketClient, show: (view: InboxView) => void): Inbox {
  let state = new InboxState();
  let filter: InboxFilter = {};
  let channel: string | undefined;
  let isLoaded = false;
  /** Whether the list must be loaded from its newest page, now or on the next connection. */
  let isStale = true;
  let isClosed = false;
  let note = "";
  /** The pushes since the request for a page, while one is in flight. They are applied to the page too. */
  let meanwhile: InboxMessage[] | undefined;
  let reloadTimer: ReturnType<typeof setTimeout> | undefined;
  let unsubscribe = (): void => undefined;

  const draw = (): void => {
    if (!isClosed) {
      const { items, next, unreadCount } = state;
      show({ items, next, unreadCount, filter, isLoaded, session: client.state.status, note });
    }
  };
  const say = (text: string): void => {
    note = text;
    draw();
  };
  const fail = (error: unknown): void => {
    say(error instanceof Error ? error.message : String(error));
  };
  const reloadSoon = (): void => {
    isStale = true;
    reloadTimer ??= setTimeout(() => {
      reloadTimer = undefined;
      void load(undefined);
    }, RELOAD_MS);
  };
  const receive = (message: InboxMessage): void => {
    if (meanwhile !== undefined && meanwhile.length <= MAX_MEANWHILE) {
      meanwhile.push(message);
    }
    if (state.apply(message) === "reload") {
      reloadSoon();
    }
    draw();
  };
  /** Loads the page before `before`, or the newest one in place of the list. */
  const load = async (before: string | undefined): Promise<void> => {
    if (isClosed || meanwhile !== undefined) {
      if (!isClosed) {
        reloadSoon();
      }
      return;
    }
    const own: InboxMessage[] = (meanwhile = []);
    const asked = state;
    const limit = before === undefined ? Math.max(PAGE_ITEMS, state.items.length) : PAGE_ITEMS;
    let page: NotificationPage;
    try {
      page = await client.request("notifications", { ...filter, limit, ...(before !== undefined && { before }) });
    } catch (error) {
      fail(error);
      return;
    } finally {
      meanwhile = undefined;
    }
    if (asked !== state) {
      // The filter changed meanwhile.
      void load(undefined);
      return;
    }
    if (before === undefined) {
      state.replace(page);
      isLoaded = true;
      isStale = false;
    } else if (state.next === before) {
      state.append(page);
    }
    const effects = own.slice(0, MAX_MEANWHILE).map((message) => state.apply(message));
    if (effects.includes("reload") || own.length > MAX_MEANWHILE) {
      reloadSoon();
    }
    say("");
  };
  /** Sends a change. Its reply is applied as the push of the same name, which other connections get. */
  const change = <Type extends "read" | "dismissed">(type: Type, reply: Promise<ServerData[Type]>): void => {
    reply.then((data) => {
      note = "";
      receive({ type, data } as InboxMessage);
    }, fail);
  };
  const onState = (): void => {
    const { state: now } = client;
    if (now.status === "connected") {
      const own = now.welcome.subscriptions.find((each) => each.channel.startsWith("user:"))?.channel;
      if (channel === undefined && own !== undefined) {
        // Later connections resume it by themselves.
        channel = own;
        unsubscribe = client.subscribe(own, receive, { onError: fail });
      }
      if (isStale && channel !== undefined) {
        void load(undefined);
      }
    }
    draw();
  };
  const off = client.on("state", onState);
  onState();

  return {
    markRead: (id) => {
      change("read", client.request("mark_read", { ids: [id] }));
    },
    dismiss: (id) => {
      change("dismissed", client.request("dismiss", { ids: [id] }));
    },
    markAllRead: () => {
      const ids = state.items.filter(({ read }) => !read).map(({ id }) => id);
      const upTo = state.items[0]?.id;
      if (Object.keys(filter).length > 0) {
        // With a filter, only what is listed was seen.
        if (ids.length > 0) {
          change("read", client.request("mark_read", { ids }));
        }
      } else if (upTo !== undefined && state.unreadCount !== 0) {
        change("read", client.request("mark_all_read", { upTo }));
      }
    },
    more: () => {
      void load(isLoaded ? state.next : undefined);
    },
    setFilter: (next) => {
      const { unreadCount } = state;
      filter = next;
      state = new InboxState(next);
      state.replace({ items: [], unreadCount });
      isLoaded = false;
      isStale = true;
      draw();
      if (meanwhile === undefined) {
        void load(undefined);
      }
    },
    expire: (now) => {
      if (state.expire(now)) {
        draw();
      }
    },
    close: () => {
      isClosed = true;
      clearTimeout(reloadTimer);
      off();
      unsubscribe();
    },
  };
}
