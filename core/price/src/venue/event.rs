//! Venue events: trades, tickers and responses in one vocabulary, and why a frame is unusable.

use std::{borrow::Cow, fmt};

use rust_decimal::Decimal;
use smallvec::SmallVec;
use tidewire_proto::v1::TradeSide;

use super::subscribe::Refusal;

/// The events of one frame. Most frames hold one.
pub type Events<'a> = SmallVec<[VenueEvent<'a>; 1]>;

/// One event of a venue.
#[derive(Debug, Clone, PartialEq)]
pub enum VenueEvent<'a> {
    /// A trade.
    Trade(Trade<'a>),
    /// A summary of the market.
    Ticker(Ticker<'a>),
    /// A subscription was accepted, with the number of its request if the venue repeats it.
    Ack(Option<u64>),
    /// A heartbeat, without market data.
    Heartbeat,
    /// The venue refused a request.
    Error(Refusal),
    /// One entry of a frame is unusable; the others are not.
    Fault(ParseError),
    /// A valid frame that is not used.
    Ignored,
    /// The venue will close the connection soon.
    Shutdown,
}

impl VenueEvent<'_> {
    /// Whether it is market data. Heartbeats and responses are not.
    #[must_use]
    pub fn is_data(&self) -> bool {
        matches!(self, Self::Trade(_) | Self::Ticker(_))
    }
}

/// The venue's number of a trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TradeId {
    /// A single trade. Numbers rise by one.
    Single(u64),
    /// Several trades sent as one, by their first and last number.
    Range {
        /// The first number.
        first: u64,
        /// The last number.
        last: u64,
    },
    /// A trade at a venue whose numbers rise with holes.
    Sparse(u64),
    /// A trade whose venue identifies it by a text, of which this is a hash. It has no order.
    Hashed(u64),
    /// Several trades of one taker at one price, sent as one. These numbers are independent of
    /// those of single trades.
    Aggregate(u64),
}

/// A trade.
#[derive(Debug, Clone, PartialEq)]
pub struct Trade<'a> {
    /// The venue's name of the symbol.
    pub name: Cow<'a, str>,
    /// The venue's number.
    pub id: TradeId,
    /// The price of one base in quote, above zero.
    pub price: Decimal,
    /// The size, above zero.
    pub size: Size,
    /// The taker's side.
    pub side: TradeSide,
    /// The venue's time, in microseconds since the Unix epoch.
    pub venue_time_us: Option<i64>,
    /// The venue's names of fields that are not as documented. Those that cannot be read are left
    /// out.
    pub unexpected: Vec<&'static str>,
}

/// The size of a trade, in the unit of its market.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// In base, as on spot markets.
    Base(Decimal),
    /// In quote: contracts of one unit of it.
    Quote(Decimal),
    /// In contracts, whose value is not in the frames.
    Contracts(Decimal),
}

impl Size {
    /// The number without its unit.
    #[must_use]
    pub fn number(self) -> Decimal {
        let (Self::Base(number) | Self::Quote(number) | Self::Contracts(number)) = self;
        number
    }
}

/// The volume of 24 hours, in the units that the venue sends. Approximate by nature.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Volume {
    /// In quote.
    pub quote: Option<f64>,
    /// In base.
    pub base: Option<f64>,
    /// In contracts.
    pub contracts: Option<f64>,
}

impl Volume {
    /// A volume in quote, if the venue sends it.
    #[must_use]
    pub fn in_quote(quote: Option<f64>) -> Self {
        Self {
            quote,
            ..Self::default()
        }
    }

    /// A volume in contracts, and in base, if the venue sends them.
    #[must_use]
    pub fn in_contracts(contracts: Option<f64>, base: Option<f64>) -> Self {
        Self {
            quote: None,
            base,
            contracts,
        }
    }

    /// A volume in base, if the venue sends it.
    #[must_use]
    pub fn in_base(base: Option<f64>) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }
}

/// A summary of the market. A field that the venue leaves out is `None`, and its earlier value
/// stays valid.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ticker<'a> {
    /// The venue's name of the symbol.
    pub name: Cow<'a, str>,
    /// The price of the last trade, above zero.
    pub last: Option<Decimal>,
    /// The number of that trade; at an oracle, of the publication.
    pub last_id: Option<u64>,
    /// The best bid.
    pub bid: Option<Decimal>,
    /// The best ask.
    pub ask: Option<Decimal>,
    /// The change over 24 hours, in percent.
    pub change_percent: Option<f64>,
    /// The volume of 24 hours.
    pub volume: Volume,
    /// The venue's time.
    pub stamp: Option<Stamp>,
    /// The venue's names of fields that are not as documented. Those that cannot be read are left
    /// out.
    pub unexpected: Vec<&'static str>,
}

/// The venue's time in a ticker, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// When the venue sent the ticker.
    Sent(i64),
    /// When the last trade was made, or the last change. The ticker is current, however long ago
    /// that was.
    Formed(i64),
}

/// Why a frame is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct ParseError {
    /// The kind of fault, for counting.
    pub kind: FaultKind,
    /// The faulty value, and what was expected.
    pub detail: String,
}

/// The kinds of faults in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum FaultKind {
    /// Not JSON.
    Malformed,
    /// A field is missing, or has another type than documented.
    WrongType,
    /// An impossible price or size.
    BadValue,
    /// A symbol that was not subscribed to.
    UnknownSymbol,
    /// A price many times the last one, or a small fraction of it.
    Absurd,
    /// A best bid above the best ask.
    Crossed,
    /// A time far from the venue's clock so far.
    TimeJump,
}

impl FaultKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::WrongType,
        Self::BadValue,
        Self::UnknownSymbol,
        Self::Absurd,
        Self::Crossed,
        Self::TimeJump,
    ];

    /// The label in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongType => "wrong_type",
            Self::BadValue => "bad_value",
            Self::UnknownSymbol => "unknown_symbol",
            Self::Absurd => "absurd_price",
            Self::Crossed => "crossed_offers",
            Self::TimeJump => "time_jump",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first 80 characters of a text, because a venue's text has any length.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
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
            // Serde quotes the faulty value.
            detail: excerpt(&error.to_string()),
        }
    }
}
