//! What one source says of one symbol.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use tidewire_proto::v1::{self, SourceDetail, SourceState};
use tidewire_stream::ChannelName;

use super::{
    blend::Part,
    day::Day,
    gate::{Standing, deviation},
    pace::Pace,
    seen::{Novelty, Seen},
    shown::{Shown, decimal},
    volume::{Traded, VolumeWindow},
};
use crate::{
    Symbol, VenueKind,
    config::SymbolSpec,
    venue::{Contract, Ticker, Trade},
};

/// A price that is so many times the last one, or a part of it, is not believed until
/// the next one is about the same.
const ABSURD: Decimal = Decimal::from_parts(5, 0, 0, false, 0);

/// Why a volume is not known.
const UNKNOWN_WORTH: &str =
    "it counts in contracts, and `contracts` of the source does not say what one is worth";

/// What one source says of one symbol.
#[derive(Debug)]
pub(super) struct Quote {
    /// The source's place in the configuration.
    pub(super) source: usize,
    /// `prices:{SYMBOL}@{source}`.
    pub(super) channel: ChannelName,
    pub(super) price: Option<Decimal>,
    bid: Option<Decimal>,
    ask: Option<Decimal>,
    change_percent: Option<f64>,
    volume_quote: Option<f64>,
    /// When the last data arrived, in microseconds since the Unix epoch.
    pub(super) heard_us: i64,
    /// When what it says was formed, likewise, by this server's clock.
    pub(super) formed_us: i64,
    /// The stamp of the price, likewise.
    pub(super) stamp_us: i64,
    pub(super) life: Life,
    /// Whether it counts while it lives.
    pub(super) standing: Standing,
    /// What was told on the channel.
    pub(super) told: Option<Shown>,
    /// When the deadlines look at it, likewise, if they hold an entry for it.
    pub(super) watched_us: Option<i64>,
    /// How often it speaks.
    pace: Pace,
    habit: Habit,
    /// What was traded of late, if the method asks.
    window: VolumeWindow,
    /// A price that was not believed.
    suspect: Option<Decimal>,
    /// What its prices are multiplied by, if they are in another currency.
    pub(super) conversion: Option<Box<Conversion>>,
    /// The last 24 hours, if the venue does not tell of them.
    day: Option<Box<Day>>,
    /// What one contract is worth, if it is told in contracts and that is known.
    contract: Option<Contract>,
    /// Whether it told of contracts that nobody knows the worth of.
    worth: Worth,
    /// Which of the source's connections it comes by.
    pub(super) link: usize,
    trades: u64,
    min: Option<Decimal>,
    max: Option<Decimal>,
    seen: Seen,
    last_trade_us: Option<i64>,
}

/// Prices in another currency, and what that is worth.
#[derive(Debug)]
pub(super) struct Conversion {
    /// The place of the symbol whose price is the rate.
    pub(super) symbol: usize,
    pub(super) name: Symbol,
    pub(super) rate: Option<Rate>,
}

/// What another currency is worth, while that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) price: Decimal,
    /// When it was formed, in microseconds since the Unix epoch.
    pub(super) formed_us: i64,
}

/// Whether a quote counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Nothing came yet.
    Waiting,
    Live,
    /// Silent for too long.
    Silent,
    /// Its connection is lost.
    Lost,
    /// Its source was removed: the place waits for another source.
    Removed,
}

/// Whether the silence before the next message says how often it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Known,
    /// Nothing came yet on this connection.
    Broken,
}

/// Whether it is known how much is traded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    Known,
    /// It counts in contracts.
    Unknown,
}

