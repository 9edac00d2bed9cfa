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
import type { ChannelMessage, Notification, NotificationBatch, NotificationPage, ReadReceipt } from "@tidewire/client";

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

/** A change of the user: which notifications, and how. */
export interface InboxChange {
  readonly kind: "read" | "dismiss";
  readonly has: (id: string) => boolean;
}

/** Returns the inbox after a change that the server has not counted yet. */
export function change(inbox: Inbox, { kind, has }: InboxChange): Inbox {
  let { unreadCount } = inbox;
  const items: InboxItem[] = [];
  for (const item of inbox.items) {
    if (!has(item.id)) {
      items.push(item);
      continue;
    }
    unreadCount -= item.read ? 0 : 1;
    if (kind === "read") {
      items.push(item.read ? item : { ...item, read: true });
    }
  }
  return { ...inbox, items, unreadCount: Math.max(0, unreadCount) };
}

/** Returns the newest page of an inbox. */
export function load({ items, next, unreadCount }: NotificationPage): Inbox {
  return { items: items.map((item) => ({ ...item, replayed: true })), next, unreadCount };
}

/** Returns the inbox after a push of the user's channel, or `undefined` if it must be loaded again. */
export function apply(inbox: Inbox, message: ChannelMessage, replayed: boolean): Inbox | undefined {
  switch (message.type) {
    case "notification": {
      const { unreadCount, ...notification } = message.data;
      const next = insert(inbox, { ...notification, replayed });
      return unreadCount === undefined ? next : { ...next, unreadCount };
    }
    case "notification_batch":
      return applyBatch(inbox, message.data, replayed);
    case "read":
    case "dismissed":
      return receipt(inbox, message.data, message.type === "read" ? "read" : "dismiss");
    case "unread_count": {
      const { unreadCount } = message.data;
      // Something else than this list's messages changed the count: expiry, a recall, preferences.
      const expected = inbox.next === undefined ? inbox.items.filter(({ read }) => !read).length : inbox.unreadCount;
      return unreadCount === expected ? { ...inbox, unreadCount } : undefined;
    }
    case "gap":
      return undefined;
    default:
      return inbox;
  }
}

function receipt(inbox: Inbox, { unreadCount, ...which }: ReadReceipt, kind: InboxChange["kind"]): Inbox {
  const ids = new Set(which.ids);
  const { all, upTo } = which;
  return { ...change(inbox, { kind, has: (id) => ids.has(id) || (all === true && (upTo === undefined || id <= upTo)) }), unreadCount };
}

function applyBatch(inbox: Inbox, { items, unreadCount, read, dismissed, next }: NotificationBatch, replayed: boolean): Inbox {
  let result = inbox;
  if (read !== undefined) {
    result = receipt(result, read, "read");
  }
  if (dismissed !== undefined) {
    result = receipt(result, dismissed, "dismiss");
  }
  if (next !== undefined) {
    // More was missed than the batch has: what is loaded does not follow on it.
    result = { items: [], next, unreadCount };
  }
  for (const item of items) {
    result = insert(result, { ...item, replayed });
  }
  return { ...result, unreadCount };
}

/** Inserts by id, in place of what the notification replaces. */
function insert(inbox: Inbox, item: InboxItem): Inbox {
  const isReplaced = ({ id, collapseKey }: InboxItem): boolean => id === item.id || (collapseKey !== undefined && collapseKey === item.collapseKey);
  const replaced = inbox.items.filter(isReplaced);
  if (replaced.some(({ id }) => id > item.id)) {
    return inbox;
  }
  const unread = [item].filter(({ read }) => !read).length - replaced.filter(({ read }) => !read).length;
  const unreadCount = Math.max(0, inbox.unreadCount + unread);
  const others = inbox.items.filter((other) => !isReplaced(other));
  if (inbox.next !== undefined && item.id < inbox.next) {
    // Below what is loaded.
    return { ...inbox, items: others, unreadCount };
  }
  const items = [...others, item].sort((a, b) => (a.id < b.id ? 1 : -1)).slice(0, MAX_ITEMS);
  return { items, unreadCount, next: items.length > others.length ? inbox.next : items.at(-1)?.id };
}
