//! Sources that come and go, their connections, and rates between currencies.

use super::{
    Aggregator, Place, SourceId, channel,
    quote::{Conversion, Life, Quote, Rate},
};
use crate::{
    ConfigError, Symbol,
    config::{MOST_SOURCES, SourceSpec},
    source::{LinkState, SourceStatus},
    symbol::nearest,
};

impl Aggregator {
    /// Adds a source. It serves the symbols that its venue trades.
    ///
    /// # Errors
    /// There is one of this name, there are too many, or its venue carries fewer
    /// symbols.
    pub fn add_source(&mut self, spec: SourceSpec) -> Result<SourceId, ConfigError> {
        if self.source(&spec.name).is_some() {
            return Err(ConfigError::SourceTwice(spec.name));
        }
        let served = |symbol: &&super::SymbolState| spec.venue_name(&symbol.spec.symbol).is_some();
        let count = self.symbols.iter().filter(served).count();
        let most = spec.kind.limits().most_symbols();
        if count > most {
            return Err(ConfigError::TooManySymbols {
                name: spec.name,
                count,
                most,
            });
        }
        let index = self.vacancy()?;
        let mut status = SourceStatus::new(spec);
        if let Some(before) = self.sources.get(index) {
            status.generation = before.generation;
        }
        for symbol in 0..self.symbols.len() {
            self.serve(index, symbol, &mut status)?;
        }
        let id = SourceId {
            index,
            generation: status.generation,
        };
        if index == self.sources.len() {
            self.sources.push(status);
        } else {
            self.sources[index] = status;
        }
        self.share_out(id);
        Ok(id)
    }

    /// A place for one more source: one that was left, or a new one.
    fn vacancy(&mut self) -> Result<usize, ConfigError> {
        let left = self.sources.iter().position(SourceStatus::is_removed);
        match left {
            Some(index) => Ok(index),
            None if self.sources.len() < MOST_SOURCES => {
                self.places.push(Default::default());
                Ok(self.sources.len())
            }
            None => Err(ConfigError::TooManySources),
        }
    }

    /// Makes a quote of a source for a symbol, if its venue trades it, or trades it in a
    /// currency that is converted.
    fn serve(
        &mut self,
        source: usize,
        symbol: usize,
        status: &mut SourceStatus,
    ) -> Result<(), ConfigError> {
        let name = self.symbols[symbol].spec.symbol.clone();
        let own = status
            .spec
            .venue_name(&name)
            .map(|own| (own, name.clone(), None));
        let had = own.or_else(|| self.conversion(&name, &status.spec));
        let Some((venue_name, traded, conversion)) = had else {
            return Ok(());
        };
        let is_converted = conversion.is_some();
        let channel = channel(&format!("prices:{name}@{}", status.spec.name))?;
        let contract = status.spec.contracts.get(traded.as_str()).copied();
        let conversion = conversion.map(Box::new);
        let quote = Quote::new(source, status.spec.kind, channel, conversion, contract);
        let quotes = &mut self.symbols[symbol].quotes;
        let place = match quotes.iter().position(|quote| quote.source == source) {
            Some(place) => {
                quotes[place] = quote;
                place
            }
            None => {
                quotes.push(quote);
                quotes.len() - 1
            }
        };
        let place = Place {
            symbol,
            quote: place,
        };
        let places = self.places[source].entry(venue_name).or_default();
        if is_converted {
            places.push(place);
            self.converted.push(place);
        } else {
            // A symbol's own comes first: it is what a frame counts for.
            places.insert(0, place);
        }
        status.symbols.push(name);
        Ok(())
    }

    /// How a symbol is had from a source that does not trade it, if it is: the venue's name
    /// of what it trades instead, and that.
    fn conversion(
        &self,
        symbol: &Symbol,
        spec: &SourceSpec,
    ) -> Option<(String, Symbol, Option<Conversion>)> {
        self.convert.iter().find_map(|currency| {
            if symbol.base() == currency || symbol.quote() == currency {
                return None;
            }
            let traded = Symbol::parse(&format!("{}-{currency}", symbol.base())).ok()?;
            let rate = Symbol::parse(&format!("{currency}-{}", symbol.quote())).ok()?;
            let venue_name = spec.venue_name(&traded)?;
            let conversion = Conversion {
                symbol: *self.by_name.get(&rate)?,
                name: rate,
                rate: None,
            };
            Some((venue_name, traded, Some(conversion)))
        })
    }

    /// Gives each quote of a source its connection.
    fn share_out(&mut self, source: SourceId) {
        let chunks = self.venue_names(source);
        self.sources[source.index].set_links(chunks.len());
        for (link, names) in chunks.iter().enumerate() {
            for name in names {
                for place in &self.places[source.index][name] {
                    self.symbols[place.symbol].quotes[place.quote].link = link;
                }
            }
        }
    }

