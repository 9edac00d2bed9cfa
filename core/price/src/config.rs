//! What the operator decides about prices: `[prices]`.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use rust_decimal::Decimal;
use serde::Deserialize;

use crate::{
    Symbol, VenueKind,
    source::tls_config,
    symbol::nearest,
    venue::{Carrier, pyth::feed_id},
};

/// The symbols that a server has when none are named.
pub const DEFAULT_SYMBOLS: [&str; 18] = [
    "BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "ADA-USD", "DOGE-USD", "AVAX-USD", "LINK-USD",
    "LTC-USD", "DOT-USD", "BCH-USD", "UNI-USD", "AAVE-USD", "XLM-USD", "BTC-USDT", "ETH-USDT",
    "SOL-USDT", "XRP-USDT",
];

/// How many sources there may be.
pub(crate) const MOST_SOURCES: usize = 64;

/// The longest window, in milliseconds.
const MOST_WINDOW_MS: u64 = 3_600_000;

/// `[prices]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceConfig {
    /// The symbols, `BASE-QUOTE`.
    pub symbols: Vec<String>,
    /// How the sources of a symbol are put together.
    pub method: Method,
    /// A source that says nothing of a symbol for so long counts no more, in milliseconds.
    /// Once it is known how often it speaks, it may be silent for less or longer.
    pub stale_after_ms: u64,
    /// What averages look back on, in milliseconds.
    pub window_ms: u64,
    /// A source this far from the median of the others is left out, in percent.
    pub outlier_percent: Decimal,
    /// A connection without any data for so long is set up anew, in milliseconds.
    pub watchdog_ms: u64,
    /// A file of certificates that connections to venues trust too, in PEM.
    pub ca_file: Option<PathBuf>,
    /// The sources. Without any, all venues that are built in.
    pub source: Vec<SourceConfig>,
    /// What a symbol has of its own, by its name.
    pub symbol: BTreeMap<String, SymbolConfig>,
    /// Currencies whose prices count for symbols in another, at a live rate: with `USDT`,
    /// `BTC-USDT` counts for `BTC-USD` at the price of `USDT-USD`, at sources that do not
    /// trade `BTC-USD` itself.
    pub convert: Vec<String>,
    /// How many coins there are, by base, for the market cap.
    pub supply: BTreeMap<String, f64>,
}

impl Default for PriceConfig {
    fn default() -> Self {
        Self {
            symbols: DEFAULT_SYMBOLS.map(str::to_owned).to_vec(),
            method: Method::Median,
            stale_after_ms: 30_000,
            window_ms: 300_000,
            outlier_percent: Decimal::from(5),
            watchdog_ms: 20_000,
            ca_file: None,
            source: Vec::new(),
            symbol: BTreeMap::new(),
            convert: Vec::new(),
            supply: BTreeMap::new(),
        }
    }
}

/// `[[prices.source]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The protocol that it speaks.
    pub kind: VenueKind,
    /// Its name, the kind's if none is given.
    pub name: Option<String>,
    /// Where it is, the venue's own address if none is given.
    pub url: Option<String>,
    /// Which clock stamps its prices.
    #[serde(default)]
    pub clock: SourceClock,
    /// The venue's own names of symbols, where they cannot be known: feeds of Pyth.
    #[serde(default)]
    pub ids: BTreeMap<String, String>,
}

/// `[prices.symbol."BTC-USD"]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SymbolConfig {
    /// How its sources are put together.
    pub method: Option<Method>,
    /// When a source counts no more, in milliseconds.
    pub stale_after_ms: Option<u64>,
    /// What averages look back on, in milliseconds.
    pub window_ms: Option<u64>,
    /// When a source is left out, in percent.
    pub outlier_percent: Option<Decimal>,
}

/// How the sources of a symbol are put together. What each does stands in
/// `aggregate::blend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The middle of the prices that count; the mean of the middle two of an even number.
    Median,
    /// The median, each source weighted by what it traded within the window.
    #[serde(alias = "weighted_median")]
    VolumeWeightedMedian,
    /// The mean of all trades within the window, weighted by their sizes.
    Vwap,
    /// The mean of the median over the window, weighted by time.
    Twap,
    /// The exponential moving average of the median.
    Ema,
}

