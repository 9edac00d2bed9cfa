//! Errors of price queries.

use crate::{SymbolError, symbol::nearest};

/// Why a query has no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The text is no symbol.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
    /// The symbol is not configured.
    #[error("there is no symbol {name:?}{hint}")]
    UnknownSymbol {
        /// The requested symbol.
        name: String,
        /// The nearest configured symbol, as a hint for the message.
        hint: String,
    },
    /// The symbol has no such source.
    #[error("{symbol} has no source {name:?}, expected {expected}")]
    UnknownSource {
        /// The symbol.
        symbol: String,
        /// The requested source.
        name: String,
        /// The sources that it has.
        expected: String,
    },
}

pub(crate) fn unknown_symbol<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> PriceError {
    let hint = nearest(name, known)
        .map(|near| format!(", did you mean {near}?"))
        .unwrap_or_default();
    PriceError::UnknownSymbol {
        name: name.to_owned(),
        hint,
    }
}

pub(crate) fn unknown_source(symbol: &str, name: &str, known: &[&str]) -> PriceError {
    let expected = match known {
        [] => "no source at all: none that is configured serves it".to_owned(),
        known => format!("one of {}", known.join(", ")),
    };
    PriceError::UnknownSource {
        symbol: symbol.to_owned(),
        name: name.to_owned(),
        expected,
    }
}
