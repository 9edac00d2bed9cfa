//! From what venues say to what clients see.
//!
//! [`Aggregator`] is a deterministic machine: nothing here waits or reads a clock.
//! Times come with the events, so a recording gives the same publications whenever
//! it is replayed. Connections and replays feed it; it publishes prices on
//! `prices:{SYMBOL}` and `prices:{SYMBOL}@{source}`, and `market:overview`.

mod asked;
mod blend;
mod deadlines;
mod ema;
mod gate;
mod offset;
mod overview;
mod pace;
mod passing;
mod quote;
mod seen;
mod shown;
mod steps;
mod symbol;
mod volume;

use std::{collections::HashMap, sync::Arc};

use rust_decimal::Decimal;
use tidewire_stream::{ChannelName, Publisher};

use self::{
    deadlines::{Deadlines, Place},
    overview::Overview,
    quote::{Quote, Taken},
    symbol::{SymbolState, Told},
};
pub(crate) use self::{
    offset::{Moment, Offset},
    shown::Provenance,
};
use crate::{
    ConfigError, Symbol,
    config::{PriceConfig, SourceClock, SourceSpec},
    source::{LinkState, SourceStatus},
    venue::{Events, FaultKind, ParseError, Ticker, Trade, VenueEvent, excerpt},
};

/// A venue's clock is taken for right while its offset is within these bounds, in
/// microseconds. Beyond, its clock or this server's is wrong, and its times are moved by
/// the offset.
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
    places: Vec<HashMap<String, Place>>,
    /// Symbols whose price moves by the mere passing of time.
    moving: Vec<usize>,
    moved_us: i64,
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
            places: vec![HashMap::new(); sources.len()],
            sources,
            moving: Vec::new(),
            moved_us: 0,
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
            if spec.method.looks_back() {
                aggregator.moving.push(index);
            }
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
        let mut names: Vec<_> = self.places[source.0].keys().cloned().collect();
        names.sort_unstable();
        names
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
        let Some(times) = self.times(source, trade.venue_time_us, arrival_us) else {
            return;
        };
        let symbol = &mut self.symbols[place.symbol];
        let timed = Trade {
            venue_time_us: times.venue_us,
            name: (&*trade.name).into(),
            ..*trade
        };
        let quote = &mut symbol.quotes[place.quote];
        match quote.take_trade(&timed, &symbol.spec, arrival_us) {
            Taken::Counted { missing } => {
                let status = &mut self.sources[source.0];
                status.trades.count();
                if missing > 0 {
                    status.gap(&symbol.spec.symbol, missing);
                }
                self.overview
                    .take_trade(place.symbol, source.0, trade, times.stamp_us);
                self.heard(place, &times);
            }
            // Said again: that is no news, and no sign of life.
            Taken::Repeated => {}
            Taken::Absurd => self.absurd(source, trade.price),
        }
    }

    fn take_ticker(&mut self, source: SourceId, ticker: &Ticker<'_>, arrival_us: i64) {
        let Some(place) = self.place(source, &ticker.name) else {
            return;
        };
        let Some(times) = self.times(source, ticker.venue_time_us, arrival_us) else {
            return;
        };
        if let Some((bid, ask)) = ticker.bid.zip(ticker.ask).filter(|(bid, ask)| bid > ask) {
            self.sources[source.0].fault(&ParseError {
                kind: FaultKind::Crossed,
                detail: format!("the best offer to buy is {bid}, above that to sell, {ask}"),
            });
        }
        let timed = Ticker {
            venue_time_us: times.venue_us,
            name: (&*ticker.name).into(),
            ..*ticker
        };
        let quote = &mut self.symbols[place.symbol].quotes[place.quote];
        if quote.take_ticker(&timed) {
            self.heard(place, &times);
        } else {
            self.absurd(source, ticker.last.unwrap_or_default());
        }
    }

    fn absurd(&mut self, source: SourceId, price: Decimal) {
        self.sources[source.0].fault(&ParseError {
            kind: FaultKind::Absurd,
            detail: format!("{price} is not believed before the next price is about the same"),
        });
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

    /// The times of a message. None if it is history.
    fn times(&mut self, source: SourceId, venue_us: Option<i64>, arrival_us: i64) -> Option<Times> {
        let status = &mut self.sources[source.0];
        let on_arrival = Times {
            venue_us: None,
            formed_us: arrival_us,
            stamp_us: arrival_us,
            arrival_us,
        };
        let Some(own_us) = venue_us.filter(|_| status.spec.clock == SourceClock::Venue) else {
            return Some(Times {
                venue_us,
                ..on_arrival
            });
        };
        let formed_us = match status.offset.take(own_us, arrival_us) {
            Moment::At(us) => us,
            Moment::Future(us) => {
                status.jumped(us, "ahead of");
                return Some(on_arrival);
            }
            Moment::Past(us) => {
                status.jumped(us, "behind");
                return None;
            }
        };
        let is_right = |us: &i64| (-VENUE_AHEAD_US..=VENUE_BEHIND_US).contains(us);
        let is_right = status.offset.us().as_ref().is_some_and(is_right);
        Some(Times {
            venue_us,
            formed_us,
            stamp_us: if is_right { own_us } else { formed_us },
            arrival_us,
        })
    }

    /// A quote has spoken: it lives, and what changed is told.
    fn heard(&mut self, place: Place, times: &Times) {
        let now_us = times.arrival_us;
        let symbol = &mut self.symbols[place.symbol];
        let stale_after_us = symbol.stale_after_us();
        let quote = &mut symbol.quotes[place.quote];
        quote.heard(times.formed_us, times.stamp_us, now_us);
        if quote.watched_us.is_none() {
            let due_us = quote.due_us(stale_after_us);
            quote.watched_us = Some(due_us);
            self.deadlines.set(due_us, place);
        }
        self.sources[quote.source].heard_us = Some(now_us);
        self.tell_quote(place);
        self.tell_aggregate(place.symbol, times.stamp_us, now_us);
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
    fn tell_aggregate(&mut self, symbol: usize, stamp_us: i64, now_us: i64) {
        let symbol = &mut self.symbols[symbol];
        let publisher = self.publisher.as_ref();
        let told = symbol.tell_aggregate(stamp_us, now_us, self.provenance, publisher);
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

    /// Says where the frames come from.
    pub(crate) fn set_provenance(&mut self, provenance: Provenance) {
        self.provenance = provenance;
    }
}

/// The times of a message, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// The venue's, if it is believed.
    venue_us: Option<i64>,
    /// When it happened, by this server's clock.
    formed_us: i64,
    /// What clients are told.
    stamp_us: i64,
    arrival_us: i64,
}

fn channel(name: &str) -> Result<ChannelName, ConfigError> {
    ChannelName::parse(name).map_err(|_| ConfigError::SourceName(name.to_owned()))
}
