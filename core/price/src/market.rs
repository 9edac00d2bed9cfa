//! Market overview: totals, top movers and recent trades over all symbols.
//!
//! [`Market`] keeps the figures of each symbol. A new price only marks its symbol as outdated.
//! Once a second at most, the outdated figures are computed again, all figures are added up,
//! and the overview is published. A quiet market therefore costs nothing.
//!
//! The totals are in US dollars. A symbol quoted in another currency is not converted and not
//! counted; the coverage reports how many symbols each total includes.

use std::collections::{BTreeMap, VecDeque};

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use tidewire_proto::v1::{MarketCoverage, MarketOverview, RecentTrade, TopMover, TradeSide};

use crate::{Symbol, clock::ClockStep, decimal::to_wire};

/// The shortest time between two publications, in microseconds: clients refresh a table.
const INTERVAL_US: i64 = 1_000_000;

/// Symbols in the list of top movers.
const TOP_MOVERS: usize = 10;

/// Trades in the list of recent trades.
const RECENT_TRADES: usize = 20;

/// The currency of the totals.
const CURRENCY: &str = "USD";

/// The state behind `market:overview`.
#[derive(Debug)]
pub(crate) struct Market {
    symbols: Vec<Symbol>,
    supplies: Supplies,
    /// The newest first.
    trades: VecDeque<TradeRecord>,
    /// The earliest time of the next publication, in microseconds since the Unix epoch.
    due_us: i64,
    /// Whether anything has changed since the last publication.
    is_changed: bool,
    /// The figures of each symbol, up to the last one that ever had a price.
    entries: Vec<MarketEntry>,
    /// The symbols whose figures are outdated.
    outdated: Vec<usize>,
}

/// The live price of a symbol, and its figures of 24 hours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LivePrice {
    pub(crate) price: Decimal,
    /// The change over 24 hours, in percent.
    pub(crate) change_percent: Option<f64>,
    /// The volume of 24 hours, in the symbol's quote currency.
    pub(crate) volume_quote: Option<f64>,
}

/// Coins in circulation, by base currency.
#[derive(Debug)]
struct Supplies {
    /// The operator's table, which wins over the source.
    table: BTreeMap<String, f64>,
    /// The last response of the supply source.
    from_source: BTreeMap<String, f64>,
    /// When that response came, in microseconds since the Unix epoch.
    received_us: Option<i64>,
}

impl Supplies {
    fn of(&self, base: &str) -> Option<f64> {
        self.table
            .get(base)
            .or_else(|| self.from_source.get(base))
            .copied()
    }

    /// The age of the last response of the supply source, in milliseconds.
    fn age_ms(&self, now_us: i64) -> Option<u64> {
        let age_us = now_us.saturating_sub(self.received_us?).max(0);
        Some(age_us.unsigned_abs() / 1_000)
    }
}

/// One symbol's part in the overview.
#[derive(Debug, Clone, Copy, Default)]
struct MarketEntry {
    freshness: Freshness,
    /// `None` while the symbol has no live price.
    figures: Option<MarketFigures>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Freshness {
    #[default]
    Fresh,
    Outdated,
}

#[derive(Debug, Clone, Copy)]
struct MarketFigures {
    price: Decimal,
    change_24h: Option<f64>,
    /// In the currency of the totals.
    volume: Option<f64>,
    /// The market cap, in the currency of the totals.
    cap: Option<f64>,
}

/// A recent trade, with the indexes of its symbol and source.
#[derive(Debug)]
struct TradeRecord {
    symbol: usize,
    source: usize,
    trade: MarketTrade,
}

/// A trade as it is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarketTrade {
    /// In the symbol's quote currency.
    pub(crate) price: Decimal,
    /// In base.
    pub(crate) size: Decimal,
    /// The taker's side.
    pub(crate) side: TradeSide,
    /// The time that clients see, in microseconds since the Unix epoch.
    pub(crate) time_us: i64,
}

impl Market {
    /// An overview of these symbols. `supplies` are the operator's numbers of coins.
    pub(crate) fn new(symbols: Vec<Symbol>, supplies: BTreeMap<String, f64>) -> Self {
        Self {
            symbols,
            supplies: Supplies {
                table: supplies,
                from_source: BTreeMap::new(),
                received_us: None,
            },
            trades: VecDeque::with_capacity(RECENT_TRADES),
            due_us: 0,
            is_changed: false,
            entries: Vec::new(),
            outdated: Vec::new(),
        }
    }

    /// Adds a trade to the recent trades, with the indexes of its symbol and source.
    pub(crate) fn add_trade(&mut self, (symbol, source): (usize, usize), trade: MarketTrade) {
        self.trades.truncate(RECENT_TRADES - 1);
        self.trades.push_front(TradeRecord {
            symbol,
            source,
            trade,
        });
        self.is_changed = true;
    }

    /// Replaces the supply source's numbers of coins.
    pub(crate) fn set_supply(&mut self, supplies: BTreeMap<String, f64>, now_us: i64) {
        self.supplies.from_source = supplies;
        self.supplies.received_us = Some(now_us);
        for symbol in 0..self.entries.len() {
            self.mark_outdated(symbol);
        }
    }

    /// Moves its times by a step of the clock. Recent trades keep the venues' times.
    pub(crate) fn step_back(&mut self, step: ClockStep) {
        step.apply(&mut self.due_us);
        if let Some(received_us) = &mut self.supplies.received_us {
            step.apply(received_us);
        }
    }

