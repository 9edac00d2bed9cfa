/** Checks of server messages: the shape of the data of each message type. */
import type { ServerData, ServerType } from "../messages.ts";
import type { AlertCondition, AlertEvent, AlertRepeat, AlertRule, AlertTick } from "../types/alert.ts";
import type { ErrorData } from "../types/common.ts";
import type { DeliveryFilter, Notification, Preferences } from "../types/notify.ts";
import type { Candle, MarketCoverage, PriceSource, PriceUpdate, Rate, RecentTrade, RefusedSymbol, SourceDetail, SourceList, TopMover } from "../types/price.ts";
import type { ActiveSubscription, HistoryItem, SubscriptionResult } from "../types/session.ts";
import type {
  Approval,
  BalanceChange,
  EventFilter,
  NftItem,
  NftTransfer,
  TransactionStatus,
  WalletTransaction,
  WalletUpdate,
} from "../types/watch.ts";
import { anyOf, type Check, count, flag, isRecord, json, list, millis, nullable, number, object, optional, tagged, text } from "./check.ts";

const error = object<ErrorData>({ code: text, message: text, retryAfterMs: optional(count) });

const position = { epoch: text, seq: count };
const subscription = object<ActiveSubscription>({ channel: text, ...position });

const sourceDetail = object<SourceDetail>({
  source: text,
  price: nullable(number),
  ageMs: nullable(count),
  weight: number,
  state: text,
  reason: optional(text),
  trades: count,
  min: nullable(number),
  max: nullable(number),
  missing: optional(count),
  rate: optional(object<Rate>({ symbol: text, price: nullable(number), ageMs: nullable(count) })),
  volumeUnknown: optional(text),
  unexpectedFields: optional(list(text)),
});

const price = object<PriceUpdate>({
  symbol: text,
  price: nullable(number),
  change24h: nullable(number),
  volume24h: nullable(number),
  timestamp: millis,
  source: text,
  confidence: nullable(number),
  sources: count,
  stale: flag,
  twap: nullable(number),
  sourceDetails: optional(list(sourceDetail)),
  method: optional(text),
  windowMs: optional(count),
  coveredMs: optional(count),
  dayCoveredMs: optional(count),
  missing: optional(count),
  sample: optional(flag),
});

const candle = object<Candle>({
  symbol: text,
  interval: text,
  start: millis,
  open: number,
  high: number,
  low: number,
  close: number,
  volume: nullable(number),
  closed: flag,
  sources: count,
  sample: optional(flag),
});

const transaction = object<TransactionStatus>({
  chain: count,
  hash: text,
  state: text,
  confirmations: count,
  required: count,
  from: optional(text),
  nonce: optional(count),
  blockNumber: optional(count),
  blockHash: optional(text),
  gasUsed: optional(count),
  effectiveGasPrice: optional(text),
  replacedBy: optional(text),
  reason: optional(text),
  reorged: optional(flag),
  timestamp: millis,
  since: optional(millis),
  sample: optional(flag),
});

/** A wallet update whose data passes `data`. The caller chooses the check by `type`. */
function walletUpdate(data: Check<WalletUpdate["data"]>): Check<WalletUpdate> {
  return object<Omit<WalletUpdate, "data"> & { readonly data: WalletUpdate["data"] }>({
    type: text as Check<WalletUpdate["type"]>,
    address: text,
    chain: count,
    timestamp: millis,
    removed: optional(flag),
    suspicious: optional(text),
    sample: optional(flag),
    data,
  }) as Check<WalletUpdate>;
}

const notification = object<Notification>({
  id: text,
  type: text,
  title: text,
  body: text,
  data: json,
  priority: text,
  timestamp: millis,
  read: flag,
  seen: optional(flag),
  collapseKey: optional(text),
  actions: optional(list(object({ label: text, url: text }))),
  expiresAt: optional(millis),
  scheduledId: optional(text),
  replaces: optional(list(text)),
  unreadCount: optional(count),
});

const readReceipt = object<ServerData["read"]>({ ids: optional(list(text)), all: optional(flag), upTo: optional(text), unreadCount: count });
const dismissed = object<ServerData["dismissed"]>({ ids: list(text), unreadCount: count });

