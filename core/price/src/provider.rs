//! Channel providers of the price engine: `prices`, `market` and `candles`.
//!
//! Configured symbols are priced all the time, so a subscription activates nothing.

use std::sync::Arc;

use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{ChannelProvider, StreamError};

use crate::{Candles, CandlesError, PriceEngine};

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

impl Candles {
    /// The provider of the channels `candles:{symbol}:{interval}`.
    #[must_use]
    pub fn channel_provider(&self) -> (&'static str, Arc<dyn ChannelProvider>) {
        ("candles", Arc::new(CandlesProvider(self.clone())))
    }
}

/// Channels `candles:{symbol}:{interval}`.
struct CandlesProvider(Candles);

impl ChannelProvider for CandlesProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        let checked = self.0.check_channel(rest);
        checked.map_err(|error| {
            let text = match error {
                CandlesError::Interval(_) => {
                    format!("there is no channel candles:{rest}, expected SYMBOL and one of 1m, 5m, 1h, 1d, for example candles:BTC-USD:1m")
                }
                error => error.to_string(),
            };
            StreamError::new(ErrorCode::NotFound, text)
        })
    }
}
