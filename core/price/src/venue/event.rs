//! What venues say, in one vocabulary, and why a frame cannot be used.

use std::{borrow::Cow, fmt};

use rust_decimal::Decimal;
use smallvec::SmallVec;
use tidewire_proto::v1::TradeSide;

use super::field::excerpt;

/// What one frame says. Most say one thing.
pub type Events<'a> = SmallVec<[VenueEvent<'a>; 1]>;

/// Something that a venue says.
#[derive(Debug, Clone, PartialEq)]
pub enum VenueEvent<'a> {
    /// A trade.
    Trade(Trade<'a>),
    /// A summary of the market.
    Ticker(Ticker<'a>),
    /// A subscription is accepted.
    Ack,
    /// A sign of life without data.
    Heartbeat,
    /// The venue refuses a request, with its reason.
    Error(String),
    /// One entry of a frame cannot be used; the others can.
    Fault(ParseError),
    /// Understood, and not used.
    Ignored,
    /// The venue closes the connection soon.
    Shutdown,
}

impl VenueEvent<'_> {
    /// Whether it says something of a market. Heartbeats and answers do not.
    #[must_use]
    pub fn is_data(&self) -> bool {
        matches!(self, Self::Trade(_) | Self::Ticker(_))
    }
}

/// The venue's number of a trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TradeId {
    /// Of a single trade. The next one's is higher by one.
    Single(u64),
    /// Of the first and the last of several that are told as one.
    Run {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// Of a trade, at a venue whose numbers rise by whatever.
    Loose(u64),
    /// Of several trades of one taker at one price, told as one. These numbers
    /// count apart from those of single trades.
    Aggregate(u64),
}

/// A trade.
#[derive(Debug, Clone, PartialEq)]
pub struct Trade<'a> {
    /// The venue's name of the symbol.
    pub name: Cow<'a, str>,
    /// Its number.
    pub id: TradeId,
    /// The price of one base in quote, above zero.
    pub price: Decimal,
    /// How much, above zero.
    pub size: Size,
    /// The taker's side.
    pub side: TradeSide,
    /// The venue's time, in microseconds since the Unix epoch.
    pub venue_time_us: Option<i64>,
}

/// How much is traded, in the unit that the venue counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Of base, as on spot markets.
    Base(Decimal),
    /// Of quote: contracts of one unit of it.
    Quote(Decimal),
    /// Of contracts. What one is worth is not in the frames.
    Contracts(Decimal),
}

impl Size {
    /// The number, whatever it counts.
    #[must_use]
    pub fn number(self) -> Decimal {
        let (Self::Base(number) | Self::Quote(number) | Self::Contracts(number)) = self;
        number
    }
}

/// The volume of 24 hours, in each unit that a venue gives it in. These are approximate
/// by nature.
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
    /// Of this in quote, where the venue says it.
    #[must_use]
    pub fn in_quote(quote: Option<f64>) -> Self {
        Self {
            quote,
            ..Self::default()
        }
    }

    /// Of this in base, where the venue says it.
    #[must_use]
    pub fn in_base(base: Option<f64>) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }
}

/// A summary of the market. What the venue does not say is `None`, and what was
/// said before holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ticker<'a> {
    /// The venue's name of the symbol.
    pub name: Cow<'a, str>,
    /// The price of the last trade, above zero.
    pub last: Option<Decimal>,
    /// The number of that trade.
    pub last_id: Option<u64>,
    /// The best offer to buy.
    pub bid: Option<Decimal>,
    /// The best offer to sell.
    pub ask: Option<Decimal>,
    /// The change over 24 hours, in percent.
    pub change_percent: Option<f64>,
    /// The volume of 24 hours.
    pub volume: Volume,
    /// The venue's time, in microseconds since the Unix epoch.
    pub venue_time_us: Option<i64>,
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
#[repr(usize)]
pub enum FaultKind {
    /// Not JSON.
    Malformed,
    /// A field has another type than documented, or is missing.
    WrongType,
    /// A price or size that cannot be.
    BadValue,
    /// A symbol that was not asked for.
    UnknownSymbol,
    /// A price that is many times the last one, or a small part of it.
    Absurd,
    /// An offer to buy above the one to sell.
    Crossed,
    /// A time that is far from what the venue's clock said before.
    TimeJump,
}

impl FaultKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::WrongType,
        Self::BadValue,
        Self::UnknownSymbol,
        Self::Absurd,
        Self::Crossed,
        Self::TimeJump,
    ];

    /// Its name in metrics.
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

impl From<serde_json::Error> for ParseError {
    fn from(error: serde_json::Error) -> Self {
        let kind = if error.is_data() {
            FaultKind::WrongType
        } else {
            FaultKind::Malformed
        };
        Self {
            kind,
            // It quotes the value that it met.
            detail: excerpt(&error.to_string()),
        }
    }
}
