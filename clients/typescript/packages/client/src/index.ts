/** Public API of `@tidewire/client`. */
export type * from "./api.ts";
export { WebSocketClient } from "./client.ts";
export type { ConnectionEnd } from "./link.ts";
export type { Clock, Environment, Fetch, Page, Timer, WebSocketConstructor, WebSocketLike } from "./environment.ts";
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
export { type LoadedState, type StateMessage, StateSync, type StateSyncOptions } from "./state-sync.ts";
export type { ChannelHandler, ChannelMessage, SubscribeOptions } from "./subscriptions.ts";
export type * from "./types/alert.ts";
export type * from "./types/common.ts";
export type * from "./types/notify.ts";
export type * from "./types/price.ts";
export type * from "./types/session.ts";
export type * from "./types/watch.ts";
