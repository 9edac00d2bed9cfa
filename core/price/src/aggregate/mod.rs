//! Aggregator: turns venue events into published prices.
//!
//! [`Aggregator`] is a deterministic state machine. Nothing here waits or reads a clock: times come
//! with the events, so a replayed recording gives the same publications. Connections and replays
//! feed it. It publishes `prices:{SYMBOL}`, `prices:{SYMBOL}@{source}` and `market:overview`.
//!
//! The path of a trade: `dedup` drops duplicates, `quote` takes the price of one source, and
//! `outlier_filter` excludes sources far from the median. `methods` makes one price, and
//! `symbol_state` publishes it if it differs from the last one. `tick` drops sources that have
//! been silent too long, by the rules of `staleness`.

mod clock_offset;
mod clock_step;
mod dedup;
mod listeners;
mod methods;
mod outlier_filter;
mod price_guard;
mod queries;
mod quote;
mod seen_numbers;
mod snapshot;
mod source_status;
mod sources;
mod staleness;
mod symbol_state;
mod tick;
mod window;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use rust_decimal::Decimal;
use smallvec::SmallVec;
use tidewire_stream::{ChannelName, Publisher};

use self::{
    clock_offset::{VENUE_AHEAD_US, VenueTime},
    listeners::{Callback, GapListener, Listener, Listeners, Observer},
    quote::{Liveness, QuoteIndex, TickerOutcome, TradeOutcome},
    source_status::SourceStatus,
    staleness::Deadlines,
    symbol_state::{PublishOutcome, SymbolState},
};
pub(crate) use self::{
    listeners::{ListenerId, PriceObservation},
    snapshot::Provenance,
};
pub use self::{
    listeners::{PriceGap, PriceTick},
    source_status::LinkState,
};
use crate::{
    ConfigError, Symbol,
    config::{PriceConfig, SourceClock},
    market::{Market, MarketTrade},
    venue::{Events, FaultKind, ParseError, Stamp, Ticker, Trade, VenueEvent, excerpt},
};

/// A source. A removed source's index may be reused; its generation distinguishes the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// The index among the sources.
    pub(crate) index: usize,
    generation: u32,
}

/// The quotes that a venue's market feeds: its own symbol's first, then those that convert its
/// price.
type QuoteIndexes = SmallVec<[QuoteIndex; 1]>;

/// The state of all prices.
pub struct Aggregator {
    symbols: Vec<SymbolState>,
    by_name: HashMap<Symbol, usize>,
    sources: Vec<SourceStatus>,
    /// For each source, its quotes by the venue's name of the market.
    quotes_by_name: Vec<HashMap<String, QuoteIndexes>>,
    /// Currencies whose prices are converted.
    convert: Vec<String>,
    /// Quotes whose price is converted.
    converted: Vec<QuoteIndex>,
    /// Symbols whose price changes as time passes, because their method has a window.
    window_symbols: Vec<usize>,
    /// The newest time so far, in microseconds since the Unix epoch.
    newest_us: i64,
    windows_advanced_us: i64,
    deadlines: Deadlines<QuoteIndex>,
    /// Quotes that have ended, whose symbols' prices are not yet published without them.
    ended: Vec<QuoteIndex>,
    market: Market,
    overview_channel: ChannelName,
    publisher: Arc<dyn Publisher>,
    listeners: Listeners,
    observers: Vec<Observer>,
    gap_listeners: Vec<GapListener>,
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
    /// An aggregator without any data.
    ///
    /// # Errors
    /// Names the configuration key and what was expected.
    pub fn new(config: &PriceConfig, publisher: Arc<dyn Publisher>) -> Result<Self, ConfigError> {
        config.check()?;
        let specs = config.symbols()?;
        let market_symbols = specs.iter().map(|spec| spec.symbol.clone()).collect();
        let mut aggregator = Self {
            symbols: Vec::new(),
            by_name: HashMap::new(),
            quotes_by_name: Vec::new(),
            convert: config.convert.clone(),
            converted: Vec::new(),
            sources: Vec::new(),
            window_symbols: Vec::new(),
            newest_us: 0,
            windows_advanced_us: 0,
            deadlines: Deadlines::default(),
            ended: Vec::new(),
            market: Market::new(market_symbols, config.supply.clone()),
            overview_channel: channel("market:overview")?,
            publisher,
            listeners: Listeners::default(),
            observers: Vec::new(),
            gap_listeners: Vec::new(),
            provenance: Provenance::default(),
        };
        for spec in specs {
            let index = aggregator.symbols.len();
            aggregator.by_name.insert(spec.symbol.clone(), index);
            let channel = channel(&format!("prices:{}", spec.symbol))?;
            if spec.method.looks_back() {
                aggregator.window_symbols.push(index);
            }
            let symbol = SymbolState::new(spec, channel, Vec::new());
            aggregator.symbols.push(symbol);
        }
        for spec in config.sources()? {
            aggregator.add_source(spec)?;
        }
        Ok(aggregator)
    }

