//! Helpers of this crate's tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod test_venue;

use std::sync::Arc;

use figment::{
    Figment,
    providers::{Format as _, Toml},
};
use parking_lot::Mutex;
use tidewire_price::PriceConfig;
use tidewire_proto::v1::{MarketOverview, PriceUpdate};
use tidewire_stream::{ChannelName, Event, Publisher};

/// When the tests take place, in microseconds since the Unix epoch.
pub const NOW_US: i64 = 1_750_000_000_000_000;

/// A publisher that keeps all publications.
#[derive(Default)]
pub struct CapturingPublisher(Mutex<Vec<(String, Event)>>);

impl Publisher for CapturingPublisher {
    fn publish(&self, channel: &ChannelName, event: Event) {
        self.0.lock().push((channel.as_str().to_owned(), event));
    }
}

impl CapturingPublisher {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn all(&self) -> Vec<(String, Event)> {
        self.0.lock().clone()
    }

    /// The prices published on a channel.
    pub fn prices(&self, channel: &str) -> Vec<PriceUpdate> {
        let on_channel = |(name, event): &(String, Event)| match event {
            Event::Price(update) if name == channel => Some(update.clone()),
            _ => None,
        };
        self.0.lock().iter().filter_map(on_channel).collect()
    }

    pub fn overviews(&self) -> Vec<MarketOverview> {
        let overview = |(_, event): &(String, Event)| match event {
            Event::MarketOverview(overview) => Some(overview.clone()),
            _ => None,
        };
        self.0.lock().iter().filter_map(overview).collect()
    }
}

/// Parses a configuration, without `prices.` before each key.
pub fn read_config(text: &str) -> Result<PriceConfig, String> {
    Figment::from(Toml::string(text))
        .extract()
        .map_err(|error| error.to_string())
}

pub fn config(text: &str) -> PriceConfig {
    read_config(text).unwrap()
}

/// A price as text.
pub fn price(update: &PriceUpdate) -> &str {
    update.price.as_ref().map_or("null", |price| &price.value)
}

pub fn coinbase_match(id: u64, symbol: &str, price: &str) -> String {
    format!(
        r#"{{"type":"match","trade_id":{id},"side":"sell","size":"0.5","price":"{price}","product_id":"{symbol}","time":"2025-06-15T15:06:40.000001Z"}}"#
    )
}

pub fn coinbase_ticker(id: u64, symbol: &str, price: &str) -> String {
    format!(
        r#"{{"type":"ticker","trade_id":{id},"price":"{price}","open_24h":"100","volume_24h":"2","best_bid":"99","best_ask":"101","product_id":"{symbol}","time":"2025-06-15T15:06:40.000002Z"}}"#
    )
}

pub fn kraken_trade(id: u64, symbol: &str, price: &str) -> String {
    format!(
        r#"{{"channel":"trade","type":"update","data":[{{"symbol":"{symbol}","side":"buy","price":{price},"qty":1.5,"ord_type":"market","trade_id":{id},"timestamp":"2025-06-15T15:06:40.000003Z"}}]}}"#
    )
}

pub fn binance_trade(id: u64, symbol: &str, price: &str) -> String {
    format!(
        r#"{{"stream":"x@trade","data":{{"e":"trade","E":1750000000000,"s":"{symbol}","t":{id},"p":"{price}","q":"1","T":1750000000000,"m":true,"M":true}}}}"#
    )
}

/// A trade at Bitstamp; `name` is the venue's own.
pub fn bitstamp_trade(id: u64, name: &str, price: &str, size: &str) -> String {
    format!(
        r#"{{"data":{{"id":{id},"amount_str":"{size}","price_str":"{price}","type":0,"microtimestamp":"1750000000000000"}},"channel":"live_trades_{name}","event":"trade"}}"#
    )
}
