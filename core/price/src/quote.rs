//! What one source says of one symbol, and how several are put together.

use rust_decimal::Decimal;
use tidewire_proto::v1;
use tidewire_stream::ChannelName;

use crate::venue::{Ticker, Trade};

/// What one source says of one symbol.
#[derive(Debug)]
pub(crate) struct Quote {
    pub(crate) source: usize,
    pub(crate) channel: ChannelName,
    pub(crate) price: Option<Decimal>,
    pub(crate) bid: Option<Decimal>,
    pub(crate) ask: Option<Decimal>,
    pub(crate) change_percent: Option<f64>,
    pub(crate) volume_quote: Option<f64>,
    /// When the last data arrived, in milliseconds since the Unix epoch.
    pub(crate) arrival_ms: i64,
    /// The stamp of the last price.
    pub(crate) stamp_ms: i64,
    pub(crate) life: Life,
    pub(crate) trades: u64,
    pub(crate) min: Option<Decimal>,
    pub(crate) max: Option<Decimal>,
    last_id: Option<u64>,
    /// Whether the deadline queue holds an entry for it.
    pub(crate) is_watched: bool,
}

/// Whether a quote counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Nothing came yet.
    Waiting,
    Live,
    /// Silent for too long.
    Silent,
    /// Its connection is lost.
    Lost,
}

impl Quote {
    pub(crate) fn new(source: usize, channel: ChannelName) -> Self {
        Self {
            source,
            channel,
            price: None,
            bid: None,
            ask: None,
            change_percent: None,
            volume_quote: None,
            arrival_ms: 0,
            stamp_ms: 0,
            life: Life::Waiting,
            trades: 0,
            min: None,
            max: None,
            last_id: None,
            is_watched: false,
        }
    }

    pub(crate) fn live_price(&self) -> Option<Decimal> {
        self.price.filter(|_| self.life == Life::Live)
    }

    /// Takes a trade. False if it was counted before.
    pub(crate) fn take_trade(&mut self, trade: &Trade<'_>) -> bool {
        if self.last_id.is_some_and(|last| trade.id <= last) {
            return false;
        }
        self.last_id = Some(trade.id);
        self.trades += 1;
        self.price = Some(trade.price);
        self.min = Some(self.min.map_or(trade.price, |min| min.min(trade.price)));
        self.max = Some(self.max.map_or(trade.price, |max| max.max(trade.price)));
        true
    }

    pub(crate) fn take_ticker(&mut self, ticker: &Ticker<'_>) {
        self.price = ticker.last.or(self.price);
        self.bid = ticker.bid.or(self.bid);
        self.ask = ticker.ask.or(self.ask);
        self.change_percent = ticker.change_percent.or(self.change_percent);
        self.volume_quote = ticker.volume_quote.or(self.volume_quote);
    }

    /// On a new connection a venue may count its trades anew.
    pub(crate) fn forget_ids(&mut self) {
        self.last_id = None;
    }
}

/// The prices of live sources put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aggregate {
    pub(crate) price: Decimal,
    /// Half of the distance between the lowest and the highest price; of a lone
    /// source, half of the distance between its best offers.
    pub(crate) confidence: Option<Decimal>,
}

/// The median of the live quotes: the middle price, and the mean of the middle two
/// of an even number.
pub(crate) fn median(quotes: &[Quote]) -> Option<Aggregate> {
    let mut prices: Vec<_> = quotes.iter().filter_map(Quote::live_price).collect();
    prices.sort_unstable();
    let (first, last) = (*prices.first()?, *prices.last()?);
    let middle = prices.len() / 2;
    let price = if prices.len().is_multiple_of(2) {
        mean(prices[middle - 1], prices[middle])
    } else {
        prices[middle]
    };
    let half = |low: Decimal, high: Decimal| {
        high.checked_sub(low)
            .map(|width| width.abs() / Decimal::TWO)
    };
    let confidence = if prices.len() > 1 {
        half(first, last)
    } else {
        let lone = quotes.iter().find(|quote| quote.live_price().is_some());
        lone.and_then(|quote| half(quote.bid?, quote.ask?))
    };
    Some(Aggregate { price, confidence })
}

/// Halved first where the sum would not fit.
fn mean(a: Decimal, b: Decimal) -> Decimal {
    match a.checked_add(b) {
        Some(sum) => sum / Decimal::TWO,
        None => a / Decimal::TWO + b / Decimal::TWO,
    }
}

/// The median of what the live sources say the change is.
pub(crate) fn median_change(quotes: &[Quote]) -> Option<f64> {
    let live = quotes.iter().filter(|quote| quote.life == Life::Live);
    let mut changes: Vec<_> = live.filter_map(|quote| quote.change_percent).collect();
    changes.sort_unstable_by(f64::total_cmp);
    let middle = changes.len() / 2;
    match changes.len() {
        0 => None,
        even if even.is_multiple_of(2) => Some(f64::midpoint(changes[middle - 1], changes[middle])),
        _ => Some(changes[middle]),
    }
}

/// The volume of all live sources together.
pub(crate) fn total_volume(quotes: &[Quote]) -> Option<f64> {
    let live = quotes.iter().filter(|quote| quote.life == Life::Live);
    live.filter_map(|quote| quote.volume_quote)
        .reduce(|a, b| a + b)
}

/// A price as the protocol carries it.
pub(crate) fn decimal(value: Decimal) -> v1::Decimal {
    v1::Decimal {
        value: value.normalize().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quote(price: i64, life: Life) -> Quote {
        let channel = ChannelName::parse("prices:BTC-USD@x").unwrap();
        Quote {
            price: Some(Decimal::new(price, 2)),
            life,
            ..Quote::new(0, channel)
        }
    }

    #[test]
    fn an_even_number_has_the_mean_of_the_middle() {
        let quotes = [
            quote(100, Life::Live),
            quote(103, Life::Live),
            quote(900, Life::Silent),
        ];
        let aggregate = median(&quotes).unwrap();
        assert_eq!(decimal(aggregate.price).value, "1.015");
        assert_eq!(decimal(aggregate.confidence.unwrap()).value, "0.015");
        assert!(median(&quotes[2..]).is_none());
    }

    proptest! {
        #[test]
        fn the_median_has_as_many_below_as_above(prices in prop::collection::vec(1_i64..1_000_000, 1..9)) {
            let quotes: Vec<_> = prices.iter().map(|price| quote(*price, Life::Live)).collect();
            let middle = median(&quotes).unwrap().price;
            let below = prices.iter().filter(|price| Decimal::new(**price, 2) < middle).count();
            let above = prices.iter().filter(|price| Decimal::new(**price, 2) > middle).count();
            prop_assert!(below <= prices.len() / 2 && above <= prices.len() / 2);
        }
    }
}
