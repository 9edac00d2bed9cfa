//! Venues: how each names its symbols, is asked for them, and says what happens.
//!
//! One module a venue: a pure parser and its requests. [`VenueKind`] is the face
//! of all of them. Connections live in `source`; what the events mean for prices
//! is decided in [`aggregate`](crate::aggregate).

mod binance;
mod coinbase;
mod event;
mod field;
mod kraken;

use std::time::Duration;

pub use event::{Events, FaultKind, ParseError, Ticker, Trade, TradeId, VenueEvent};
pub(crate) use field::excerpt;

use crate::Symbol;

/// A venue whose protocol is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VenueKind {
    /// Binance spot.
    Binance,
    /// Coinbase Exchange.
    Coinbase,
    /// Kraken, version 2 of its WebSocket.
    Kraken,
}

/// What a venue lets one connection do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The pause between two requests.
    pub request_spacing: Duration,
    /// How many symbols a connection carries, if that is limited.
    pub symbols: Option<usize>,
}

/// What keeps a connection open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// How often it is sent.
    pub interval: Duration,
    /// The frame.
    pub frame: &'static str,
}

impl VenueKind {
    /// All venues.
    pub const ALL: [Self; 3] = [Self::Binance, Self::Coinbase, Self::Kraken];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Binance => "binance",
            Self::Coinbase => "coinbase",
            Self::Kraken => "kraken",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Where it is.
    #[must_use]
    pub fn url(self) -> &'static str {
        match self {
            Self::Binance => binance::URL,
            Self::Coinbase => coinbase::URL,
            Self::Kraken => kraken::URL,
        }
    }

    /// The venue's name of a symbol, as its frames spell it. None if it does not
    /// trade against that quote.
    #[must_use]
    pub fn venue_name(self, symbol: &Symbol) -> Option<String> {
        match self {
            Self::Binance => binance::venue_name(symbol),
            Self::Coinbase => coinbase::venue_name(symbol),
            Self::Kraken => kraken::venue_name(symbol),
        }
    }

    /// The frames that ask for these symbols, by the venue's names.
    #[must_use]
    pub fn subscribe(self, names: &[String]) -> Vec<String> {
        if names.is_empty() {
            return Vec::new();
        }
        match self {
            Self::Binance => binance::subscribe(names),
            Self::Coinbase => coinbase::subscribe(names),
            Self::Kraken => kraken::subscribe(names),
        }
    }

    /// The frames that ask again after a refusal. Some venues refuse a whole
    /// request for one name: it is taken out of `names`, and the rest is asked for.
    #[must_use]
    pub fn subscribe_again(self, names: &mut Vec<String>, refusal: &str) -> Vec<String> {
        match self {
            Self::Coinbase => coinbase::subscribe_again(names, refusal),
            // Kraken answers for each name, Binance does not refuse unknown ones.
            Self::Binance | Self::Kraken => Vec::new(),
        }
    }

    /// What a connection may do.
    #[must_use]
    pub fn limits(self) -> Limits {
        match self {
            Self::Binance => binance::LIMITS,
            Self::Coinbase => coinbase::LIMITS,
            Self::Kraken => kraken::LIMITS,
        }
    }

    /// What keeps a connection open, where the venue wants anything. Pings of the
    /// WebSocket are answered everywhere.
    #[must_use]
    pub fn keep_alive(self) -> Option<KeepAlive> {
        match self {
            // Binance pings by itself, Coinbase is kept by its heartbeat channel.
            Self::Binance | Self::Coinbase => None,
            Self::Kraken => Some(kraken::KEEP_ALIVE),
        }
    }

    /// What a frame says. Never panics, whatever the frame holds.
    ///
    /// # Errors
    /// The frame is not what the venue documents. Where a frame holds several
    /// entries, one that cannot be used is a [`VenueEvent::Fault`] between them.
    pub fn parse(self, frame: &[u8]) -> Result<Events<'_>, ParseError> {
        match self {
            Self::Binance => binance::parse(frame),
            Self::Coinbase => coinbase::parse(frame),
            Self::Kraken => kraken::parse(frame),
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
        // Tether is not the dollar, and Binance has no dollars.
        assert_eq!(names("BTC-USD"), ["", "BTC-USD", "BTC/USD"]);
        assert_eq!(names("BTC-USDT"), ["BTCUSDT", "BTC-USDT", "BTC/USDT"]);
        assert_eq!(names("SOL-ETH"), ["SOLETH", "", ""]);
    }

    #[test]
    fn nothing_is_asked_for_without_names() {
        for kind in VenueKind::ALL {
            assert!(kind.subscribe(&[]).is_empty());
        }
    }
}
