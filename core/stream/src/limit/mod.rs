//! Rate limits: connections per address and user, and message and byte rates per session.
//!
//! [`SessionLimits`] admits a client and returns its [`SessionQuota`]. The quota charges
//! each message to token buckets. It holds the session's permits until it is released or
//! dropped, however the session ends. [`CallLimits`] holds the same rates for calls without a
//! session. A refusal is a [`LimitError`] with the time to wait.

mod addresses;
pub mod bucket;
mod calls;
mod client_key;
pub mod fair_semaphore;
mod keyed;
mod network;
mod quota;
pub mod semaphore;
mod sessions;

use tidewire_proto::v1::{self, ErrorCode};

pub use addresses::AddressLimits;
pub use calls::{CallLimits, CallQuota};
pub use client_key::ClientKey;
pub use network::NetworkKey;
pub use quota::{SessionQuota, Verdict};
pub use sessions::SessionLimits;

use crate::StreamError;

/// The limits that the operator configures. 0 means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitOptions {
    /// Open sessions of one address. An IPv6 network of 64 bits counts as one address.
    pub connections_per_ip: u32,
    /// Open sessions of one user.
    pub connections_per_user: u32,
    /// Messages that one session may send per second.
    pub messages_per_second: u32,
    /// Bytes that one session may send per second.
    pub bytes_per_second: u32,
    /// Sessions that one address may open per second.
    pub handshakes_per_second: u32,
}

/// A limit that a client reached, and when it may try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LimitError {
    message: String,
    retry_after_ms: u32,
}

impl LimitError {
    /// An error that makes the client wait for `retry_after_ms` milliseconds.
    #[must_use]
    pub fn new(message: String, retry_after_ms: u32) -> Self {
        Self {
            message,
            retry_after_ms,
        }
    }

    /// The milliseconds to wait before the next attempt.
    #[must_use]
    pub fn retry_after_ms(&self) -> u32 {
        self.retry_after_ms
    }
}

impl From<LimitError> for v1::Error {
    fn from(error: LimitError) -> Self {
        Self {
            code: ErrorCode::ResourceExhausted.into(),
            message: error.message,
            retry_after_ms: Some(error.retry_after_ms),
        }
    }
}

impl From<LimitError> for StreamError {
    fn from(error: LimitError) -> Self {
        let retry_after_ms = error.retry_after_ms;
        Self::new(ErrorCode::ResourceExhausted, error.message).with_retry_after_ms(retry_after_ms)
    }
}