impl Method {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Median => "median",
            Self::VolumeWeightedMedian => "volume_weighted_median",
            Self::Vwap => "vwap",
            Self::Twap => "twap",
            Self::Ema => "ema",
        }
    }

    /// Whether it asks how much was traded.
    pub(crate) fn weighs_volume(self) -> bool {
        matches!(self, Self::VolumeWeightedMedian | Self::Vwap)
    }

    /// Whether the price moves by the mere passing of time.
    pub(crate) fn looks_back(self) -> bool {
        !matches!(self, Self::Median)
    }
}

/// Which clock stamps a source's prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceClock {
    /// The venue's, where it gives a time.
    #[default]
    Venue,
    /// This server's, when the data arrives.
    Arrival,
}

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
    #[error(
        "prices.source {0:?}: ids.{1:?} is {2:?}, expected the 64 hexadecimal digits of a feed of Pyth"
    )]
    SourceId(String, String, String),
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

/// A source, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// Its name.
    pub name: String,
    /// The protocol that it speaks.
    pub kind: VenueKind,
    /// Where it is.
    pub url: String,
    /// Which clock stamps its prices.
    pub clock: SourceClock,
    /// The venue's own names of symbols, where the operator gave them.
    pub ids: BTreeMap<String, String>,
}

impl SourceSpec {
    /// The venue's name of a symbol, if it trades it.
    #[must_use]
    pub fn venue_name(&self, symbol: &Symbol) -> Option<String> {
        let given = self.ids.get(symbol.as_str()).cloned();
        given.or_else(|| self.kind.venue_name(symbol))
    }
}

/// A symbol, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolSpec {
    /// The symbol.
    pub symbol: Symbol,
    /// How its sources are put together.
    pub method: Method,
    /// When a source counts no more, in milliseconds.
    pub stale_after_ms: i64,
    /// What averages look back on, in microseconds.
    pub window_us: i64,
    /// When a source is left out, as a fraction.
    pub outlier: Decimal,
}

impl PriceConfig {
    /// Judges everything.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (symbols, sources) = (self.symbols()?, self.sources()?);
        for source in sources {
            let served = |spec: &&SymbolSpec| source.venue_name(&spec.symbol).is_some();
            let count = symbols.iter().filter(served).count();
            let most = source.kind.limits().most_symbols();
            if count > most {
                return Err(ConfigError::TooManySymbols {
                    name: source.name,
                    count,
                    most,
                });
            }
        }
        for currency in &self.convert {
            let is_rate = |spec: &SymbolSpec| spec.symbol.base() == currency;
            if !symbols.iter().any(is_rate) {
                return Err(ConfigError::NoRate(currency.clone()));
            }
        }
        let is_supply = |supply: f64| supply.is_finite() && supply > 0.0;
        match self.supply.iter().find(|(_, supply)| !is_supply(**supply)) {
            Some((base, supply)) => Err(ConfigError::Supply(base.clone(), *supply)),
            None => {
                above_zero("prices.watchdog_ms", self.watchdog_ms)?;
                tls_config(self.ca_file.as_deref()).map(drop)
            }
        }
    }

    /// The symbols, checked.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn symbols(&self) -> Result<Vec<SymbolSpec>, ConfigError> {
        let stale_after_ms = above_zero("prices.stale_after_ms", self.stale_after_ms)?;
        let window_us = window_us("prices.window_ms", self.window_ms)?;
        let outlier = fraction("prices.outlier_percent", self.outlier_percent)?;
        for name in self.symbol.keys() {
            if !self.symbols.contains(name) {
                let near = nearest(name, self.symbols.iter().map(String::as_str));
                let hint = near
                    .map(|near| format!(", did you mean {near:?}?"))
                    .unwrap_or_default();
                return Err(ConfigError::UnknownSymbol(name.clone(), hint));
            }
        }
        let mut specs: Vec<SymbolSpec> = Vec::with_capacity(self.symbols.len());
        let mut known = HashSet::new();
        for name in &self.symbols {
            let symbol = Symbol::parse(name)?;
            if !known.insert(symbol.clone()) {
                continue;
            }
            let own = self.symbol.get(name).cloned().unwrap_or_default();
            let key = |key: &str| format!("prices.symbol.{name:?}.{key}");
            specs.push(SymbolSpec {
                symbol,
                method: own.method.unwrap_or(self.method),
                stale_after_ms: match own.stale_after_ms {
                    Some(own) => above_zero(&key("stale_after_ms"), own)?,
                    None => stale_after_ms,
                },
                window_us: match own.window_ms {
                    Some(own) => self::window_us(&key("window_ms"), own)?,
                    None => window_us,
                },
                outlier: match own.outlier_percent {
                    Some(own) => fraction(&key("outlier_percent"), own)?,
                    None => outlier,
                },
            });
        }
        Ok(specs)
    }

    /// The sources, checked.
    ///
    /// # Errors
    /// Names the source and what was expected.
    pub fn sources(&self) -> Result<Vec<SourceSpec>, ConfigError> {
        if self.source.is_empty() {
            let all = VenueKind::DEFAULT.map(|kind| SourceConfig::new(kind).spec());
            return all.into_iter().collect();
        }
        if self.source.len() > MOST_SOURCES {
            return Err(ConfigError::TooManySources);
        }
        let mut specs: Vec<SourceSpec> = Vec::with_capacity(self.source.len());
        for source in &self.source {
            let spec = source.spec()?;
            if specs.iter().any(|other| other.name == spec.name) {
                return Err(ConfigError::SourceTwice(spec.name));
            }
            specs.push(spec);
        }
        Ok(specs)
    }
}