    /// Applies a parsed frame of a source that arrived at `arrival_us`, in microseconds since the
    /// Unix epoch.
    pub fn apply_frame(
        &mut self,
        source: SourceId,
        frame: &Result<Events<'_>, ParseError>,
        arrival_us: i64,
    ) {
        if !self.is_current(source) {
            return;
        }
        self.sources[source.index].frames.increment();
        match frame {
            Ok(events) => events
                .iter()
                .for_each(|event| self.apply(source, event, arrival_us)),
            Err(error) => self.sources[source.index].record_fault(error),
        }
    }

    /// Applies one event of a source.
    pub fn apply(&mut self, source: SourceId, event: &VenueEvent<'_>, arrival_us: i64) {
        if !self.is_current(source) {
            return;
        }
        self.follow_clock(arrival_us);
        match event {
            VenueEvent::Trade(trade) => self.apply_trade(source, trade, arrival_us),
            VenueEvent::Ticker(ticker) => self.apply_ticker(source, ticker, arrival_us),
            VenueEvent::Error(refusal) => {
                self.sources[source.index].record_refusal(&refusal.reason);
            }
            VenueEvent::Fault(error) => self.sources[source.index].record_fault(error),
            VenueEvent::Ack(_)
            | VenueEvent::Heartbeat
            | VenueEvent::Ignored
            | VenueEvent::Shutdown => {}
        }
    }

    fn apply_trade(&mut self, source: SourceId, trade: &Trade<'_>, arrival_us: i64) {
        let Some(indexes) = self.quote_indexes(source, &trade.name) else {
            return;
        };
        // A duplicate carries no news: it does not keep the source live, and its old time says
        // nothing about the venue's clock.
        let is_repeated = |index: &QuoteIndex| {
            self.symbols[index.symbol].quotes[index.quote].is_repeated(trade.id, arrival_us)
        };
        if indexes.iter().all(is_repeated) {
            return;
        }
        let Some(times) = self.message_times(source, trade.venue_time_us, arrival_us) else {
            return;
        };
        let timed = Trade {
            venue_time_us: times.venue_us,
            name: (&*trade.name).into(),
            unexpected: Vec::new(),
            ..*trade
        };
        self.note_unexpected(source, &indexes, &trade.unexpected);
        for (number, index) in indexes.into_iter().enumerate() {
            self.update_rate(index);
            let symbol = &mut self.symbols[index.symbol];
            let quote = &mut symbol.quotes[index.quote];
            let outcome = quote.apply_trade(&timed, &symbol.spec, arrival_us);
            let price = quote.converted(trade.price);
            let is_included = quote.is_included();
            // A frame counts once, even if several symbols use it.
            let is_first = number == 0;
            match outcome {
                TradeOutcome::Counted { size, missing } => {
                    if let Some((size, price)) = size.zip(price).filter(|_| is_included) {
                        symbol.add_traded(price, size);
                    }
                    if is_first {
                        self.sources[source.index].trades.increment();
                        if missing > 0 {
                            self.record_gap(source, index.symbol, missing, arrival_us);
                        }
                        // Without a known size, or a known rate, the trade has no row to show.
                        if let Some((size, price)) = size.zip(price) {
                            let indexes = (index.symbol, source.index);
                            let trade = MarketTrade {
                                price,
                                size,
                                side: trade.side,
                                time_us: times.timestamp_us,
                            };
                            self.market.add_trade(indexes, trade);
                        }
                    }
                    self.record_arrival(index, &times);
                }
                TradeOutcome::Duplicate => {}
                TradeOutcome::Absurd { missing } if is_first => {
                    self.record_absurd(source, trade.price);
                    if missing > 0 {
                        self.record_gap(source, index.symbol, missing, arrival_us);
                    }
                }
                TradeOutcome::Absurd { .. } => {}
            }
        }
    }

