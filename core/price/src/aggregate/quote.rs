//! Quote: the last price, offers and figures of one source for one symbol.
//!
//! A quote applies the venue's trades and tickers in order. It drops duplicates
//! ([`dedup`](super::dedup)) and absurd prices ([`price_guard`](super::price_guard)), and converts
//! prices of another currency. Whether it counts depends on its liveness and on the outlier filter.
//!
//! A ticker never outranks a trade. With the number of its trade, it sets the price if that number
//! is higher than all that arrived. Without, it sets the price only while no trade holds: none
//! arrived on this connection, or trades have been silent for longer than usual.
//!
//! A ticker that repeats the one before is a heartbeat. Its figures are used, and it does not keep
//! the quote live.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use tidewire_proto::v1::{self, SourceDetail, SourceState};
use tidewire_stream::ChannelName;

use super::{
    dedup::{Novelty, TradeDedup},
    methods::Contribution,
    outlier_filter::{Inclusion, deviation},
    price_guard::{PriceGuard, Verdict, Witness},
    snapshot::PriceSnapshot,
    staleness::ArrivalIntervals,
    window::{DayWindow, Turnover, VolumeWindow},
};
use crate::{
    Symbol, VenueKind,
    clock::ClockStep,
    config::SymbolSpec,
    decimal::to_wire,
    venue::{Contract, Ticker, Trade, TradeId},
};

/// The reason for an unknown volume.
const UNKNOWN_CONTRACT_VALUE: &str =
    "it counts in contracts, and `contracts` of the source does not give the value of one";

/// Where a quote is: its symbol, and its index among the symbol's quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QuoteIndex {
    pub(super) symbol: usize,
    pub(super) quote: usize,
}

/// The last price of one source for one symbol.
#[derive(Debug)]
pub(super) struct Quote {
    /// The index of the source.
    pub(super) source: usize,
    /// `prices:{SYMBOL}@{source}`.
    pub(super) channel: ChannelName,
    pub(super) price: Option<Decimal>,
    bid: Option<Decimal>,
    ask: Option<Decimal>,
    change_percent: Option<f64>,
    volume_quote: Option<f64>,
    /// The volume of 24 hours as the venue sends it in base.
    volume_base: Option<f64>,
    /// When the last data arrived, in microseconds since the Unix epoch.
    pub(super) last_arrival_us: i64,
    /// When the last data was formed, in microseconds since the Unix epoch by this server's clock.
    pub(super) formed_us: i64,
    /// The time that clients see with the price, in microseconds since the Unix epoch.
    pub(super) timestamp_us: i64,
    pub(super) liveness: Liveness,
    /// The outlier filter's last decision.
    pub(super) inclusion: Inclusion,
    /// The last publication on `channel`.
    pub(super) last_published: Option<PriceSnapshot>,
    /// The time of this quote's entry in the deadlines, if it has one.
    pub(super) deadline_us: Option<i64>,
    /// How often data arrives.
    intervals: ArrivalIntervals,
    /// Whether no data arrived yet on this connection: the silence before the first is no interval.
    is_first_on_connection: bool,
    /// The trades of the method's window, if the method weighs volume.
    volume: VolumeWindow,
    guard: PriceGuard,
    /// How prices of another currency are converted.
    pub(super) conversion: Option<Box<Conversion>>,
    /// The last 24 hours, if the venue does not report them.
    day: Option<Box<DayWindow>>,
    /// The value of one contract, if the venue counts in contracts and the operator gave it.
    contract: Option<Contract>,
    /// Whether contracts of unknown value were traded.
    contract_value: ContractValue,
    /// The index of the source's connection that carries this market.
    pub(super) link: usize,
    trades: u64,
    min: Option<Decimal>,
    max: Option<Decimal>,
    dedup: TradeDedup,
    /// The venue's time of the last trade, in microseconds since the Unix epoch.
    last_trade_us: Option<i64>,
    /// When the last trade arrived on this connection, in microseconds since the Unix epoch.
    trade_arrival_us: Option<i64>,
    /// How often trades arrive.
    trade_intervals: ArrivalIntervals,
    /// The price and the number of the last ticker.
    last_ticker: (Option<Decimal>, Option<u64>),
    /// Fields of this connection's frames that were not as documented, each once.
    unexpected: Vec<&'static str>,
    /// The venue's reason for refusing the market.
    pub(super) refused: Option<Box<str>>,
}

/// A conversion from another currency.
#[derive(Debug)]
pub(super) struct Conversion {
    /// The index of the symbol whose price is the rate.
    pub(super) symbol: usize,
    pub(super) name: Symbol,
    pub(super) rate: Option<Rate>,
}

