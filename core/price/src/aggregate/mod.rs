//! From what venues say to what clients see.
//!
//! [`Aggregator`] is a deterministic machine: nothing here waits or reads a clock.
//! Times come with the events, so a recording gives the same publications whenever
//! it is replayed. Connections and replays feed it; it publishes prices on
//! `prices:{SYMBOL}` and `prices:{SYMBOL}@{source}`, and `market:overview`.

mod asked;
mod blend;
mod day;
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
mod sources;
mod steps;
mod symbol;
mod volume;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use rust_decimal::Decimal;
use smallvec::SmallVec;
use tidewire_stream::{ChannelName, Publisher};

use self::{
    deadlines::{Deadlines, Place},
    overview::Overview,
    quote::Taken,
    symbol::{SymbolState, Told},
};
pub(crate) use self::{
    offset::{Moment, Offset},
    shown::Provenance,
};
use crate::{
    ConfigError, Symbol,
    config::{PriceConfig, SourceClock},
    source::SourceStatus,
    venue::{Events, FaultKind, ParseError, Ticker, Trade, VenueEvent, excerpt},
};

/// A venue's clock is taken for right while its offset is within these bounds, in
/// microseconds. Beyond, its clock or this server's is wrong, and its times are moved by
/// the offset.
const VENUE_AHEAD_US: i64 = 5_000_000;
const VENUE_BEHIND_US: i64 = 60_000_000;

/// A source. Its place may be another's once it is removed, whose id is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// Its place.
    pub(crate) index: usize,
    generation: u32,
}

/// Where a venue's name belongs: to a symbol, and to those that its price is converted for.
type Places = SmallVec<[Place; 1]>;

/// The state of all prices.
pub struct Aggregator {
    symbols: Vec<SymbolState>,
    by_name: HashMap<Symbol, usize>,
    sources: Vec<SourceStatus>,
    /// For each source, where its names belong.
    places: Vec<HashMap<String, Places>>,
    /// Currencies that are converted.
    convert: Vec<String>,
    /// Quotes whose price is converted.
    converted: Vec<Place>,
    /// Symbols whose price moves by the mere passing of time.
    moving: Vec<usize>,
    moved_us: i64,
    deadlines: Deadlines,
    overview: Overview,
    overview_channel: ChannelName,
    publisher: Arc<dyn Publisher>,
    listeners: Vec<Listener>,
    gap_listeners: Vec<GapListener>,
    provenance: Provenance,
}

/// A price of all sources together, as it is told.
#[derive(Debug, Clone, Copy)]
pub struct PriceTick<'a> {
    /// The symbol.
    pub symbol: &'a Symbol,
    /// The price, exactly.
    pub price: Decimal,
    /// No source counts any more: this is the last price known.
    pub stale: bool,
    /// How many sources count.
    pub sources: u32,
    /// When it was formed, in microseconds since the Unix epoch.
    pub formed_us: i64,
    /// The volume of 24 hours, in quote.
    pub volume_24h: Option<f64>,
}

/// Trades of a symbol that a venue numbered and that never came, as they are missed.
#[derive(Debug, Clone, Copy)]
pub struct PriceGap<'a> {
    /// The symbol.
    pub symbol: &'a Symbol,
    /// The source's name.
    pub source: &'a str,
    /// How many are missing between two that came. Some may come late.
    pub missing: u64,
    /// When that showed, in microseconds since the Unix epoch.
    pub found_us: i64,
}

