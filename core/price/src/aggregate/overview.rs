//! The market at a glance.
//!
//! What a symbol adds to it is worked out anew when its price was told, and kept. Once a
//! second, if anything changed, the kept figures are added up.

use std::collections::{BTreeMap, VecDeque};

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use tidewire_proto::v1::{MarketCoverage, MarketOverview, RecentTrade, TopMover, TradeSide};

use super::{shown::decimal, symbol::SymbolState};
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
    supplies: Supplies,
    /// Newest first.
    trades: VecDeque<TradeNote>,
    due_us: i64,
    state: State,
    /// What each symbol adds, as of when it was last worked out.
    cells: Vec<Cell>,
    /// Symbols that have changed since.
    changed: Vec<usize>,
}

/// How many coins there are, by base.
#[derive(Debug)]
struct Supplies {
    /// What the operator says. It counts before what the source says.
    table: BTreeMap<String, f64>,
    /// What the source said last.
    told: BTreeMap<String, f64>,
    /// When it did, in microseconds since the Unix epoch.
    told_us: Option<i64>,
}

impl Supplies {
    fn of(&self, base: &str) -> Option<f64> {
        self.table
            .get(base)
            .or_else(|| self.told.get(base))
            .copied()
    }

    /// How old is what the source said last, in milliseconds.
    fn age_ms(&self, now_us: i64) -> Option<u64> {
        let age_us = now_us.saturating_sub(self.told_us?).max(0);
        Some(age_us.unsigned_abs() / 1_000)
    }
}

/// What a symbol adds.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    freshness: Freshness,
    /// None while no source of it counts.
    figures: Option<Figures>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Freshness {
    #[default]
    Fresh,
    Changed,
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    price: Decimal,
    change_24h: Option<f64>,
    /// In the currency of the totals.
    volume: Option<f64>,
    cap: Option<f64>,
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
    pub(super) fn new(table: BTreeMap<String, f64>) -> Self {
        Self {
            supplies: Supplies {
                table,
                told: BTreeMap::new(),
                told_us: None,
            },
            trades: VecDeque::with_capacity(RECENT_TRADES),
            due_us: 0,
            state: State::Told,
            cells: Vec::new(),
            changed: Vec::new(),
        }
    }

    pub(super) fn take_trade(
        &mut self,
        (symbol, source): (usize, usize),
        trade: &Trade<'_>,
        size: Decimal,
        time_us: i64,
    ) {
        self.trades.truncate(RECENT_TRADES - 1);
        self.trades.push_front(TradeNote {
            symbol,
            source,
            price: trade.price,
            size,
            side: trade.side,
            time_us,
        });
        self.state = State::Changed;
    }

    /// The supply source says how many coins there are.
    pub(super) fn set_supply(&mut self, told: BTreeMap<String, f64>, now_us: i64) {
        self.supplies.told = told;
        self.supplies.told_us = Some(now_us);
        for symbol in 0..self.cells.len() {
            self.touch(symbol);
        }
    }

    /// A source is removed, and its place may be another's.
    pub(super) fn forget(&mut self, source: usize) {
        self.trades.retain(|trade| trade.source != source);
        self.state = State::Changed;
    }

    /// The price of a symbol has changed.
    pub(super) fn touch(&mut self, symbol: usize) {
        self.state = State::Changed;
        if self.cells.len() <= symbol {
            self.cells.resize(symbol + 1, Cell::default());
        }
        let cell = &mut self.cells[symbol];
        if cell.freshness == Freshness::Fresh {
            cell.freshness = Freshness::Changed;
            self.changed.push(symbol);
        }
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
        for symbol in self.changed.drain(..) {
            self.cells[symbol] = Cell {
                freshness: Freshness::Fresh,
                figures: Figures::of(&symbols[symbol], &self.supplies),
            };
        }
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
        for (symbol, cell) in symbols.iter().zip(&self.cells) {
            let figures = match cell.freshness {
                Freshness::Fresh => cell.figures,
                Freshness::Changed => Figures::of(symbol, &self.supplies),
            };
            let Some(figures) = figures else { continue };
            totals.add(&figures, symbol.spec.symbol.base());
            if let Some(change_24h) = figures.change_24h {
                movers.push((change_24h, symbol, figures.price));
            }
        }
        let order = |a: &(f64, _, _), b: &(f64, _, _)| b.0.abs().total_cmp(&a.0.abs());
        movers.sort_by(order);
        let movers = movers.iter().take(TOP_MOVERS);
        let movers = movers.map(|(change_24h, symbol, price)| TopMover {
            symbol: symbol.name().to_owned(),
            price: Some(decimal(*price)),
            change_24h: *change_24h,
        });
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
            top_movers: movers.collect(),
            recent_trades: trades.collect(),
            timestamp: now_us.div_euclid(1_000),
            coverage: Some(MarketCoverage {
                symbols: u32::try_from(symbols.len()).unwrap_or(u32::MAX),
                supply_age_ms: self.supplies.age_ms(now_us),
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

impl Figures {
    fn of(symbol: &SymbolState, supplies: &Supplies) -> Option<Self> {
        let live = symbol.live()?;
        let is_counted = symbol.spec.symbol.quote() == CURRENCY;
        let supply = supplies.of(symbol.spec.symbol.base());
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
    fn add(&mut self, figures: &Figures, base: &str) {
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

    /// Bitcoin's part in percent, where its cap is known.
    fn dominance(&self) -> Option<f64> {
        Some(self.btc_cap? / self.cap? * 100.0)
    }
}
