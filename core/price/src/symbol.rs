//! Symbols: base and quote currency of a market.

use std::{fmt, sync::Arc};

/// A pair in its canonical form, `BASE-QUOTE` in upper case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(Arc<str>);

/// The error of [`Symbol::parse`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a symbol, expected `BASE-QUOTE` in upper-case letters and digits, for example BTC-USD"
)]
pub struct SymbolError(String);

impl Symbol {
    /// Parses a symbol.
    ///
    /// # Errors
    /// The text is not `BASE-QUOTE` in upper-case letters and digits.
    pub fn parse(text: &str) -> Result<Self, SymbolError> {
        let is_asset = |part: &str| {
            (1..=16).contains(&part.len())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        };
        match text.split_once('-') {
            Some((base, quote)) if is_asset(base) && is_asset(quote) => Ok(Self(text.into())),
            _ => Err(SymbolError(text.to_owned())),
        }
    }

    /// The base currency, which is traded.
    #[must_use]
    pub fn base(&self) -> &str {
        self.0.split_once('-').map_or("", |(base, _)| base)
    }

    /// The quote currency, which prices are in.
    #[must_use]
    pub fn quote(&self) -> &str {
        self.0.split_once('-').map_or("", |(_, quote)| quote)
    }

    /// The symbol in its canonical form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The known name that is most similar to `name`, if one is similar enough.
#[must_use]
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|known| {
        (
            strsim::jaro_winkler(&name.to_ascii_uppercase(), &known.to_ascii_uppercase()),
            known,
        )
    });
    near.filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}
