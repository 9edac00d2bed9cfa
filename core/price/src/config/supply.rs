//! Supply source configuration: `[prices.supply_source]`, which returns numbers of coins.

use std::time::Duration;

use serde::Deserialize;
use tidewire_stream::quotable_url;

use super::{ConfigError, milliseconds, source::is_url};

/// The largest value of `most_bytes`, which bounds memory.
const MOST_BYTES: usize = 64 << 20;

/// The longest time between two requests. Supplies change within a month.
const MAX_INTERVAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The longest time of a request.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// `[prices.supply_source]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupplySourceConfig {
    /// The address. It returns a JSON object of assets and numbers of coins.
    pub url: String,
    /// The time between two requests.
    #[serde(default = "default_interval", with = "humantime_serde")]
    pub interval: Duration,
    /// The time after which a request is given up.
    #[serde(default = "default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// The longest response, in bytes.
    #[serde(default = "mebibyte")]
    pub most_bytes: usize,
}

fn default_interval() -> Duration {
    Duration::from_secs(3_600)
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn mebibyte() -> usize {
    1 << 20
}

/// A validated supply source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SupplySpec {
    pub(crate) url: String,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) most_bytes: usize,
}

impl SupplySourceConfig {
    /// The validated source.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub(crate) fn spec(&self) -> Result<SupplySpec, ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)?;
        Ok(SupplySpec {
            url: self.url.clone(),
            interval: self.interval,
            timeout: self.timeout,
            most_bytes: self.most_bytes,
        })
    }

    /// All that is wrong.
    pub(super) fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        if !is_url(&self.url, ["http", "https"]) {
            problems.push(ConfigError::SupplyUrl(quotable_url(&self.url)));
        }
        if !(1..=MOST_BYTES).contains(&self.most_bytes) {
            problems.push(ConfigError::SupplyBytes(self.most_bytes, MOST_BYTES));
        }
        for (key, found, max) in [
            ("interval", self.interval, MAX_INTERVAL),
            ("timeout", self.timeout, MAX_TIMEOUT),
        ] {
            let key = format!("prices.supply_source.{key}");
            problems.extend(milliseconds(&key, found, max).err());
        }
        problems
    }
}
