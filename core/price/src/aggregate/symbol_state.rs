//! Symbol state: all sources' quotes of one symbol, and the price made of them.

use rust_decimal::Decimal;
use smallvec::SmallVec;
use tidewire_proto::v1::{PriceUpdate, server_message::Data};
use tidewire_stream::{ChannelName, Publisher};

use super::{
    listeners::{Listener, Observer, PriceObservation, PriceTick},
    methods::{self, Contributions, confidence, median, turnover, vwap, weighted_median},
    outlier_filter::{Candidate, Inclusion, LAPSE_US, exclude_outliers, is_within},
    quote::{Liveness, Quote},
    snapshot::{PriceSnapshot, Provenance},
    source_status::SourceStatus,
    window::{Ema, Twap},
};
use crate::{
    clock::ClockStep,
    config::{Method, SymbolSpec},
    decimal::to_wire,
    market::LivePrice,
};

/// The source's name in the updates of `prices:{SYMBOL}`.
const AGGREGATE: &str = "aggregate";

/// The quotes of one symbol, and its aggregate.
#[derive(Debug)]
pub(super) struct SymbolState {
    pub(super) spec: SymbolSpec,
    channel: ChannelName,
    /// One quote for each source that serves the symbol.
    pub(super) quotes: Vec<Quote>,
    /// The median of the included sources, over time.
    twap: Twap,
    ema: Ema,
    /// When a source was last included, in microseconds since the Unix epoch.
    last_included_us: i64,
    /// The aggregate now.
    last: Option<PriceSnapshot>,
    /// The aggregate as last published.
    published: Option<PriceSnapshot>,
    /// The volume traded since the last call of listeners, in the quote currency.
    traded: Option<Decimal>,
    /// The same since the last call of observers.
    traded_unobserved: Option<Decimal>,
}

impl SymbolState {
    pub(super) fn new(spec: SymbolSpec, channel: ChannelName, quotes: Vec<Quote>) -> Self {
        Self {
            spec,
            channel,
            quotes,
            twap: Twap::default(),
            ema: Ema::default(),
            last_included_us: 0,
            last: None,
            published: None,
            traded: None,
            traded_unobserved: None,
        }
    }

    /// Adds a trade to the volumes since the last calls of listeners and observers.
    pub(super) fn add_traded(&mut self, price: Decimal, size: Decimal) {
        let Some(value) = price.checked_mul(size) else {
            return;
        };
        for traded in [&mut self.traded, &mut self.traded_unobserved] {
            // A sum that is too large for a decimal stands still.
            let sum = traded.map_or(value, |traded| traded.checked_add(value).unwrap_or(traded));
            *traded = Some(sum);
        }
    }

    /// Moves all times by a step of the clock.
    pub(super) fn step_back(&mut self, step: ClockStep) {
        let window_us = self.spec.window_us;
        self.twap.step_back(step);
        self.ema.step_back(step, window_us);
        step.apply(&mut self.last_included_us);
        for snapshot in self.last.iter_mut().chain(&mut self.published) {
            step.apply(&mut snapshot.timestamp_us);
        }
        for quote in &mut self.quotes {
            quote.step_back(step, window_us);
        }
    }

    pub(super) fn name(&self) -> &str {
        self.spec.symbol.as_str()
    }

    pub(super) fn stale_after_us(&self) -> i64 {
        self.spec.stale_after_ms.saturating_mul(1_000)
    }

    /// When data last arrived from any source, in microseconds since the Unix epoch.
    pub(super) fn last_arrival_us(&self) -> Option<i64> {
        let arrivals = self.quotes.iter().map(|quote| quote.last_arrival_us);
        arrivals
            .max()
            .filter(|last_arrival_us| *last_arrival_us > 0)
    }

    /// The aggregate, unless it is stale.
    pub(super) fn live(&self) -> Option<&PriceSnapshot> {
        self.last.as_ref().filter(|last| !last.stale)
    }

