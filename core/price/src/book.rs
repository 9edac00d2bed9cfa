//! The state of all prices: a deterministic machine that venue events drive.
//!
//! Nothing here waits or reads a clock: times come with the events, so that a
//! recording gives the same publications whenever it is replayed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use tidewire_proto::v1::{
    PriceUpdate, SourceDetail, SourceState as DetailState, server_message::Data,
};
use tidewire_stream::{ChannelName, Publisher};

use crate::{
    ConfigError, Symbol,
    config::{Method, PriceConfig, SourceClock, SymbolSpec},
    overview::Overview,
    quote::{Life, Quote, decimal, median, median_change, total_volume},
    source::SourceRecord,
    venue::{FaultKind, ParseError, Ticker, Trade, VenueEvent},
};

/// A lost connection may come back for so long before its prices count no more,
/// in milliseconds.
const LOST_GRACE_MS: i64 = 2_000;

/// All prices.
pub(crate) struct Book {
    pub(crate) symbols: Vec<SymbolBook>,
    by_name: HashMap<Symbol, usize>,
    pub(crate) sources: Vec<SourceRecord>,
    /// When quotes grow stale, the soonest first. Each live quote has one entry,
    /// renewed when it comes up and the quote spoke meanwhile.
    deadlines: BinaryHeap<Reverse<(i64, usize, usize)>>,
    pub(crate) overview: Overview,
    publisher: Arc<dyn Publisher>,
    /// The prices are sample data.
    pub(crate) is_sample: bool,
}

/// What all sources say of one symbol.
pub(crate) struct SymbolBook {
    pub(crate) spec: SymbolSpec,
    channel: ChannelName,
    pub(crate) quotes: Vec<Quote>,
    pub(crate) last: Option<PriceUpdate>,
}

impl Book {
    pub(crate) fn new(
        config: &PriceConfig,
        publisher: Arc<dyn Publisher>,
    ) -> Result<Self, ConfigError> {
        let (specs, sources) = (config.symbols()?, config.sources()?);
        let mut records: Vec<_> = sources.into_iter().map(SourceRecord::new).collect();
        let mut symbols = Vec::with_capacity(specs.len());
        for (index, spec) in specs.into_iter().enumerate() {
            let channel = channel(spec.symbol.as_str())?;
            let mut quotes = Vec::new();
            for (source, record) in records.iter_mut().enumerate() {
                if let Some(name) = record.spec.kind.venue_name(&spec.symbol) {
                    record.names.insert(name, (index, quotes.len()));
                    record.symbols.push(spec.symbol.clone());
                    quotes.push(Quote::new(
                        source,
                        self::channel(&format!("{}@{}", spec.symbol, record.spec.name))?,
                    ));
                }
            }
            symbols.push(SymbolBook {
                spec,
                channel,
                quotes,
                last: None,
            });
        }
        let by_name = symbols
            .iter()
            .enumerate()
            .map(|(index, book)| (book.spec.symbol.clone(), index))
            .collect();
        Ok(Self {
            symbols,
            by_name,
            sources: records,
            deadlines: BinaryHeap::new(),
            overview: Overview::new(config.supply.clone()),
            publisher,
            is_sample: false,
        })
    }

    pub(crate) fn symbol(&self, symbol: &Symbol) -> Option<&SymbolBook> {
        self.by_name.get(symbol).map(|index| &self.symbols[*index])
    }

    /// Takes a frame of a source. Gives what the connection has to know.
    pub(crate) fn take_frame(
        &mut self,
        source: usize,
        frame: &str,
        arrival_ms: i64,
    ) -> FrameOutcome {
        let mut events = Vec::new();
        self.sources[source].frames.count();
        let parsed = self.sources[source].spec.kind.parse(frame, &mut events);
        let mut outcome = FrameOutcome::Nothing;
        for event in &events {
            outcome = outcome.or(self.take_event(source, event, arrival_ms));
        }
        if let Err(error) = parsed {
            self.sources[source].fault(&error);
        }
        outcome
    }

    fn take_event(
        &mut self,
        source: usize,
        event: &VenueEvent<'_>,
        arrival_ms: i64,
    ) -> FrameOutcome {
        match event {
            VenueEvent::Trade(trade) => self.take_trade(source, trade, arrival_ms),
            VenueEvent::Ticker(ticker) => self.take_ticker(source, ticker, arrival_ms),
            VenueEvent::Closing => FrameOutcome::Reconnect,
            VenueEvent::Refused(reason) => {
                self.sources[source].refused(reason);
                FrameOutcome::Nothing
            }
            VenueEvent::Accepted | VenueEvent::Nothing => FrameOutcome::Nothing,
        }
    }