    fn apply_ticker(&mut self, source: SourceId, ticker: &Ticker<'_>, arrival_us: i64) {
        let Some(indexes) = self.quote_indexes(source, &ticker.name) else {
            return;
        };
        let times = match ticker.stamp {
            Some(Stamp::Formed(us)) => Some(self.formed_times(source, us, arrival_us)),
            Some(Stamp::Sent(us)) => self.message_times(source, Some(us), arrival_us),
            None => self.message_times(source, None, arrival_us),
        };
        let Some(times) = times else {
            return;
        };
        if let Some((bid, ask)) = ticker.bid.zip(ticker.ask).filter(|(bid, ask)| bid > ask) {
            self.sources[source.index].record_fault(&ParseError {
                kind: FaultKind::Crossed,
                detail: format!("the best offer to buy is {bid}, above that to sell, {ask}"),
            });
        }
        self.note_unexpected(source, &indexes, &ticker.unexpected);
        for (number, index) in indexes.into_iter().enumerate() {
            self.update_rate(index);
            let symbol = &mut self.symbols[index.symbol];
            let stale_after_us = symbol.stale_after_us();
            let quote = &mut symbol.quotes[index.quote];
            match quote.apply_ticker(ticker, stale_after_us, arrival_us) {
                TickerOutcome::News => self.record_arrival(index, &times),
                // It does not keep the source live.
                TickerOutcome::Repeated => self.publish_figures(index, arrival_us),
                TickerOutcome::Absurd if number == 0 => {
                    self.record_absurd(source, ticker.last.unwrap_or_default());
                }
                TickerOutcome::Absurd => {}
            }
        }
    }

    /// Publishes a quote whose figures of 24 hours alone may have changed.
    fn publish_figures(&mut self, index: QuoteIndex, now_us: i64) {
        let quote = &self.symbols[index.symbol].quotes[index.quote];
        if quote.liveness == Liveness::Live {
            let timestamp_us = quote.timestamp_us;
            self.publish_quote(index, now_us);
            self.publish_aggregate(index.symbol, timestamp_us, now_us);
        }
    }