const symbol = { kind: text as Check<never>, symbol: text };
const threshold = object({ ...symbol, threshold: number, hysteresis: optional(number) });
const portfolio = object({
  kind: text as Check<never>,
  portfolio: text,
  threshold: optional(number),
  percent: optional(number),
  windowMs: optional(count),
});
const gas = object({ kind: text as Check<never>, chain: count, gwei: number });
const several = object({ kind: text as Check<never>, conditions: list<AlertCondition>((value) => condition(value)) });
const condition: Check<AlertCondition> = tagged<AlertCondition>("kind", {
  price_above: threshold as Check<AlertCondition>,
  price_below: threshold as Check<AlertCondition>,
  price_crosses: object({
    ...symbol,
    threshold: number,
    direction: text,
    hysteresis: optional(number),
  }) as Check<AlertCondition>,
  price_channel: object({ ...symbol, low: number, high: number, on: text }),
  percent_change: object({ ...symbol, percent: number, windowMs: count }),
  moving_average_cross: object({ ...symbol, fastMs: count, slowMs: count, direction: text }),
  volume_spike: object({ ...symbol, multiple: number, windowMs: count }),
  price_stale: object({ ...symbol, afterMs: count }),
  portfolio_above: portfolio as Check<AlertCondition>,
  portfolio_below: portfolio as Check<AlertCondition>,
  portfolio_change: portfolio as Check<AlertCondition>,
  portfolio_drawdown: portfolio as Check<AlertCondition>,
  gas_above: gas,
  gas_below: gas,
  transaction_state: object({ kind: text as Check<never>, chain: count, txHash: text, state: text }),
  all: several,
  any: several,
});

const rule = object<AlertRule>({
  id: text,
  name: optional(text),
  condition,
  repeat: optional(anyOf<AlertRepeat>(object({ times: count }), text as Check<"once">)),
  cooldownMs: optional(count),
  expiresAt: optional(millis),
  snoozedUntil: optional(millis),
  priority: optional(text),
  enabled: flag,
  state: text,
  version: optional(count),
  template: optional(text),
  user: optional(text),
  stoppedReason: optional(text),
  fires: optional(count),
  lastFiredAt: optional(millis),
  idempotencyKey: optional(text),
});

const alertEvent = object<AlertEvent>({
  alertId: text,
  rule: optional(rule),
  value: nullable(number),
  previous: nullable(number),
  sources: list(text),
  timestamp: millis,
  id: optional(text),
  ruleVersion: optional(count),
  retracted: optional(flag),
  symbol: optional(text),
  threshold: optional(number),
  manual: optional(flag),
  portfolio: optional(text),
  chain: optional(count),
  txHash: optional(text),
  state: optional(text),
});
const alertTick = object<AlertTick>({ value: nullable(number), timestamp: millis, sources: list(text) });

const deliveryFilter = object<DeliveryFilter>({
  minPriority: optional(text),
  mutedTypes: optional(list(text)),
  always: optional(flag),
});

const preferences = object<Preferences>({
  minPriority: optional(text),
  mutedTypes: optional(list(text)),
  quietHours: optional(object({ start: text, end: text, timeZone: text })),
  digest: optional(flag),
  channels: optional(
    object<NonNullable<Preferences["channels"]>>({
      push: optional(deliveryFilter),
      email: optional(deliveryFilter),
      webhook: optional(deliveryFilter),
    }),
  ),
});

