//! Errors of the price configuration.

use std::time::Duration;

use humantime::format_duration;
use rust_decimal::Decimal;

use super::{MAX_SUPPLY, MOST_SOURCES};
use crate::{
    TlsError,
    venue::{ContractError, VenueKindError},
};

/// An error in `[prices]`: the key, what was wrong and what was expected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A symbol is malformed.
    #[error("{key}: {error}")]
    Symbol {
        /// The key that has it.
        key: String,
        /// The expected form.
        error: crate::SymbolError,
    },
    /// A table overrides a symbol that is not configured.
    #[error("prices.symbol.{0:?}: this symbol is not in `prices.symbols`{1}")]
    UnknownSymbol(String, String),
    /// Two sources have the same name.
    #[error("prices.source: two sources are named {0:?}, expected different names: set `name`")]
    SourceTwice(String),
    /// A source's name cannot be part of a channel name.
    #[error(
        "prices.source: the name {0:?} cannot name a channel, expected lower-case letters, digits, `-` and `_`, 64 at most"
    )]
    SourceName(String),
    /// A source's address is malformed.
    #[error("prices.source {0:?}: the url {1:?} is not an address of such a venue, expected {2}")]
    SourceUrl(String, String, &'static str),
    /// A venue's name of a symbol is malformed.
    #[error("prices.source {0:?}: ids.{1:?} is {2:?}, expected {3}")]
    SourceId(String, String, String, &'static str),
    /// The value of a contract is malformed.
    #[error("prices.source {0:?}: contracts.{1:?} is {2}")]
    Contract(String, String, ContractError),
    /// A converted currency has no rate.
    #[error(
        "prices.convert: nothing says what {0} is worth, expected a symbol {0}-USD or the like in `prices.symbols`"
    )]
    NoRate(String),
    /// No source has this name.
    #[error("there is no source {name:?}{hint}")]
    UnknownSource {
        /// The name that was given.
        name: String,
        /// The nearest name that exists.
        hint: String,
    },
    /// Sources cannot change while a recording is replayed.
    #[error("a recording is replayed, and its sources cannot change")]
    NotConnected,
    /// No venue has this name.
    #[error(transparent)]
    UnknownKind(#[from] VenueKindError),
    /// There are too many sources.
    #[error("there are {MOST_SOURCES} sources already, expected no more")]
    TooManySources,
    /// The configuration has too many sources.
    #[error("prices.source is there {0} times, expected {MOST_SOURCES} sources at most")]
    TooManyTables(usize),
    /// A venue's connections cannot carry all symbols.
    #[error(
        "prices.symbols: {count} of them are traded at source {name:?}, expected at most {most}: connections to it carry no more"
    )]
    TooManySymbols {
        /// The source.
        name: String,
        /// The number of symbols that the venue trades.
        count: usize,
        /// The most symbols that its connections carry.
        most: usize,
    },
    /// A duration is longer than accepted.
    #[error("{0} is {found}, expected at most {max}", found = format_duration(*.1), max = format_duration(*.2))]
    TooLong(String, Duration, Duration),
    /// The distance for outliers is not a percentage.
    #[error("{0} is {1}, expected a percentage above 0 and below 100")]
    Outlier(String, Decimal),
    /// A supply is not a number of coins.
    #[error(
        "prices.supply.{0} is {1}, expected a number of coins above zero, at most {MAX_SUPPLY:e}"
    )]
    Supply(String, f64),
    /// A supply is that of an asset without a symbol.
    #[error("prices.supply.{asset:?}: expected the base of a symbol in `prices.symbols`{hint}")]
    SupplyAsset {
        /// The asset.
        asset: String,
        /// The nearest base, as a hint for the message.
        hint: String,
    },
    /// A supply source's address is malformed.
    #[error("prices.supply_source.url is {0:?}, expected http://… or https://…")]
    SupplyUrl(String),
    /// The longest response of a supply source is out of bounds.
    #[error("prices.supply_source.most_bytes is {0}, expected bytes between 1 and {1}")]
    SupplyBytes(usize, usize),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A duration is shorter than a millisecond.
    #[error("{0} is {found}, expected 1ms at least", found = format_duration(*.1))]
    TooShort(String, Duration),
}
