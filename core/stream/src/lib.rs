//! The streaming core: channels, publications, history and recovery, sessions.
//!
//! Engines publish through [`Publisher`]; adapters open sessions. Nothing here
//! knows an engine or a transport.

pub mod channel;
pub mod clock;
pub mod publication;

pub use channel::{ChannelName, ChannelNameError};
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use publication::{Event, Publisher};
