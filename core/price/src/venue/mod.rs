//! Venues: how each names its symbols, is asked for them, and says what happens.
//!
//! One module a venue, each a pure parser and its subscribe frames. Connections
//! live in [`source`](crate::source).

pub mod binance;
pub mod coinbase;
pub mod kraken;

use std::time::Duration;

use rust_decimal::Decimal;
use tidewire_proto::v1::TradeSide;

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

/// What a venue says.
#[derive(Debug, Clone, PartialEq)]
pub enum VenueEvent<'a> {
    /// A trade.
    Trade(Trade<'a>),
    /// A summary of the market.
    Ticker(Ticker<'a>),
    /// A subscription is accepted.
    Accepted,
    /// A request is refused, with the venue's reason.
    Refused(String),
    /// The venue closes the connection soon.
    Closing,
    /// A sign of life, or something that is not used.
    Nothing,
}

/// A trade.
#[derive(Debug, Clone, PartialEq)]
pub struct Trade<'a> {
    /// The venue's name of the symbol.
    pub name: std::borrow::Cow<'a, str>,
    /// The venue's number of the trade.
    pub id: u64,
    /// The price of one base in quote, above zero.
    pub price: Decimal,
    /// How much, in base, above zero.
    pub size: Decimal,
    /// The taker's side.
    pub side: TradeSide,
    /// The venue's time, in milliseconds since the Unix epoch.
    pub time_ms: Option<i64>,
}

/// A summary of the market.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ticker<'a> {
    /// The venue's name of the symbol.
    pub name: std::borrow::Cow<'a, str>,
    /// The price of the last trade.
    pub last: Option<Decimal>,
    /// The best offers, to buy and to sell.
    pub bid: Option<Decimal>,
    /// The best offer to sell.
    pub ask: Option<Decimal>,
    /// The change over 24 hours, in percent.
    pub change_percent: Option<f64>,
    /// The volume of 24 hours, in quote.
    pub volume_quote: Option<f64>,
    /// The venue's time, in milliseconds since the Unix epoch.
    pub time_ms: Option<i64>,
}

/// Why a frame cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct ParseError {
    /// The kind of fault; there are few, so that they can be counted.
    pub kind: FaultKind,
    /// What was wrong.
    pub detail: String,
}

/// The kinds of faults in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Not JSON.
    Malformed,
    /// A field has another type than documented, or is missing.
    WrongType,
    /// A price or size that cannot be.
    BadValue,
    /// A symbol that was not asked for.
    UnknownSymbol,
}

impl FaultKind {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongType => "wrong_type",
            Self::BadValue => "bad_value",
            Self::UnknownSymbol => "unknown_symbol",
        }
    }
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<serde_json::Error> for ParseError {
    fn from(error: serde_json::Error) -> Self {
        let kind = if error.is_data() {
            FaultKind::WrongType
        } else {
            FaultKind::Malformed
        };
        Self {
            kind,
            detail: error.to_string(),
        }
    }
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
            Self::Binance => "wss://stream.binance.com:9443/stream",
            Self::Coinbase => "wss://ws-feed.exchange.coinbase.com",
            Self::Kraken => "wss://ws.kraken.com/v2",
        }
    }

    /// The venue's name of a symbol, as its frames spell it. None if it does not
    /// trade against that quote.
    #[must_use]
    pub fn venue_name(self, symbol: &Symbol) -> Option<String> {
        let (base, quote) = (symbol.base(), symbol.quote());
        match self {
            // Binance has no US dollars; Tether is another currency.
            Self::Binance => (quote != "USD").then(|| format!("{base}{quote}")),
            Self::Coinbase => {
                matches!(quote, "USD" | "EUR" | "GBP" | "BTC").then(|| symbol.as_str().to_owned())
            }
            Self::Kraken => matches!(quote, "USD" | "EUR" | "GBP" | "BTC" | "USDT" | "USDC")
                .then(|| format!("{base}/{quote}")),
        }
    }

    /// The frames that ask for these symbols, by the venue's names.
    #[must_use]
    pub fn subscribe(self, names: &[String]) -> Vec<String> {
        match self {
            Self::Binance => binance::subscribe(names),
            Self::Coinbase => coinbase::subscribe(names),
            Self::Kraken => kraken::subscribe(names),
        }
    }

    /// A frame that keeps the connection open, where the venue wants one.
    #[must_use]
    pub fn keep_alive(self) -> Option<(Duration, &'static str)> {
        match self {
            // Binance pings by itself, Coinbase is kept by its heartbeat channel.
            Self::Binance | Self::Coinbase => None,
            Self::Kraken => Some((Duration::from_secs(30), r#"{"method":"ping"}"#)),
        }
    }

    /// What a frame says.
    ///
    /// # Errors
    /// The frame is not what the venue documents.
    pub fn parse<'a>(
        self,
        frame: &'a str,
        events: &mut Vec<VenueEvent<'a>>,
    ) -> Result<(), ParseError> {
        match self {
            Self::Binance => binance::parse(frame, events),
            Self::Coinbase => coinbase::parse(frame, events),
            Self::Kraken => kraken::parse(frame, events),
        }
    }
}

/// A number in text that is above zero.
fn positive(field: &str, text: &str) -> Result<Decimal, ParseError> {
    let bad = || ParseError {
        kind: FaultKind::BadValue,
        detail: format!("`{field}` is {text:?}, expected a number above zero"),
    };
    let value = if text.contains(['e', 'E']) {
        Decimal::from_scientific(text).map_err(|_| bad())?
    } else {
        text.parse().map_err(|_| bad())?
    };
    if value > Decimal::ZERO {
        Ok(value)
    } else {
        Err(bad())
    }
}

/// A number in text, where the venue gives one that makes sense.
fn maybe_positive(text: Option<&str>) -> Option<Decimal> {
    text.and_then(|text| positive("", text).ok())
}

/// A statistic in text.
fn number(text: Option<&str>) -> Option<f64> {
    text.and_then(|text| text.parse().ok())
        .filter(|number: &f64| number.is_finite())
}

/// Milliseconds since the Unix epoch of an RFC 3339 time in UTC, as Coinbase and
/// Kraken write it: `2024-08-08T23:54:17.102938Z`.
fn rfc3339_ms(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !in_range || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days from civil, after Howard Hinnant's `chrono`-compatible algorithm.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted / 400;
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(rfc3339_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            rfc3339_ms("2024-08-08T23:54:17.102938Z"),
            Some(1_723_161_257_102)
        );
        assert_eq!(
            rfc3339_ms("2024-02-29T12:00:00.5Z"),
            Some(1_709_208_000_500)
        );
        for bad in [
            "",
            "2024-08-08",
            "2024-13-08T00:00:00Z",
            "2024-08-08T00:00:00.xZ",
            "x-08-08T00:00:00Z",
        ] {
            assert_eq!(rfc3339_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn symbols_have_their_venue_names() {
        let symbol = Symbol::parse("BTC-USD").unwrap();
        assert_eq!(VenueKind::Binance.venue_name(&symbol), None);
        assert_eq!(VenueKind::Coinbase.venue_name(&symbol).unwrap(), "BTC-USD");
        assert_eq!(VenueKind::Kraken.venue_name(&symbol).unwrap(), "BTC/USD");
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        assert_eq!(VenueKind::Binance.venue_name(&symbol).unwrap(), "BTCUSDT");
    }
}
