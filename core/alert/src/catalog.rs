//! Catalog: the symbols, chains and currencies that rules may name.

/// The names that the server knows. The composition root implements it over the engines.
pub trait Catalog {
    /// The canonical form of a symbol, for example `BTC-USD` for `btc-usd`. `None` if it is
    /// unknown.
    fn symbol(&self, name: &str) -> Option<String>;

    /// The known symbols, for the hint of an error.
    fn symbols(&self) -> Vec<String>;

    /// Whether the server follows this chain.
    fn has_chain(&self, chain: u64) -> bool;

    /// Whether portfolios may be valued in this currency, for example `USD`.
    fn has_currency(&self, currency: &str) -> bool;
}

/// Similarity from which a known name is suggested.
const NEAR: f64 = 0.7;

/// The known name that is most similar to `name`, if one is similar enough.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_uppercase();
    known
        .map(|known| {
            let score = strsim::jaro_winkler(&name, &known.to_ascii_uppercase());
            (score, known)
        })
        .filter(|(score, _)| *score > NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}
