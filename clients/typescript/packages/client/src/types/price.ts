/** Price messages: prices, their sources, the market. An unknown value is `null`. */
import type { Millis, Open } from "./common.ts";

/** The state of a source in the aggregate. */
export type SourceState = Open<"live" | "stale" | "excluded">;

/** The quote of one source for a symbol. */
export interface SourceDetail {
  readonly source: string;
  readonly price: number | null;
  readonly ageMs: number | null;
  /** Its share in the aggregate, between 0 and 1. */
  readonly weight: number;
  readonly state: SourceState;
  /** The reason why the source is excluded. */
  readonly reason?: string;
  /** Trades since the server started. */
  readonly trades: number;
  /** The lowest price of these trades. */
  readonly min: number | null;
  /** The highest price of these trades. */
  readonly max: number | null;
  /** The number of the venue's trades that never arrived, by their sequence numbers. */
  readonly missing?: number;
  /** The rate that converted the price from another currency. */
  readonly rate?: Rate;
  /** The reason why its trades count in no volume. */
  readonly volumeUnknown?: string;
  /** The venue's names of fields beside the price that are not as documented. */
  readonly unexpectedFields?: readonly string[];
}

/** The length of a candle. */
export type CandleInterval = Open<"1m" | "5m" | "1h" | "1d">;

/** Open, high, low, close and volume of an interval. */
export interface Candle {
  /** `BASE-QUOTE`, upper case. */
  readonly symbol: string;
  readonly interval: CandleInterval;
  /** The start of the interval in UTC. */
  readonly start: Millis;
  readonly open: number;
  readonly high: number;
  readonly low: number;
  readonly close: number;
  /** In QUOTE. */
  readonly volume: number | null;
  /** Whether it is over. */
  readonly closed: boolean;
  /** The number of live sources of the last price. */
  readonly sources: number;
  /** Made from sample data, not from the market. */
  readonly sample?: boolean;
}

/** A request for candles. With `since` the oldest from there on, otherwise the newest. */
export interface CandleQuery {
  readonly symbol: string;
  readonly interval: CandleInterval;
  readonly since?: Millis;
  readonly limit?: number;
}

/** A page of candles, oldest first. */
export interface CandlePage {
  readonly items: readonly Candle[];
}

/** An exchange rate. */
export interface Rate {
  /** The symbol of the rate, for example `USDT-USD`. */
  readonly symbol: string;
  /** The price of one unit of the other currency. */
  readonly price: number | null;
  readonly ageMs: number | null;
}

/** A price, aggregated over the venues or of one of them. */
export interface PriceUpdate {
  /** `BASE-QUOTE`, upper case. */
  readonly symbol: string;
  /** The price of one BASE in QUOTE. */
  readonly price: number | null;
  /** Percent. */
  readonly change24h: number | null;
  /** In QUOTE. */
  readonly volume24h: number | null;
  readonly timestamp: Millis;
  /** `aggregate`, or the venue. */
  readonly source: string;
  /** The half-width of the confidence interval, in QUOTE. */
  readonly confidence: number | null;
  /** The number of live sources. */
  readonly sources: number;
  /** No source is live: this is the last known price. */
  readonly stale: boolean;
  /** The time-weighted average price of the window. */
  readonly twap: number | null;
  /** In responses of GetPrice: the quote of each source. */
  readonly sourceDetails?: readonly SourceDetail[];
  /** In responses of GetPrice: the aggregation method. */
  readonly method?: string;
  readonly windowMs?: number;
  readonly coveredMs?: number;
  /** In responses of GetPrice: the part of the 24 hours that the server itself observed. */
  readonly dayCoveredMs?: number;
  /** On the channel of one source: the number of the venue's trades that never arrived. */
  readonly missing?: number;
  /** Made from sample data, not from the market. */
  readonly sample?: boolean;
}

/** Several prices in one frame, each symbol once. */
export interface PriceBatch {
  readonly updates: readonly PriceUpdate[];
  readonly timestamp: Millis;
}

/** A symbol with a large price change. */
export interface TopMover {
  readonly symbol: string;
  readonly price: number | null;
  /** Percent. */
  readonly change24h: number;
}

/** A trade; `side` is the taker's. */
export interface RecentTrade {
  readonly symbol: string;
  readonly price: number;
  /** In BASE. */
  readonly size: number;
  readonly side: Open<"buy" | "sell"> | null;
  readonly source: string;
  readonly timestamp: Millis;
}

/** The number of symbols that each figure of a market overview covers. */
export interface MarketCoverage {
  readonly symbols: number;
  readonly live: number;
  readonly withSupply: number;
  readonly withVolume: number;
  /** The age of the last supply figures in milliseconds, if a supply source responded. */
  readonly supplyAgeMs?: number;
}

/** An overview of the market. */
export interface MarketOverview {
  /** USD. */
  readonly totalMarketCap: number | null;
  /** USD over 24 hours. */
  readonly totalVolume: number | null;
  /** Percent. */
  readonly btcDominance: number | null;
  readonly topMovers: readonly TopMover[];
  /** Newest first. */
  readonly recentTrades: readonly RecentTrade[];
  readonly timestamp: Millis;
  readonly coverage?: MarketCoverage;
  /** Made from sample data: nothing of it exists. */
  readonly sample?: boolean;
}

/** The state of the connection to a source. */
export type ConnectionStateName = Open<"connecting" | "live" | "mute" | "waiting">;

/** A price venue, as ListSources returns it. */
export interface PriceSource {
  readonly name: string;
  /** The protocol of the venue, for example `binance`. */
  readonly kind: string;
  readonly url: string;
  readonly state: ConnectionStateName;
  readonly symbols: readonly string[];
  readonly frames: number;
  readonly badFrames: number;
  readonly trades: number;
  readonly connects: number;
  readonly ageMs: number | null;
  readonly lastError?: string;
  readonly sample?: boolean;
  /** The number of gaps in the sequence numbers of its trades. */
  readonly gaps?: number;
  /** The delay of the venue's clock behind the server's, in milliseconds. */
  readonly offsetMs?: number;
  /** The number of open connections, if the venue needs more than one. */
  readonly connections?: number;
  /** Symbols that the venue refuses. */
  readonly refused?: readonly RefusedSymbol[];
}

/** The response of `PriceService/ListSources`. */
export interface SourceList {
  readonly sources: readonly PriceSource[];
  /** The venues that sample data stands in for: they were tried, and are tried still. */
  readonly tried?: readonly PriceSource[];
}

/** A symbol that a venue refuses. */
export interface RefusedSymbol {
  readonly symbol: string;
  /** The reason that the venue gives. */
  readonly reason: string;
}
