/** What a session says of itself, and what it says of channels. */
import type { ErrorData, Json, Millis, Open, Position } from "./common.ts";

/** A subscription and where it stood when it took effect. */
export interface ActiveSubscription extends Position {
  readonly channel: string;
}

/** The first message of a conversation. */
export interface Welcome {
  readonly connectionId: string;
  readonly userId?: string;
  /** After this much silence the client pings. */
  readonly heartbeatMs: number;
  readonly serverTime: Millis;
  readonly expiresAt?: Millis;
  readonly version: string;
  readonly subscriptions: readonly ActiveSubscription[];
  /** On SSE only: the key of the POST side. */
  readonly postKey?: string;
}

/** The token was accepted. */
export interface Authenticated {
  readonly userId: string;
  readonly expiresAt: Millis;
  readonly subscriptions: readonly ActiveSubscription[];
}

/** One channel to follow. */
export interface ChannelSubscription {
  readonly channel: string;
  /** Replay everything after this position. */
  readonly since?: Position;
  /** On a latest channel: at most one message in so many milliseconds. */
  readonly minIntervalMs?: number;
}

/** What became of one channel of a `subscribe`. */
export interface SubscriptionResult extends ActiveSubscription {
  /** Everything after `since` follows, each once and in order. */
  readonly recovered: boolean;
  readonly error?: ErrorData;
}

/** In the order of the request. */
export interface Subscribed {
  readonly channels: readonly SubscriptionResult[];
}

/** Channels by name. */
export interface ChannelNames {
  readonly channels: readonly string[];
}

/** Read a channel's history. */
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

/** Publish a JSON document. */
export interface PublishRequest {
  readonly channel: string;
  readonly data: Json;
  /** The same key gives the same position, however often it is sent. */
  readonly idempotencyKey?: string;
}

/** Whether anyone is looking. */
export type Visibility = "active" | "background";

/** The visibility in force. */
export interface VisibilityState {
  readonly state: Open<Visibility>;
  readonly heartbeatMs: number;
}

/** A sign of life. */
export interface Pong {
  readonly t?: number;
  readonly serverTime: Millis;
  readonly heartbeatMs: number;
  /** The round trip as the server measures it. */
  readonly rttMs?: number;
  readonly jitterMs?: number;
}

/** The token expires soon. */
export interface TokenExpiring {
  readonly expiresAt: Millis;
}

/** The server drains: come back after `afterMs`. */
export interface Reconnect {
  readonly reason: string;
  readonly afterMs: number;
}

/** What was missed cannot be had: read the state again; the stream goes on from here. */
export type Gap = ActiveSubscription;

/** How the server feels. */
export interface ServerStatus {
  readonly state: Open<"ok" | "degraded">;
  readonly reason?: string;
}
