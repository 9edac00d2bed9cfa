//! What all sources say of one symbol.

use tidewire_proto::v1::{PriceUpdate, server_message::Data};
use tidewire_stream::{ChannelName, Publisher};

use super::{
    median::{change_percent, median, volume_quote},
    quote::Quote,
    shown::{Provenance, Shown},
};
use crate::{config::SymbolSpec, source::SourceStatus};

/// The name of what is put together from all sources.
const AGGREGATE: &str = "aggregate";

/// What all sources say of one symbol.
#[derive(Debug)]
pub(super) struct SymbolState {
    pub(super) spec: SymbolSpec,
    channel: ChannelName,
    /// One for each source that serves the symbol.
    pub(super) quotes: Vec<Quote>,
    /// The aggregate now.
    last: Option<Shown>,
    /// The aggregate as it was told.
    told: Option<Shown>,
}

impl SymbolState {
    pub(super) fn new(spec: SymbolSpec, channel: ChannelName, quotes: Vec<Quote>) -> Self {
        Self {
            spec,
            channel,
            quotes,
            last: None,
            told: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.spec.symbol.as_str()
    }

    pub(super) fn stale_after_us(&self) -> i64 {
        self.spec.stale_after_ms.saturating_mul(1_000)
    }

    /// When anything was last heard of it, in microseconds since the Unix epoch.
    pub(super) fn heard_us(&self) -> Option<i64> {
        let heard = self.quotes.iter().map(|quote| quote.heard_us);
        heard.max().filter(|heard_us| *heard_us > 0)
    }

    /// Tells what a quote's own channel shows, if that is news.
    pub(super) fn tell_quote(
        &mut self,
        place: usize,
        source: &SourceStatus,
        provenance: Provenance,
        publisher: &dyn Publisher,
    ) {
        let quote = &mut self.quotes[place];
        let Some(shown) = quote.shown() else { return };
        if !shown.is_news_after(quote.told.as_ref()) {
            return;
        }
        let update = shown.update(self.spec.symbol.as_str(), source.name(), provenance);
        quote.told = Some(shown);
        publisher.publish(&quote.channel, Data::Price(update));
    }

    /// Puts the quotes together anew, formed at `stamp_us`, and tells it if it is
    /// news. Gives whether it was.
    pub(super) fn tell_aggregate(
        &mut self,
        stamp_us: i64,
        provenance: Provenance,
        publisher: &dyn Publisher,
    ) -> Told {
        self.last = self.aggregate(stamp_us);
        let Some(shown) = &self.last else {
            return Told::Nothing;
        };
        if !shown.is_news_after(self.told.as_ref()) {
            return Told::Nothing;
        }
        self.told = Some(shown.clone());
        let update = shown.update(self.name(), AGGREGATE, provenance);
        publisher.publish(&self.channel, Data::Price(update));
        Told::News
    }

    fn aggregate(&self, stamp_us: i64) -> Option<Shown> {
        let Some(median) = median(&self.quotes) else {
            // The last live source went: the last price, said to be stale.
            return self.last.as_ref().map(Shown::gone_stale);
        };
        // Venues' clocks differ: time does not run backward for clients.
        let before = self.last.as_ref().map_or(stamp_us, |last| last.stamp_us);
        Some(Shown {
            price: median.price,
            change_percent: change_percent(&self.quotes),
            volume_quote: volume_quote(&self.quotes),
            confidence: median.confidence,
            sources: median.sources,
            stale: false,
            stamp_us: stamp_us.max(before),
        })
    }

    /// The price, with how it came about.
    pub(super) fn explain(
        &self,
        sources: &[SourceStatus],
        provenance: Provenance,
        now_us: i64,
    ) -> PriceUpdate {
        let live = self.quotes.iter().filter_map(Quote::live_price).count();
        // Equal shares: the median asks only for the order. With no source live,
        // no share is asked for.
        let weight = 1.0 / live.max(1) as f64;
        let details = self.quotes.iter().map(|quote| {
            let name = sources[quote.source].name();
            quote.detail(name, weight, now_us)
        });
        let nothing = || PriceUpdate {
            symbol: self.name().to_owned(),
            timestamp: now_us.div_euclid(1_000),
            source: AGGREGATE.to_owned(),
            stale: true,
            sample: provenance.is_sample(),
            ..PriceUpdate::default()
        };
        let known = self.last.as_ref();
        PriceUpdate {
            source_details: details.collect(),
            method: Some(self.spec.method.name().to_owned()),
            ..known.map_or_else(nothing, |shown| {
                shown.update(self.name(), AGGREGATE, provenance)
            })
        }
    }
}

/// Whether anything was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    News,
    Nothing,
}
