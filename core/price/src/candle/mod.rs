//! Candles: open, high, low, close and volume of each minute, and of longer intervals.
//!
//! A candle is made of the aggregate's ticks (`PriceObservation`): each price that is computed,
//! also if it is the same as before and is not published. It counts by the time at which it was
//! formed, aligned to UTC. An interval without a tick has no candle. Numbers are exact:
//! nothing is divided.
//!
//! Only minutes are stored. Longer candles are merged from them, which is exact, because opening,
//! extremes, close and sums merge without loss. [`chart`] forms the candles of one symbol, `codec`
//! stores them, and [`engine`] publishes, saves and reads them.

pub(crate) mod chart;
mod codec;
mod engine;
mod reading;

use rust_decimal::Decimal;
use tidewire_proto::v1;

pub use self::engine::{Candles, CandlesError};
use crate::decimal::to_wire;

/// Length of a candle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CandleInterval {
    /// One minute.
    Minute,
    /// Five minutes.
    FiveMinutes,
    /// One hour.
    Hour,
    /// One day, from midnight UTC.
    Day,
}

/// Milliseconds of a minute.
pub(crate) const MINUTE_MS: i64 = 60_000;

/// Milliseconds of an hour.
pub(crate) const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

impl CandleInterval {
    /// All intervals, the shortest first.
    pub const ALL: [Self; 4] = [Self::Minute, Self::FiveMinutes, Self::Hour, Self::Day];

    /// The name in requests and channels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }

    /// The interval of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|interval| interval.name() == name)
    }

    /// The length, in milliseconds.
    #[must_use]
    pub fn length_ms(self) -> i64 {
        match self {
            Self::Minute => MINUTE_MS,
            Self::FiveMinutes => 5 * MINUTE_MS,
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
        }
    }

    /// The start of the interval that holds a time. Both are in milliseconds since the Unix epoch.
    #[must_use]
    pub fn start_of(self, ms: i64) -> i64 {
        ms - ms.rem_euclid(self.length_ms())
    }
}

/// A price, as candles count it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CandleTick {
    pub(crate) price: Decimal,
    /// When it was formed, in milliseconds since the Unix epoch.
    pub(crate) formed_ms: i64,
    /// The volume since the tick before, in the quote currency.
    pub(crate) traded: Option<Decimal>,
    pub(crate) sources: u32,
}

/// A candle of any interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candle {
    /// Its start, in milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// The first price.
    pub open: Decimal,
    /// The highest price.
    pub high: Decimal,
    /// The lowest price.
    pub low: Decimal,
    /// The last price.
    pub close: Decimal,
    /// The volume, in the quote currency. `None` if the size of no trade is known.
    pub volume: Option<Decimal>,
    /// Sources that counted in the last price.
    pub sources: u32,
}

impl Candle {
    fn first(start_ms: i64, tick: &CandleTick) -> Self {
        Self {
            start_ms,
            open: tick.price,
            high: tick.price,
            low: tick.price,
            close: tick.price,
            volume: tick.traded,
            sources: tick.sources,
        }
    }

    /// Adds a later candle, or a tick as one.
    pub(crate) fn merge(&mut self, later: &Self) {
        self.high = self.high.max(later.high);
        self.low = self.low.min(later.low);
        self.close = later.close;
        self.sources = later.sources;
        if let Some(volume) = later.volume {
            // A sum that is too large for a decimal stands still.
            let sum = self.volume.unwrap_or_default().checked_add(volume);
            self.volume = sum.or(self.volume);
        }
    }

    /// The message, of market data.
    pub(crate) fn to_proto(
        self,
        symbol: &str,
        interval: CandleInterval,
        progress: Progress,
    ) -> v1::Candle {
        v1::Candle {
            symbol: symbol.to_owned(),
            interval: interval.name().to_owned(),
            start: self.start_ms,
            open: Some(to_wire(self.open)),
            high: Some(to_wire(self.high)),
            low: Some(to_wire(self.low)),
            close: Some(to_wire(self.close)),
            volume: self.volume.map(to_wire),
            closed: progress == Progress::Closed,
            sources: self.sources,
            sample: false,
        }
    }
}

/// Whether a candle can still change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Forming,
    Closed,
}

/// Merges minutes, which are in order, to candles of an interval.
pub(crate) fn merge_minutes(minutes: &[Candle], interval: CandleInterval) -> Vec<Candle> {
    let mut merged: Vec<Candle> = Vec::new();
    for minute in minutes {
        let start_ms = interval.start_of(minute.start_ms);
        match merged.last_mut() {
            Some(last) if last.start_ms == start_ms => last.merge(minute),
            _ => merged.push(Candle {
                start_ms,
                ..*minute
            }),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
