//! What the aggregator answers.

use tidewire_proto::v1::{MarketOverview, PriceUpdate, Source};

use super::{Aggregator, SourceId, SymbolState, quote::Life};
use crate::{
    PriceError, Symbol,
    error::{unknown_source, unknown_symbol},
    source::SourceStatus,
};

impl Aggregator {
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
        let there = self.sources.iter().filter(|status| !status.is_removed());
        there.map(show).collect()
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
            .filter(|quote| quote.life != Life::Removed)
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

    /// One source and how it does.
    #[must_use]
    pub(crate) fn show_source(&self, source: SourceId, now_us: i64) -> Source {
        self.sources[source.index].show(now_us, self.provenance)
    }
}