    /// Drops the trades of a removed source, whose index another source may get.
    pub(crate) fn remove_source(&mut self, source: usize) {
        self.trades.retain(|trade| trade.source != source);
        self.is_changed = true;
    }

    /// Marks the figures of a symbol as outdated, because its price has changed.
    pub(crate) fn mark_outdated(&mut self, symbol: usize) {
        self.is_changed = true;
        if self.entries.len() <= symbol {
            self.entries.resize(symbol + 1, MarketEntry::default());
        }
        let entry = &mut self.entries[symbol];
        if entry.freshness == Freshness::Fresh {
            entry.freshness = Freshness::Outdated;
            self.outdated.push(symbol);
        }
    }

    /// The overview to publish, if anything has changed and a second has passed. `live` gives
    /// the live price of a symbol, `source_name` the name of a source.
    pub(crate) fn due_overview<'a>(
        &mut self,
        now_us: i64,
        live: impl Fn(usize) -> Option<LivePrice>,
        source_name: impl Fn(usize) -> &'a str,
    ) -> Option<MarketOverview> {
        if !self.is_changed || now_us < self.due_us {
            return None;
        }
        self.is_changed = false;
        self.due_us = now_us.saturating_add(INTERVAL_US);
        for symbol in self.outdated.drain(..) {
            self.entries[symbol] = MarketEntry {
                freshness: Freshness::Fresh,
                figures: MarketFigures::of(&self.symbols[symbol], live(symbol), &self.supplies),
            };
        }
        Some(self.overview(now_us, live, source_name))
    }

    /// The overview as of now. The parameters are those of
    /// [`due_overview`](Self::due_overview).
    pub(crate) fn overview<'a>(
        &self,
        now_us: i64,
        live: impl Fn(usize) -> Option<LivePrice>,
        source_name: impl Fn(usize) -> &'a str,
    ) -> MarketOverview {
        let mut totals = Totals::default();
        let mut movers = Vec::new();
        for (index, (symbol, entry)) in self.symbols.iter().zip(&self.entries).enumerate() {
            let figures = match entry.freshness {
                Freshness::Fresh => entry.figures,
                Freshness::Outdated => MarketFigures::of(symbol, live(index), &self.supplies),
            };
            let Some(figures) = figures else { continue };
            totals.add(&figures, symbol.base());
            if let Some(change_24h) = figures.change_24h {
                movers.push((change_24h, symbol, figures.price));
            }
        }
        let order = |a: &(f64, _, _), b: &(f64, _, _)| b.0.abs().total_cmp(&a.0.abs());
        movers.sort_by(order);
        let movers = movers.iter().take(TOP_MOVERS);
        let movers = movers.map(|(change_24h, symbol, price)| TopMover {
            symbol: symbol.to_string(),
            price: Some(to_wire(*price)),
            change_24h: *change_24h,
        });
        let trades = self.trades.iter().map(|record| {
            let (symbol, trade) = (&self.symbols[record.symbol], &record.trade);
            RecentTrade {
                symbol: symbol.to_string(),
                price: Some(to_wire(trade.price)),
                size: Some(to_wire(trade.size)),
                side: (trade.side != TradeSide::Unspecified).then(|| trade.side.into()),
                source: source_name(record.source).to_owned(),
                timestamp: trade.time_us.div_euclid(1_000),
            }
        });
        MarketOverview {
            total_market_cap: totals.cap,
            total_volume: totals.volume,
            btc_dominance: totals.dominance(),
            top_movers: movers.collect(),
            recent_trades: trades.collect(),
            timestamp: now_us.div_euclid(1_000),
            coverage: Some(MarketCoverage {
                symbols: u32::try_from(self.symbols.len()).unwrap_or(u32::MAX),
                supply_age_ms: self.supplies.age_ms(now_us),
                ..totals.coverage
            }),
            // The aggregator knows.
            sample: false,
        }
    }
}

/// Sums over the symbols quoted in the currency of the totals.
#[derive(Debug, Default)]
struct Totals {
    cap: Option<f64>,
    btc_cap: Option<f64>,
    volume: Option<f64>,
    coverage: MarketCoverage,
}

impl MarketFigures {
    fn of(symbol: &Symbol, live: Option<LivePrice>, supplies: &Supplies) -> Option<Self> {
        let live = live?;
        let is_counted = symbol.quote() == CURRENCY;
        let supply = supplies.of(symbol.base());
        let cap = || Some(supply? * live.price.to_f64()?);
        Some(Self {
            price: live.price,
            change_24h: live.change_percent,
            volume: live.volume_quote.filter(|_| is_counted),
            cap: is_counted.then(cap).flatten(),
        })
    }
}

impl Totals {
    fn add(&mut self, figures: &MarketFigures, base: &str) {
        self.coverage.live += 1;
        if let Some(own) = figures.volume {
            self.coverage.with_volume += 1;
            *self.volume.get_or_insert(0.0) += own;
        }
        let Some(own) = figures.cap else { return };
        self.coverage.with_supply += 1;
        *self.cap.get_or_insert(0.0) += own;
        if base == "BTC" {
            self.btc_cap = Some(own);
        }
    }

    /// Bitcoin's share of the market cap, in percent, if both are known.
    fn dominance(&self) -> Option<f64> {
        Some(self.btc_cap? / self.cap? * 100.0)
    }
}
