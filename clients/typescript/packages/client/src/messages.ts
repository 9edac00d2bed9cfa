/**
 * Messages of the WebSocket protocol: the types of requests, replies and pushes.
 * The shapes follow `proto/tidewire/v1`. The parser is in `parse.ts`.
 */
import type {
  AlertDraft,
  AlertEvent,
  AlertExplanation,
  AlertLog,
  AlertLogQuery,
  AlertPage,
  AlertQuery,
  AlertRule,
} from "./types/alert.ts";
import type { ErrorData, Json, Millis } from "./types/common.ts";
import type {
  Dismissed,
  Notification,
  NotificationBatch,
  NotificationIds,
  NotificationPage,
  NotificationQuery,
  Preferences,
  ReadReceipt,
} from "./types/notify.ts";
import type { Candle, CandlePage, CandleQuery, MarketOverview, PriceBatch, PriceUpdate } from "./types/price.ts";
import type {
  ActiveSubscription,
  Authenticated,
  ChannelNames,
  ChannelSubscription,
  Gap,
  History,
  HistoryRequest,
  Pong,
  PublishRequest,
  Reconnect,
  ServerStatus,
  Subscribed,
  TokenExpiring,
  Unsubscribed,
  Visibility,
  VisibilityState,
  Welcome,
} from "./types/session.ts";
import type { Block, EventLog, TransactionStatus, WalletUpdate, Watching, WatchRequest } from "./types/watch.ts";

type Empty = Readonly<Record<string, never>>;

/** Each request: its data, and the type of its reply. */
export interface Requests {
  auth: { data: { readonly token: string }; reply: "authenticated" };
  subscribe: { data: { readonly channels: readonly (string | ChannelSubscription)[] }; reply: "subscribed" };
  unsubscribe: { data: ChannelNames; reply: "unsubscribed" };
  history: { data: HistoryRequest; reply: "history" };
  publish: { data: PublishRequest; reply: "published" };
  watch: { data: WatchRequest; reply: "watching" };
  unwatch: { data: WatchRequest; reply: "unwatched" };
  get_price: { data: { readonly symbol: string }; reply: "price" };
  get_candles: { data: CandleQuery; reply: "candles" };
  get_block: { data: { readonly chain: number }; reply: "block" };
  notifications: { data: NotificationQuery; reply: "notifications" };
  mark_read: { data: NotificationIds; reply: "read" };
  dismiss: { data: NotificationIds; reply: "dismissed" };
  mark_all_read: { data: { readonly upTo?: string }; reply: "read" };
  unread_count: { data: Empty; reply: "unread_count" };
  preferences: { data: Preferences; reply: "preferences" };
  alert_register: { data: AlertDraft; reply: "alert_registered" };
  alert_update: { data: AlertDraft & { readonly id: string }; reply: "alert_updated" };
  alerts: { data: AlertQuery; reply: "alerts" };
  alert_delete: { data: { readonly id: string }; reply: "alert_deleted" };
  alert_explain: { data: { readonly id: string }; reply: "alert_explained" };
  alert_log: { data: AlertLogQuery; reply: "alert_log" };
  visibility: { data: { readonly state: Visibility }; reply: "visibility" };
  ping: { data: { readonly t?: number }; reply: "pong" };
}

/** The data of each server message, by message type. */
export interface ServerData {
  welcome: Welcome;
  authenticated: Authenticated;
  subscribed: Subscribed;
  unsubscribed: Unsubscribed;
  history: History;
  published: ActiveSubscription;
  watching: Watching;
  unwatched: WatchRequest;
  price: PriceUpdate;
  price_batch: PriceBatch;
  market_overview: MarketOverview;
  candle: Candle;
  candles: CandlePage;
  block: Block;
  event_log: EventLog;
  transaction: TransactionStatus;
  wallet_update: WalletUpdate;
  notification: Notification;
  notification_batch: NotificationBatch;
  notifications: NotificationPage;
  read: ReadReceipt;
  dismissed: Dismissed;
  unread_count: { readonly unreadCount: number };
  preferences: Preferences;
  alert: AlertEvent;
  alert_registered: AlertRule;
  alert_updated: AlertRule;
  alerts: AlertPage;
  alert_deleted: { readonly id: string };
  alert_explained: AlertExplanation;
  alert_log: AlertLog;
  visibility: VisibilityState;
  pong: Pong;
  message: Json;
  token_expiring: TokenExpiring;
  reconnect: Reconnect;
  gap: Gap;
  status: ServerStatus;
  error: ErrorData;
  /** On Server-Sent Events only: the position to resume from. */
  cursor: { readonly cursor: string };
  /** On Server-Sent Events only: the heartbeat. */
  ping: { readonly serverTime: Millis };
}

/** The message types of a client. */
export type RequestType = keyof Requests;

/** The message types of the server. */
export type ServerType = keyof ServerData;

/** A message of a client. A message with an `id` gets exactly one reply with the same `id`. */
export type ClientMessage = {
  [Type in RequestType]: { readonly type: Type; readonly id?: string; readonly data?: Requests[Type]["data"] };
}[RequestType];

/** A message of the server, of one type. */
export interface ServerMessageOf<Type extends ServerType> {
  readonly type: Type;
  /** The `id` of the request that this replies to. */
  readonly id?: string;
  /** The channel of a publication. */
  readonly channel?: string;
  /** The sequence number on that channel. */
  readonly seq?: number;
  readonly data: ServerData[Type];
  /** The time of the publication. */
  readonly timestamp?: Millis;
}

/** A message of the server: a reply, or a push. */
export type ServerMessage = { [Type in ServerType]: ServerMessageOf<Type> }[ServerType];

/** The data of the reply to a request. */
export type ReplyOf<Type extends RequestType> = ServerData[Requests[Type]["reply"]];