    /// The live price and the figures of 24 hours, for the market overview.
    pub(super) fn live_price(&self) -> Option<LivePrice> {
        self.live().map(|live| LivePrice {
            price: live.price,
            change_percent: live.change_percent,
            volume_quote: live.volume_quote,
        })
    }

    /// Publishes a quote on its source's own channel, if it differs from the last publication.
    pub(super) fn publish_quote(
        &mut self,
        index: usize,
        now_us: i64,
        source: &SourceStatus,
        provenance: Provenance,
        publisher: &dyn Publisher,
    ) {
        let quote = &mut self.quotes[index];
        let Some(snapshot) = quote.snapshot(now_us) else {
            return;
        };
        if !snapshot.should_follow(quote.last_published.as_ref()) {
            return;
        }
        let update = snapshot.update(self.spec.symbol.as_str(), source.name(), provenance);
        quote.last_published = Some(snapshot);
        publisher.publish(&quote.channel, Data::Price(update));
    }

    /// Computes the aggregate, formed at `timestamp_us`, and publishes it if it differs from the
    /// last publication.
    pub(super) fn publish_aggregate(
        &mut self,
        timestamp_us: i64,
        now_us: i64,
        provenance: Provenance,
        publisher: &dyn Publisher,
    ) -> PublishOutcome {
        let change = self.filter_outliers(now_us);
        self.last = self.aggregate(change, timestamp_us, now_us);
        let Some(snapshot) = &mut self.last else {
            return PublishOutcome::Unchanged;
        };
        if !snapshot.should_follow(self.published.as_ref()) {
            return PublishOutcome::Unchanged;
        }
        let mean = self.twap.mean(now_us, self.spec.window_us);
        snapshot.twap = mean.map(|mean| mean.price);
        self.published = Some(snapshot.clone());
        let update = snapshot.update(self.spec.symbol.as_str(), AGGREGATE, provenance);
        publisher.publish(&self.channel, Data::Price(update));
        PublishOutcome::Published
    }

    /// Calls the observers with the live aggregate, published or not.
    pub(super) fn observe(&mut self, observers: &[Observer]) {
        let Some(live) = self.last.as_ref().filter(|last| !last.stale) else {
            return;
        };
        let observation = PriceObservation {
            symbol: &self.spec.symbol,
            price: live.price,
            sources: live.sources,
            formed_us: live.timestamp_us,
            traded: self.traded_unobserved.take(),
        };
        observers.iter().for_each(|observer| observer(&observation));
    }

    /// Calls the listeners with the last publication.
    pub(super) fn notify(&mut self, listeners: &[Listener], sources: &[SourceStatus]) {
        let traded = self.traded.take();
        if !listeners.is_empty() {
            self.call(listeners, sources, traded);
        }
    }

    /// Calls a new listener with the last publication, if there is one. The volume traded before is
    /// for the other listeners.
    pub(super) fn repeat(&self, listener: &Listener, sources: &[SourceStatus]) {
        self.call(std::slice::from_ref(listener), sources, None);
    }

    fn call(&self, listeners: &[Listener], sources: &[SourceStatus], traded: Option<Decimal>) {
        let Some(published) = &self.published else {
            return;
        };
        let names: SmallVec<[&str; 8]> = self
            .counted_quotes()
            .map(|quote| sources[quote.source].name())
            .collect();
        let tick = PriceTick {
            symbol: &self.spec.symbol,
            price: published.price,
            stale: published.stale,
            sources: published.sources,
            formed_us: published.timestamp_us,
            names: &names,
            volume_24h: published.volume_quote,
            traded,
        };
        listeners.iter().for_each(|listener| listener.call(&tick));
    }

    /// Publishes the aggregate again if the passing of time moved its average.
    pub(super) fn republish_window(
        &mut self,
        now_us: i64,
        provenance: Provenance,
        publisher: &dyn Publisher,
    ) -> PublishOutcome {
        let Some(timestamp_us) = self.live().map(|last| last.timestamp_us) else {
            return PublishOutcome::Unchanged;
        };
        self.publish_aggregate(timestamp_us, now_us, provenance, publisher)
    }

