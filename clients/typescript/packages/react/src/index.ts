"use client";
/** Public API of `@tidewire/react`. */
export { type AlertFire, type Alerts, useAlerts } from "./alerts.ts";
export { type CandleOptions, type Candles, useCandles } from "./candles.ts";
export { type ChannelMessageOf, useChannel } from "./channel.ts";
export { type Connection, useConnection } from "./connection.ts";
export type { InboxItem } from "./inbox.ts";
export { type Notifications, useNotifications } from "./notifications.ts";
export { type Market, type PriceStream, type PriceStreamOptions, useMarketOverview, usePriceStream } from "./prices.ts";
export { WebSocketProvider, type WebSocketProviderProps } from "./provider.ts";
export type { Names } from "./selection.ts";
export { useClient } from "./session.ts";
export { ConnectionStatus, type ConnectionStatusProps, type StatusLabels } from "./status.ts";
export { type Transaction, useTransaction } from "./transaction.ts";
export type { Result } from "./value.ts";
export { useWalletUpdates, type WalletActivity, type WalletMeta, type WalletUpdates } from "./wallet.ts";
