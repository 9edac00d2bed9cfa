//! What clients see of a price, and when it is worth telling.

use rust_decimal::Decimal;
use tidewire_proto::v1::{self, PriceUpdate};

/// A price of which only the time has changed is told this often, in microseconds:
/// clients see that the market lives, and do not get every trade at the same price.
const REFRESH_US: i64 = 1_000_000;

/// What clients see of a price.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    pub(super) price: Decimal,
    pub(super) change_percent: Option<f64>,
    pub(super) volume_quote: Option<f64>,
    pub(super) confidence: Option<Decimal>,
    pub(super) sources: u32,
    pub(super) stale: bool,
    /// When the price was formed, in microseconds since the Unix epoch.
    pub(super) stamp_us: i64,
    /// The mean over the window. It moves all the time: alone it is no news.
    pub(super) twap: Option<Decimal>,
    /// Of one source: how many of the venue's trades never came, if any did not.
    pub(super) missing: Option<u64>,
}

/// Where the frames come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Provenance {
    /// From a market, now or recorded.
    #[default]
    Market,
    /// Made up.
    Sample,
}

impl Provenance {
    pub(crate) fn is_sample(self) -> bool {
        self == Self::Sample
    }
}

impl Shown {
    /// The same price when no source is live any more.
    pub(super) fn gone_stale(&self) -> Self {
        Self {
            confidence: None,
            sources: 0,
            stale: true,
            ..self.clone()
        }
    }

    /// Whether a client that was told `told` must be told this.
    pub(super) fn is_news_after(&self, told: Option<&Self>) -> bool {
        let Some(told) = told else { return true };
        let is_same = Self {
            stamp_us: self.stamp_us,
            twap: self.twap,
            ..told.clone()
        } == *self;
        !is_same || self.stamp_us.saturating_sub(told.stamp_us) >= REFRESH_US
    }

    pub(super) fn update(&self, symbol: &str, source: &str, provenance: Provenance) -> PriceUpdate {
        PriceUpdate {
            symbol: symbol.to_owned(),
            price: Some(decimal(self.price)),
            change_24h: self.change_percent,
            volume_24h: self.volume_quote,
            timestamp: self.stamp_us.div_euclid(1_000),
            source: source.to_owned(),
            confidence: self.confidence.map(decimal),
            sources: self.sources,
            stale: self.stale,
            twap: self.twap.map(decimal),
            sample: provenance.is_sample(),
            missing: self.missing,
            ..PriceUpdate::default()
        }
    }
}

/// A number as the protocol carries it: in its one canonical notation.
pub(super) fn decimal(value: Decimal) -> v1::Decimal {
    v1::Decimal {
        value: value.normalize().to_string(),
    }
}
