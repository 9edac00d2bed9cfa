//! Price configuration: `[prices]`, its symbols and their overrides.

mod error;
mod source;
mod supply;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use rust_decimal::Decimal;
use serde::Deserialize;

pub(crate) use self::supply::SupplySpec;
pub use self::{
    error::ConfigError,
    source::{SourceClock, SourceConfig, SourceSpec},
    supply::SupplySourceConfig,
};
use crate::{Symbol, VenueKind, symbol::nearest, tls::tls_config};

/// The default of `symbols`.
pub const DEFAULT_SYMBOLS: [&str; 18] = [
    "BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "ADA-USD", "DOGE-USD", "AVAX-USD", "LINK-USD",
    "LTC-USD", "DOT-USD", "BCH-USD", "UNI-USD", "AAVE-USD", "XLM-USD", "BTC-USDT", "ETH-USDT",
    "SOL-USDT", "XRP-USDT",
];

/// The most sources. Each has its own connections and a slot in every symbol.
pub(crate) const MOST_SOURCES: usize = 64;

/// Symbols that an error names at most, where none is near.
const SYMBOLS_OF_HINT: usize = 5;

/// The longest window: the aggregator keeps its trades in memory.
const MAX_WINDOW: Duration = Duration::from_secs(60 * 60);

/// The longest silence of a source or of a connection. Some markets rest over a holiday.
const MAX_SILENCE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The largest number of coins, so that a market cap is a finite number.
pub(crate) const MAX_SUPPLY: f64 = 1e30;

/// `[prices]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceConfig {
    /// The symbols, `BASE-QUOTE`.
    pub symbols: Vec<String>,
    /// How one price is made from the sources of a symbol.
    pub method: Method,
    /// The silence after which a source no longer counts for a symbol. Once the source's
    /// usual silences are known, they decide instead.
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// The time that averages cover.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// The outlier filter excludes a source this far from the median of the others, in percent.
    pub outlier_percent: Decimal,
    /// The silence after which a connection is replaced.
    #[serde(with = "humantime_serde")]
    pub watchdog: Duration,
    /// A PEM file of certificates that connections to venues trust too.
    pub ca_file: Option<PathBuf>,
    /// The sources. An empty list means all built-in venues.
    pub source: Vec<SourceConfig>,
    /// Overrides for single symbols, by name.
    pub symbol: BTreeMap<String, SymbolConfig>,
    /// Quote currencies that are converted at a live rate. With `USDT`, a source that does not
    /// trade `BTC-USD` counts with its `BTC-USDT`, at the price of `USDT-USD`.
    pub convert: Vec<String>,
    /// Numbers of coins, by base, for the market cap.
    pub supply: BTreeMap<String, f64>,
    /// A source for the numbers of coins that `supply` lacks.
    pub supply_source: Option<SupplySourceConfig>,
}

impl Default for PriceConfig {
    fn default() -> Self {
        Self {
            symbols: DEFAULT_SYMBOLS.map(str::to_owned).to_vec(),
            method: Method::Median,
            stale_after: Duration::from_secs(30),
            window: Duration::from_secs(5 * 60),
            outlier_percent: Decimal::from(5),
            watchdog: Duration::from_secs(20),
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
    /// How one price is made from the sources.
    pub method: Option<Method>,
    /// The silence after which a source no longer counts.
    #[serde(with = "humantime_serde")]
    pub stale_after: Option<Duration>,
    /// The time that averages cover.
    #[serde(with = "humantime_serde")]
    pub window: Option<Duration>,
    /// The distance at which the outlier filter excludes a source, in percent.
    pub outlier_percent: Option<Decimal>,
}

/// The rule that makes one price of a symbol's sources; see `aggregate::methods`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The middle price; of an even number of prices, the mean of the middle two.
    Median,
    /// The median, each source weighted by its volume within the window.
    #[serde(alias = "weighted_median")]
    VolumeWeightedMedian,
    /// The mean of all trades within the window, weighted by size.
    Vwap,
    /// The mean of the median over the window, weighted by time.
    Twap,
    /// The exponential moving average of the median.
    Ema,
}

impl Method {
    /// The name in the configuration and in messages.
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

    /// Whether the method needs volumes.
    pub(crate) fn weighs_volume(self) -> bool {
        matches!(self, Self::VolumeWeightedMedian | Self::Vwap)
    }

    /// Whether the price changes while no trade arrives.
    pub(crate) fn looks_back(self) -> bool {
        !matches!(self, Self::Median)
    }
}

/// A validated symbol with its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolSpec {
    /// The symbol.
    pub symbol: Symbol,
    /// How one price is made from the sources.
    pub method: Method,
    /// The silence after which a source no longer counts, in milliseconds.
    pub stale_after_ms: i64,
    /// The time that averages cover, in microseconds.
    pub window_us: i64,
    /// The distance at which the outlier filter excludes a source, as a fraction.
    pub outlier: Decimal,
}

