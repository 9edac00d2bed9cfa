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

    /// The chains that the server follows, for the text of an error.
    fn chains(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Whether portfolios may be valued in this currency, for example `USD`.
    fn has_currency(&self, currency: &str) -> bool;

    /// The known currencies, for the text of an error.
    fn currencies(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Names that the text of an error lists at most.
const MOST_LISTED: usize = 40;

/// An expectation that lists known names, or `otherwise` if there are none or very many.
pub(crate) fn one_of(names: &[String], otherwise: &str) -> String {
    match names {
        [] => otherwise.to_owned(),
        [one] => format!("expected {one}"),
        names if names.len() <= MOST_LISTED => format!("expected one of {}", names.join(", ")),
        _ => otherwise.to_owned(),
    }
}

/// The end of an error about an unknown symbol.
pub(crate) fn symbol_hint(name: &str, catalog: &dyn Catalog) -> String {
    let known = catalog.symbols();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "expected a symbol of this server".to_owned(),
    }
}

/// Similarity from which a known name is suggested.
const NEAR: f64 = 0.7;

/// Similarity of the first parts of two symbols, above which they are compared: one letter of three
/// may be another.
const NEAR_BASE: f64 = 0.6;

/// The known name that is most similar to `name`, if one is similar enough.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_uppercase();
    known
        .map(|known| {
            let score = similarity(&name, &known.to_ascii_uppercase());
            (score, known)
        })
        .filter(|(score, _)| *score > NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// The similarity of two names. Symbols whose first parts differ much are not alike: half of all
/// symbols end with the same currency.
fn similarity(name: &str, known: &str) -> f64 {
    let parts = name.split_once('-').zip(known.split_once('-'));
    let is_alike = parts.is_none_or(|((base, _), (known_base, _))| {
        strsim::normalized_damerau_levenshtein(base, known_base) > NEAR_BASE
    });
    match is_alike {
        true => strsim::jaro_winkler(name, known),
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_name_is_near_by_both_parts() {
        let known = ["BTC-USD", "ETH-USD", "SOL-USD"];
        let near = |name| nearest(name, known.into_iter());
        assert_eq!(near("BTC-US"), Some("BTC-USD"));
        assert_eq!(near("BTC-UDS"), Some("BTC-USD"));
        assert_eq!(near("BCT-USD"), Some("BTC-USD"));
        assert_eq!(near("BTCUSD"), Some("BTC-USD"));
        assert_eq!(near("ETC-USD"), Some("ETH-USD"));
        assert_eq!(near("DOGE-USD"), None);
        assert_eq!(near("XYZ-USD"), None);
    }
}
