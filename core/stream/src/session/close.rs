//! Close reasons: why a session ends, with the close codes of `docs/protocol.md`.

use std::time::Duration;

use tokio::time::Instant;

/// Time of a closing session to send what is queued. A client that takes less than the rest of
/// its outbox in this time loses it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// End of a session that is closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionEnd {
    pub(super) reason: CloseReason,
    /// Time at which the session ends, whatever is still queued.
    pub(super) deadline: Instant,
    /// Whether that time has come, and what was queued is dropped.
    pub(super) is_over: bool,
}

impl SessionEnd {
    /// The end of a session that begins to close now.
    pub(super) fn new(reason: CloseReason, now: Instant) -> Self {
        Self {
            reason,
            deadline: now + CLOSE_TIMEOUT,
            is_over: false,
        }
    }
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client reads too slowly.
    SlowConsumer,
    /// The client gave no sign of life.
    HeartbeatMissed,
    /// The server is about to stop.
    Draining,
    /// The client kept exceeding its rates.
    RateLimited,
    /// The token expired.
    TokenExpired,
    /// The client gave no token in time, or a bad one.
    Unauthenticated,
    /// An operator disconnected the client.
    Disconnected,
    /// The token was revoked.
    Revoked,
    /// The client sent a message that is too long.
    MessageTooLong,
    /// The client sent a message that cannot be read, so that no later one can be.
    UnreadableMessage,
    /// Something that the server needs is away, and the client may come back.
    Unavailable,
}

impl CloseReason {
    /// WebSocket close code. Clients come back after a code below 4500 only.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::SlowConsumer => 4001,
            Self::HeartbeatMissed => 4002,
            Self::Draining => 4003,
            Self::RateLimited => 4004,
            Self::TokenExpired => 4005,
            Self::Unauthenticated => 4500,
            Self::Disconnected => 4503,
            Self::Revoked => 4504,
            // Registered for WebSockets: bad data, message too big, and try again later.
            Self::UnreadableMessage => 1007,
            Self::MessageTooLong => 1009,
            Self::Unavailable => 1013,
        }
    }

    /// The reason as text.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow consumer",
            Self::MessageTooLong => "message too long",
            Self::UnreadableMessage => "unreadable message",
            Self::HeartbeatMissed => "heartbeat missed",
            Self::Draining => "draining",
            Self::RateLimited => "rate limited",
            Self::TokenExpired => "token expired",
            Self::Unauthenticated => "not authenticated",
            Self::Disconnected => "disconnected by an operator",
            Self::Revoked => "revoked",
            Self::Unavailable => "unavailable",
        }
    }
}
