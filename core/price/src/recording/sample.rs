//! Sample supplies: made-up numbers of coins for the built-in sample, of the order of the real ones.

use std::collections::BTreeMap;

use crate::Symbol;

/// Numbers of coins, by base.
const SUPPLIES: [(&str, f64); 14] = [
    ("BTC", 19_800_000.0),
    ("ETH", 120_000_000.0),
    ("SOL", 470_000_000.0),
    ("XRP", 57_000_000_000.0),
    ("ADA", 35_000_000_000.0),
    ("DOGE", 146_000_000_000.0),
    ("AVAX", 400_000_000.0),
    ("LINK", 600_000_000.0),
    ("LTC", 75_000_000.0),
    ("DOT", 1_400_000_000.0),
    ("BCH", 19_700_000.0),
    ("UNI", 600_000_000.0),
    ("AAVE", 15_000_000.0),
    ("XLM", 30_000_000_000.0),
];

/// The supplies of the bases of these symbols.
pub(crate) fn sample_supplies(symbols: &[String]) -> BTreeMap<String, f64> {
    let parsed = symbols.iter().filter_map(|name| Symbol::parse(name).ok());
    parsed
        .filter_map(|symbol| {
            let known = SUPPLIES.iter().find(|(base, _)| *base == symbol.base())?;
            Some((known.0.to_owned(), known.1))
        })
        .collect()
}