    /// Runs the outlier filter over the live quotes.
    fn filter_outliers(&mut self, now_us: i64) -> FilterChange {
        let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
        for quote in &self.quotes {
            candidates.extend(quote.live_price().map(|price| Candidate {
                price,
                inclusion: quote.inclusion,
            }));
        }
        let is_included = |candidate: &Candidate| candidate.inclusion == Inclusion::Included;
        if !candidates.iter().any(is_included)
            && now_us.saturating_sub(self.last_included_us) >= LAPSE_US
        {
            candidates
                .iter_mut()
                .for_each(|candidate| candidate.inclusion = Inclusion::Included);
        }
        exclude_outliers(&mut candidates, self.spec.outlier);
        if candidates.iter().any(is_included) {
            self.last_included_us = now_us;
        }
        let live = self.quotes.iter_mut();
        let live = live.filter(|quote| quote.live_price().is_some());
        let mut change = FilterChange::None;
        for (quote, candidate) in live.zip(candidates) {
            if quote.inclusion == Inclusion::Included && candidate.inclusion == Inclusion::Excluded
            {
                change = FilterChange::Exclusion;
            }
            quote.inclusion = candidate.inclusion;
        }
        change
    }

    /// The quotes that are live and included.
    fn contributions(&self, now_us: i64) -> Contributions {
        let quotes = self.quotes.iter().enumerate();
        quotes
            .filter_map(|(index, quote)| quote.contribution(index, &self.spec, now_us))
            .collect()
    }

    fn aggregate(
        &mut self,
        change: FilterChange,
        timestamp_us: i64,
        now_us: i64,
    ) -> Option<PriceSnapshot> {
        let contributions = self.contributions(now_us);
        let median = median(&contributions);
        self.twap.set(median, now_us, self.spec.window_us);
        let Some(median) = median else {
            // The last included source ended: clients receive the last price, marked stale.
            return self.last.as_ref().map(PriceSnapshot::as_stale);
        };
        if self.spec.method == Method::Ema {
            if change == FilterChange::Exclusion {
                self.restart_far_ema(median, now_us);
            }
            self.ema.set(median, now_us, self.spec.window_us);
        }
        // An excluded source has no part in the price, and none in its time.
        let newest = contributions
            .iter()
            .map(|one| self.quotes[one.quote].timestamp_us)
            .max();
        let timestamp_us = timestamp_us.min(newest.unwrap_or(timestamp_us));
        // Venues' clocks differ, and time must not run backward for clients.
        let before = self
            .last
            .as_ref()
            .map_or(timestamp_us, |last| last.timestamp_us);
        Some(self.snapshot(&contributions, median, timestamp_us.max(before), now_us))
    }

    /// Restarts an average that a source has moved away from the median of the others. It would
    /// take hours to come back.
    fn restart_far_ema(&mut self, median: Decimal, now_us: i64) {
        let average = self.ema.average(now_us, self.spec.window_us);
        if average.is_some_and(|average| !is_within(median, average, self.spec.outlier)) {
            self.ema.restart();
        }
    }

    fn snapshot(
        &self,
        contributions: &Contributions,
        median: Decimal,
        timestamp_us: i64,
        now_us: i64,
    ) -> PriceSnapshot {
        PriceSnapshot {
            price: self.price(contributions, median, now_us),
            change_percent: self.change_percent(now_us),
            volume_quote: self.volume_quote(now_us),
            confidence: confidence(contributions, |quote| self.quotes[quote].offers()),
            sources: u32::try_from(contributions.len()).unwrap_or(u32::MAX),
            stale: false,
            timestamp_us,
            twap: None,
            missing: None,
        }
    }

    /// The price by the symbol's method. Without trades in the window, volume methods fall back to
    /// the median.
    fn price(&self, contributions: &Contributions, median: Decimal, now_us: i64) -> Decimal {
        let window_us = self.spec.window_us;
        let price = match self.spec.method {
            Method::Median => Some(median),
            Method::VolumeWeightedMedian => weighted_median(contributions),
            Method::Vwap => vwap(contributions),
            Method::Twap => self.twap.mean(now_us, window_us).map(|mean| mean.price),
            Method::Ema => self.ema.average(now_us, window_us),
        };
        price.unwrap_or(median)
    }

