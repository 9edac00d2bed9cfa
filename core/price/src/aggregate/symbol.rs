//! What all sources say of one symbol.

use rust_decimal::Decimal;
use smallvec::SmallVec;
use tidewire_proto::v1::{PriceUpdate, server_message::Data};
use tidewire_stream::{ChannelName, Publisher};

use super::{
    Listener, PriceTick,
    blend::{
        self, Parts, change_percent, confidence, day_covered_us, median, traded, volume_quote,
        vwap, weighted_median,
    },
    ema::Ema,
    gate::{Candidate, LAPSE_US, Standing, judge},
    quote::{Life, Quote},
    shown::{Provenance, Shown, decimal},
    steps::Steps,
};
use crate::{
    config::{Method, SymbolSpec},
    source::SourceStatus,
};

/// The name of what is put together from all sources.
const AGGREGATE: &str = "aggregate";

/// What all sources say of one symbol.
#[derive(Debug)]
pub(super) struct SymbolState {
    pub(super) spec: SymbolSpec,
    channel: ChannelName,
    /// One for each source that serves the symbol.
    pub(super) quotes: Vec<Quote>,
    /// The median of the sources that count, over time.
    steps: Steps,
    ema: Ema,
    /// When any source last counted, in microseconds since the Unix epoch.
    counted_us: i64,
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
            steps: Steps::default(),
            ema: Ema::default(),
            counted_us: 0,
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

    /// The aggregate, unless no source counts.
    pub(super) fn live(&self) -> Option<&Shown> {
        self.last.as_ref().filter(|last| !last.stale)
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
        now_us: i64,
        provenance: Provenance,
        publisher: &dyn Publisher,
    ) -> Told {
        self.judge(now_us);
        self.last = self.aggregate(stamp_us, now_us);
        let Some(shown) = &mut self.last else {
            return Told::Nothing;
        };
        if !shown.is_news_after(self.told.as_ref()) {
            return Told::Nothing;
        }
        let mean = self.steps.mean(now_us, self.spec.window_us);
        shown.twap = mean.map(|mean| mean.price);
        self.told = Some(shown.clone());
        let update = shown.update(self.spec.symbol.as_str(), AGGREGATE, provenance);
        publisher.publish(&self.channel, Data::Price(update));
        Told::News
    }

    /// Tells the listeners in this process what was told last.
    pub(super) fn listen(&self, listeners: &[Listener]) {
        let Some(told) = self.told.as_ref().filter(|_| !listeners.is_empty()) else {
            return;
        };
        let tick = PriceTick {
            symbol: &self.spec.symbol,
            price: told.price,
            stale: told.stale,
            sources: told.sources,
            formed_us: told.stamp_us,
            volume_24h: told.volume_quote,
        };
        listeners.iter().for_each(|listener| listener(&tick));
    }

    /// Lets the time that passed move averages. Gives whether that was told.
    pub(super) fn tell_moved(
        &mut self,
        now_us: i64,
        provenance: Provenance,
        publisher: &dyn Publisher,
    ) -> Told {
        let Some(stamp_us) = self.live().map(|last| last.stamp_us) else {
            return Told::Nothing;
        };
        self.tell_aggregate(stamp_us, now_us, provenance, publisher)
    }

    /// Says which of the live quotes count.
    fn judge(&mut self, now_us: i64) {
        let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
        for quote in &self.quotes {
            candidates.extend(quote.live_price().map(|price| Candidate {
                price,
                standing: quote.standing,
            }));
        }
        let is_counted = |candidate: &Candidate| candidate.standing == Standing::Counted;
        if !candidates.iter().any(is_counted) && now_us.saturating_sub(self.counted_us) >= LAPSE_US
        {
            candidates
                .iter_mut()
                .for_each(|candidate| candidate.standing = Standing::Counted);
        }
        judge(&mut candidates, self.spec.outlier);
        if candidates.iter().any(is_counted) {
            self.counted_us = now_us;
        }
        let live = self.quotes.iter_mut();
        let live = live.filter(|quote| quote.live_price().is_some());
        for (quote, candidate) in live.zip(candidates) {
            quote.standing = candidate.standing;
        }
    }

    /// The quotes that count.
    fn parts(&self, now_us: i64) -> Parts {
        let quotes = self.quotes.iter().enumerate();
        quotes
            .filter_map(|(place, quote)| quote.part(place, &self.spec, now_us))
            .collect()
    }

