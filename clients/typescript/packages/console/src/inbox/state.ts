/**
 * Inbox state: the loaded notifications of a user, newest first, and the unread count. It applies
 * pages and the pushes of the user's channel, and says when the list must be loaded again. It
 * sends nothing and draws nothing.
 *
 * Example: the page lists 3 notifications, all unread. Another device reads one: `read` marks it
 * and brings the count, 2. A broadcast is recalled: `unread_count` brings 1, but 2 of the list are
 * unread, so `apply` returns `"reload"`.
 */
import type { Notification, NotificationPage, ServerData, ServerType } from "@tidewire/client";

/** Notifications in the list at most, so that a page that stays open for weeks stays small. */
export const MAX_ITEMS = 500;

/** A message of the user's channel, or the reply to a request. */
export type InboxMessage = { readonly [Type in ServerType]: { readonly type: Type; readonly data: ServerData[Type] } }[ServerType];

/** Whether the state follows from the message, or the list must be loaded again. */
export type Effect = "applied" | "reload";

/** What the list shows. Without any it shows all. */
export interface InboxFilter {
  readonly unreadOnly?: boolean;
  readonly types?: readonly string[];
  readonly priorities?: readonly string[];
}

/** The loaded part of an inbox. */
export class InboxState {
  readonly #filter: InboxFilter;
  /** Newest first. Ids sort by time. */
  #items: Notification[] = [];
  #next: string | undefined;
  #unreadCount = 0;

  constructor(filter: InboxFilter = {}) {
    this.#filter = filter;
  }

  /** The loaded notifications, newest first. */
  get items(): readonly Notification[] {
    return this.#items;
  }

  /** The `before` of the next older page. Without one, the list is complete. */
  get next(): string | undefined {
    return this.#next;
  }

  /** The number of unread notifications in the whole inbox. */
  get unreadCount(): number {
    return this.#unreadCount;
  }

  /** Replaces the list by its newest page. */
  replace({ items, next, unreadCount }: NotificationPage): void {
    this.#items = [...items];
    this.#next = next;
    this.#unreadCount = unreadCount;
  }

  /** Adds the page that was requested with `next`. */
  append({ items, next, unreadCount }: NotificationPage): void {
    const oldest = this.#items.at(-1)?.id;
    this.#items.push(...items.filter(({ id }) => oldest === undefined || id < oldest));
    this.#next = next;
    this.#unreadCount = unreadCount;
    this.#truncate();
  }

  /** Applies a message. */
  apply(message: InboxMessage): Effect {
    switch (message.type) {
      case "notification":
        this.#insert(message.data);
        this.#unreadCount = message.data.unreadCount ?? this.#unreadCount;
        return "applied";
      case "notification_batch":
        this.#applyBatch(message.data);
        return "applied";
      case "read":
        this.#markRead(message.data);
        return "applied";
      case "dismissed":
        this.#remove(message.data);
        return "applied";
      case "unread_count": {
        const { unreadCount } = message.data;
        // Something else than this list's messages changed the count: expiry, a recall, preferences.
        const isWhole = this.#next === undefined && Object.keys(this.#filter).length === 0;
        const expected = isWhole ? this.#items.filter(({ read }) => !read).length : this.#unreadCount;
        this.#unreadCount = unreadCount;
        return unreadCount === expected ? "applied" : "reload";
      }
      case "gap":
        return "reload";
      default:
        return "applied";
    }
  }

  /** Removes what has expired. Returns whether something did. */
  expire(now: number): boolean {
    const kept = this.#items.filter(({ expiresAt }) => expiresAt === undefined || expiresAt > now);
    const changed = kept.length < this.#items.length;
    this.#items = kept;
    return changed;
  }

  #applyBatch({ items, unreadCount, read, dismissed, next }: ServerData["notification_batch"]): void {
    if (read !== undefined) {
      this.#markRead(read);
    }
    if (dismissed !== undefined) {
      this.#remove(dismissed);
    }
    if (next !== undefined) {
      // More was missed than the batch has: what is loaded does not follow on it.
      this.#items = [];
      this.#next = next;
    }
    for (const item of items) {
      this.#insert(item, next);
    }
    this.#unreadCount = unreadCount;
  }

  /** Inserts by id. `floor`: the cursor below which nothing is loaded. */
  #insert(notification: Notification, floor = this.#next): void {
    const { id, replaces = [] } = notification;
    if (this.#items.some((item) => item.replaces?.includes(id))) {
      return;
    }
    const replaced = this.#items.filter((item) => item.id === id || replaces.includes(item.id));
    this.#items = this.#items.filter((item) => !replaced.includes(item));
    const unread = (item: Notification): number => (item.read ? 0 : 1);
    // A broadcast brings no count. The count that follows it corrects this one.
    this.#unreadCount += unread(notification) - replaced.reduce((sum, item) => sum + unread(item), 0);
    if ((floor !== undefined && id < floor) || !this.#shows(notification)) {
      return;
    }
    const place = this.#items.findIndex((item) => item.id < id);
    this.#items.splice(place < 0 ? this.#items.length : place, 0, notification);
    this.#truncate();
  }

  #shows({ read, type, priority }: Notification): boolean {
    const { unreadOnly = false, types, priorities } = this.#filter;
    return !(unreadOnly && read) && (types?.includes(type) ?? true) && (priorities?.includes(priority) ?? true);
  }

  #truncate(): void {
    if (this.#items.length > MAX_ITEMS) {
      this.#items.length = MAX_ITEMS;
      this.#next = this.#items.at(-1)?.id;
    }
  }

  #markRead({ ids, all, upTo, unreadCount }: ServerData["read"]): void {
    const marked = new Set(ids);
    const isRead = ({ id }: Notification): boolean => marked.has(id) || (all === true && (upTo === undefined || id <= upTo));
    this.#items = this.#items.map((item) => (item.read || !isRead(item) ? item : { ...item, read: true })).filter((item) => this.#shows(item));
    this.#unreadCount = unreadCount;
  }

  #remove({ ids, unreadCount }: ServerData["dismissed"]): void {
    const removed = new Set(ids);
    this.#items = this.#items.filter(({ id }) => !removed.has(id));
    this.#unreadCount = unreadCount;
  }
}