    fn find(&mut self, source: usize, name: &str) -> Option<(usize, usize)> {
        let place = self.sources[source].names.get(name).copied();
        if place.is_none() {
            let detail = format!("{name:?} was not asked for");
            self.sources[source].fault(&ParseError {
                kind: FaultKind::UnknownSymbol,
                detail,
            });
        }
        place
    }

    fn take_trade(&mut self, source: usize, trade: &Trade<'_>, arrival_ms: i64) -> FrameOutcome {
        let Some((symbol, place)) = self.find(source, &trade.name) else {
            return FrameOutcome::Nothing;
        };
        if !self.symbols[symbol].quotes[place].take_trade(trade) {
            return FrameOutcome::Data;
        }
        let record = &mut self.sources[source];
        record.trades.count();
        let name = self.symbols[symbol].spec.symbol.as_str();
        self.overview
            .take_trade(name, &record.spec.name, trade, arrival_ms);
        self.quoted(symbol, place, trade.time_ms, arrival_ms);
        FrameOutcome::Data
    }

    fn take_ticker(&mut self, source: usize, ticker: &Ticker<'_>, arrival_ms: i64) -> FrameOutcome {
        let Some((symbol, place)) = self.find(source, &ticker.name) else {
            return FrameOutcome::Nothing;
        };
        self.symbols[symbol].quotes[place].take_ticker(ticker);
        self.quoted(symbol, place, ticker.time_ms, arrival_ms);
        FrameOutcome::Data
    }

    /// A quote has spoken: it lives, and its price and the aggregate are told.
    fn quoted(&mut self, symbol: usize, place: usize, time_ms: Option<i64>, arrival_ms: i64) {
        let book = &mut self.symbols[symbol];
        let quote = &mut book.quotes[place];
        let record = &mut self.sources[quote.source];
        record.arrival_ms = Some(arrival_ms);
        quote.arrival_ms = arrival_ms;
        quote.stamp_ms = match record.spec.clock {
            SourceClock::Venue => time_ms.unwrap_or(arrival_ms),
            SourceClock::Arrival => arrival_ms,
        };
        quote.life = Life::Live;
        if !quote.is_watched {
            quote.is_watched = true;
            self.deadlines.push(Reverse((
                arrival_ms.saturating_add(book.spec.stale_after_ms),
                symbol,
                place,
            )));
        }
        let stamp_ms = quote.stamp_ms;
        if let Some(price) = quote.price {
            let update = PriceUpdate {
                symbol: book.spec.symbol.as_str().to_owned(),
                price: Some(decimal(price)),
                change_24h: quote.change_percent,
                volume_24h: quote.volume_quote,
                timestamp: stamp_ms,
                source: record.spec.name.clone(),
                sources: 1,
                sample: self.is_sample,
                ..PriceUpdate::default()
            };
            self.publisher.publish(&quote.channel, Data::Price(update));
        }
        self.tell(symbol, stamp_ms);
    }

    /// Tells the aggregate if anything that a client sees has changed.
    fn tell(&mut self, symbol: usize, stamp_ms: i64) {
        let book = &mut self.symbols[symbol];
        let aggregate = match book.spec.method {
            Method::Median => median(&book.quotes),
        };
        let live = book
            .quotes
            .iter()
            .filter(|quote| quote.live_price().is_some())
            .count();
        let update = match (aggregate, &book.last) {
            (Some(aggregate), _) => PriceUpdate {
                symbol: book.spec.symbol.as_str().to_owned(),
                price: Some(decimal(aggregate.price)),
                change_24h: median_change(&book.quotes),
                volume_24h: total_volume(&book.quotes),
                timestamp: stamp_ms,
                source: "aggregate".to_owned(),
                confidence: aggregate.confidence.map(decimal),
                sources: u32::try_from(live).unwrap_or(u32::MAX),
                stale: false,
                sample: self.is_sample,
                ..PriceUpdate::default()
            },
            // The last live source went: the last price, said to be stale.
            (None, Some(last)) => PriceUpdate {
                sources: 0,
                stale: true,
                timestamp: stamp_ms,
                ..last.clone()
            },
            (None, None) => return,
        };
        self.overview.touch();
        book.last = Some(update.clone());
        self.publisher.publish(&book.channel, Data::Price(update));
    }

