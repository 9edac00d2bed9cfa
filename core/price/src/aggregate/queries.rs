//! Queries: reads of `PriceService`, metrics and channel checks from the aggregator.

use std::time::Duration;

use tidewire_proto::v1::{MarketOverview, PriceUpdate, RefusedSymbol, Source};

use super::{Aggregator, SourceId, quote::Liveness, symbol_state::SymbolState};
use crate::{
    PriceError, Symbol,
    error::{unknown_source, unknown_symbol},
};

impl Aggregator {
    /// The price of a symbol, with its method and the detail of each source.
    ///
    /// # Errors
    /// The text is no symbol, or the symbol is not configured.
    pub fn price(&self, name: &str, now_us: i64) -> Result<PriceUpdate, PriceError> {
        let symbol = self.find(name)?;
        Ok(symbol.explain(&self.sources, self.provenance, now_us))
    }

    /// The market overview as of `now_us`.
    #[must_use]
    pub fn overview(&self, now_us: i64) -> MarketOverview {
        let overview = self.market.overview(
            now_us,
            |symbol| self.symbols[symbol].live_price(),
            |source| self.sources[source].name(),
        );
        MarketOverview {
            sample: self.provenance.is_sample(),
            ..overview
        }
    }

    /// The status of each source, in the order of the configuration.
    #[must_use]
    pub fn sources(&self, now_us: i64) -> Vec<Source> {
        let ids = self.source_ids();
        ids.map(|source| self.show_source(source, now_us)).collect()
    }

    /// The configured symbols.
    pub(crate) fn symbol_names(&self) -> Vec<String> {
        let names = self.symbols.iter().map(|symbol| symbol.name().to_owned());
        names.collect()
    }

    /// The age of each symbol's newest data, in milliseconds. Symbols without data are left out.
    #[must_use]
    pub fn ages_ms(&self, now_us: i64) -> Vec<(String, i64)> {
        let age = |symbol: &SymbolState| {
            let age_us = now_us.saturating_sub(symbol.last_arrival_us()?);
            Some((symbol.name().to_owned(), age_us.div_euclid(1_000)))
        };
        self.symbols.iter().filter_map(age).collect()
    }

    /// The symbols without any data so far, each with the silence after which a source is stale.
    pub(crate) fn unheard(&self) -> Vec<(String, Duration)> {
        let unheard = self
            .symbols
            .iter()
            .filter(|symbol| symbol.last_arrival_us().is_none());
        let stale_after = |symbol: &SymbolState| {
            Duration::from_micros(symbol.stale_after_us().try_into().unwrap_or_default())
        };
        unheard
            .map(|symbol| (symbol.name().to_owned(), stale_after(symbol)))
            .collect()
    }

    /// Checks the part of a `prices:` channel after the colon: `SYMBOL` or `SYMBOL@SOURCE`.
    pub(crate) fn check_channel(&self, rest: &str) -> Result<(), PriceError> {
        let Some((name, source)) = rest.split_once('@') else {
            return self.find(rest).map(drop);
        };
        let symbol = self.find(name)?;
        let names: Vec<_> = symbol
            .quotes
            .iter()
            .filter(|quote| quote.liveness != Liveness::Removed)
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

    /// The status of one source.
    #[must_use]
    pub(crate) fn show_source(&self, source: SourceId, now_us: i64) -> Source {
        let status = &self.sources[source.index];
        status.to_proto(self.refused_symbols(source), now_us, self.provenance)
    }

    /// The symbols that a venue refuses.
    fn refused_symbols(&self, source: SourceId) -> Vec<RefusedSymbol> {
        let indexes = self.quotes_by_name[source.index].values().flatten();
        let mut refused: Vec<_> = indexes
            .filter_map(|index| {
                let symbol = &self.symbols[index.symbol];
                Some(RefusedSymbol {
                    symbol: symbol.name().to_owned(),
                    reason: symbol.quotes[index.quote].refused.as_deref()?.to_owned(),
                })
            })
            .collect();
        refused.sort_unstable_by(|a, b| a.symbol.cmp(&b.symbol));
        refused
    }
}
