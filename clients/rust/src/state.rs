//! State of a client's connection.

use std::time::Duration;

use crate::error::Error;

/// State of the connection that carries a client's subscriptions. Calls have a connection of
/// their own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConnectionState {
    /// There is no subscription, and so no connection.
    Idle,
    /// Connecting.
    Connecting,
    /// Connected.
    Connected {
        /// The connection's id.
        connection_id: String,
        /// The user of the token.
        user: Option<String>,
    },
    /// The connection is lost, or could not be opened.
    Reconnecting {
        /// Number of the next attempt, from 1.
        attempt: u32,
        /// Delay before it.
        delay: Duration,
        /// Why there is no connection.
        error: Error,
    },
    /// There will be no connection any more: the application closed the client, or the server
    /// refused it for good.
    Closed {
        /// The refusal.
        error: Option<Error>,
    },
}

impl ConnectionState {
    /// Whether the client is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}
