//! Snapshot: a price as clients see it, and the rule when a new one is worth publishing.

use rust_decimal::Decimal;
use tidewire_proto::v1::PriceUpdate;

use crate::decimal::to_wire;

/// How often a price is published whose time alone changed, in microseconds. Clients see that the
/// market is alive without receiving every trade at the same price.
const REFRESH_US: i64 = 1_000_000;

/// The state of a price that clients see.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PriceSnapshot {
    pub(super) price: Decimal,
    pub(super) change_percent: Option<f64>,
    pub(super) volume_quote: Option<f64>,
    pub(super) confidence: Option<Decimal>,
    pub(super) sources: u32,
    pub(super) stale: bool,
    /// When the price was formed, in microseconds since the Unix epoch.
    pub(super) timestamp_us: i64,
    /// The time-weighted mean over the window. It moves all the time, so a new value alone is not
    /// published.
    pub(super) twap: Option<Decimal>,
    /// For one source's channel: the venue's trades that did not arrive, if any.
    pub(super) missing: Option<u64>,
}

/// Where the frames come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Provenance {
    /// A market, live or recorded.
    #[default]
    Market,
    /// Made-up data.
    Sample,
}

impl Provenance {
    pub(crate) fn is_sample(self) -> bool {
        self == Self::Sample
    }
}

impl PriceSnapshot {
    /// The same price after the last source ended.
    pub(super) fn as_stale(&self) -> Self {
        Self {
            confidence: None,
            sources: 0,
            stale: true,
            ..self.clone()
        }
    }

    /// Whether this is to be published after `last`.
    pub(super) fn should_follow(&self, last: Option<&Self>) -> bool {
        let Some(last) = last else { return true };
        let is_same = Self {
            timestamp_us: self.timestamp_us,
            twap: self.twap,
            ..last.clone()
        } == *self;
        !is_same || self.timestamp_us.saturating_sub(last.timestamp_us) >= REFRESH_US
    }

    pub(super) fn update(&self, symbol: &str, source: &str, provenance: Provenance) -> PriceUpdate {
        PriceUpdate {
            symbol: symbol.to_owned(),
            price: Some(to_wire(self.price)),
            change_24h: self.change_percent,
            volume_24h: self.volume_quote,
            timestamp: self.timestamp_us.div_euclid(1_000),
            source: source.to_owned(),
            confidence: self.confidence.map(to_wire),
            sources: self.sources,
            stale: self.stale,
            twap: self.twap.map(to_wire),
            sample: provenance.is_sample(),
            missing: self.missing,
            ..PriceUpdate::default()
        }
    }
}
