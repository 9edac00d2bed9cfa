//! Catalog: the symbols, chains and currencies that rules may name.

use std::collections::{BTreeSet, HashSet};

use tidewire_alert::Catalog;

/// Currencies beside those of the symbols. Back ends value portfolios in them.
const CURRENCIES: [&str; 12] = [
    "USD", "EUR", "GBP", "JPY", "CHF", "CNY", "AUD", "CAD", "KRW", "INR", "BRL", "SGD",
];

/// The names of the engines' configuration.
pub(super) struct EngineCatalog {
    symbols: BTreeSet<String>,
    chains: HashSet<u64>,
    currencies: HashSet<String>,
}

impl EngineCatalog {
    pub(super) fn new(symbols: Vec<String>, chains: HashSet<u64>) -> Self {
        let mut currencies: HashSet<_> = CURRENCIES.map(str::to_owned).into();
        for symbol in &symbols {
            currencies.extend(symbol.split('-').map(str::to_owned));
        }
        Self {
            symbols: symbols.into_iter().collect(),
            chains,
            currencies,
        }
    }
}

impl Catalog for EngineCatalog {
    fn symbol(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_uppercase();
        self.symbols.contains(&name).then_some(name)
    }

    fn symbols(&self) -> Vec<String> {
        self.symbols.iter().cloned().collect()
    }

    fn has_chain(&self, chain: u64) -> bool {
        self.chains.contains(&chain)
    }

    fn chains(&self) -> Vec<u64> {
        let mut chains: Vec<_> = self.chains.iter().copied().collect();
        chains.sort_unstable();
        chains
    }

    fn has_currency(&self, currency: &str) -> bool {
        self.currencies.contains(currency)
    }

    fn currencies(&self) -> Vec<String> {
        let mut currencies: Vec<_> = self.currencies.iter().cloned().collect();
        currencies.sort_unstable();
        currencies
    }
}
