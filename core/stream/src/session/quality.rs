//! How good a connection is, as far as that is measured.

use std::time::Duration;

use super::Session;

/// How good a connection is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quality {
    /// The round trip.
    pub rtt: Option<Duration>,
    /// How much it varies.
    pub jitter: Option<Duration>,
    /// How many heartbeats the client missed.
    pub missed_beats: u32,
    /// Bytes sent to it.
    pub bytes_sent: u64,
    /// Bytes received from it.
    pub bytes_received: u64,
}

impl Session {
    /// How good the connection is. Nothing of it is measured yet.
    #[must_use]
    pub fn quality(&self) -> Quality {
        Quality::default()
    }
}
