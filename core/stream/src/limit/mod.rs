//! Limits: how many may come, how fast they may come, and how much each may ask.
//!
//! [`SessionLimits`] admits a client and gives it an [`Allowance`], which counts
//! what the client asks and lets go of its places when it is released or dropped,
//! whatever way the session ends. What is refused says so with a [`LimitError`].

mod addresses;
mod allowance;
pub mod bucket;
pub mod count;
pub mod network;
mod sessions;

use tidewire_proto::v1::{self, ErrorCode};

pub use addresses::AddressLimits;
pub use allowance::{Allowance, Verdict};
pub use network::{Network, NetworkKey, ParseNetworkError};
pub use sessions::SessionLimits;

use crate::StreamError;

/// What the operator decides. 0 means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitOptions {
    /// Open sessions of one address; an IPv6 network of 64 bits is one address.
    pub connections_per_ip: u32,
    /// Open sessions of one user.
    pub connections_per_user: u32,
    /// Messages that one session may send a second.
    pub messages_per_second: u32,
    /// Bytes that one session may send a second.
    pub bytes_per_second: u32,
    /// Sessions that one address may open a second.
    pub handshakes_per_second: u32,
}

/// A limit was reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LimitError {
    message: String,
    retry_after_ms: u32,
}

impl LimitError {
    /// A refusal, and when it makes sense to try again, in milliseconds.
    #[must_use]
    pub fn new(message: String, retry_after_ms: u32) -> Self {
        Self {
            message,
            retry_after_ms,
        }
    }

    /// When it makes sense to try again, in milliseconds.
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
        Self::new(ErrorCode::ResourceExhausted, error.message)
    }
}
