//! Price engine: venues, aggregation, market overview, record and replay.
//!
//! [`PriceEngine`] is the entry point. [`venue`] holds pure parsers of the venues' protocols, and
//! `source` their connections. [`aggregate`] turns the parsed events into published prices,
//! `market` sums them up, `candle` makes candles of them, and `supply` polls numbers of coins. [`recording`] writes frames to a
//! file and plays them.
//!
//! Dependencies point one way: `symbol` ← `venue` ← `config` ← `aggregate` ← `source`, `supply`,
//! `recording` ← `engine`.

pub mod aggregate;
mod candle;
mod clock;
pub mod config;
mod decimal;
mod engine;
mod error;
mod http_client;
mod market;
mod provider;
pub mod recording;
mod source;
mod supervisor;
mod supply;
mod symbol;
mod tls;
pub mod venue;

pub use aggregate::{Aggregator, LinkState, PriceGap, PriceTick, SourceId};
pub use candle::{Candle, CandleInterval, Candles, CandlesError};
pub use config::{ConfigError, PriceConfig, SourceClock, SourceConfig};
pub use engine::{PriceEngine, PriceListener};
pub use error::PriceError;
pub use recording::{
    RecordedFrame, RecordedSource, Recording, RecordingError, RecordingWriter, ReplaySpeed,
    ReplayStart,
};
pub use symbol::{Symbol, SymbolError};
pub use tls::TlsError;
pub use venue::VenueKind;