/// The price of another currency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    pub(super) price: Decimal,
    /// Its change over 24 hours, in percent.
    pub(super) change_percent: Option<f64>,
    /// When it was formed, in microseconds since the Unix epoch.
    pub(super) formed_us: i64,
}

/// Whether a quote is live, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    /// No data arrived yet.
    NoData,
    Live,
    /// Silent too long.
    Silent,
    /// Its connection is lost.
    Disconnected,
    /// Its source was removed. Another source may get its index.
    Removed,
}

/// Whether the value of every traded contract is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContractValue {
    Known,
    /// The venue counts in contracts, and the operator gave no value.
    Unknown,
}

/// The effect of a trade on its quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TradeOutcome {
    /// It counts. `size` is in base, if known. `missing` is the number of the venue's trades before
    /// it that did not arrive.
    Counted { size: Option<Decimal>, missing: u64 },
    /// It was counted before.
    Duplicate,
    /// Its price is refused. `missing` as above.
    Absurd { missing: u64 },
}

/// The effect of a ticker on its quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TickerOutcome {
    /// It differs from the last one.
    News,
    /// It repeats the last one.
    Repeated,
    /// Its price is refused, and nothing of it is used.
    Absurd,
}

impl Quote {
    pub(super) fn new(
        source: usize,
        kind: VenueKind,
        channel: ChannelName,
        conversion: Option<Box<Conversion>>,
        contract: Option<Contract>,
    ) -> Self {
        Self {
            conversion,
            contract,
            contract_value: ContractValue::Known,
            day: (!kind.reports_24h()).then(Box::default),
            link: 0,
            source,
            channel,
            price: None,
            bid: None,
            ask: None,
            change_percent: None,
            volume_quote: None,
            volume_base: None,
            last_arrival_us: 0,
            formed_us: 0,
            timestamp_us: 0,
            liveness: Liveness::NoData,
            last_published: None,
            inclusion: Inclusion::Included,
            deadline_us: None,
            intervals: ArrivalIntervals::default(),
            is_first_on_connection: true,
            volume: VolumeWindow::default(),
            guard: PriceGuard::default(),
            trades: 0,
            min: None,
            max: None,
            dedup: TradeDedup::default(),
            last_trade_us: None,
            trade_arrival_us: None,
            trade_intervals: ArrivalIntervals::default(),
            last_ticker: (None, None),
            unexpected: Vec::new(),
            refused: None,
        }
    }

    /// The price in the symbol's currency, if the quote is live.
    pub(super) fn live_price(&self) -> Option<Decimal> {
        self.price
            .filter(|_| self.liveness == Liveness::Live)
            .and_then(|price| self.converted(price))
    }

    /// A price in the symbol's currency, if the rate is known.
    #[inline]
    pub(super) fn converted(&self, price: Decimal) -> Option<Decimal> {
        match &self.conversion {
            None => Some(price),
            Some(conversion) => price.checked_mul(conversion.rate?.price),
        }
    }

    /// The best bid and ask, in the symbol's currency.
    pub(super) fn offers(&self) -> Option<(Decimal, Decimal)> {
        Some((self.converted(self.bid?)?, self.converted(self.ask?)?))
    }

    /// Whether it counts in the symbol's price and figures.
    pub(super) fn is_counted(&self) -> bool {
        self.is_included() && self.live_price().is_some()
    }

    /// Whether the outlier filter lets it count.
    pub(super) fn is_included(&self) -> bool {
        self.inclusion == Inclusion::Included
    }

    /// The change over 24 hours, in percent of the symbol's currency.
    pub(super) fn change_percent(&self, now_us: i64) -> Option<f64> {
        let counted = || self.day.as_ref()?.change_percent(self.price?, now_us);
        let change = self.change_percent.or_else(counted)?;
        let Some(conversion) = &self.conversion else {
            return Some(change);
        };
        // Without the rate's change, the rate is taken as constant.
        let of_rate = conversion.rate?.change_percent.unwrap_or(0.0);
        Some(change + of_rate + change * of_rate / 100.0)
    }

    /// The volume of 24 hours, in the symbol's quote currency.
    pub(super) fn volume_quote(&self, now_us: i64) -> Option<f64> {
        let counted = || self.day.as_ref()?.volume_quote(now_us);
        let volume = self.volume_quote.or_else(counted)?;
        match &self.conversion {
            None => Some(volume),
            Some(conversion) => Some(volume * conversion.rate?.price.to_f64()?),
        }
    }

