//! Contract events by filter: the channels `events:{chain}:{…}`.
//!
//! [`Filter`] is what a client asks for, checked; equal filters share a channel.
//! [`EventTracker`] holds the filters and turns steps into publications.

mod filter;
mod tracker;

pub use filter::{Filter, FilterError};
pub use tracker::{EventTracker, EventTrackerError};
