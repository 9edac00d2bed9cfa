//! Sources of the aggregator: adding, removing, their connections, and currency rates.

use super::{
    Aggregator, SourceId, channel,
    quote::{Conversion, Liveness, Quote, QuoteIndex, Rate},
    source_status::{LinkChange, LinkState, SourceStatus},
    symbol_state::SymbolState,
};
use crate::{
    ConfigError, Symbol,
    config::{MOST_SOURCES, SourceSpec},
    symbol::nearest,
};

impl Aggregator {
    /// Adds a source. It serves the symbols that its venue trades.
    ///
    /// # Errors
    /// The name is used already, there are too many sources, or the venue's connections cannot
    /// carry as many symbols.
    pub fn add_source(&mut self, spec: SourceSpec) -> Result<SourceId, ConfigError> {
        if self.source(&spec.name).is_some() {
            return Err(ConfigError::SourceTwice(spec.name));
        }
        let served = |symbol: &&SymbolState| spec.venue_name(&symbol.spec.symbol).is_some();
        let count = self.symbols.iter().filter(served).count();
        let most = spec.kind.limits().most_symbols();
        if count > most {
            return Err(ConfigError::TooManySymbols {
                name: spec.name,
                count,
                most,
            });
        }
        let index = self.free_slot()?;
        let mut status = SourceStatus::new(spec);
        if let Some(before) = self.sources.get(index) {
            status.generation = before.generation;
        }
        for symbol in 0..self.symbols.len() {
            self.add_quote(index, symbol, &mut status)?;
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
        self.assign_links(id);
        Ok(id)
    }

    /// An index for one more source: that of a removed source, or a new one.
    fn free_slot(&mut self) -> Result<usize, ConfigError> {
        let left = self.sources.iter().position(SourceStatus::is_removed);
        match left {
            Some(index) => Ok(index),
            None if self.sources.len() < MOST_SOURCES => {
                self.quotes_by_name.push(Default::default());
                Ok(self.sources.len())
            }
            None => Err(ConfigError::TooManySources),
        }
    }

    /// Creates a source's quote for a symbol, if its venue trades the symbol or the same base in a
    /// currency that is converted.
    fn add_quote(
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
        let index = match quotes.iter().position(|quote| quote.source == source) {
            Some(index) => {
                quotes[index] = quote;
                index
            }
            None => {
                quotes.push(quote);
                quotes.len() - 1
            }
        };
        let index = QuoteIndex {
            symbol,
            quote: index,
        };
        let indexes = self.quotes_by_name[source].entry(venue_name).or_default();
        if is_converted {
            indexes.push(index);
            self.converted.push(index);
        } else {
            // The market's own symbol comes first, because the frame is counted for it.
            indexes.insert(0, index);
        }
        status.symbols.push(name);
        Ok(())
    }

    /// How a source serves a symbol that its venue does not trade: the venue's name of the market,
    /// that market's symbol, and the conversion.
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

    /// Assigns each quote of a source to one of its connections.
    fn assign_links(&mut self, source: SourceId) {
        let chunks = self.venue_names(source);
        self.sources[source.index].set_links(chunks.len());
        for (link, names) in chunks.iter().enumerate() {
            for name in names {
                for index in &self.quotes_by_name[source.index][name] {
                    self.symbols[index.symbol].quotes[index.quote].link = link;
                }
            }
        }
    }

    /// Removes a source. Prices that only it provided become stale.
    ///
    /// # Errors
    /// There is no source of this name.
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
        let mut ended: Vec<QuoteIndex> = std::mem::take(&mut self.quotes_by_name[id.index])
            .into_values()
            .flatten()
            .collect();
        ended.sort_unstable();
        for index in &ended {
            let quote = &mut self.symbols[index.symbol].quotes[index.quote];
            quote.liveness = Liveness::Removed;
            quote.deadline_us = None;
        }
        self.converted.retain(|index| !ended.contains(index));
        self.ended.extend(ended);
        self.publish_ended(now_us);
        self.market.remove_source(id.index);
        self.sources[id.index].remove();
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

    /// The markets that a source subscribes to, by the venue's names in order: one list for each
    /// connection.
    pub(crate) fn venue_names(&self, source: SourceId) -> Vec<Vec<String>> {
        let mut names: Vec<_> = self.quotes_by_name[source.index].keys().cloned().collect();
        names.sort_unstable();
        let most = self.spec(source).kind.limits().symbols;
        let chunks = names.chunks(most.unwrap_or(usize::MAX));
        chunks.map(<[String]>::to_vec).collect()
    }

    /// Symbols that no source serves.
    pub(crate) fn symbols_without_source(&self) -> impl Iterator<Item = &Symbol> {
        let is_there = |quote: &Quote| quote.liveness != Liveness::Removed;
        let symbols_without_source = self
            .symbols
            .iter()
            .filter(move |symbol| !symbol.quotes.iter().any(is_there));
        symbols_without_source.map(|symbol| &symbol.spec.symbol)
    }

    /// Sets the state of all connections of a source. Its effect on prices shows with the next
    /// ticks.
    pub fn set_link_state(&mut self, source: SourceId, state: &LinkState, now_us: i64) {
        if self.is_current(source) {
            for link in 0..self.sources[source.index].links.len() {
                self.set_link_state_of(source, link, state, now_us);
            }
        }
    }

    /// Sets the state of one connection of a source.
    pub(crate) fn set_link_state_of(
        &mut self,
        source: SourceId,
        link: usize,
        state: &LinkState,
        now_us: i64,
    ) {
        if !self.is_current(source) {
            return;
        }
        self.follow_clock(now_us);
        let change = self.sources[source.index].set_link_state(link, state, now_us);
        if change == LinkChange::Same {
            return;
        }
        for index in self.quotes_by_name[source.index].values().flatten() {
            let quote = &mut self.symbols[index.symbol].quotes[index.quote];
            match change {
                LinkChange::Opened if quote.link == link => quote.connected(now_us),
                LinkChange::Lost if quote.link == link => quote.lost(now_us),
                LinkChange::Opened | LinkChange::Lost | LinkChange::Same => {}
            }
        }
    }

    /// Updates the rate of a converted quote from the rate symbol's live price.
    pub(super) fn update_rate(&mut self, index: QuoteIndex) {
        let conversion = &self.symbols[index.symbol].quotes[index.quote].conversion;
        let Some(conversion) = conversion else { return };
        let live = self.symbols[conversion.symbol].live();
        let rate = live.map(|live| Rate {
            price: live.price,
            change_percent: live.change_percent,
            formed_us: live.timestamp_us,
        });
        let quote = &mut self.symbols[index.symbol].quotes[index.quote];
        if let Some(conversion) = &mut quote.conversion {
            conversion.rate = rate;
        }
    }

    /// Updates all rates, and publishes the prices that change.
    pub(super) fn update_rates(&mut self, now_us: i64) {
        for index in 0..self.converted.len() {
            let index = self.converted[index];
            let price = |this: &Self| this.symbols[index.symbol].quotes[index.quote].live_price();
            let before = price(self);
            self.update_rate(index);
            if price(self) != before {
                self.publish_quote(index, now_us);
                let timestamp_us = self.symbols[index.symbol].quotes[index.quote].timestamp_us;
                self.publish_aggregate(index.symbol, timestamp_us, now_us);
            }
        }
    }
}