    /// How much of the 24 hours the figures cover, in microseconds, if this server computes them.
    pub(super) fn day_covered_us(&self, now_us: i64) -> Option<i64> {
        self.day.as_ref().map(|day| day.covered_us(now_us))
    }

    /// Whether the venue reports figures of 24 hours.
    pub(super) fn reports_day(&self) -> bool {
        self.change_percent.is_some() || self.volume_quote.is_some()
    }

    /// Whether its change is that of 24 hours, not of the part that this server has seen.
    pub(super) fn has_whole_day(&self, now_us: i64) -> bool {
        self.change_percent.is_some() || self.day.as_ref().is_some_and(|day| day.is_whole(now_us))
    }

    /// Whether a trade of this number, which arrived at `now_us`, was counted before.
    pub(super) fn is_repeated(&mut self, id: TradeId, now_us: i64) -> bool {
        self.dedup.is_repeated(id, now_us)
    }

    /// Applies a trade that arrived at `now_us`.
    pub(super) fn apply_trade(
        &mut self,
        trade: &Trade<'_>,
        spec: &SymbolSpec,
        now_us: i64,
    ) -> TradeOutcome {
        let is_late = self.is_late(trade);
        let missing = match self.dedup.observe(trade.id, now_us) {
            Novelty::New { missing } => missing,
            Novelty::Duplicate => return TradeOutcome::Duplicate,
        };
        let witness = Witness::Trade(trade.id);
        if self.guard.judge(trade.price, self.price, witness) == Verdict::Absurd {
            return TradeOutcome::Absurd { missing };
        }
        if let Some(before_us) = self.trade_arrival_us.replace(now_us) {
            self.trade_intervals
                .record(now_us.saturating_sub(before_us));
        }
        self.trades += 1;
        let size = trade.size.in_base(trade.price, self.contract.as_ref());
        if size.is_none() {
            self.contract_value = ContractValue::Unknown;
        }
        if let Some(price) = self.converted(trade.price) {
            self.min = Some(self.min.map_or(price, |min| min.min(price)));
            self.max = Some(self.max.map_or(price, |max| max.max(price)));
            if let Some(size) = size.filter(|_| spec.method.weighs_volume()) {
                self.volume.add(price, size, now_us, spec.window_us);
            }
        }
        if !is_late {
            self.last_trade_us = trade.venue_time_us;
            self.price = Some(trade.price);
        }
        if let Some((day, price)) = self.day.as_mut().zip(self.price) {
            let value = size.and_then(|size| trade.price.checked_mul(size));
            day.add(price, value, now_us);
        }
        TradeOutcome::Counted { size, missing }
    }

    /// Moves all times by a step of the clock. `window_us` is the window of the symbol's method.
    pub(super) fn step_back(&mut self, step: ClockStep, window_us: i64) {
        for at_us in [
            &mut self.last_arrival_us,
            &mut self.formed_us,
            &mut self.timestamp_us,
        ] {
            step.apply(at_us);
        }
        let deadline = self.deadline_us.as_mut();
        for at_us in deadline.into_iter().chain(&mut self.trade_arrival_us) {
            step.apply(at_us);
        }
        // Nothing tells whether the venue's clock was set back too.
        self.last_trade_us = None;
        if let Some(published) = &mut self.last_published {
            step.apply(&mut published.timestamp_us);
        }
        let conversion = self.conversion.as_mut();
        if let Some(rate) = conversion.and_then(|conversion| conversion.rate.as_mut()) {
            step.apply(&mut rate.formed_us);
        }
        if let Some(day) = &mut self.day {
            day.step_back(step);
        }
        self.volume.step_back(step, window_us);
        self.dedup.step_back(step);
    }

    /// Records that data arrived. The quote is live.
    pub(super) fn record_arrival(&mut self, formed_us: i64, timestamp_us: i64, now_us: i64) {
        if !self.is_first_on_connection {
            self.intervals
                .record(now_us.saturating_sub(self.last_arrival_us));
        }
        self.is_first_on_connection = false;
        self.refused = None;
        self.last_arrival_us = now_us;
        self.formed_us = formed_us.max(self.formed_us);
        self.timestamp_us = timestamp_us.max(self.timestamp_us);
        self.liveness = Liveness::Live;
    }

    /// When the quote becomes stale if nothing else arrives.
    pub(super) fn stale_at_us(&self, stale_after_us: i64) -> i64 {
        let timeout_us = self.intervals.timeout_us(stale_after_us);
        self.last_arrival_us.saturating_add(timeout_us)
    }

