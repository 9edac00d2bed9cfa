//! The price engine: venues, aggregation, market overview, record and replay.
//!
//! [`PriceEngine`] is the whole of it. The venues' protocols are pure parsers in
//! [`venue`]; `book` is the deterministic state that their events drive; `source`
//! keeps the connections; [`recording`] writes and reads what venues said.

mod book;
pub mod config;
mod engine;
mod overview;
mod quote;
pub mod recording;
mod source;
mod symbol;
pub mod venue;

pub use config::{ConfigError, PriceConfig, SourceClock};
pub use engine::{PriceEngine, PriceError, ReplaySpeed};
pub use recording::{Line, RecordedSource, Recording, RecordingError, RecordingWriter};
pub use symbol::{Symbol, SymbolError};
pub use venue::VenueKind;