    /// Counts and logs missing trades, and calls the gap listeners. Clients see the count on the
    /// source's own channel.
    fn record_gap(&mut self, source: SourceId, symbol: usize, missing: u64, now_us: i64) {
        let symbol = &self.symbols[symbol].spec.symbol;
        let status = &mut self.sources[source.index];
        status.record_gap(symbol, missing);
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

    /// Counts and keeps the fields that are not as documented.
    fn note_unexpected(
        &mut self,
        source: SourceId,
        indexes: &QuoteIndexes,
        names: &[&'static str],
    ) {
        if names.is_empty() {
            return;
        }
        for name in names {
            self.sources[source.index].record_unexpected(name);
        }
        for index in indexes {
            self.symbols[index.symbol].quotes[index.quote].note_unexpected(names);
        }
    }

    /// Records that the venue refuses markets, by its own names of them.
    pub(crate) fn record_refused(&mut self, source: SourceId, names: &[String], reason: &str) {
        if !self.is_current(source) {
            return;
        }
        let reason = excerpt(&self.sources[source.index].spec.redact(reason));
        for name in names {
            for index in self.quotes_by_name[source.index]
                .get(name)
                .into_iter()
                .flatten()
            {
                let symbol = &mut self.symbols[index.symbol];
                let refused = &mut symbol.quotes[index.quote].refused;
                if refused.as_deref() != Some(&*reason) {
                    let (source, symbol) = (self.sources[source.index].name(), &symbol.spec.symbol);
                    tracing::warn!(source, %symbol, reason, "the venue refuses a symbol");
                }
                *refused = Some(reason.as_str().into());
            }
        }
    }

    fn record_absurd(&mut self, source: SourceId, price: Decimal) {
        self.sources[source.index].record_fault(&ParseError {
            kind: FaultKind::Absurd,
            detail: format!("{price} waits for confirmation by another trade"),
        });
    }

    fn quote_indexes(&mut self, source: SourceId, name: &str) -> Option<QuoteIndexes> {
        let indexes = self.quotes_by_name[source.index].get(name);
        let indexes = indexes.map(|indexes| QuoteIndexes::from_slice(indexes));
        if indexes.is_none() {
            self.sources[source.index].record_fault(&ParseError {
                kind: FaultKind::UnknownSymbol,
                detail: format!("{:?} was not subscribed to", excerpt(name)),
            });
        }
        indexes
    }

    /// The times of a message. `None` if it is too old to count.
    fn message_times(
        &mut self,
        source: SourceId,
        venue_us: Option<i64>,
        arrival_us: i64,
    ) -> Option<MessageTimes> {
        let status = &mut self.sources[source.index];
        let on_arrival = MessageTimes {
            venue_us: None,
            formed_us: arrival_us,
            timestamp_us: arrival_us,
            arrival_us,
        };
        let Some(own_us) = venue_us.filter(|_| status.spec.clock == SourceClock::Venue) else {
            return Some(MessageTimes {
                venue_us,
                ..on_arrival
            });
        };
        let formed_us = match status.offset.observe(own_us, arrival_us) {
            VenueTime::At(us) => us,
            VenueTime::Future(us) => {
                status.record_time_jump(us, "ahead of");
                return Some(on_arrival);
            }
            VenueTime::Past(us) => {
                status.record_time_jump(us, "behind");
                return None;
            }
        };
        Some(MessageTimes {
            venue_us,
            formed_us,
            timestamp_us: if status.offset.is_usual() {
                own_us
            } else {
                formed_us
            },
            arrival_us,
        })
    }

    /// The times of a ticker that is current, and stamped with the time of its price. Such a time
    /// says nothing about the venue's clock, and however old it is, the ticker counts.
    fn formed_times(&mut self, source: SourceId, own_us: i64, arrival_us: i64) -> MessageTimes {
        let status = &mut self.sources[source.index];
        let offset_us = status.offset.us().unwrap_or(0);
        let corrected_us = own_us.saturating_add(offset_us);
        let ahead_us = corrected_us.saturating_sub(arrival_us);
        let on_arrival = MessageTimes {
            venue_us: None,
            formed_us: arrival_us,
            timestamp_us: arrival_us,
            arrival_us,
        };
        if status.spec.clock != SourceClock::Venue {
            return on_arrival;
        }
        if ahead_us > VENUE_AHEAD_US {
            status.record_time_jump(ahead_us, "ahead of");
            return on_arrival;
        }
        let formed_us = corrected_us.min(arrival_us);
        MessageTimes {
            formed_us,
            timestamp_us: if status.offset.is_usual() {
                own_us
            } else {
                formed_us
            },
            ..on_arrival
        }
    }

    /// Marks a quote as live, and publishes the changed values.
    fn record_arrival(&mut self, index: QuoteIndex, times: &MessageTimes) {
        let now_us = times.arrival_us;
        let symbol = &mut self.symbols[index.symbol];
        let stale_after_us = symbol.stale_after_us();
        let quote = &mut symbol.quotes[index.quote];
        quote.record_arrival(times.formed_us, times.timestamp_us, now_us);
        if quote.deadline_us.is_none() {
            let stale_at_us = quote.stale_at_us(stale_after_us);
            quote.deadline_us = Some(stale_at_us);
            self.deadlines.push(stale_at_us, index);
        }
        self.sources[quote.source].last_arrival_us = Some(now_us);
        self.publish_quote(index, now_us);
        self.publish_aggregate(index.symbol, times.timestamp_us, now_us);
    }

    /// Publishes a quote on the source's own channel, if it differs from the last publication.
    fn publish_quote(&mut self, index: QuoteIndex, now_us: i64) {
        let symbol = &mut self.symbols[index.symbol];
        let source = &self.sources[symbol.quotes[index.quote].source];
        symbol.publish_quote(
            index.quote,
            now_us,
            source,
            self.provenance,
            self.publisher.as_ref(),
        );
    }

    /// Publishes a symbol's price formed at `timestamp_us`, if it differs from the last
    /// publication.
    fn publish_aggregate(&mut self, index: usize, timestamp_us: i64, now_us: i64) {
        let symbol = &mut self.symbols[index];
        let publisher = self.publisher.as_ref();
        let outcome = symbol.publish_aggregate(timestamp_us, now_us, self.provenance, publisher);
        if outcome == PublishOutcome::Published {
            symbol.notify(self.listeners.as_slice(), &self.sources);
            self.market.mark_outdated(index);
        }
        symbol.observe(&self.observers);
    }

    /// Sets the supply source's numbers of coins, by base currency.
    pub(crate) fn set_supply(&mut self, supply: BTreeMap<String, f64>, now_us: i64) {
        self.market.set_supply(supply, now_us);
    }

    /// The base currencies of all symbols.
    pub(crate) fn bases(&self) -> HashSet<String> {
        let bases = self.symbols.iter().map(|symbol| symbol.spec.symbol.base());
        bases.map(str::to_owned).collect()
    }

    /// Adds a callback for published prices. It begins with the last ones.
    pub(crate) fn on_price(&mut self, callback: Callback) -> ListenerId {
        let listener = self.listeners.new_listener(callback);
        let id = listener.id();
        for symbol in &self.symbols {
            symbol.repeat(&listener, &self.sources);
        }
        self.listeners.add(listener);
        id
    }

    /// Removes a callback for published prices, and returns it.
    pub(crate) fn remove_listener(&mut self, id: ListenerId) -> Option<Listener> {
        self.listeners.remove(id)
    }

    /// Adds a callback for computed prices.
    pub(crate) fn on_observation(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    /// Adds a callback for gaps.
    pub(crate) fn on_gap(&mut self, listener: GapListener) {
        self.gap_listeners.push(listener);
    }

    /// Sets whether the frames come from a market or are made up.
    pub(crate) fn set_provenance(&mut self, provenance: Provenance) {
        self.provenance = provenance;
    }
}

/// The times of a message, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
struct MessageTimes {
    /// The venue's own time, unless it is implausible.
    venue_us: Option<i64>,
    /// The venue's time, corrected to this server's clock.
    formed_us: i64,
    /// The time that clients see.
    timestamp_us: i64,
    arrival_us: i64,
}

fn channel(name: &str) -> Result<ChannelName, ConfigError> {
    ChannelName::parse(name).map_err(|_| ConfigError::SourceName(name.to_owned()))
}
