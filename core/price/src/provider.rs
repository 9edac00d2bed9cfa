//! Channel providers of the price engine: `prices` and `market`.
//!
//! Configured symbols are priced all the time, so a subscription activates nothing.

use std::sync::Arc;

use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{ChannelProvider, StreamError};

use crate::PriceEngine;

impl PriceEngine {
    /// The providers of the engine's channels, by namespace.
    #[must_use]
    pub fn channel_providers(&self) -> [(&'static str, Arc<dyn ChannelProvider>); 2] {
        [
            ("prices", Arc::new(PricesProvider(self.clone()))),
            ("market", Arc::new(MarketProvider)),
        ]
    }
}

/// Channels `prices:{symbol}` and `prices:{symbol}@{source}`.
struct PricesProvider(PriceEngine);

impl ChannelProvider for PricesProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        let checked = self.0.check_channel(rest);
        checked.map_err(|error| StreamError::new(ErrorCode::NotFound, error.to_string()))
    }
}

/// The channel `market:overview`.
struct MarketProvider;

impl ChannelProvider for MarketProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        match rest {
            "overview" => Ok(()),
            _ => Err(StreamError::new(
                ErrorCode::NotFound,
                "there is no such channel, expected market:overview",
            )),
        }
    }
}
