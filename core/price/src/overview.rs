//! The market at a glance.

use std::collections::{BTreeMap, VecDeque};

use rust_decimal::prelude::ToPrimitive as _;
use tidewire_proto::v1::{MarketCoverage, MarketOverview, RecentTrade, TopMover};

use crate::{
    book::SymbolBook,
    quote::{decimal, median, median_change, total_volume},
    venue::Trade,
};

/// The overview is told this often at most, in milliseconds.
const INTERVAL_MS: i64 = 1_000;

/// How many symbols and trades it shows.
const TOP_MOVERS: usize = 10;
const RECENT_TRADES: usize = 20;

/// The currency of the totals.
const CURRENCY: &str = "USD";

/// Gathers what the overview shows.
pub(crate) struct Overview {
    supply: BTreeMap<String, f64>,
    trades: VecDeque<RecentTrade>,
    told_ms: i64,
    has_changed: bool,
}

impl Overview {
    pub(crate) fn new(supply: BTreeMap<String, f64>) -> Self {
        Self {
            supply,
            trades: VecDeque::new(),
            told_ms: 0,
            has_changed: false,
        }
    }

    pub(crate) fn take_trade(
        &mut self,
        symbol: &str,
        source: &str,
        trade: &Trade<'_>,
        arrival_ms: i64,
    ) {
        self.trades.truncate(RECENT_TRADES - 1);
        self.trades.push_front(RecentTrade {
            symbol: symbol.to_owned(),
            price: Some(decimal(trade.price)),
            size: Some(decimal(trade.size)),
            side: Some(trade.side.into()),
            source: source.to_owned(),
            timestamp: trade.time_ms.unwrap_or(arrival_ms),
        });
    }

    /// A price has changed.
    pub(crate) fn touch(&mut self) {
        self.has_changed = true;
    }

    /// The overview, if it changed and its time has come.
    pub(crate) fn renew(&mut self, symbols: &[SymbolBook], now_ms: i64) -> Option<MarketOverview> {
        let is_due = self.told_ms.saturating_add(INTERVAL_MS) <= now_ms;
        if !self.has_changed || !is_due {
            return None;
        }
        self.has_changed = false;
        self.told_ms = now_ms;
        Some(self.show(symbols, now_ms))
    }

    /// The overview now.
    pub(crate) fn show(&self, symbols: &[SymbolBook], now_ms: i64) -> MarketOverview {
        let mut coverage = MarketCoverage {
            symbols: count(symbols.len()),
            ..MarketCoverage::default()
        };
        let (mut cap, mut btc_cap, mut volume) = (None, None, None);
        let mut movers = Vec::new();
        for book in symbols {
            let Some(aggregate) = median(&book.quotes) else {
                continue;
            };
            coverage.live += 1;
            if let Some(change_24h) = median_change(&book.quotes) {
                movers.push(TopMover {
                    symbol: book.spec.symbol.as_str().to_owned(),
                    price: Some(decimal(aggregate.price)),
                    change_24h,
                });
            }
            // Other currencies are not dollars unless someone converts them.
            if book.spec.symbol.quote() != CURRENCY {
                continue;
            }
            if let Some(own) = total_volume(&book.quotes) {
                coverage.with_volume += 1;
                *volume.get_or_insert(0.0) += own;
            }
            let supply = self.supply.get(book.spec.symbol.base());
            if let Some((supply, price)) = supply.zip(aggregate.price.to_f64()) {
                coverage.with_supply += 1;
                *cap.get_or_insert(0.0) += supply * price;
                if book.spec.symbol.base() == "BTC" {
                    btc_cap = Some(supply * price);
                }
            }
        }
        movers.sort_by(|a, b| b.change_24h.abs().total_cmp(&a.change_24h.abs()));
        movers.truncate(TOP_MOVERS);
        MarketOverview {
            total_market_cap: cap,
            total_volume: volume,
            btc_dominance: btc_cap.zip(cap).map(|(btc, all)| btc / all * 100.0),
            top_movers: movers,
            recent_trades: self.trades.iter().cloned().collect(),
            timestamp: now_ms,
            coverage: Some(coverage),
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
