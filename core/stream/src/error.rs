//! Errors of the streaming core, with the error codes of `docs/protocol.md`.

use tidewire_proto::{
    bound_message,
    v1::{self, ErrorCode},
};

use crate::ChannelNameError;

/// A refused request: its error code, what was wrong and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StreamError {
    code: ErrorCode,
    message: String,
    retry_after_ms: Option<u32>,
}

impl StreamError {
    /// An error with this code. A message that repeats a long text is [cut](bound_message).
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: bound_message(message.into()),
            retry_after_ms: None,
        }
    }

    /// The same error, after which the client may try again in `retry_after_ms` milliseconds.
    #[must_use]
    pub fn with_retry_after_ms(self, retry_after_ms: u32) -> Self {
        Self {
            retry_after_ms: Some(retry_after_ms),
            ..self
        }
    }

    /// The error code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Milliseconds after which the client may try again, if the error says so.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u32> {
        self.retry_after_ms
    }

    /// Description of the fault, with the expected value.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<ChannelNameError> for StreamError {
    fn from(error: ChannelNameError) -> Self {
        Self::new(ErrorCode::InvalidArgument, error.to_string())
    }
}

impl From<v1::Error> for StreamError {
    fn from(error: v1::Error) -> Self {
        let code = error.code();
        Self {
            retry_after_ms: error.retry_after_ms,
            ..Self::new(code, error.message)
        }
    }
}

impl From<StreamError> for v1::Error {
    fn from(error: StreamError) -> Self {
        Self {
            code: error.code.into(),
            message: error.message,
            retry_after_ms: error.retry_after_ms,
        }
    }
}