/// Who is told of prices in this process.
pub(crate) type Listener = Box<dyn Fn(&PriceTick<'_>) + Send + Sync>;

/// Who is told of gaps in this process.
pub(crate) type GapListener = Box<dyn Fn(&PriceGap<'_>) + Send + Sync>;

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
        let mut aggregator = Self {
            symbols: Vec::new(),
            by_name: HashMap::new(),
            places: Vec::new(),
            convert: config.convert.clone(),
            converted: Vec::new(),
            sources: Vec::new(),
            moving: Vec::new(),
            moved_us: 0,
            deadlines: Deadlines::default(),
            overview: Overview::new(config.supply.clone()),
            overview_channel: channel("market:overview")?,
            publisher,
            listeners: Vec::new(),
            gap_listeners: Vec::new(),
            provenance: Provenance::default(),
        };
        for spec in config.symbols()? {
            let index = aggregator.symbols.len();
            aggregator.by_name.insert(spec.symbol.clone(), index);
            let channel = channel(&format!("prices:{}", spec.symbol))?;
            if spec.method.looks_back() {
                aggregator.moving.push(index);
            }
            let symbol = SymbolState::new(spec, channel, Vec::new());
            aggregator.symbols.push(symbol);
        }
        for spec in config.sources()? {
            aggregator.add_source(spec)?;
        }
        Ok(aggregator)
    }

    /// Takes a frame of a source, as its venue's parser read it, that arrived at
    /// `arrival_us`, in microseconds since the Unix epoch.
    pub fn apply_frame(
        &mut self,
        source: SourceId,
        frame: &Result<Events<'_>, ParseError>,
        arrival_us: i64,
    ) {
        if !self.is_current(source) {
            return;
        }
        self.sources[source.index].frames.count();
        match frame {
            Ok(events) => events
                .iter()
                .for_each(|event| self.apply(source, event, arrival_us)),
            Err(error) => self.sources[source.index].fault(error),
        }
    }

    /// Takes one event of a source.
    pub fn apply(&mut self, source: SourceId, event: &VenueEvent<'_>, arrival_us: i64) {
        if !self.is_current(source) {
            return;
        }
        match event {
            VenueEvent::Trade(trade) => self.take_trade(source, trade, arrival_us),
            VenueEvent::Ticker(ticker) => self.take_ticker(source, ticker, arrival_us),
            VenueEvent::Error(reason) => self.sources[source.index].refused(reason),
            VenueEvent::Fault(error) => self.sources[source.index].fault(error),
            VenueEvent::Ack
            | VenueEvent::Heartbeat
            | VenueEvent::Ignored
            | VenueEvent::Shutdown => {}
        }
    }

    fn take_trade(&mut self, source: SourceId, trade: &Trade<'_>, arrival_us: i64) {
        let Some(places) = self.places(source, &trade.name) else {
            return;
        };
        let Some(times) = self.times(source, trade.venue_time_us, arrival_us) else {
            return;
        };
        let timed = Trade {
            venue_time_us: times.venue_us,
            name: (&*trade.name).into(),
            ..*trade
        };
        for (number, place) in places.into_iter().enumerate() {
            self.renew_rate(place);
            let symbol = &mut self.symbols[place.symbol];
            let quote = &mut symbol.quotes[place.quote];
            let taken = quote.take_trade(&timed, &symbol.spec, arrival_us);
            // A frame counts once, however many symbols it is for.
            let is_first = number == 0;
            match taken {
                Taken::Counted { size, missing } => {
                    if is_first {
                        self.sources[source.index].trades.count();
                        if missing > 0 {
                            self.missed(source, place.symbol, missing, arrival_us);
                        }
                        // Where nobody knows how much it was, it is not shown.
                        if let Some(size) = size {
                            let places = (place.symbol, source.index);
                            self.overview
                                .take_trade(places, trade, size, times.stamp_us);
                        }
                    }
                    self.heard(place, &times);
                }
                // Said again: that is no news, and no sign of life.
                Taken::Repeated => {}
                Taken::Absurd if is_first => self.absurd(source, trade.price),
                Taken::Absurd => {}
            }
        }
    }

    fn take_ticker(&mut self, source: SourceId, ticker: &Ticker<'_>, arrival_us: i64) {
        let Some(places) = self.places(source, &ticker.name) else {
            return;
        };
        let Some(times) = self.times(source, ticker.venue_time_us, arrival_us) else {
            return;
        };
        if let Some((bid, ask)) = ticker.bid.zip(ticker.ask).filter(|(bid, ask)| bid > ask) {
            self.sources[source.index].fault(&ParseError {
                kind: FaultKind::Crossed,
                detail: format!("the best offer to buy is {bid}, above that to sell, {ask}"),
            });
        }
        let timed = Ticker {
            venue_time_us: times.venue_us,
            name: (&*ticker.name).into(),
            ..*ticker
        };
        for (number, place) in places.into_iter().enumerate() {
            self.renew_rate(place);
            let quote = &mut self.symbols[place.symbol].quotes[place.quote];
            if quote.take_ticker(&timed, arrival_us) {
                self.heard(place, &times);
            } else if number == 0 {
                self.absurd(source, ticker.last.unwrap_or_default());
            }
        }
    }

    /// Trades of a symbol never came: that is counted, logged, and told in this process.
    /// Clients see it on the source's own channel.
    fn missed(&mut self, source: SourceId, symbol: usize, missing: u64, now_us: i64) {
        let symbol = &self.symbols[symbol].spec.symbol;
        let status = &mut self.sources[source.index];
        status.gap(symbol, missing);
        let gap = PriceGap {
            symbol,
            source: status.name(),
            missing,
            found_us: now_us,
        };
        self.gap_listeners
            .iter()
            .for_each(|listener| listener(&gap));
    }

    fn absurd(&mut self, source: SourceId, price: Decimal) {
        self.sources[source.index].fault(&ParseError {
            kind: FaultKind::Absurd,
            detail: format!("{price} is not believed before the next price is about the same"),
        });
    }

    fn places(&mut self, source: SourceId, name: &str) -> Option<Places> {
        let places = self.places[source.index].get(name).cloned();
        if places.is_none() {
            self.sources[source.index].fault(&ParseError {
                kind: FaultKind::UnknownSymbol,
                detail: format!("{:?} was not asked for", excerpt(name)),
            });
        }
        places
    }

    /// The times of a message. None if it is history.
    fn times(&mut self, source: SourceId, venue_us: Option<i64>, arrival_us: i64) -> Option<Times> {
        let status = &mut self.sources[source.index];
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
    fn tell_aggregate(&mut self, index: usize, stamp_us: i64, now_us: i64) {
        let symbol = &mut self.symbols[index];
        let publisher = self.publisher.as_ref();
        let told = symbol.tell_aggregate(stamp_us, now_us, self.provenance, publisher);
        if told == Told::News {
            symbol.listen(&self.listeners);
            self.overview.touch(index);
        }
    }

    /// The supply source says how many coins there are, by base.
    pub(crate) fn set_supply(&mut self, supply: BTreeMap<String, f64>, now_us: i64) {
        self.overview.set_supply(supply, now_us);
    }

    /// What the symbols are prices of.
    pub(crate) fn bases(&self) -> HashSet<String> {
        let bases = self.symbols.iter().map(|symbol| symbol.spec.symbol.base());
        bases.map(str::to_owned).collect()
    }

    /// Adds somebody who is told of prices.
    pub(crate) fn on_price(&mut self, listener: Listener) {
        self.listeners.push(listener);
    }

    /// Adds somebody who is told of gaps.
    pub(crate) fn on_gap(&mut self, listener: GapListener) {
        self.gap_listeners.push(listener);
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
