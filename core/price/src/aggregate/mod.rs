//! From what venues say to what clients see.
//!
//! [`Aggregator`] is a deterministic machine: nothing here waits or reads a clock.
//! Times come with the events, so a recording gives the same publications whenever
//! it is replayed. Connections and replays feed it; it publishes prices on
//! `prices:{SYMBOL}` and `prices:{SYMBOL}@{source}`, and `market:overview`.

mod deadlines;
mod median;
mod overview;
mod quote;
mod seen;
mod shown;
mod symbol;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tidewire_proto::v1::{MarketOverview, PriceUpdate, Source, server_message::Data};
use tidewire_stream::{ChannelName, Publisher};

pub(crate) use self::shown::Provenance;
use self::{
    deadlines::{Deadlines, Place},
    overview::Overview,
    quote::{Life, Quote, Watch},
    seen::Novelty,
    symbol::{SymbolState, Told},
};
use crate::{
    ConfigError, PriceError, Symbol,
    config::{PriceConfig, SourceClock, SourceSpec},
    error::{unknown_source, unknown_symbol},
    source::{LinkState, SourceStatus},
    venue::{Events, FaultKind, ParseError, Ticker, Trade, VenueEvent, excerpt},
};

/// A lost connection may come back for so long before its prices count no more, in
/// microseconds.
const LOST_GRACE_US: i64 = 2_000_000;

/// A venue's time is taken for a stamp while it is so little ahead of the arrival,
/// or behind it. Beyond, its clock or this server's is wrong, or the data is old.
const VENUE_AHEAD_US: i64 = 5_000_000;
const VENUE_BEHIND_US: i64 = 60_000_000;

/// A source's place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub(crate) usize);

/// The state of all prices.
pub struct Aggregator {
    symbols: Vec<SymbolState>,
    by_name: HashMap<Symbol, usize>,
    sources: Vec<SourceStatus>,
    /// For each source, where its names belong.
    places: Vec<BTreeMap<String, Place>>,
    deadlines: Deadlines,
    overview: Overview,
    overview_channel: ChannelName,
    publisher: Arc<dyn Publisher>,
    provenance: Provenance,
}