    /// A connection to a source stands.
    pub(crate) fn connected(&mut self, source: usize) {
        self.sources[source].connected();
        for book in &mut self.symbols {
            book.quotes
                .iter_mut()
                .filter(|quote| quote.source == source)
                .for_each(Quote::forget_ids);
        }
    }

    /// A connection to a source is lost.
    pub(crate) fn disconnected(&mut self, source: usize, reason: &str, now_ms: i64) {
        self.sources[source].disconnected(reason, now_ms);
    }

    /// Lets time pass: what has been silent for too long counts no more.
    pub(crate) fn tick(&mut self, now_ms: i64) {
        self.drop_lost(now_ms);
        while let Some(Reverse((deadline_ms, symbol, place))) = self.deadlines.peek().copied()
            && deadline_ms <= now_ms
        {
            self.deadlines.pop();
            let book = &mut self.symbols[symbol];
            let quote = &mut book.quotes[place];
            let due_ms = quote.arrival_ms.saturating_add(book.spec.stale_after_ms);
            if due_ms > now_ms {
                self.deadlines.push(Reverse((due_ms, symbol, place)));
                continue;
            }
            quote.is_watched = false;
            if quote.life == Life::Live {
                quote.life = Life::Silent;
                self.tell(symbol, now_ms);
            }
        }
        if let Some(overview) = self.overview.renew(&self.symbols, now_ms)
            && let Ok(channel) = ChannelName::parse("market:overview")
        {
            self.publisher
                .publish(&channel, Data::MarketOverview(overview));
        }
    }

    /// Takes out the quotes of sources whose connection did not come back.
    fn drop_lost(&mut self, now_ms: i64) {
        for source in 0..self.sources.len() {
            let is_over = |lost_ms: &mut i64| lost_ms.saturating_add(LOST_GRACE_MS) <= now_ms;
            if self.sources[source].lost_ms.take_if(is_over).is_none() {
                continue;
            }
            for symbol in 0..self.symbols.len() {
                let quotes = &mut self.symbols[symbol].quotes;
                let quote = quotes
                    .iter_mut()
                    .find(|quote| quote.source == source && quote.life == Life::Live);
                if let Some(quote) = quote {
                    quote.life = Life::Lost;
                    self.tell(symbol, now_ms);
                }
            }
        }
    }

    /// The price of a symbol, with how it came about.
    pub(crate) fn explain(&self, book: &SymbolBook, now_ms: i64) -> PriceUpdate {
        let live = book
            .quotes
            .iter()
            .filter(|quote| quote.live_price().is_some())
            .count();
        let details = book.quotes.iter().map(|quote| {
            let (state, reason) = match quote.life {
                Life::Live => (DetailState::Live, None),
                Life::Silent => (DetailState::Stale, Some("silent for too long")),
                Life::Lost => (DetailState::Stale, Some("the connection is lost")),
                Life::Waiting => (DetailState::Stale, Some("nothing came yet")),
            };
            SourceDetail {
                source: self.sources[quote.source].spec.name.clone(),
                price: quote.price.map(decimal),
                age_ms: (quote.life != Life::Waiting)
                    .then(|| u64::try_from(now_ms.saturating_sub(quote.arrival_ms)).unwrap_or(0)),
                weight: if quote.live_price().is_some() {
                    1.0 / live as f64
                } else {
                    0.0
                },
                state: state.into(),
                reason: reason.map(str::to_owned),
                trades: quote.trades,
                min: quote.min.map(decimal),
                max: quote.max.map(decimal),
            }
        });
        let nothing = PriceUpdate {
            symbol: book.spec.symbol.as_str().to_owned(),
            timestamp: now_ms,
            source: "aggregate".to_owned(),
            stale: true,
            sample: self.is_sample,
            ..PriceUpdate::default()
        };
        PriceUpdate {
            source_details: details.collect(),
            method: Some(book.spec.method.name().to_owned()),
            ..book.last.clone().unwrap_or(nothing)
        }
    }
}

/// What a frame means to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameOutcome {
    Nothing,
    /// It held data: the connection is not mute.
    Data,
    /// The venue is about to close.
    Reconnect,
}

impl FrameOutcome {
    fn or(self, other: Self) -> Self {
        if self == Self::Nothing { other } else { self }
    }
}

fn channel(rest: &str) -> Result<ChannelName, ConfigError> {
    ChannelName::parse(&format!("prices:{rest}"))
        .map_err(|_| ConfigError::SourceName(rest.to_owned()))
}
