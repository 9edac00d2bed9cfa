/** Notifications: inbox, receipts, preferences. */
import type { Json, Millis, Open } from "./common.ts";

/** The subject of a notification. */
export type NotificationType = Open<
  | "price_alert"
  | "transaction_confirmed"
  | "transaction_failed"
  | "subscription_renewal"
  | "payment_received"
  | "security_warning"
  | "system_announcement"
  | "marketplace_update"
>;

/** The urgency of a notification. */
export type Priority = Open<"low" | "medium" | "high" | "urgent">;

/** A button of a notification. */
export interface NotificationAction {
  readonly label: string;
  readonly url: string;
}

/** A notification. */
export interface Notification {
  readonly id: string;
  readonly type: NotificationType;
  readonly title: string;
  readonly body: string;
  readonly data: Json;
  readonly priority: Priority;
  readonly timestamp: Millis;
  readonly read: boolean;
  readonly seen?: boolean;
  /** A newer notification with the same key replaces this one. The newer one names it in `replaces`. */
  readonly collapseKey?: string;
  readonly actions?: readonly NotificationAction[];
  readonly expiresAt?: Millis;
  /** The id that the sender received, if the notification was scheduled. */
  readonly scheduledId?: string;
  /** Ids of older notifications that left the inbox for this one, where it is pushed to a user. */
  readonly replaces?: readonly string[];
  /** The unread count after this notification, where it is pushed to a user. */
  readonly unreadCount?: number;
}

/** Several notifications in one frame, oldest first. After a pause, it stands for all that was missed. */
export interface NotificationBatch {
  readonly items: readonly Notification[];
  readonly unreadCount: number;
  /** Older notifications that were read meanwhile. Apply it before the items. */
  readonly read?: ReadReceipt;
  /** Older notifications that were removed meanwhile. Apply it before the items. */
  readonly dismissed?: Dismissed;
  /** The `before` of a list of the missed notifications that `items` has no room for. */
  readonly next?: string;
}

/** A page of notifications, newest first. */
export interface NotificationPage {
  readonly items: readonly Notification[];
  readonly unreadCount: number;
  /** The `before` of the next page. */
  readonly next?: string;
}

/** A filter for a list of notifications. */
export interface NotificationQuery {
  readonly limit?: number;
  readonly before?: string;
  readonly unreadOnly?: boolean;
  readonly types?: readonly NotificationType[];
  readonly priorities?: readonly Priority[];
}

/** Notifications by id. */
export interface NotificationIds {
  readonly ids: readonly string[];
}

/** The notifications with these ids were read, or all of them. */
export interface ReadReceipt {
  readonly ids?: readonly string[];
  readonly all?: boolean;
  /** With `all`: the newest notification that was read. */
  readonly upTo?: string;
  readonly unreadCount: number;
}

/** Notifications were removed. */
export interface Dismissed extends NotificationIds {
  readonly unreadCount: number;
}

/** The notifications that a delivery channel omits. */
export interface DeliveryFilter {
  readonly minPriority?: Priority;
  readonly mutedTypes?: readonly NotificationType[];
  /** Whether to deliver also while the user is connected. */
  readonly always?: boolean;
}

/** A user's choice of notifications. */
export interface Preferences {
  readonly minPriority?: Priority;
  readonly mutedTypes?: readonly NotificationType[];
  /** Start and end as `HH:MM`, and an IANA time zone. */
  readonly quietHours?: { readonly start: string; readonly end: string; readonly timeZone: string };
  /** Whether one message sums up, after quiet hours, what they held back. */
  readonly digest?: boolean;
  /** Further limits for each delivery channel. */
  readonly channels?: { readonly push?: DeliveryFilter; readonly email?: DeliveryFilter; readonly webhook?: DeliveryFilter };
}