/** The check of the data of each message type. */
export const serverData: { readonly [Type in ServerType]: Check<ServerData[Type]> } = {
  welcome: object<ServerData["welcome"]>({
    connectionId: text,
    userId: optional(text),
    heartbeatMs: count,
    serverTime: millis,
    expiresAt: optional(millis),
    version: text,
    subscriptions: list(subscription),
    postKey: optional(text),
    sample: optional(flag),
  }),
  authenticated: object({ userId: text, expiresAt: millis, subscriptions: list(subscription) }),
  subscribed: object({
    channels: list(
      object<SubscriptionResult>({
        channel: text,
        ...position,
        recovered: flag,
        error: optional(error),
        class: optional(text),
        batched: optional(flag),
      }),
    ),
  }),
  unsubscribed: object<ServerData["unsubscribed"]>({ channels: list(text), reason: optional(text) }),
  history: object<ServerData["history"]>({
    channel: text,
    ...position,
    messages: list(object<HistoryItem>({ seq: count, type: text, data: json, timestamp: millis })),
  }),
  published: subscription,
  watching: (value) => (isRecord(value) && "channel" in value ? object({ channel: text })(value) : transaction(value)),
  unwatched: object<ServerData["unwatched"]>({
    chain: count,
    txHash: optional(text),
    events: optional(object<EventFilter>({ addresses: list(text), topics: optional(list(text)), abi: optional(list(text)) })),
    abi: optional(list(text)),
  }),
  price,
  price_batch: object({ updates: list(price), timestamp: millis }),
  market_overview: object<ServerData["market_overview"]>({
    totalMarketCap: nullable(number),
    totalVolume: nullable(number),
    btcDominance: nullable(number),
    topMovers: list(object<TopMover>({ symbol: text, price: nullable(number), change24h: number })),
    recentTrades: list(
      object<RecentTrade>({ symbol: text, price: number, size: number, side: nullable(text), source: text, timestamp: millis }),
    ),
    timestamp: millis,
    coverage: optional(object<MarketCoverage>({ symbols: count, live: count, withSupply: count, withVolume: count, supplyAgeMs: optional(count) })),
    sample: optional(flag),
  }),
  block: object<ServerData["block"]>({
    chain: count,
    number: count,
    hash: text,
    parentHash: text,
    timestamp: millis,
    transactions: count,
    baseFeePerGas: optional(text),
    reorged: optional(list(text)),
    sample: optional(flag),
  }),
  event_log: object<ServerData["event_log"]>({
    chain: count,
    address: text,
    event: optional(text),
    args: optional(json),
    topics: list(text),
    data: text,
    blockNumber: count,
    blockHash: text,
    txHash: text,
    logIndex: count,
    removed: flag,
    sample: optional(flag),
  }),
  transaction,
  wallet_update: tagged<WalletUpdate>("type", {
    balance: walletUpdate(
      object<BalanceChange>({
        token: optional(text),
        symbol: optional(text),
        decimals: optional(count),
        previous: optional(text),
        current: text,
        delta: text,
        blockNumber: count,
        how: text,
      }),
    ),
    transaction: walletUpdate(
      object<WalletTransaction>({
        hash: text,
        from: text,
        to: nullable(text),
        value: text,
        direction: text,
        status: text,
        blockNumber: optional(count),
        replacedBy: optional(text),
      }),
    ),
    approval: walletUpdate(
      object<Approval>({
        token: text,
        owner: text,
        spender: text,
        amount: optional(text),
        tokenId: optional(text),
        approvedAll: optional(flag),
        unlimited: flag,
        standard: text,
        txHash: text,
        blockNumber: count,
      }),
    ),
    nft: walletUpdate(
      object<NftTransfer>({
        contract: text,
        standard: text,
        tokenId: text,
        amount: text,
        from: text,
        to: text,
        txHash: text,
        blockNumber: count,
        items: optional(list(object<NftItem>({ tokenId: text, amount: text }))),
        leftOut: optional(count),
      }),
    ),
  }),
  notification,
  notification_batch: object<ServerData["notification_batch"]>({
    items: list(notification),
    unreadCount: count,
    read: optional(readReceipt),
    dismissed: optional(dismissed),
    next: optional(text),
  }),
  notifications: object<ServerData["notifications"]>({ items: list(notification), unreadCount: count, next: optional(text) }),
  read: readReceipt,
  dismissed,
  unread_count: object({ unreadCount: count }),
  preferences,
  alert: alertEvent,
  alert_registered: rule,
  alert_updated: rule,
  alerts: object<ServerData["alerts"]>({ items: list(rule), next: optional(text) }),
  alert_deleted: object({ id: text }),
  alert_explained: object<ServerData["alert_explained"]>({
    rule: optional(rule),
    value: nullable(number),
    holds: flag,
    reason: text,
    ruleVersion: optional(count),
    previousTick: optional(alertTick),
    tick: optional(alertTick),
    decision: optional(text),
  }),
  candle,
  candles: object<ServerData["candles"]>({ items: list(candle) }),
  alert_log: object<ServerData["alert_log"]>({ items: list(alertEvent), next: optional(text) }),
  visibility: object({ state: text, heartbeatMs: count }),
  pong: object<ServerData["pong"]>({
    t: optional(number),
    serverTime: millis,
    heartbeatMs: count,
    rttMs: optional(number),
    jitterMs: optional(number),
  }),
  message: json,
  token_expiring: object({ expiresAt: millis }),
  reconnect: object({ reason: text, afterMs: count }),
  gap: subscription,
  status: object<ServerData["status"]>({ state: text, reason: optional(text) }),
  error,
  cursor: object({ cursor: text }),
  ping: object({ serverTime: millis }),
};

const source = object<PriceSource>({
  name: text,
  kind: text,
  url: text,
  state: text,
  symbols: list(text),
  frames: count,
  badFrames: count,
  trades: count,
  connects: count,
  ageMs: nullable(count),
  lastError: optional(text),
  sample: optional(flag),
  gaps: optional(count),
  offsetMs: optional(number),
  connections: optional(count),
  refused: optional(list(object<RefusedSymbol>({ symbol: text, reason: text }))),
});

/** The response of `PriceService/ListSources`. */
export const sourceList: Check<SourceList> = object<SourceList>({ sources: list(source), tried: optional(list(source)) });
