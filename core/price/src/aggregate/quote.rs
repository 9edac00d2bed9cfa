//! What one source says of one symbol.

use rust_decimal::Decimal;
use tidewire_proto::v1::{SourceDetail, SourceState};
use tidewire_stream::ChannelName;

use super::{
    seen::{Novelty, Seen},
    shown::{Shown, decimal},
};
use crate::venue::{Ticker, Trade};

/// What one source says of one symbol.
#[derive(Debug)]
pub(super) struct Quote {
    /// The source's place in the configuration.
    pub(super) source: usize,
    /// `prices:{SYMBOL}@{source}`.
    pub(super) channel: ChannelName,
    pub(super) price: Option<Decimal>,
    pub(super) bid: Option<Decimal>,
    pub(super) ask: Option<Decimal>,
    pub(super) change_percent: Option<f64>,
    pub(super) volume_quote: Option<f64>,
    /// When the last data arrived, in microseconds since the Unix epoch.
    pub(super) heard_us: i64,
    /// The stamp of the price, likewise.
    pub(super) stamp_us: i64,
    pub(super) life: Life,
    /// What was told on the channel.
    pub(super) told: Option<Shown>,
    /// Whether the deadlines hold an entry for it.
    pub(super) watch: Watch,
    trades: u64,
    min: Option<Decimal>,
    max: Option<Decimal>,
    seen: Seen,
    last_trade_us: Option<i64>,
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
}

/// Whether a deadline is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    Set,
    Unset,
}

impl Quote {
    pub(super) fn new(source: usize, channel: ChannelName) -> Self {
        Self {
            source,
            channel,
            price: None,
            bid: None,
            ask: None,
            change_percent: None,
            volume_quote: None,
            heard_us: 0,
            stamp_us: 0,
            life: Life::Waiting,
            told: None,
            watch: Watch::Unset,
            trades: 0,
            min: None,
            max: None,
            seen: Seen::default(),
            last_trade_us: None,
        }
    }

    /// Its price, if it counts.
    pub(super) fn live_price(&self) -> Option<Decimal> {
        self.price.filter(|_| self.life == Life::Live)
    }

    pub(super) fn take_trade(&mut self, trade: &Trade<'_>) -> Novelty {
        let is_late = self.is_late(trade);
        if self.seen.take(trade) == Novelty::Repeated {
            return Novelty::Repeated;
        }
        self.trades += 1;
        self.min = Some(self.min.map_or(trade.price, |min| min.min(trade.price)));
        self.max = Some(self.max.map_or(trade.price, |max| max.max(trade.price)));
        if !is_late {
            self.last_trade_us = trade.venue_time_us;
            self.price = Some(trade.price);
        }
        Novelty::New
    }

    /// Whether a later trade came before this one: it counts, and is not the last
    /// price. Both its number and its time must say so: a venue that counts anew has
    /// lower numbers at later times, and one wrong time must not hold the price.
    fn is_late(&self, trade: &Trade<'_>) -> bool {
        let times = trade.venue_time_us.zip(self.last_trade_us);
        self.seen.is_overtaken(trade.id) && times.is_some_and(|(own, last)| own < last)
    }

    pub(super) fn take_ticker(&mut self, ticker: &Ticker<'_>) {
        if self.is_newer(ticker) {
            self.price = ticker.last.or(self.price);
        }
        self.bid = ticker.bid.or(self.bid);
        self.ask = ticker.ask.or(self.ask);
        self.change_percent = ticker.change_percent.or(self.change_percent);
        self.volume_quote = ticker.volume_quote.or(self.volume_quote);
    }

    /// Whether a ticker's price is of a later trade than the last one: by the trade's
    /// number, else by the venue's time, else it is, as it came later.
    fn is_newer(&self, ticker: &Ticker<'_>) -> bool {
        let by_id = ticker.last_id.and_then(|id| self.seen.is_newer(id));
        let by_time = || Some(ticker.venue_time_us? > self.last_trade_us?);
        by_id.or_else(by_time).unwrap_or(true)
    }

    /// A new connection: numbers and times of the old one say nothing of it, and
    /// what does not count yet waits for data, no more for a connection.
    pub(super) fn connected(&mut self) {
        self.seen.forget();
        self.last_trade_us = None;
        if self.life == Life::Lost {
            self.life = Life::Silent;
        }
    }

    /// What its own channel shows.
    pub(super) fn shown(&self) -> Option<Shown> {
        let is_live = self.life == Life::Live;
        Some(Shown {
            price: self.price?,
            change_percent: self.change_percent,
            volume_quote: self.volume_quote,
            confidence: None,
            sources: u32::from(is_live),
            stale: !is_live,
            stamp_us: self.stamp_us,
        })
    }

    /// Its part in the answer to GetPrice. `weight` is what it has while it counts.
    pub(super) fn detail(&self, name: &str, weight: f64, now_us: i64) -> SourceDetail {
        let reason = match self.life {
            Life::Live if self.price.is_some() => None,
            Life::Live => Some("no price came yet"),
            Life::Silent => Some("silent for too long"),
            Life::Lost => Some("the connection is lost"),
            Life::Waiting => Some("nothing came yet"),
        };
        let age_us = now_us.saturating_sub(self.heard_us).max(0);
        SourceDetail {
            source: name.to_owned(),
            price: self.price.map(decimal),
            age_ms: (self.life != Life::Waiting).then_some(age_us.unsigned_abs() / 1_000),
            weight: if reason.is_none() { weight } else { 0.0 },
            state: match reason {
                None => SourceState::Live.into(),
                Some(_) => SourceState::Stale.into(),
            },
            reason: reason.map(str::to_owned),
            trades: self.trades,
            min: self.min.map(decimal),
            max: self.max.map(decimal),
        }
    }
}
