/** Prices and the market. What is not known is `null`, never made up. */
import type { Millis, Open } from "./common.ts";

/** What counts of a source. */
export type SourceState = Open<"live" | "stale" | "excluded">;

/** What one source says of a symbol. */
export interface SourceDetail {
  readonly source: string;
  readonly price: number | null;
  readonly ageMs: number | null;
  /** Its share in the aggregate, between 0 and 1. */
  readonly weight: number;
  readonly state: SourceState;
  /** Why it does not count. */
  readonly reason?: string;
  /** Trades since the server started. */
  readonly trades: number;
  /** The lowest of their prices. */
  readonly min: number | null;
  /** The highest of their prices. */
  readonly max: number | null;
  /** How many of the venue's trades never came, by their numbers. */
  readonly missing?: number;
  /** The price was in another currency, and was converted by this. */
  readonly rate?: Rate;
  /** Why what it trades is not part of any volume, if it is not. */
  readonly volumeUnknown?: string;
}

/** What another currency is worth. */
export interface Rate {
  /** The symbol whose price it is, for example `USDT-USD`. */
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
  /** The price is known to ± this. */
  readonly confidence: number | null;
  /** How many sources are live. */
  readonly sources: number;
  /** No source is live: this is the last price known. */
  readonly stale: boolean;
  /** The time-weighted average of the window. */
  readonly twap: number | null;
  /** In answers to GetPrice: what each source said. */
  readonly sourceDetails?: readonly SourceDetail[];
  /** In answers to GetPrice: how the sources were put together. */
  readonly method?: string;
  readonly windowMs?: number;
  readonly coveredMs?: number;
  /** In answers to GetPrice: how much of the 24 hours the server counted itself. */
  readonly dayCoveredMs?: number;
  /** On the channel of one source: how many of the venue's trades never came, by their numbers. */
  readonly missing?: number;
  /** Sample data, not the market's. */
  readonly sample?: boolean;
}

/** Several prices in one frame, each symbol once. */
export interface PriceBatch {
  readonly updates: readonly PriceUpdate[];
  readonly timestamp: Millis;
}

/** A symbol that moved. */
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

/** What the figures of a market overview cover: counts of symbols. */
export interface MarketCoverage {
  readonly symbols: number;
  readonly live: number;
  readonly withSupply: number;
  readonly withVolume: number;
  /** The age of what the supply source said last, in milliseconds, if there is one and it answered. */
  readonly supplyAgeMs?: number;
}

/** The market at a glance. */
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
}

/** How the connection to a source does. */
export type ConnectionStateName = Open<"connecting" | "live" | "mute" | "waiting">;

/** A venue that prices come from, as ListSources shows it. */
export interface PriceSource {
  readonly name: string;
  /** The protocol it speaks, for example `binance`. */
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
  /** How often trades were missing between two that came. */
  readonly gaps?: number;
  /** How far the venue's clock is behind the server's, in milliseconds. */
  readonly offsetMs?: number;
  /** How many connections stand, if it takes more than one. */
  readonly connections?: number;
}
