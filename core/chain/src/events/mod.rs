//! Contract events by filter, on the channels `events:{chain}:{digest}`.
//!
//! [`Filter`] parses the request of a client; equal filters share a channel. [`EventTracker`] holds
//! the filters in use, and turns chain updates into events.

mod filter;
mod tracker;

pub use filter::{Filter, FilterError};
pub use tracker::{EventTracker, EventTrackerError};