impl SourceConfig {
    /// A source of this kind, with its defaults.
    #[must_use]
    pub fn new(kind: VenueKind) -> Self {
        Self {
            kind,
            name: None,
            url: None,
            clock: SourceClock::default(),
            ids: BTreeMap::new(),
        }
    }

    /// The source, checked.
    ///
    /// # Errors
    /// Names the source and what was expected.
    pub fn spec(&self) -> Result<SourceSpec, ConfigError> {
        let name = self.name.as_deref().unwrap_or(self.kind.name()).to_owned();
        let is_name = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !is_name {
            return Err(ConfigError::SourceName(name));
        }
        let url = self.url.as_deref().unwrap_or(self.kind.url()).to_owned();
        let (schemes, expected) = match self.kind.carrier() {
            Carrier::WebSocket => (["ws", "wss"], "ws://… or wss://…"),
            Carrier::Events => (["http", "https"], "http://… or https://…"),
        };
        if !is_url(&url, schemes) {
            return Err(ConfigError::SourceUrl(name, url, expected));
        }
        let mut ids = BTreeMap::new();
        for (symbol, id) in &self.ids {
            Symbol::parse(symbol)?;
            let Some(feed) = feed_id(id).filter(|_| self.kind == VenueKind::Pyth) else {
                return Err(ConfigError::SourceId(name, symbol.clone(), id.clone()));
            };
            ids.insert(symbol.clone(), feed);
        }
        Ok(SourceSpec {
            name,
            kind: self.kind,
            url,
            clock: self.clock,
            ids,
        })
    }
}

fn above_zero(key: &str, ms: u64) -> Result<i64, ConfigError> {
    match i64::try_from(ms) {
        Ok(0) => Err(ConfigError::Zero(key.to_owned())),
        // For ever, near enough.
        Err(_) => Ok(i64::MAX),
        Ok(ms) => Ok(ms),
    }
}

fn window_us(key: &str, ms: u64) -> Result<i64, ConfigError> {
    if ms > MOST_WINDOW_MS {
        return Err(ConfigError::Window(key.to_owned(), ms));
    }
    Ok(above_zero(key, ms)?.saturating_mul(1_000))
}

fn fraction(key: &str, percent: Decimal) -> Result<Decimal, ConfigError> {
    if percent <= Decimal::ZERO || percent >= Decimal::ONE_HUNDRED {
        return Err(ConfigError::Outlier(key.to_owned(), percent));
    }
    Ok(percent / Decimal::ONE_HUNDRED)
}

fn is_url(url: &str, schemes: [&str; 2]) -> bool {
    let is_good = |uri: http::Uri| {
        uri.scheme_str()
            .is_some_and(|scheme| schemes.contains(&scheme))
            && uri.host().is_some_and(|host| !host.is_empty())
    };
    url.parse().is_ok_and(is_good)
}
