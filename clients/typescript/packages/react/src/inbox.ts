/**
 * Inbox: the newest notifications of the user, newest first, and the unread count.
 *
 * The server's pushes are the truth, and the user's own changes lie on top of them until the server
 * confirms or refuses each. A refused change is taken back alone, whatever arrived meanwhile.
 *
 * Example: 3 are listed, all unread. Another device reads one: `read` marks it and brings the
 * count, 2. A broadcast is recalled: `unread_count` brings 1, but 2 of the list are unread, so the
 * list is loaded again.
 */
import type { ChannelMessage, Notification, NotificationPage, ReadReceipt } from "@tidewire/client";

/** Notifications in the list at most, so that a page that stays open for weeks stays small. */
export const MAX_ITEMS = 500;

/** A notification, and whether it is an old one. */
export interface InboxItem extends Notification {
  /** Whether it was loaded or replayed after a lost connection, so that toasts and sounds can skip it. */
  readonly replayed: boolean;
}

/** The loaded part of an inbox. It is replaced and never changed. */
export interface Inbox {
  /** Newest first. Ids sort by time. */
  readonly items: readonly InboxItem[];
  /** The `before` of the next older page. Without one, the list is complete. */
  readonly next: string | undefined;
  /** The number of unread notifications in the whole inbox. */
  readonly unreadCount: number;
}

/** An inbox before its first page. */
export const EMPTY: Inbox = { items: [], next: undefined, unreadCount: 0 };

/** A change of the user: reads or removes the notifications for which `has` holds. */
export type InboxChange = readonly [kind: "read" | "dismissed", has: (id: string) => boolean];

const unread = (items: readonly InboxItem[]): number => items.filter(({ read }) => !read).length;

/** Returns the inbox with other items. Without a count, the count follows from the items. */
function withItems(
  inbox: Inbox,
  items: readonly InboxItem[],
  unreadCount = Math.max(0, inbox.unreadCount + unread(items) - unread(inbox.items)),
): Inbox {
  return { ...inbox, items, unreadCount };
}

/** Returns the inbox after a change. Without a count of the server, the count follows from the items. */
export function change(inbox: Inbox, [kind, has]: InboxChange, unreadCount?: number): Inbox {
  const items = inbox.items.filter(({ id }) => kind === "read" || !has(id)).map((item) => (item.read || !has(item.id) ? item : { ...item, read: true }));
  return withItems(inbox, items, unreadCount);
}

/** Returns the newest page of an inbox. */
export function firstPage({ items, next, unreadCount }: NotificationPage): Inbox {
  return { items: items.map((item) => ({ ...item, replayed: true })), next, unreadCount };
}

/** Returns the inbox after a push of the user's channel, or `undefined` if it must be loaded again. */
export function apply(inbox: Inbox, { type, data, replayed: mark }: ChannelMessage): Inbox | undefined {
  const replayed = !!mark;
  switch (type) {
    case "notification":
      return insert(inbox, { ...data, replayed }, data.unreadCount);
    case "notification_batch": {
      const { items, unreadCount, read, dismissed, next } = data;
      // More was missed than the batch has: what is loaded does not follow on it.
      let result = next ? { ...EMPTY, next } : receipt(receipt(inbox, "read", read), "dismissed", dismissed);
      for (const item of items) {
        result = insert(result, { ...item, replayed });
      }
      return { ...result, unreadCount };
    }
    case "read":
    case "dismissed":
      return receipt(inbox, type, data);
    case "unread_count": {
      const { unreadCount } = data;
      // Something else than this list's messages changed the count: expiry, a recall, preferences.
      return unreadCount === (inbox.next ? inbox.unreadCount : unread(inbox.items)) ? { ...inbox, unreadCount } : undefined;
    }
    default:
      return inbox;
  }
}

function receipt(inbox: Inbox, kind: InboxChange[0], what: ReadReceipt | undefined): Inbox {
  if (!what) {
    return inbox;
  }
  const { ids, all, upTo, unreadCount } = what;
  return change(inbox, [kind, (id) => (all ? !upTo || id <= upTo : !!ids?.includes(id))], unreadCount);
}

/** Inserts by id, in place of what the notification replaces. A broadcast and a user's own one with the same key are two. */
function insert(inbox: Inbox, item: InboxItem, unreadCount?: number): Inbox {
  if (inbox.items.some(({ replaces }) => replaces?.includes(item.id))) {
    return inbox;
  }
  const isReplaced = ({ id }: InboxItem): boolean => id === item.id || !!item.replaces?.includes(id);
  const items = [...inbox.items.filter((other) => !isReplaced(other)), item].sort((a, b) => (a.id < b.id ? 1 : -1));
  // Its count belongs to all of them, also to what is not kept.
  const result = withItems(inbox, items, unreadCount);
  const isLoaded = ({ id }: InboxItem): boolean => !inbox.next || id >= inbox.next;
  const kept = items.filter(isLoaded).slice(0, MAX_ITEMS);
  return { ...result, items: kept, next: items.length > MAX_ITEMS ? kept.at(-1)?.id : inbox.next };
}