impl PriceConfig {
    /// Checks all keys.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// All that is wrong, and nothing that only follows from another fault.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let symbols = self.symbol_specs(&mut problems);
        let sources = self.source_specs(&mut problems);
        for source in sources {
            let served = |spec: &&SymbolSpec| source.venue_name(&spec.symbol).is_some();
            let count = symbols.iter().filter(served).count();
            let most = source.kind.limits().most_symbols();
            if count > most {
                problems.push(ConfigError::TooManySymbols {
                    name: source.name,
                    count,
                    most,
                });
            }
        }
        self.check_rates(&symbols, &mut problems);
        self.check_supplied_assets(&symbols, &mut problems);
        let is_supply = |supply: f64| supply > 0.0 && supply <= MAX_SUPPLY;
        let wrong = self
            .supply
            .iter()
            .filter(|(_, supply)| !is_supply(**supply));
        problems.extend(wrong.map(|(base, supply)| ConfigError::Supply(base.clone(), *supply)));
        let supply_source = self.supply_source.iter();
        problems.extend(supply_source.flat_map(SupplySourceConfig::problems));
        let others = [
            milliseconds("prices.watchdog", self.watchdog, MAX_SILENCE).map(drop),
            tls_config(self.ca_file.as_deref())
                .map(drop)
                .map_err(ConfigError::from),
        ];
        problems.extend(others.into_iter().filter_map(Result::err));
        problems
    }

    /// Checks that converted currencies have a rate.
    fn check_rates(&self, symbols: &[SymbolSpec], problems: &mut Vec<ConfigError>) {
        for currency in &self.convert {
            let is_rate = |spec: &SymbolSpec| spec.symbol.base() == currency;
            if !symbols.iter().any(is_rate) && !self.may_have_base(currency) {
                problems.push(ConfigError::NoRate(currency.clone()));
            }
        }
    }

    /// Whether a symbol at fault may be meant as one of this base.
    fn may_have_base(&self, base: &str) -> bool {
        let wrong = self.symbols.iter();
        let mut wrong = wrong.filter(|name| Symbol::parse(name).is_err());
        wrong.any(|name| !base.is_empty() && name.to_ascii_uppercase().starts_with(base))
    }

    /// Checks that each number of coins is that of a symbol's base.
    fn check_supplied_assets(&self, symbols: &[SymbolSpec], problems: &mut Vec<ConfigError>) {
        let bases: HashSet<&str> = symbols.iter().map(|spec| spec.symbol.base()).collect();
        let assets = self.supply.keys();
        let is_unknown =
            |asset: &&String| !bases.contains(asset.as_str()) && !self.may_have_base(asset);
        for asset in assets.filter(is_unknown) {
            let hint = nearest(asset, bases.iter().copied())
                .map(|near| format!(", did you mean {near}?"))
                .unwrap_or_default();
            let asset = asset.clone();
            problems.push(ConfigError::SupplyAsset { asset, hint });
        }
    }

    /// The configured symbol that is nearest to an unknown one, else some of them all.
    fn symbol_hint(&self, name: &str) -> String {
        if let Some(near) = nearest(name, self.symbols.iter().map(String::as_str)) {
            return format!(", did you mean {near:?}?");
        }
        let some: Vec<_> = self.symbols.iter().take(SYMBOLS_OF_HINT).collect();
        match some.is_empty() {
            true => ", which is empty".to_owned(),
            false => format!(", expected one of them, such as {some:?}"),
        }
    }

    /// The symbols that sources have a name or a contract for, and that are not in `symbols`: they
    /// have no effect. One text for each, with the nearest symbol.
    #[must_use]
    pub fn unused_symbols(&self) -> Vec<String> {
        let mut unused = Vec::new();
        for source in &self.source {
            let ids = source.ids.keys().map(|symbol| ("ids", symbol));
            let contracts = source.contracts.keys().map(|symbol| ("contracts", symbol));
            for (key, symbol) in ids.chain(contracts) {
                if !self.symbols.contains(symbol) {
                    unused.push(format!(
                        "prices.source {:?}: {key}.{symbol:?} has no effect: this symbol is not in `prices.symbols`{}",
                        source.known_name(),
                        self.symbol_hint(symbol)
                    ));
                }
            }
        }
        unused
    }

    /// The validated supply source, if one is configured.
    pub(crate) fn supply_spec(&self) -> Result<Option<SupplySpec>, ConfigError> {
        let source = self.supply_source.as_ref();
        source.map(SupplySourceConfig::spec).transpose()
    }

    /// The validated symbols, each once.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn symbols(&self) -> Result<Vec<SymbolSpec>, ConfigError> {
        let mut problems = Vec::new();
        let specs = self.symbol_specs(&mut problems);
        problems.into_iter().next().map_or(Ok(specs), Err)
    }

    /// The symbols, with the faults of all.
    fn symbol_specs(&self, problems: &mut Vec<ConfigError>) -> Vec<SymbolSpec> {
        let stale_after_ms = milliseconds("prices.stale_after", self.stale_after, MAX_SILENCE);
        let stale_after_ms = valid(stale_after_ms, problems);
        let window_us = valid(window_us("prices.window", self.window), problems);
        let outlier = fraction("prices.outlier_percent", self.outlier_percent);
        let outlier = valid(outlier, problems);
        let parsed = self.symbols.iter().map(|name| {
            let symbol = parse_symbol("prices.symbols", name);
            valid(symbol, problems)
        });
        let parsed: Vec<Symbol> = parsed.flatten().collect();
        let mut own = BTreeMap::new();
        for (name, config) in &self.symbol {
            if !self.symbols.contains(name) {
                problems.push(ConfigError::UnknownSymbol(
                    name.clone(),
                    self.symbol_hint(name),
                ));
            }
            let key = |key: &str| format!("prices.symbol.{name:?}.{key}");
            let stale_after_ms = config.stale_after.and_then(|own| {
                valid(
                    milliseconds(&key("stale_after"), own, MAX_SILENCE),
                    problems,
                )
            });
            let window_us = config
                .window
                .and_then(|own| valid(self::window_us(&key("window"), own), problems));
            let outlier = config
                .outlier_percent
                .and_then(|own| valid(fraction(&key("outlier_percent"), own), problems));
            own.insert(
                name.as_str(),
                (config.method, stale_after_ms, window_us, outlier),
            );
        }
        // Without one of them there is a problem already, and nobody reads the specs.
        let whole = (stale_after_ms.unwrap_or(1), window_us.unwrap_or(1));
        let outlier = outlier.unwrap_or(Decimal::ONE);
        let mut known = HashSet::new();
        let once = parsed
            .into_iter()
            .filter(|symbol| known.insert(symbol.clone()));
        let specs = once.map(|symbol| {
            let own = own.get(symbol.as_str()).copied().unwrap_or_default();
            SymbolSpec {
                symbol,
                method: own.0.unwrap_or(self.method),
                stale_after_ms: own.1.unwrap_or(whole.0),
                window_us: own.2.unwrap_or(whole.1),
                outlier: own.3.unwrap_or(outlier),
            }
        });
        specs.collect()
    }

    /// The validated sources: those configured, or all built-in venues.
    ///
    /// # Errors
    /// Names the source and what was expected.
    pub fn sources(&self) -> Result<Vec<SourceSpec>, ConfigError> {
        let mut problems = Vec::new();
        let specs = self.source_specs(&mut problems);
        problems.into_iter().next().map_or(Ok(specs), Err)
    }

    /// The sources, with the faults of all.
    fn source_specs(&self, problems: &mut Vec<ConfigError>) -> Vec<SourceSpec> {
        let built_in = VenueKind::DEFAULT.map(SourceConfig::new);
        let all = match self.source.is_empty() {
            true => &built_in[..],
            false => &self.source,
        };
        if all.len() > MOST_SOURCES {
            problems.push(ConfigError::TooManyTables(all.len()));
        }
        let mut names = HashSet::new();
        let mut specs: Vec<SourceSpec> = Vec::with_capacity(all.len().min(MOST_SOURCES));
        for source in all.iter().take(MOST_SOURCES) {
            if !names.insert(source.known_name()) {
                problems.push(ConfigError::SourceTwice(source.known_name().to_owned()));
            }
            specs.push(source.read(problems));
        }
        specs
    }
}

