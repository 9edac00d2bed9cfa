//! Venues: symbol names, subscriptions, limits and parsers of each exchange and oracle.
//!
//! Each venue has one module: a pure parser and its requests. [`VenueKind`] dispatches to them.
//! Connections live in `source`, and [`aggregate`](crate::aggregate) turns the events into prices.

mod binance;
mod bitstamp;
mod bybit;
mod coinbase;
mod coinbase_advanced;
mod contract;
mod event;
mod field;
mod kraken;
mod okx;
pub(crate) mod pyth;
mod side_fields;
mod subscribe;
#[cfg(test)]
mod testing;

use std::time::Duration;

pub use contract::{Contract, ContractError};
pub(crate) use event::excerpt;
pub use event::{
    Events, FaultKind, ParseError, Size, Stamp, Ticker, Trade, TradeId, VenueEvent, Volume,
};
use subscribe::Channel;
pub use subscribe::{Refusal, RefusalScope, SubscribeRequest};

use crate::Symbol;

/// A venue with a known protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VenueKind {
    /// Binance spot.
    Binance,
    /// Coinbase Exchange.
    Coinbase,
    /// Kraken, version 2 of its WebSocket.
    Kraken,
    /// OKX, version 5.
    Okx,
    /// Bybit, version 5, spot.
    Bybit,
    /// Bitstamp, version 2.
    Bitstamp,
    /// Coinbase Advanced Trade. The same market as Coinbase Exchange.
    CoinbaseAdvanced,
    /// Pyth Hermes: an oracle, not a market.
    Pyth,
}

/// The error of [`VenueKind::parse_name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no kind of source {name:?}, expected one of {known}")]
pub struct VenueKindError {
    name: String,
    known: String,
}

/// The transport of a venue's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VenueTransport {
    /// A WebSocket.
    WebSocket,
    /// Server-Sent Events over HTTP.
    ServerSentEvents,
}

/// A venue's limits for its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The pause between two requests on a connection.
    pub request_spacing: Duration,
    /// The pause between two new connections.
    pub connect_spacing: Duration,
    /// Symbols for each connection, if limited.
    pub symbols: Option<usize>,
    /// Connections at once.
    pub connections: usize,
}

impl Limits {
    /// For venues that document no limits.
    const NONE: Self = Self {
        request_spacing: Duration::from_millis(100),
        connect_spacing: Duration::from_millis(500),
        symbols: None,
        connections: 20,
    };

    /// Symbols that all connections together can carry.
    #[must_use]
    pub fn most_symbols(&self) -> usize {
        self.symbols.map_or(usize::MAX, |symbols| {
            symbols.saturating_mul(self.connections)
        })
    }
}

/// A frame that keeps a connection open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// The time between two of them.
    pub interval: Duration,
    /// The frame.
    pub frame: &'static str,
}

impl VenueKind {
    /// All venues.
    pub const ALL: [Self; 8] = [
        Self::Binance,
        Self::Coinbase,
        Self::Kraken,
        Self::Okx,
        Self::Bybit,
        Self::Bitstamp,
        Self::CoinbaseAdvanced,
        Self::Pyth,
    ];

