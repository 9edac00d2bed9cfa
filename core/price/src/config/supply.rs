//! `[prices.supply_source]`: who is asked how many coins there are.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, above_zero, source::is_url};

/// The longest answer that may be allowed, in bytes.
const MOST_BYTES: usize = 64 << 20;

/// `[prices.supply_source]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupplySourceConfig {
    /// Where it is. It answers with a JSON object of assets and numbers of coins.
    pub url: String,
    /// How often it is asked, in milliseconds.
    #[serde(default = "hour_ms")]
    pub interval_ms: u64,
    /// For how long it may take to answer, in milliseconds.
    #[serde(default = "ten_seconds_ms")]
    pub timeout_ms: u64,
    /// How long its answer may be, in bytes.
    #[serde(default = "mebibyte")]
    pub most_bytes: usize,
}

fn hour_ms() -> u64 {
    3_600_000
}

fn ten_seconds_ms() -> u64 {
    10_000
}

fn mebibyte() -> usize {
    1 << 20
}

/// A source of supplies, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SupplySpec {
    pub(crate) url: String,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) most_bytes: usize,
}

impl SupplySourceConfig {
    /// The source, checked.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub(crate) fn spec(&self) -> Result<SupplySpec, ConfigError> {
        if !is_url(&self.url, ["http", "https"]) {
            return Err(ConfigError::SupplyUrl(self.url.clone()));
        }
        if !(1..=MOST_BYTES).contains(&self.most_bytes) {
            return Err(ConfigError::SupplyBytes(self.most_bytes, MOST_BYTES));
        }
        above_zero("prices.supply_source.interval_ms", self.interval_ms)?;
        above_zero("prices.supply_source.timeout_ms", self.timeout_ms)?;
        Ok(SupplySpec {
            url: self.url.clone(),
            interval: Duration::from_millis(self.interval_ms),
            timeout: Duration::from_millis(self.timeout_ms),
            most_bytes: self.most_bytes,
        })
    }
}
