//! The market at a glance.

use std::collections::{BTreeMap, VecDeque};

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use tidewire_proto::v1::{MarketCoverage, MarketOverview, RecentTrade, TopMover, TradeSide};

use super::{blend::volume_quote, shown::decimal, symbol::SymbolState};
use crate::{source::SourceStatus, venue::Trade};

/// The overview is told this often at most, in microseconds.
const INTERVAL_US: i64 = 1_000_000;

/// How many symbols and trades it shows.
const TOP_MOVERS: usize = 10;
const RECENT_TRADES: usize = 20;

/// The currency of the totals. What is quoted in another is not converted, and not
/// counted; the coverage says so.
const CURRENCY: &str = "USD";

/// Gathers what the overview shows.
#[derive(Debug)]
pub(super) struct Overview {
    supply: BTreeMap<String, f64>,
    /// Newest first.
    trades: VecDeque<TradeNote>,
    due_us: i64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Told,
    Changed,
}

/// A trade, with its symbol and source by their places.
#[derive(Debug)]
struct TradeNote {
    symbol: usize,
    source: usize,
    price: Decimal,
    size: Decimal,
    side: TradeSide,
    time_us: i64,
}

impl Overview {
    pub(super) fn new(supply: BTreeMap<String, f64>) -> Self {
        Self {
            supply,
            trades: VecDeque::with_capacity(RECENT_TRADES),
            due_us: 0,
            state: State::Told,
        }
    }

    pub(super) fn take_trade(
        &mut self,
        symbol: usize,
        source: usize,
        trade: &Trade<'_>,
        time_us: i64,
    ) {
        self.trades.truncate(RECENT_TRADES - 1);
        self.trades.push_front(TradeNote {
            symbol,
            source,
            price: trade.price,
            size: trade.size,
            side: trade.side,
            time_us,
        });
        self.state = State::Changed;
    }

    /// A source is removed, and its place may be another's.
    pub(super) fn forget(&mut self, source: usize) {
        self.trades.retain(|trade| trade.source != source);
        self.state = State::Changed;
    }

    /// A price has changed.
    pub(super) fn touch(&mut self) {
        self.state = State::Changed;
    }

    /// The overview, if it changed and its time has come.
    pub(super) fn renew(
        &mut self,
        symbols: &[SymbolState],
        sources: &[SourceStatus],
        now_us: i64,
    ) -> Option<MarketOverview> {
        if self.state == State::Told || now_us < self.due_us {
            return None;
        }
        self.state = State::Told;
        self.due_us = now_us.saturating_add(INTERVAL_US);
        Some(self.show(symbols, sources, now_us))
    }

    /// The overview now.
    pub(super) fn show(
        &self,
        symbols: &[SymbolState],
        sources: &[SourceStatus],
        now_us: i64,
    ) -> MarketOverview {
        let mut totals = Totals::default();
        let mut movers = Vec::new();
        for symbol in symbols {
            let Some(live) = symbol.live() else {
                continue;
            };
            totals.coverage.live += 1;
            if let Some(change_24h) = live.change_percent {
                movers.push(TopMover {
                    symbol: symbol.name().to_owned(),
                    price: Some(decimal(live.price)),
                    change_24h,
                });
            }
            if symbol.spec.symbol.quote() == CURRENCY {
                totals.add(symbol, live.price, &self.supply);
            }
        }
        movers.sort_by(|a, b| b.change_24h.abs().total_cmp(&a.change_24h.abs()));
        movers.truncate(TOP_MOVERS);
        let trades = self.trades.iter().map(|trade| RecentTrade {
            symbol: symbols[trade.symbol].name().to_owned(),
            price: Some(decimal(trade.price)),
            size: Some(decimal(trade.size)),
            side: (trade.side != TradeSide::Unspecified).then(|| trade.side.into()),
            source: sources[trade.source].name().to_owned(),
            timestamp: trade.time_us.div_euclid(1_000),
        });
        MarketOverview {
            total_market_cap: totals.cap,
            total_volume: totals.volume,
            btc_dominance: totals.dominance(),
            top_movers: movers,
            recent_trades: trades.collect(),
            timestamp: now_us.div_euclid(1_000),
            coverage: Some(MarketCoverage {
                symbols: u32::try_from(symbols.len()).unwrap_or(u32::MAX),
                ..totals.coverage
            }),
        }
    }
}

/// Sums over the symbols that are quoted in the currency.
#[derive(Debug, Default)]
struct Totals {
    cap: Option<f64>,
    btc_cap: Option<f64>,
    volume: Option<f64>,
    coverage: MarketCoverage,
}

impl Totals {
    fn add(&mut self, symbol: &SymbolState, price: Decimal, supply: &BTreeMap<String, f64>) {
        if let Some(own) = volume_quote(&symbol.quotes) {
            self.coverage.with_volume += 1;
            *self.volume.get_or_insert(0.0) += own;
        }
        let base = symbol.spec.symbol.base();
        let Some((supply, price)) = supply.get(base).zip(price.to_f64()) else {
            return;
        };
        let own = supply * price;
        self.coverage.with_supply += 1;
        *self.cap.get_or_insert(0.0) += own;
        if base == "BTC" {
            self.btc_cap = Some(own);
        }
    }

    /// Bitcoin's part in percent, where its cap is known.
    fn dominance(&self) -> Option<f64> {
        Some(self.btc_cap? / self.cap? * 100.0)
    }
}
