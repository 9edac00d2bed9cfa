//! What can be wrong with `[prices]`.

use std::path::PathBuf;

use rust_decimal::Decimal;

use super::{MOST_SOURCES, MOST_WINDOW_MS};
use crate::venue::ContractError;

/// What is wrong with `[prices]`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A symbol is malformed.
    #[error("prices.symbols: {0}")]
    Symbol(#[from] crate::SymbolError),
    /// A table is for a symbol that is not configured.
    #[error("prices.symbol.{0:?}: this symbol is not in `prices.symbols`{1}")]
    UnknownSymbol(String, String),
    /// Two sources have one name.
    #[error("prices.source: two sources are named {0:?}, expected different names: set `name`")]
    SourceTwice(String),
    /// A source's name cannot be part of a channel's.
    #[error(
        "prices.source: the name {0:?} cannot name a channel, expected lower-case letters, digits, `-` and `_`"
    )]
    SourceName(String),
    /// A source's address is not one.
    #[error("prices.source {0:?}: the url {1:?} is not an address of such a venue, expected {2}")]
    SourceUrl(String, String, &'static str),
    /// A venue's own name of a symbol is none.
    #[error("prices.source {0:?}: ids.{1:?} is {2:?}, expected {3}")]
    SourceId(String, String, String, &'static str),
    /// What a contract is worth is not said.
    #[error("prices.source {0:?}: contracts.{1:?} is {2}")]
    Contract(String, String, ContractError),
    /// A currency is to be converted, and there is no rate for it.
    #[error(
        "prices.convert: nothing says what {0} is worth, expected a symbol {0}-USD or the like in `prices.symbols`"
    )]
    NoRate(String),
    /// There is no such source.
    #[error("there is no source {name:?}{hint}")]
    UnknownSource {
        /// What was named.
        name: String,
        /// The nearest one that there is.
        hint: String,
    },
    /// Sources come from a recording.
    #[error("a recording is played: its sources are those that it has")]
    NotConnected,
    /// There is no such venue.
    #[error("there is no kind of source {0:?}, expected one of {1}")]
    UnknownKind(String, String),
    /// There are as many sources as there may be.
    #[error("there are {MOST_SOURCES} sources already, expected no more")]
    TooManySources,
    /// A venue's connections do not carry so many symbols.
    #[error(
        "prices.symbols: {count} of them are traded at source {name:?}, expected at most {most}: connections to it carry no more"
    )]
    TooManySymbols {
        /// The source.
        name: String,
        /// How many symbols it would be asked for.
        count: usize,
        /// How many it carries.
        most: usize,
    },
    /// A window is longer than is kept.
    #[error("{0} is {1} ms, expected at most {MOST_WINDOW_MS} ms, an hour")]
    Window(String, u64),
    /// The gate for outliers is no percentage.
    #[error("{0} is {1}, expected a percentage above 0 and below 100")]
    Outlier(String, Decimal),
    /// A supply is not a number of coins.
    #[error("prices.supply.{0} is {1}, expected a number of coins above zero")]
    Supply(String, f64),
    /// A supply source's address is not one.
    #[error("prices.supply_source.url is {0:?}, expected http://… or https://…")]
    SupplyUrl(String),
    /// A supply source's answers may be of no or of any length.
    #[error("prices.supply_source.most_bytes is {0}, expected bytes between 1 and {1}")]
    SupplyBytes(usize, usize),
    /// The file of further certificates cannot be used.
    #[error("prices.ca_file {0:?}: {1}, expected a file of certificates in PEM")]
    CaFile(PathBuf, String),
    /// There can be no encryption.
    #[error("connections to venues cannot be encrypted: {0}")]
    Tls(String),
    /// A duration must be above zero.
    #[error("{0} is 0, expected milliseconds above zero")]
    Zero(String),
}