    /// The venues of a server that configures none: each market once.
    pub const DEFAULT: [Self; 7] = [
        Self::Binance,
        Self::Coinbase,
        Self::Kraken,
        Self::Okx,
        Self::Bybit,
        Self::Bitstamp,
        Self::Pyth,
    ];

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Binance => "binance",
            Self::Coinbase => "coinbase",
            Self::Kraken => "kraken",
            Self::Okx => "okx",
            Self::Bybit => "bybit",
            Self::Bitstamp => "bitstamp",
            Self::CoinbaseAdvanced => "coinbase_advanced",
            Self::Pyth => "pyth",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// There is no such kind; the error lists the known names.
    pub fn parse_name(name: &str) -> Result<Self, VenueKindError> {
        Self::from_name(name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            VenueKindError {
                name: excerpt(name),
                known,
            }
        })
    }

    /// The venue's own URL.
    #[must_use]
    pub fn url(self) -> &'static str {
        match self {
            Self::Binance => binance::URL,
            Self::Coinbase => coinbase::URL,
            Self::Kraken => kraken::URL,
            Self::Okx => okx::URL,
            Self::Bybit => bybit::URL,
            Self::Bitstamp => bitstamp::URL,
            Self::CoinbaseAdvanced => coinbase_advanced::URL,
            Self::Pyth => pyth::URL,
        }
    }

    /// The venue's name of a symbol, as its frames spell it. `None` if the venue does not trade it.
    #[must_use]
    pub fn venue_name(self, symbol: &Symbol) -> Option<String> {
        match self {
            Self::Binance => binance::venue_name(symbol),
            Self::Coinbase => coinbase::venue_name(symbol),
            Self::Kraken => kraken::venue_name(symbol),
            Self::Okx => okx::venue_name(symbol),
            Self::Bybit => bybit::venue_name(symbol),
            Self::Bitstamp => bitstamp::venue_name(symbol),
            Self::CoinbaseAdvanced => coinbase_advanced::venue_name(symbol),
            Self::Pyth => pyth::venue_name(symbol),
        }
    }

    /// The requests that subscribe to these markets, by the venue's names.
    #[must_use]
    pub fn subscribe(self, names: &[String]) -> Vec<SubscribeRequest> {
        if names.is_empty() {
            return Vec::new();
        }
        let channels = self.channels().iter();
        channels
            .flat_map(|channel| channel.requests(names))
            .collect()
    }

    fn channels(self) -> &'static [Channel] {
        match self {
            Self::Binance => &binance::CHANNELS,
            Self::Coinbase => &coinbase::CHANNELS,
            Self::Kraken => &kraken::CHANNELS,
            Self::Okx => &okx::CHANNELS,
            Self::Bybit => &bybit::CHANNELS,
            Self::Bitstamp => &bitstamp::CHANNELS,
            Self::CoinbaseAdvanced => &coinbase_advanced::CHANNELS,
            // The URL is the subscription.
            Self::Pyth => &[],
        }
    }

    /// Whether each market of a request has a response of its own.
    #[must_use]
    pub(crate) fn answers_each_market(self) -> bool {
        matches!(self, Self::Kraken | Self::Okx)
    }

    /// The frame of a request. Venues that can repeat the number in their response do.
    #[must_use]
    pub fn subscribe_frame(self, request: &SubscribeRequest, id: u64) -> String {
        let SubscribeRequest { channel, names } = request;
        let frame = match self {
            Self::Binance => binance::subscribe(names, id),
            Self::Coinbase => coinbase::subscribe(names),
            Self::Kraken => kraken::subscribe(channel, names, id),
            Self::Okx => okx::subscribe(names, id),
            Self::Bybit => bybit::subscribe(names, id),
            Self::Bitstamp => bitstamp::subscribe(names),
            Self::CoinbaseAdvanced => coinbase_advanced::subscribe(channel, names),
            Self::Pyth => serde_json::Value::Null,
        };
        frame.to_string()
    }

    /// The venue's limits.
    #[must_use]
    pub fn limits(self) -> Limits {
        match self {
            Self::Binance => binance::LIMITS,
            Self::Coinbase => coinbase::LIMITS,
            Self::Kraken => kraken::LIMITS,
            Self::Okx => okx::LIMITS,
            Self::Bybit => bybit::LIMITS,
            Self::Bitstamp => bitstamp::LIMITS,
            Self::CoinbaseAdvanced => coinbase_advanced::LIMITS,
            Self::Pyth => pyth::LIMITS,
        }
    }

    /// The frame that keeps a connection open, if the venue expects one. WebSocket pings are always
    /// answered.
    #[must_use]
    pub fn keep_alive(self) -> Option<KeepAlive> {
        match self {
            // Binance sends pings, Coinbase has a heartbeat channel, and an event stream accepts no
            // frames.
            Self::Binance | Self::Coinbase | Self::CoinbaseAdvanced | Self::Pyth => None,
            Self::Kraken => Some(kraken::KEEP_ALIVE),
            Self::Okx => Some(okx::KEEP_ALIVE),
            Self::Bybit => Some(bybit::KEEP_ALIVE),
            Self::Bitstamp => Some(bitstamp::KEEP_ALIVE),
        }
    }

    /// Whether its tickers have the change and the volume of 24 hours.
    #[must_use]
    pub(crate) fn reports_24h(self) -> bool {
        !matches!(self, Self::Bitstamp | Self::Pyth)
    }

    /// The transport of its frames.
    #[must_use]
    pub fn transport(self) -> VenueTransport {
        match self {
            Self::Pyth => VenueTransport::ServerSentEvents,
            _ => VenueTransport::WebSocket,
        }
    }

    /// The URL of a connection that carries these markets, for a venue at `url`.
    #[must_use]
    pub fn stream_url(self, url: &str, names: &[String]) -> String {
        match self {
            Self::Pyth => pyth::stream_url(url, names),
            _ => url.to_owned(),
        }
    }

    /// Parses a frame. Never panics, even on a malformed frame.
    ///
    /// # Errors
    /// The frame differs from the venue's documentation. Where a frame holds several entries, an
    /// unusable one becomes a [`VenueEvent::Fault`] between the others.
    pub fn parse(self, frame: &[u8]) -> Result<Events<'_>, ParseError> {
        match self {
            Self::Binance => binance::parse(frame),
            Self::Coinbase => coinbase::parse(frame),
            Self::Kraken => kraken::parse(frame),
            Self::Okx => okx::parse(frame),
            Self::Bybit => bybit::parse(frame),
            Self::Bitstamp => bitstamp::parse(frame),
            Self::CoinbaseAdvanced => coinbase_advanced::parse(frame),
            Self::Pyth => pyth::parse(frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_have_their_venue_names() {
        let names = |symbol: &str| {
            let symbol = Symbol::parse(symbol).unwrap();
            VenueKind::ALL.map(|kind| kind.venue_name(&symbol).unwrap_or_default())
        };
        let btc = "e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43";
        // Tether is not the dollar, and some venues have no dollars.
        assert_eq!(
            names("BTC-USD"),
            ["", "BTC-USD", "BTC/USD", "", "", "btcusd", "BTC-USD", btc]
        );
        assert_eq!(
            names("BTC-USDT"),
            [
                "BTCUSDT", "BTC-USDT", "BTC/USDT", "BTC-USDT", "BTCUSDT", "btcusdt", "BTC-USDT", ""
            ]
        );
        assert_eq!(
            names("SOL-ETH"),
            ["SOLETH", "", "", "SOL-ETH", "SOLETH", "", "", ""]
        );
    }

    #[test]
    fn nothing_is_subscribed_to_without_names() {
        for kind in VenueKind::ALL {
            assert!(kind.subscribe(&[]).is_empty());
        }
    }
}