/// The value, or the problem among the others.
fn valid<T>(result: Result<T, ConfigError>, problems: &mut Vec<ConfigError>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

/// The symbol that a key has.
fn parse_symbol(key: &str, text: &str) -> Result<Symbol, ConfigError> {
    Symbol::parse(text).map_err(|error| ConfigError::Symbol {
        key: key.to_owned(),
        error,
    })
}

/// A duration in milliseconds, from 1 to those of `max`.
fn milliseconds(key: &str, found: Duration, max: Duration) -> Result<i64, ConfigError> {
    if found > max {
        return Err(ConfigError::TooLong(key.to_owned(), found, max));
    }
    match i64::try_from(found.as_millis()) {
        Ok(0) => Err(ConfigError::TooShort(key.to_owned(), found)),
        Ok(ms) => Ok(ms),
        // Longer than any `max`.
        Err(_) => Err(ConfigError::TooLong(key.to_owned(), found, max)),
    }
}

/// A window in microseconds.
fn window_us(key: &str, window: Duration) -> Result<i64, ConfigError> {
    Ok(milliseconds(key, window, MAX_WINDOW)?.saturating_mul(1_000))
}

fn fraction(key: &str, percent: Decimal) -> Result<Decimal, ConfigError> {
    if percent <= Decimal::ZERO || percent >= Decimal::ONE_HUNDRED {
        return Err(ConfigError::Outlier(key.to_owned(), percent));
    }
    Ok(percent / Decimal::ONE_HUNDRED)
}
