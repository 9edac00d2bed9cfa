/** Public API of `@tidewire/client`. */
export { shouldReconnect } from "./backoff.ts";
export type * from "./api.ts";
export { WebSocketClient } from "./client.ts";
export type { ConnectionEnd } from "./connection.ts";
export type { Clock, Environment, Page, Timer, WebSocketConstructor, WebSocketLike } from "./environment.ts";
export { TidewireError } from "./errors.ts";
export type {
  ClientMessage,
  ReplyOf,
  Requests,
  RequestType,
  ServerData,
  ServerMessage,
  ServerMessageOf,
  ServerType,
} from "./messages.ts";
export { type StateMessage, StateSync, type StateSyncOptions } from "./state-sync.ts";
export type { ChannelHandler, ChannelMessage, SubscribeOptions } from "./subscriptions.ts";
export type * from "./types/alert.ts";
export type * from "./types/common.ts";
export type * from "./types/notify.ts";
export type * from "./types/price.ts";
export type * from "./types/session.ts";
export type * from "./types/watch.ts";
