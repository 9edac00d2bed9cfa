/** Session messages: identity, subscriptions, histories, heartbeat. */
import type { ErrorData, Json, Millis, Open, Position } from "./common.ts";

/** A subscription and the channel's position when it took effect. */
export interface ActiveSubscription extends Position {
  readonly channel: string;
}

/** The first message of a session. */
export interface Welcome {
  readonly connectionId: string;
  readonly userId?: string;
  /** The silence in milliseconds after which the client sends a ping. */
  readonly heartbeatMs: number;
  readonly serverTime: Millis;
  readonly expiresAt?: Millis;
  readonly version: string;
  readonly subscriptions: readonly ActiveSubscription[];
  /** On SSE only: the key for `POST /v1/sse/{connectionId}`. */
  readonly postKey?: string;
  /** The server plays sample data: its prices and chains are made up. */
  readonly sample?: boolean;
}

/** The token was accepted. */
export interface Authenticated {
  readonly userId: string;
  readonly expiresAt: Millis;
  readonly subscriptions: readonly ActiveSubscription[];
}

/** One channel to subscribe to. */
export interface ChannelSubscription {
  readonly channel: string;
  /** Replay everything after this position. */
  readonly since?: Position | undefined;
  /** On a latest channel: the shortest time between two messages, in milliseconds. */
  readonly minIntervalMs?: number | undefined;
}

/** Class of a channel: every publication counts on a `history`, only the newest on a `latest`. */
export type ChannelClass = Open<"history" | "latest">;

/** The result of one channel of a `subscribe`. */
export interface SubscriptionResult extends ActiveSubscription {
  /** Everything after `since` follows, each publication once and in order. */
  readonly recovered: boolean;
  readonly error?: ErrorData;
  /** Absent from an older server. */
  readonly class?: ChannelClass;
  /** Whether publications may come in a `price_batch`. Absent from an older server. */
  readonly batched?: boolean;
}

/** The results of a `subscribe`, in the order of the request. */
export interface Subscribed {
  readonly channels: readonly SubscriptionResult[];
}

/** Channels by name. */
export interface ChannelNames {
  readonly channels: readonly string[];
}

/** Ended subscriptions: by the client, or with a reason by the server. */
export interface Unsubscribed extends ChannelNames {
  readonly reason?: string;
}

/** A request for a channel's history. */
export interface HistoryRequest {
  readonly channel: string;
  readonly since?: Position;
  readonly limit?: number;
}

/** One publication of a history. */
export interface HistoryItem {
  readonly seq: number;
  readonly type: string;
  readonly data: Json;
  readonly timestamp: Millis;
}

/** A part of a channel's history, oldest first. */
export interface History extends ActiveSubscription {
  readonly messages: readonly HistoryItem[];
}

/** A request to publish a JSON document. */
export interface PublishRequest {
  readonly channel: string;
  readonly data: Json;
  /** A repeated key returns the position of the first publication and publishes nothing. */
  readonly idempotencyKey?: string | undefined;
}

/** Whether the page is visible to the user. */
export type Visibility = "active" | "background";

/** The current visibility and its heartbeat. */
export interface VisibilityState {
  readonly state: Open<Visibility>;
  readonly heartbeatMs: number;
}

/** The reply to a `ping`. */
export interface Pong {
  readonly t?: number;
  readonly serverTime: Millis;
  readonly heartbeatMs: number;
  /** The round-trip time that the server measured, in milliseconds. */
  readonly rttMs?: number;
  readonly jitterMs?: number;
}

/** The token expires soon. */
export interface TokenExpiring {
  readonly expiresAt: Millis;
}

/** The server drains: connect again after `afterMs` milliseconds. */
export interface Reconnect {
  readonly reason: string;
  readonly afterMs: number;
}

/** Missed publications are lost: read the state again. The stream continues after this position. */
export type Gap = ActiveSubscription;

/** The health of the server. */
export interface ServerStatus {
  readonly state: Open<"ok" | "degraded">;
  readonly reason?: string;
}