    /// Its contribution to the aggregate. `index` is its place among the symbol's quotes.
    pub(super) fn contribution(
        &self,
        index: usize,
        spec: &SymbolSpec,
        now_us: i64,
    ) -> Option<Contribution> {
        let price = self.live_price()?;
        if self.inclusion == Inclusion::Excluded {
            return None;
        }
        let turnover = if spec.method.weighs_volume() {
            self.volume.turnover(now_us, spec.window_us)
        } else {
            Turnover::default()
        };
        Some(Contribution {
            quote: index,
            price,
            turnover,
        })
    }

    /// Whether a later trade arrived before this one. A late trade counts, but does not set the
    /// price. Both its number and its time must be lower: a venue that restarts its numbering has
    /// lower numbers at later times, and one wrong time must not hold the price.
    fn is_late(&self, trade: &Trade<'_>) -> bool {
        let times = trade.venue_time_us.zip(self.last_trade_us);
        self.dedup.is_overtaken(trade.id) && times.is_some_and(|(own, last)| own < last)
    }

    /// Applies a ticker that arrived at `now_us`.
    pub(super) fn apply_ticker(
        &mut self,
        ticker: &Ticker<'_>,
        stale_after_us: i64,
        now_us: i64,
    ) -> TickerOutcome {
        let is_held = self.is_held_by_trade(stale_after_us, now_us);
        if let Some(last) = ticker.last {
            let witness = if is_held {
                Witness::Ticker(ticker.last_id)
            } else {
                Witness::LoneTicker(ticker.last_id)
            };
            if self.guard.judge(last, self.price, witness) == Verdict::Absurd {
                return TickerOutcome::Absurd;
            }
        }
        let before = (self.last_ticker, self.bid, self.ask);
        let volume_before = (self.volume_base, self.volume_quote);
        let by_id = ticker.last_id.and_then(|id| self.dedup.is_newer(id));
        if by_id.unwrap_or(!is_held) {
            if let Some((day, last)) = self.day.as_mut().zip(ticker.last) {
                day.add(last, None, now_us);
            }
            self.price = ticker.last.or(self.price);
        }
        self.last_ticker = (
            ticker.last.or(self.last_ticker.0),
            ticker.last_id.or(self.last_ticker.1),
        );
        self.change_percent = ticker.change_percent.or(self.change_percent);
        self.apply_volume(ticker);
        let is_crossed = ticker
            .bid
            .zip(ticker.ask)
            .is_some_and(|(bid, ask)| bid > ask);
        if is_crossed {
            // A crossed book is an error of the venue: neither offer is known.
            (self.bid, self.ask) = (None, None);
        } else {
            self.bid = ticker.bid.or(self.bid);
            self.ask = ticker.ask.or(self.ask);
        }
        // Volume also falls as old trades leave the 24 hours. It rises with new ones only. In quote it
        // may be computed from an average, and rise by the rounding of that.
        let has_risen = match volume_before.0.zip(ticker.volume.base) {
            Some((before, now)) => now > before,
            None => self.volume_quote > volume_before.1,
        };
        let is_news = self.is_first_on_connection
            || before != (self.last_ticker, self.bid, self.ask)
            || has_risen;
        if is_news {
            TickerOutcome::News
        } else {
            TickerOutcome::Repeated
        }
    }

    /// Whether the last trade sets the price, whatever a ticker without a number says.
    fn is_held_by_trade(&self, stale_after_us: i64, now_us: i64) -> bool {
        let authority_us = self.trade_intervals.authority_us(stale_after_us);
        self.trade_arrival_us
            .is_some_and(|at_us| now_us.saturating_sub(at_us) < authority_us)
    }

    fn apply_volume(&mut self, ticker: &Ticker<'_>) {
        let last = ticker.last.or(self.price);
        let volume = ticker.volume.quote_at(last, self.contract.as_ref());
        if volume.is_none() && ticker.volume.contracts.is_some() {
            self.contract_value = ContractValue::Unknown;
        }
        self.volume_quote = volume.or(self.volume_quote);
        self.volume_base = ticker.volume.base.or(self.volume_base);
    }