    fn aggregate(&mut self, stamp_us: i64, now_us: i64) -> Option<Shown> {
        let parts = self.parts(now_us);
        let median = median(&parts);
        self.steps.set(median, now_us, self.spec.window_us);
        let Some(median) = median else {
            // The last source that counted went: the last price, said to be stale.
            return self.last.as_ref().map(Shown::gone_stale);
        };
        if self.spec.method == Method::Ema {
            self.ema.set(median, now_us, self.spec.window_us);
        }
        // Venues' clocks differ: time does not run backward for clients.
        let before = self.last.as_ref().map_or(stamp_us, |last| last.stamp_us);
        Some(self.shown(&parts, median, stamp_us.max(before), now_us))
    }

    fn shown(&self, parts: &Parts, median: Decimal, stamp_us: i64, now_us: i64) -> Shown {
        Shown {
            price: self.price(parts, median, now_us),
            change_percent: change_percent(&self.quotes),
            volume_quote: volume_quote(&self.quotes),
            confidence: confidence(parts, &self.quotes),
            sources: u32::try_from(parts.len()).unwrap_or(u32::MAX),
            stale: false,
            stamp_us,
            twap: None,
            missing: None,
        }
    }

    /// What the method makes of the sources that count.
    fn price(&self, parts: &Parts, median: Decimal, now_us: i64) -> Decimal {
        let window_us = self.spec.window_us;
        let price = match self.spec.method {
            Method::Median => Some(median),
            Method::VolumeWeightedMedian => weighted_median(parts),
            Method::Vwap => vwap(parts),
            Method::Twap => self.steps.mean(now_us, window_us).map(|mean| mean.price),
            Method::Ema => self.ema.average(now_us, window_us),
        };
        price.unwrap_or(median)
    }

    /// The price, with how it came about.
    pub(super) fn explain(
        &self,
        sources: &[SourceStatus],
        provenance: Provenance,
        now_us: i64,
    ) -> PriceUpdate {
        let parts = self.parts(now_us);
        let median = median(&parts);
        let mean = self.steps.mean(now_us, self.spec.window_us);
        let shown = match (&self.last, median) {
            (Some(last), Some(median)) => Some(self.shown(&parts, median, last.stamp_us, now_us)),
            (last, _) => last.clone(),
        };
        let shares = self.shares(&parts);
        let quotes = self.quotes.iter().enumerate();
        let quotes = quotes.filter(|(_, quote)| quote.life != Life::Removed);
        let details = quotes.map(|(place, quote)| {
            let own = parts.iter().position(|part| part.quote == place);
            let weight = own.map_or(0.0, |own| shares[own]);
            let name = sources[quote.source].name();
            quote.detail(name, weight, median, now_us)
        });
        let covered_us = mean.map_or(0, |mean| mean.covered_us).max(0);
        let nothing = || PriceUpdate {
            symbol: self.name().to_owned(),
            timestamp: now_us.div_euclid(1_000),
            source: AGGREGATE.to_owned(),
            stale: true,
            sample: provenance.is_sample(),
            ..PriceUpdate::default()
        };
        PriceUpdate {
            source_details: details.collect(),
            method: Some(self.spec.method.name().to_owned()),
            window_ms: Some(self.spec.window_us.unsigned_abs() / 1_000),
            covered_ms: Some(covered_us.unsigned_abs() / 1_000),
            twap: mean.map(|mean| decimal(mean.price)),
            day_covered_ms: day_covered_us(&self.quotes, now_us)
                .map(|us| us.unsigned_abs() / 1_000),
            ..shown.map_or_else(nothing, |shown| {
                shown.update(self.name(), AGGREGATE, provenance)
            })
        }
    }

    /// The share of each part in the aggregate: of what was traded, if that is asked
    /// for and known, else the same for all.
    fn shares(&self, parts: &Parts) -> SmallVec<[f64; 8]> {
        let total = traded(parts).filter(|_| self.spec.method.weighs_volume());
        let same = 1.0 / parts.len().max(1) as f64;
        let share = |part| {
            total
                .as_ref()
                .map_or(same, |total| blend::share(part, total))
        };
        parts.iter().map(share).collect()
    }
}

/// Whether anything was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    News,
    Nothing,
}