    /// Removes a source. What it was the last to tell grows stale.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn remove_source(&mut self, name: &str, now_us: i64) -> Result<SourceId, ConfigError> {
        let Some(id) = self.source(name) else {
            let known = self.source_ids().map(|id| self.sources[id.index].name());
            let hint = nearest(name, known)
                .map(|near| format!(", did you mean {near:?}?"))
                .unwrap_or_default();
            return Err(ConfigError::UnknownSource {
                name: name.to_owned(),
                hint,
            });
        };
        let mut ended: Vec<Place> = std::mem::take(&mut self.places[id.index])
            .into_values()
            .flatten()
            .collect();
        ended.sort_unstable();
        for place in &ended {
            let quote = &mut self.symbols[place.symbol].quotes[place.quote];
            quote.life = Life::Removed;
            quote.watched_us = None;
        }
        self.converted.retain(|place| !ended.contains(place));
        self.tell_ended(ended, now_us);
        self.overview.forget(id.index);
        self.sources[id.index].removed();
        Ok(id)
    }

    /// The source of this name.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<SourceId> {
        self.source_ids()
            .find(|id| self.sources[id.index].name() == name)
    }

    pub(crate) fn source_ids(&self) -> impl Iterator<Item = SourceId> + '_ {
        let sources = self.sources.iter().enumerate();
        let there = sources.filter(|(_, status)| !status.is_removed());
        there.map(|(index, status)| SourceId {
            index,
            generation: status.generation,
        })
    }

    pub(super) fn is_current(&self, source: SourceId) -> bool {
        let status = self.sources.get(source.index);
        status.is_some_and(|status| !status.is_removed() && status.generation == source.generation)
    }

    pub(crate) fn spec(&self, source: SourceId) -> &SourceSpec {
        &self.sources[source.index].spec
    }

    /// What the source is asked for, by its own names, in their order: a list for each of
    /// its connections.
    pub(crate) fn venue_names(&self, source: SourceId) -> Vec<Vec<String>> {
        let mut names: Vec<_> = self.places[source.index].keys().cloned().collect();
        names.sort_unstable();
        let most = self.spec(source).kind.limits().symbols;
        let chunks = names.chunks(most.unwrap_or(usize::MAX));
        chunks.map(<[String]>::to_vec).collect()
    }

    /// Symbols that no source serves.
    pub(crate) fn unserved(&self) -> impl Iterator<Item = &Symbol> {
        let is_there = |quote: &Quote| quote.life != Life::Removed;
        let unserved = self
            .symbols
            .iter()
            .filter(move |symbol| !symbol.quotes.iter().any(is_there));
        unserved.map(|symbol| &symbol.spec.symbol)
    }

    /// How all connections to a source do. What it means for prices shows with the
    /// next ticks.
    pub fn link(&mut self, source: SourceId, state: &LinkState, now_us: i64) {
        if self.is_current(source) {
            for link in 0..self.sources[source.index].links.len() {
                self.link_of(source, link, state, now_us);
            }
        }
    }

    /// How one of the connections to a source does.
    pub(crate) fn link_of(
        &mut self,
        source: SourceId,
        link: usize,
        state: &LinkState,
        now_us: i64,
    ) {
        if !self.is_current(source) {
            return;
        }
        self.sources[source.index].link(link, state, now_us);
        if !matches!(state, LinkState::Connected) {
            return;
        }
        for place in self.places[source.index].values().flatten() {
            let quote = &mut self.symbols[place.symbol].quotes[place.quote];
            if quote.link == link {
                quote.connected();
            }
        }
    }

    /// Has a converted quote know what the other currency is worth now.
    pub(super) fn renew_rate(&mut self, place: Place) {
        let conversion = &self.symbols[place.symbol].quotes[place.quote].conversion;
        let Some(conversion) = conversion else { return };
        let live = self.symbols[conversion.symbol].live();
        let rate = live.map(|live| Rate {
            price: live.price,
            formed_us: live.stamp_us,
        });
        let quote = &mut self.symbols[place.symbol].quotes[place.quote];
        if let Some(conversion) = &mut quote.conversion {
            conversion.rate = rate;
        }
    }

    /// Renews all rates. What changed by that is told.
    pub(super) fn renew_rates(&mut self, now_us: i64) {
        for index in 0..self.converted.len() {
            let place = self.converted[index];
            let price = |this: &Self| this.symbols[place.symbol].quotes[place.quote].live_price();
            let before = price(self);
            self.renew_rate(place);
            if price(self) != before {
                self.tell_quote(place);
                let stamp_us = self.symbols[place.symbol].quotes[place.quote].stamp_us;
                self.tell_aggregate(place.symbol, stamp_us, now_us);
            }
        }
    }
}
