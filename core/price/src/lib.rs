//! The price engine: venues, aggregation, market overview, record and replay.
//!
//! [`PriceEngine`] is the whole of it. The venues' protocols are pure parsers in
//! [`venue`]; [`aggregate`] is the deterministic machine that their events drive;
//! `source` keeps the connections, `supply` asks how many coins there are; [`recording`]
//! writes and reads what venues said.

pub mod aggregate;
mod clock;
pub mod config;
mod engine;
mod error;
mod provider;
pub mod recording;
mod replay;
mod source;
mod supply;
mod symbol;
pub mod venue;

pub use aggregate::{Aggregator, PriceGap, PriceTick, SourceId};
pub use config::{ConfigError, PriceConfig, SourceClock, SourceConfig};
pub use engine::PriceEngine;
pub use error::PriceError;
pub use recording::{Line, RecordedSource, Recording, RecordingError, RecordingWriter};
pub use replay::{ReplaySpeed, ReplayStart};
pub use source::LinkState;
pub use symbol::{Symbol, SymbolError};
pub use venue::VenueKind;