impl std::fmt::Debug for Aggregator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aggregator")
            .field("symbols", &self.symbols.len())
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl Aggregator {
    /// A machine that has heard nothing yet.
    ///
    /// # Errors
    /// Names the key of the configuration and what was expected.
    pub fn new(config: &PriceConfig, publisher: Arc<dyn Publisher>) -> Result<Self, ConfigError> {
        config.check()?;
        let sources: Vec<_> = config
            .sources()?
            .into_iter()
            .map(SourceStatus::new)
            .collect();
        let mut aggregator = Self {
            symbols: Vec::new(),
            by_name: HashMap::new(),
            places: vec![BTreeMap::new(); sources.len()],
            sources,
            deadlines: Deadlines::default(),
            overview: Overview::new(config.supply.clone()),
            overview_channel: channel("market:overview")?,
            publisher,
            provenance: Provenance::default(),
        };
        for spec in config.symbols()? {
            let index = aggregator.symbols.len();
            aggregator.by_name.insert(spec.symbol.clone(), index);
            let quotes = aggregator.quotes(index, &spec.symbol)?;
            let channel = channel(&format!("prices:{}", spec.symbol))?;
            let symbol = SymbolState::new(spec, channel, quotes);
            aggregator.symbols.push(symbol);
        }
        Ok(aggregator)
    }

    /// One quote for each source that serves the symbol.
    fn quotes(&mut self, index: usize, symbol: &Symbol) -> Result<Vec<Quote>, ConfigError> {
        let mut quotes = Vec::new();
        for (source, status) in self.sources.iter_mut().enumerate() {
            let Some(name) = status.spec.kind.venue_name(symbol) else {
                continue;
            };
            let place = Place {
                symbol: index,
                quote: quotes.len(),
            };
            self.places[source].insert(name, place);
            status.symbols.push(symbol.clone());
            let channel = channel(&format!("prices:{symbol}@{}", status.spec.name))?;
            quotes.push(Quote::new(source, channel));
        }
        Ok(quotes)
    }

    /// The source of this name.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<SourceId> {
        self.source_ids()
            .find(|id| self.sources[id.0].name() == name)
    }

    pub(crate) fn source_ids(&self) -> impl Iterator<Item = SourceId> + use<> {
        (0..self.sources.len()).map(SourceId)
    }

    pub(crate) fn spec(&self, source: SourceId) -> &SourceSpec {
        &self.sources[source.0].spec
    }

    /// What the source is asked for, by its own names, in their order.
    pub(crate) fn venue_names(&self, source: SourceId) -> Vec<String> {
        self.places[source.0].keys().cloned().collect()
    }

    /// Symbols that no source serves.
    pub(crate) fn unserved(&self) -> impl Iterator<Item = &Symbol> {
        let unserved = self
            .symbols
            .iter()
            .filter(|symbol| symbol.quotes.is_empty());
        unserved.map(|symbol| &symbol.spec.symbol)
    }

    /// Takes a frame of a source, as its venue's parser read it, that arrived at
    /// `arrival_us`, in microseconds since the Unix epoch.
    pub fn apply_frame(
        &mut self,
        source: SourceId,
        frame: &Result<Events<'_>, ParseError>,
        arrival_us: i64,
    ) {
        self.sources[source.0].frames.count();
        match frame {
            Ok(events) => events
                .iter()
                .for_each(|event| self.apply(source, event, arrival_us)),
            Err(error) => self.sources[source.0].fault(error),
        }
    }

    /// Takes one event of a source.
    pub fn apply(&mut self, source: SourceId, event: &VenueEvent<'_>, arrival_us: i64) {
        match event {
            VenueEvent::Trade(trade) => self.take_trade(source, trade, arrival_us),
            VenueEvent::Ticker(ticker) => self.take_ticker(source, ticker, arrival_us),
            VenueEvent::Error(reason) => self.sources[source.0].refused(reason),
            VenueEvent::Fault(error) => self.sources[source.0].fault(error),
            VenueEvent::Ack
            | VenueEvent::Heartbeat
            | VenueEvent::Ignored
            | VenueEvent::Shutdown => {}
        }
    }

    fn take_trade(&mut self, source: SourceId, trade: &Trade<'_>, arrival_us: i64) {
        let Some(place) = self.place(source, &trade.name) else {
            return;
        };
        let stamp_us = self.stamp(source, trade.venue_time_us, arrival_us);
        let quote = &mut self.symbols[place.symbol].quotes[place.quote];
        if quote.take_trade(trade) == Novelty::New {
            self.sources[source.0].trades.count();
            self.overview
                .take_trade(place.symbol, source.0, trade, stamp_us);
        }
        self.heard(place, stamp_us, arrival_us);
    }

    fn take_ticker(&mut self, source: SourceId, ticker: &Ticker<'_>, arrival_us: i64) {
        let Some(place) = self.place(source, &ticker.name) else {
            return;
        };
        let stamp_us = self.stamp(source, ticker.venue_time_us, arrival_us);
        self.symbols[place.symbol].quotes[place.quote].take_ticker(ticker);
        self.heard(place, stamp_us, arrival_us);
    }

    fn place(&mut self, source: SourceId, name: &str) -> Option<Place> {
        let place = self.places[source.0].get(name).copied();
        if place.is_none() {
            self.sources[source.0].fault(&ParseError {
                kind: FaultKind::UnknownSymbol,
                detail: format!("{:?} was not asked for", excerpt(name)),
            });
        }
        place
    }

    /// The time that a price was formed.
    fn stamp(&self, source: SourceId, venue_time_us: Option<i64>, arrival_us: i64) -> i64 {
        let is_sane = |time_us: &i64| {
            let ahead_us = time_us.saturating_sub(arrival_us);
            (-VENUE_BEHIND_US..=VENUE_AHEAD_US).contains(&ahead_us)
        };
        match self.sources[source.0].spec.clock {
            SourceClock::Venue => venue_time_us.filter(is_sane).unwrap_or(arrival_us),
            SourceClock::Arrival => arrival_us,
        }
    }

    /// A quote has spoken: it lives, and what changed is told.
    fn heard(&mut self, place: Place, stamp_us: i64, arrival_us: i64) {
        let symbol = &mut self.symbols[place.symbol];
        let stale_after_us = symbol.stale_after_us();
        let quote = &mut symbol.quotes[place.quote];
        quote.heard_us = arrival_us;
        quote.stamp_us = stamp_us.max(quote.stamp_us);
        quote.life = Life::Live;
        if quote.watch == Watch::Unset {
            quote.watch = Watch::Set;
            self.deadlines
                .set(arrival_us.saturating_add(stale_after_us), place);
        }
        self.sources[quote.source].heard_us = Some(arrival_us);
        self.tell_quote(place);
        self.tell_aggregate(place.symbol, stamp_us);
    }

    /// Tells what a quote's own channel shows, if that is news.
    fn tell_quote(&mut self, place: Place) {
        let symbol = &mut self.symbols[place.symbol];
        let source = &self.sources[symbol.quotes[place.quote].source];
        symbol.tell_quote(
            place.quote,
            source,
            self.provenance,
            self.publisher.as_ref(),
        );
    }

    /// Tells a symbol's price, formed at `stamp_us`, if that is news.
    fn tell_aggregate(&mut self, symbol: usize, stamp_us: i64) {
        let symbol = &mut self.symbols[symbol];
        let told = symbol.tell_aggregate(stamp_us, self.provenance, self.publisher.as_ref());
        if told == Told::News {
            self.overview.touch();
        }
    }

    /// How the connection to a source does. What it means for prices shows with the
    /// next ticks.
    pub fn link(&mut self, source: SourceId, state: &LinkState, now_us: i64) {
        self.sources[source.0].link(state, now_us);
        if !matches!(state, LinkState::Connected) {
            return;
        }
        for symbol in &mut self.symbols {
            let own = |quote: &&mut Quote| quote.source == source.0;
            symbol
                .quotes
                .iter_mut()
                .filter(own)
                .for_each(Quote::connected);
        }
    }

    /// Lets time pass: what has been silent for too long counts no more. Costs what
    /// is due, however many symbols there are; the overview, once a second, looks at
    /// each of them.
    pub fn tick(&mut self, now_us: i64) {
        let mut ended = Vec::new();
        self.end_lost(now_us, &mut ended);
        self.end_silent(now_us, &mut ended);
        // Only now is told what is left: of two sources that go at once, none is for
        // a moment the only one.
        ended.sort_unstable();
        for place in &ended {
            self.tell_quote(*place);
        }
        ended.dedup_by_key(|place| place.symbol);
        for Place { symbol, quote } in ended {
            let stamp_us = self.symbols[symbol].quotes[quote].stamp_us;
            self.tell_aggregate(symbol, stamp_us);
        }
        let overview = self.overview.renew(&self.symbols, &self.sources, now_us);
        if let Some(overview) = overview {
            self.publisher
                .publish(&self.overview_channel, Data::MarketOverview(overview));
        }
    }

    /// Ends the quotes of sources whose connection did not come back.
    fn end_lost(&mut self, now_us: i64, ended: &mut Vec<Place>) {
        for (source, status) in self.sources.iter_mut().enumerate() {
            let is_over = |lost_us: &mut i64| lost_us.saturating_add(LOST_GRACE_US) <= now_us;
            if status.lost_us.take_if(is_over).is_none() {
                continue;
            }
            for place in self.places[source].values() {
                let quote = &mut self.symbols[place.symbol].quotes[place.quote];
                if quote.life == Life::Live {
                    quote.life = Life::Lost;
                    ended.push(*place);
                }
            }
        }
    }

    /// Ends the quotes that have been silent for too long.
    fn end_silent(&mut self, now_us: i64, ended: &mut Vec<Place>) {
        while let Some(place) = self.deadlines.due(now_us) {
            let symbol = &mut self.symbols[place.symbol];
            let stale_after_us = symbol.stale_after_us();
            let quote = &mut symbol.quotes[place.quote];
            let due_us = quote.heard_us.saturating_add(stale_after_us);
            if due_us > now_us {
                self.deadlines.set(due_us, place);
                continue;
            }
            quote.watch = Watch::Unset;
            if quote.life == Life::Live {
                quote.life = Life::Silent;
                ended.push(place);
            }
        }
    }

    /// Says where the frames come from.
    pub(crate) fn set_provenance(&mut self, provenance: Provenance) {
        self.provenance = provenance;
    }

    /// The price of a symbol, with how it came about.
    ///
    /// # Errors
    /// The text is no symbol, or none that is configured.
    pub fn price(&self, name: &str, now_us: i64) -> Result<PriceUpdate, PriceError> {
        let symbol = self.find(name)?;
        Ok(symbol.explain(&self.sources, self.provenance, now_us))
    }

    /// The market at a glance.
    #[must_use]
    pub fn overview(&self, now_us: i64) -> MarketOverview {
        self.overview.show(&self.symbols, &self.sources, now_us)
    }

    /// The sources and how they do, in the order of the configuration.
    #[must_use]
    pub fn sources(&self, now_us: i64) -> Vec<Source> {
        let show = |status: &SourceStatus| status.show(now_us, self.provenance);
        self.sources.iter().map(show).collect()
    }

    /// The age of each symbol's newest data, in milliseconds. Symbols without any
    /// are left out.
    #[must_use]
    pub fn ages_ms(&self, now_us: i64) -> Vec<(String, i64)> {
        let age = |symbol: &SymbolState| {
            let age_us = now_us.saturating_sub(symbol.heard_us()?);
            Some((symbol.name().to_owned(), age_us.div_euclid(1_000)))
        };
        self.symbols.iter().filter_map(age).collect()
    }

    /// Judges the part of a `prices:` channel after the colon.
    pub(crate) fn check_channel(&self, rest: &str) -> Result<(), PriceError> {
        let Some((name, source)) = rest.split_once('@') else {
            return self.find(rest).map(drop);
        };
        let symbol = self.find(name)?;
        let names: Vec<_> = symbol
            .quotes
            .iter()
            .map(|quote| self.sources[quote.source].name())
            .collect();
        if names.contains(&source) {
            return Ok(());
        }
        Err(unknown_source(name, source, &names))
    }

    fn find(&self, name: &str) -> Result<&SymbolState, PriceError> {
        let index = self.by_name.get(&Symbol::parse(name)?);
        let known = || self.symbols.iter().map(SymbolState::name);
        index
            .map(|index| &self.symbols[*index])
            .ok_or_else(|| unknown_symbol(name, known()))
    }
}

fn channel(name: &str) -> Result<ChannelName, ConfigError> {
    ChannelName::parse(name).map_err(|_| ConfigError::SourceName(name.to_owned()))
}