    /// The price with its method, window and the detail of each source.
    pub(super) fn explain(
        &self,
        sources: &[SourceStatus],
        provenance: Provenance,
        now_us: i64,
    ) -> PriceUpdate {
        let contributions = self.contributions(now_us);
        let median = median(&contributions);
        let mean = self.twap.mean(now_us, self.spec.window_us);
        let snapshot = match (&self.last, median) {
            (Some(last), Some(median)) => {
                Some(self.snapshot(&contributions, median, last.timestamp_us, now_us))
            }
            (last, _) => last.clone(),
        };
        let shares = self.shares(&contributions);
        let quotes = self.quotes.iter().enumerate();
        let quotes = quotes.filter(|(_, quote)| quote.liveness != Liveness::Removed);
        let details = quotes.map(|(index, quote)| {
            let own = contributions
                .iter()
                .position(|contribution| contribution.quote == index);
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
            twap: mean.map(|mean| to_wire(mean.price)),
            day_covered_ms: self
                .day_covered_us(now_us)
                .map(|us| us.unsigned_abs() / 1_000),
            ..snapshot.map_or_else(nothing, |snapshot| {
                snapshot.update(self.name(), AGGREGATE, provenance)
            })
        }
    }

    /// The share of each contribution in the aggregate: by volume if the method weighs it and any
    /// is known, else equal.
    fn shares(&self, contributions: &Contributions) -> SmallVec<[f64; 8]> {
        let total = turnover(contributions).filter(|_| self.spec.method.weighs_volume());
        let same = 1.0 / contributions.len().max(1) as f64;
        let share = |contribution| {
            total
                .as_ref()
                .map_or(same, |total| methods::share(contribution, total))
        };
        contributions.iter().map(share).collect()
    }

    /// The change over 24 hours, in percent: the median over the included sources, so that one venue
    /// with a wrong window does not move it. A change that this server has computed over a part of
    /// the day counts only if no source has the whole day's.
    fn change_percent(&self, now_us: i64) -> Option<f64> {
        let mut changes: SmallVec<[f64; 8]> = SmallVec::new();
        let mut has_whole_day = false;
        for quote in self.counted_quotes() {
            let is_whole = quote.has_whole_day(now_us);
            if is_whole && !has_whole_day {
                has_whole_day = true;
                changes.clear();
            }
            if is_whole == has_whole_day {
                changes.extend(quote.change_percent(now_us));
            }
        }
        changes.sort_unstable_by(f64::total_cmp);
        let middle = changes.len() / 2;
        let upper = *changes.get(middle)?;
        if changes.len().is_multiple_of(2) {
            return Some(f64::midpoint(changes[middle - 1], upper));
        }
        Some(upper)
    }

    /// The volume of 24 hours in the quote currency, summed over the included sources.
    fn volume_quote(&self, now_us: i64) -> Option<f64> {
        self.counted_quotes()
            .filter_map(|quote| quote.volume_quote(now_us))
            .reduce(|a, b| a + b)
    }

    /// How much of the 24 hours the figures of all included sources cover, in microseconds, if none
    /// of them is reported by a venue. A source without figures has no part in them.
    fn day_covered_us(&self, now_us: i64) -> Option<i64> {
        if self.counted_quotes().any(Quote::reports_day) {
            return None;
        }
        let covered = self
            .counted_quotes()
            .filter_map(|quote| quote.day_covered_us(now_us));
        covered.min()
    }

    /// The quotes that are live and included.
    fn counted_quotes(&self) -> impl Iterator<Item = &Quote> {
        self.quotes.iter().filter(|quote| quote.is_counted())
    }
}

/// Whether the outlier filter has just excluded a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilterChange {
    None,
    Exclusion,
}

/// Whether a publication was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublishOutcome {
    Published,
    Unchanged,
}
