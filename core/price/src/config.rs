//! What the operator decides about prices: `[prices]`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use crate::{Symbol, VenueKind, source::tls_config, symbol::nearest};

/// The symbols that a server has when none are named.
pub const DEFAULT_SYMBOLS: [&str; 18] = [
    "BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "ADA-USD", "DOGE-USD", "AVAX-USD", "LINK-USD",
    "LTC-USD", "DOT-USD", "BCH-USD", "UNI-USD", "AAVE-USD", "XLM-USD", "BTC-USDT", "ETH-USDT",
    "SOL-USDT", "XRP-USDT",
];

/// `[prices]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceConfig {
    /// The symbols, `BASE-QUOTE`.
    pub symbols: Vec<String>,
    /// How the sources of a symbol are put together.
    pub method: Method,
    /// A source that says nothing of a symbol for so long counts no more, in milliseconds.
    pub stale_after_ms: u64,
    /// A connection without any data for so long is set up anew, in milliseconds.
    pub watchdog_ms: u64,
    /// A file of certificates that connections to venues trust too, in PEM.
    pub ca_file: Option<PathBuf>,
    /// The sources. Without any, all venues that are built in.
    pub source: Vec<SourceConfig>,
    /// What a symbol has of its own, by its name.
    pub symbol: BTreeMap<String, SymbolConfig>,
    /// How many coins there are, by base, for the market cap.
    pub supply: BTreeMap<String, f64>,
}

impl Default for PriceConfig {
    fn default() -> Self {
        Self {
            symbols: DEFAULT_SYMBOLS.map(str::to_owned).to_vec(),
            method: Method::Median,
            stale_after_ms: 30_000,
            watchdog_ms: 20_000,
            ca_file: None,
            source: Vec::new(),
            symbol: BTreeMap::new(),
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
}

/// `[prices.symbol."BTC-USD"]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SymbolConfig {
    /// How its sources are put together.
    pub method: Option<Method>,
    /// When a source counts no more, in milliseconds.
    pub stale_after_ms: Option<u64>,
}

/// How the sources of a symbol are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The middle of the live prices; the mean of the middle two of an even number.
    Median,
    /// The mean of the live prices. Not built yet.
    Mean,
    /// The median, each source weighted by its volume. Not built yet.
    WeightedMedian,
    /// The mean, each trade weighted by its volume. Not built yet.
    Vwap,
    /// The mean over a window of time. Not built yet.
    Twap,
}

impl Method {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Median => "median",
            Self::Mean => "mean",
            Self::WeightedMedian => "weighted_median",
            Self::Vwap => "vwap",
            Self::Twap => "twap",
        }
    }

    /// Refuses what is not built: another method's prices would be wrong.
    fn built(self, key: &str) -> Result<Self, ConfigError> {
        match self {
            Self::Median => Ok(self),
            _ => Err(ConfigError::MethodNotBuilt(key.to_owned(), self.name())),
        }
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
    #[error(
        "prices.source {0:?}: the url {1:?} is not a WebSocket address, expected ws://… or wss://…"
    )]
    SourceUrl(String, String),
    /// A venue's connection does not carry so many symbols.
    #[error(
        "prices.symbols: {count} of them are traded at source {name:?}, expected at most {most}: a connection to it carries no more"
    )]
    TooManySymbols {
        /// The source.
        name: String,
        /// How many symbols it would be asked for.
        count: usize,
        /// How many it carries.
        most: usize,
    },
    /// A method is known and not built yet.
    #[error("{0} is {1:?}, which is not built yet, expected \"median\"")]
    MethodNotBuilt(String, &'static str),
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
}

impl PriceConfig {
    /// Judges everything.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (symbols, sources) = (self.symbols()?, self.sources()?);
        for source in sources {
            let served = |spec: &&SymbolSpec| source.kind.venue_name(&spec.symbol).is_some();
            let count = symbols.iter().filter(served).count();
            if let Some(most) = source.kind.limits().symbols
                && count > most
            {
                return Err(ConfigError::TooManySymbols {
                    name: source.name,
                    count,
                    most,
                });
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
        let method = self.method.built("prices.method")?;
        let stale_after_ms = above_zero("prices.stale_after_ms", self.stale_after_ms)?;
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
        for name in &self.symbols {
            let symbol = Symbol::parse(name)?;
            if specs.iter().any(|spec| spec.symbol == symbol) {
                continue;
            }
            let own = self.symbol.get(name).cloned().unwrap_or_default();
            let key = |key: &str| format!("prices.symbol.{name:?}.{key}");
            specs.push(SymbolSpec {
                symbol,
                method: match own.method {
                    Some(own) => own.built(&key("method"))?,
                    None => method,
                },
                stale_after_ms: match own.stale_after_ms {
                    Some(own) => above_zero(&key("stale_after_ms"), own)?,
                    None => stale_after_ms,
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
            let all = VenueKind::ALL.map(|kind| SourceSpec {
                name: kind.name().to_owned(),
                kind,
                url: kind.url().to_owned(),
                clock: SourceClock::default(),
            });
            return Ok(all.to_vec());
        }
        let mut specs: Vec<SourceSpec> = Vec::with_capacity(self.source.len());
        for source in &self.source {
            let name = source
                .name
                .clone()
                .unwrap_or_else(|| source.kind.name().to_owned());
            let is_name = !name.is_empty()
                && name.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_'
                });
            if !is_name {
                return Err(ConfigError::SourceName(name));
            }
            if specs.iter().any(|spec| spec.name == name) {
                return Err(ConfigError::SourceTwice(name));
            }
            let url = source
                .url
                .clone()
                .unwrap_or_else(|| source.kind.url().to_owned());
            if !is_websocket_url(&url) {
                return Err(ConfigError::SourceUrl(name, url));
            }
            specs.push(SourceSpec {
                name,
                kind: source.kind,
                url,
                clock: source.clock,
            });
        }
        Ok(specs)
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

fn is_websocket_url(url: &str) -> bool {
    let is_good = |uri: http::Uri| {
        matches!(uri.scheme_str(), Some("ws" | "wss"))
            && uri.host().is_some_and(|host| !host.is_empty())
    };
    url.parse().is_ok_and(is_good)
}
