//! What the operator decides about prices: `[prices]`.

mod error;
mod source;
mod supply;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use rust_decimal::Decimal;
use serde::Deserialize;

pub(crate) use self::supply::SupplySpec;
pub use self::{
    error::ConfigError,
    source::{SourceClock, SourceConfig, SourceSpec},
    supply::SupplySourceConfig,
};
use crate::{Symbol, VenueKind, source::tls_config, symbol::nearest};

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
    /// Who is asked for the supplies that `supply` does not have.
    pub supply_source: Option<SupplySourceConfig>,
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
            supply_source: None,
        }
    }
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
                self.supply_spec()?;
                above_zero("prices.watchdog_ms", self.watchdog_ms)?;
                tls_config(self.ca_file.as_deref()).map(drop)
            }
        }
    }

    /// Who is asked for supplies, checked, if anybody is.
    pub(crate) fn supply_spec(&self) -> Result<Option<SupplySpec>, ConfigError> {
        let source = self.supply_source.as_ref();
        source.map(SupplySourceConfig::spec).transpose()
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