/// What became of a trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It counts, with so much of base if that is known, and so many of the venue's trades
    /// before it never came.
    Counted { size: Option<Decimal>, missing: u64 },
    /// It was counted before.
    Repeated,
    /// Its price is not believed.
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
            worth: Worth::Known,
            day: (!kind.tells_the_day()).then(Box::default),
            link: 0,
            source,
            channel,
            price: None,
            bid: None,
            ask: None,
            change_percent: None,
            volume_quote: None,
            heard_us: 0,
            formed_us: 0,
            stamp_us: 0,
            life: Life::Waiting,
            told: None,
            standing: Standing::Counted,
            watched_us: None,
            pace: Pace::default(),
            habit: Habit::Broken,
            window: VolumeWindow::default(),
            suspect: None,
            trades: 0,
            min: None,
            max: None,
            seen: Seen::default(),
            last_trade_us: None,
        }
    }

    /// Its price, if it lives, in the symbol's currency.
    pub(super) fn live_price(&self) -> Option<Decimal> {
        self.price
            .filter(|_| self.life == Life::Live)
            .and_then(|price| self.converted(price))
    }

    /// A price in the symbol's currency, if it is known what it is worth.
    pub(super) fn converted(&self, price: Decimal) -> Option<Decimal> {
        match &self.conversion {
            None => Some(price),
            Some(conversion) => price.checked_mul(conversion.rate?.price),
        }
    }

    /// The best offers, in the symbol's currency.
    pub(super) fn offers(&self) -> Option<(Decimal, Decimal)> {
        Some((self.converted(self.bid?)?, self.converted(self.ask?)?))
    }

    /// The change over 24 hours, in percent.
    pub(super) fn change_percent(&self) -> Option<f64> {
        let counted = || self.day.as_ref()?.change_percent(self.price?);
        self.change_percent.or_else(counted)
    }

    /// The volume of 24 hours, in the symbol's currency.
    pub(super) fn volume_quote(&self) -> Option<f64> {
        let counted = || self.day.as_ref()?.volume_quote();
        let volume = self.volume_quote.or_else(counted)?;
        match &self.conversion {
            None => Some(volume),
            Some(conversion) => Some(volume * conversion.rate?.price.to_f64()?),
        }
    }

    /// How much of the 24 hours its figures cover, in microseconds, if they are counted
    /// here.
    pub(super) fn day_covered_us(&self, now_us: i64) -> Option<i64> {
        self.day.as_ref().map(|day| day.covered_us(now_us))
    }

    /// Takes a trade that came at `now_us`.
    pub(super) fn take_trade(
        &mut self,
        trade: &Trade<'_>,
        spec: &SymbolSpec,
        now_us: i64,
    ) -> Taken {
        let is_late = self.is_late(trade);
        let missing = match self.seen.take(trade) {
            Novelty::New { missing } => missing,
            Novelty::Repeated => return Taken::Repeated,
        };
        if self.is_absurd(trade.price) {
            return Taken::Absurd;
        }
        self.trades += 1;
        let size = trade.size.in_base(trade.price, self.contract.as_ref());
        if size.is_none() {
            self.worth = Worth::Unknown;
        }
        if let Some(price) = self.converted(trade.price) {
            self.min = Some(self.min.map_or(price, |min| min.min(price)));
            self.max = Some(self.max.map_or(price, |max| max.max(price)));
            if let Some(size) = size.filter(|_| spec.method.weighs_volume()) {
                self.window.take(price, size, now_us, spec.window_us);
            }
        }
        if let Some(day) = &mut self.day {
            day.take(trade.price, size, now_us);
        }
        if !is_late {
            self.last_trade_us = trade.venue_time_us;
            self.price = Some(trade.price);
        }
        Taken::Counted { size, missing }
    }

    /// Whether a price is too far from the last one to be believed. The next one is
    /// believed if it is about the same.
    fn is_absurd(&mut self, price: Decimal) -> bool {
        let is_far = |from: Decimal| {
            let most = |price: Decimal| price.checked_mul(ABSURD).unwrap_or(Decimal::MAX);
            price > most(from) || from > most(price)
        };
        let is_absurd = self.price.is_some_and(is_far) && self.suspect.is_none_or(is_far);
        self.suspect = is_absurd.then_some(price);
        is_absurd
    }

    /// Data came: it lives.
    pub(super) fn heard(&mut self, formed_us: i64, stamp_us: i64, now_us: i64) {
        if self.habit == Habit::Known {
            self.pace.heard_after(now_us.saturating_sub(self.heard_us));
        }
        self.habit = Habit::Known;
        self.heard_us = now_us;
        self.formed_us = formed_us.max(self.formed_us);
        self.stamp_us = stamp_us.max(self.stamp_us);
        self.life = Life::Live;
    }

    /// When its silence grows too long.
    pub(super) fn due_us(&self, stale_after_us: i64) -> i64 {
        let patience_us = self.pace.patience_us(stale_after_us);
        self.heard_us.saturating_add(patience_us)
    }

    /// Its part in the aggregate, from `place` among the symbol's quotes.
    pub(super) fn part(&self, place: usize, spec: &SymbolSpec, now_us: i64) -> Option<Part> {
        let price = self.live_price()?;
        if self.standing == Standing::Out {
            return None;
        }
        let traded = if spec.method.weighs_volume() {
            self.window.traded(now_us, spec.window_us)
        } else {
            Traded::default()
        };
        Some(Part {
            quote: place,
            price,
            traded,
        })
    }

    /// Whether a later trade came before this one: it counts, and is not the last
    /// price. Both its number and its time must say so: a venue that counts anew has
    /// lower numbers at later times, and one wrong time must not hold the price.
    fn is_late(&self, trade: &Trade<'_>) -> bool {
        let times = trade.venue_time_us.zip(self.last_trade_us);
        self.seen.is_overtaken(trade.id) && times.is_some_and(|(own, last)| own < last)
    }

    /// Takes a summary. False if its price is not believed; nothing is taken then.
    pub(super) fn take_ticker(&mut self, ticker: &Ticker<'_>, now_us: i64) -> bool {
        if self.is_newer(ticker) {
            if ticker.last.is_some_and(|last| self.is_absurd(last)) {
                return false;
            }
            if let Some((day, last)) = self.day.as_mut().zip(ticker.last) {
                day.take(last, None, now_us);
            }
            self.price = ticker.last.or(self.price);
        }
        self.change_percent = ticker.change_percent.or(self.change_percent);
        self.take_volume(ticker);
        let is_crossed = ticker
            .bid
            .zip(ticker.ask)
            .is_some_and(|(bid, ask)| bid > ask);
        if is_crossed {
            // Nobody sells below what another pays: neither is known.
            (self.bid, self.ask) = (None, None);
        } else {
            self.bid = ticker.bid.or(self.bid);
            self.ask = ticker.ask.or(self.ask);
        }
        true
    }

    fn take_volume(&mut self, ticker: &Ticker<'_>) {
        let last = ticker.last.or(self.price);
        let volume = ticker.volume.quote_at(last, self.contract.as_ref());
        if volume.is_none() && ticker.volume.contracts.is_some() {
            self.worth = Worth::Unknown;
        }
        self.volume_quote = volume.or(self.volume_quote);
    }

    /// Whether a ticker's price is of a later trade than the last one: by the trade's
    /// number, else by the venue's time, else it is, as it came later.
    fn is_newer(&self, ticker: &Ticker<'_>) -> bool {
        let by_id = ticker.last_id.and_then(|id| self.seen.is_newer(id));
        let by_time = || Some(ticker.venue_time_us? > self.last_trade_us?);
        by_id.or_else(by_time).unwrap_or(true)
    }

    /// A new connection: times of the old one say nothing of it, nor do its numbers but
    /// for trades that are said again, and what does not count yet waits for data, no
    /// more for a connection.
    pub(super) fn connected(&mut self) {
        self.seen.reconnected();
        self.last_trade_us = None;
        self.habit = Habit::Broken;
        if self.life == Life::Lost {
            self.life = Life::Silent;
        }
    }

    /// What its own channel shows.
    pub(super) fn shown(&self) -> Option<Shown> {
        let is_live = self.live_price().is_some();
        let price = self.converted(self.price?);
        let before = || self.told.as_ref().map(|told| told.price);
        Some(Shown {
            // Without a rate, what it was worth last.
            price: price.or_else(before)?,
            change_percent: self.change_percent(),
            volume_quote: self.volume_quote(),
            confidence: None,
            sources: u32::from(is_live),
            stale: !is_live,
            stamp_us: self.stamp_us,
            twap: None,
            missing: self.missing(),
        })
    }

    /// Its part in the answer to GetPrice. `weight` is its share in the aggregate,
    /// `median` what the aggregate makes of those that count.
    pub(super) fn detail(
        &self,
        name: &str,
        weight: f64,
        median: Option<Decimal>,
        now_us: i64,
    ) -> SourceDetail {
        let stale = |reason: &str| (SourceState::Stale, Some(reason.to_owned()));
        let (state, reason) = match (self.life, self.price) {
            (Life::Live, Some(_)) => match (self.live_price(), &self.conversion) {
                (Some(price), _) if self.standing == Standing::Out => {
                    (SourceState::Excluded, Some(outlier(price, median)))
                }
                (Some(_), _) => (SourceState::Live, None),
                (None, Some(conversion)) => {
                    stale(&format!("there is no live price of {}", conversion.name))
                }
                (None, None) => stale("no price came yet"),
            },
            (Life::Live, None) => stale("no price came yet"),
            (Life::Silent, _) => stale("silent for too long"),
            (Life::Lost, _) => stale("the connection is lost"),
            (Life::Waiting | Life::Removed, _) => stale("nothing came yet"),
        };
        let age_us = now_us.saturating_sub(self.formed_us).max(0);
        SourceDetail {
            source: name.to_owned(),
            price: self
                .price
                .and_then(|price| self.converted(price))
                .map(decimal),
            age_ms: (self.life != Life::Waiting).then_some(age_us.unsigned_abs() / 1_000),
            weight,
            state: state.into(),
            reason,
            trades: self.trades,
            min: self.min.map(decimal),
            max: self.max.map(decimal),
            rate: self.conversion.as_ref().map(|conversion| v1::Rate {
                symbol: conversion.name.to_string(),
                price: conversion.rate.map(|rate| decimal(rate.price)),
                age_ms: conversion.rate.map(|rate| {
                    now_us.saturating_sub(rate.formed_us).max(0).unsigned_abs() / 1_000
                }),
            }),
            missing: self.missing(),
            volume_unknown: (self.worth == Worth::Unknown).then(|| UNKNOWN_WORTH.to_owned()),
        }
    }

    /// How many of the venue's trades never came, if any did not.
    fn missing(&self) -> Option<u64> {
        Some(self.seen.missing()).filter(|missing| *missing > 0)
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