    /// Keeps the names of fields that were not as documented.
    pub(super) fn note_unexpected(&mut self, names: &[&'static str]) {
        for name in names {
            if !self.unexpected.contains(name) {
                self.unexpected.push(name);
            }
        }
    }

    /// Records that the connection is lost, which the figures of 24 hours do not cover.
    pub(super) fn lost(&mut self, now_us: i64) {
        if let Some(day) = &mut self.day {
            day.lost(now_us);
        }
    }

    /// Prepares for a new connection after the old one was lost. Times and numbers of the old one do
    /// not order the new one's trades; the numbers only identify duplicates. Trades may have been
    /// missed, so the last one no longer holds the price. A disconnected quote now waits for data.
    pub(super) fn connected(&mut self, now_us: i64) {
        if let Some(day) = &mut self.day {
            day.connected(now_us);
        }
        self.dedup.reconnected();
        self.last_trade_us = None;
        self.trade_arrival_us = None;
        self.unexpected.clear();
        self.refused = None;
        self.is_first_on_connection = true;
        if self.liveness == Liveness::Disconnected {
            self.liveness = Liveness::Silent;
        }
    }

    /// The state that the source's own channel publishes.
    pub(super) fn snapshot(&self, now_us: i64) -> Option<PriceSnapshot> {
        let is_live = self.live_price().is_some();
        let price = self.converted(self.price?);
        let before = || self.last_published.as_ref().map(|last| last.price);
        Some(PriceSnapshot {
            // Without a rate, the last published value.
            price: price.or_else(before)?,
            change_percent: self.change_percent(now_us),
            volume_quote: self.volume_quote(now_us),
            confidence: None,
            sources: u32::from(is_live),
            stale: !is_live,
            timestamp_us: self.timestamp_us,
            twap: None,
            missing: self.missing(),
        })
    }

    /// The source's detail in `GetPrice`. `weight` is its share in the aggregate, `median` the
    /// median of the included sources.
    pub(super) fn detail(
        &self,
        name: &str,
        weight: f64,
        median: Option<Decimal>,
        now_us: i64,
    ) -> SourceDetail {
        let stale = |reason: &str| (SourceState::Stale, Some(reason.to_owned()));
        let (state, reason) = match (self.liveness, self.price) {
            (Liveness::Live, Some(_)) => match (self.live_price(), &self.conversion) {
                (Some(price), _) if self.inclusion == Inclusion::Excluded => {
                    (SourceState::Excluded, Some(outlier(price, median)))
                }
                (Some(_), _) => (SourceState::Live, None),
                (None, Some(conversion)) => {
                    stale(&format!("there is no live price of {}", conversion.name))
                }
                (None, None) => stale("no price came yet"),
            },
            (Liveness::Live, None) => stale("no price came yet"),
            _ if self.refused.is_some() => {
                let reason = self.refused.as_deref().unwrap_or_default();
                stale(&format!("the venue refuses it: {reason}"))
            }
            (Liveness::Silent, _) => stale("silent for too long"),
            (Liveness::Disconnected, _) => stale("the connection is lost"),
            (Liveness::NoData | Liveness::Removed, _) => stale("nothing came yet"),
        };
        let age_us = now_us.saturating_sub(self.formed_us).max(0);
        SourceDetail {
            source: name.to_owned(),
            price: self
                .price
                .and_then(|price| self.converted(price))
                .map(to_wire),
            age_ms: (self.liveness != Liveness::NoData).then_some(age_us.unsigned_abs() / 1_000),
            weight,
            state: state.into(),
            reason,
            trades: self.trades,
            min: self.min.map(to_wire),
            max: self.max.map(to_wire),
            rate: self.conversion.as_ref().map(|conversion| v1::Rate {
                symbol: conversion.name.to_string(),
                price: conversion.rate.map(|rate| to_wire(rate.price)),
                age_ms: conversion.rate.map(|rate| {
                    now_us.saturating_sub(rate.formed_us).max(0).unsigned_abs() / 1_000
                }),
            }),
            missing: self.missing(),
            volume_unknown: (self.contract_value == ContractValue::Unknown)
                .then(|| UNKNOWN_CONTRACT_VALUE.to_owned()),
            unexpected_fields: self.unexpected.iter().map(ToString::to_string).collect(),
        }
    }

    /// The venue's trades that did not arrive, if any.
    fn missing(&self) -> Option<u64> {
        Some(self.dedup.missing()).filter(|missing| *missing > 0)
    }
}

fn outlier(price: Decimal, median: Option<Decimal>) -> String {
    let Some(median) = median else {
        return "it was far from the others, which are gone".to_owned();
    };
    let percent = deviation(median, price)
        .checked_mul(Decimal::ONE_HUNDRED)
        .unwrap_or(Decimal::MAX);
    format!(
        "{} % from the median of the others, {}",
        percent.round_sf(3).unwrap_or(percent).normalize(),
        median.normalize()
    )
}
