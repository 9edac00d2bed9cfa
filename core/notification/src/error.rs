//! Errors of the hub's methods.

use tidewire_proto::v1::{Error, ErrorCode};
use tidewire_store::StoreError;
use tidewire_stream::StreamError;

/// Why the hub refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotificationError {
    /// A field of the request is refused.
    #[error("`{field}`: {problem}")]
    Invalid {
        /// Path of the field, as in `notification.actions[0].url`.
        field: String,
        /// The fault, and what was expected.
        problem: String,
    },
    /// The sender used the idempotency key with another request.
    #[error(
        "the idempotency key {0:?} was used with another request, expected the same request or a new key"
    )]
    KeyReuse(String),
    /// Nothing is scheduled under this id or key for this sender.
    #[error(
        "no scheduled notification of this sender has the id or key {0:?}: it was delivered, cancelled or replaced, or never existed"
    )]
    NotScheduled(String),
    /// No broadcast with this id is in the lists.
    #[error("there is no broadcast {0:?}: it has expired or was recalled, or never existed")]
    NoBroadcast(String),
    /// The store cannot be read or written at present. Nothing was changed.
    #[error("notifications are unavailable, try again: {0}")]
    Unavailable(#[from] StoreError),
    /// A stored record cannot be read.
    #[error("the stored {0} is damaged: put a copy of the store back")]
    Damaged(&'static str),
}

impl NotificationError {
    /// An error about one field of the request.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The kind of error on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::InvalidArgument,
            Self::KeyReuse(_) => ErrorCode::FailedPrecondition,
            Self::NotScheduled(_) | Self::NoBroadcast(_) => ErrorCode::NotFound,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Damaged(_) => ErrorCode::Internal,
        }
    }
}

impl From<NotificationError> for StreamError {
    fn from(error: NotificationError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<NotificationError> for Error {
    fn from(error: NotificationError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
