//! Protocol errors, and their mapping to gRPC statuses.

use tonic::{Code, Status, metadata::MetadataMap};

use crate::v1::{Error, ErrorCode};

/// The gRPC trailer with the retry delay, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl ErrorCode {
    /// The name on JSON transports: lower snake case.
    ///
    /// ```
    /// use tidewire_proto::v1::ErrorCode;
    /// assert_eq!(ErrorCode::InvalidArgument.name(), "invalid_argument");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Cancelled => "cancelled",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

impl From<Code> for ErrorCode {
    /// Maps codes that the protocol lacks to internal errors.
    fn from(code: Code) -> Self {
        Self::try_from(code as i32)
            .ok()
            .filter(|code| *code != Self::Unspecified)
            .unwrap_or(Self::Internal)
    }
}

impl From<ErrorCode> for Code {
    /// Maps an unspecified code to an unknown gRPC code.
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Unspecified => Self::Unknown,
            code => Self::from_i32(code.into()),
        }
    }
}

impl Error {
    /// Builds an error from a code and a text.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retry_after_ms: None,
        }
    }
}

impl From<&Status> for Error {
    fn from(status: &Status) -> Self {
        let pushback = status.metadata().get(PUSHBACK);
        Self {
            retry_after_ms: pushback.and_then(|value| value.to_str().ok()?.parse().ok()),
            ..Self::new(status.code().into(), status.message())
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut metadata = MetadataMap::new();
        if let Some(wait) = error.retry_after_ms {
            metadata.insert(PUSHBACK, wait.into());
        }
        Self::with_metadata(error.code().into(), error.message, metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn names_are_those_of_the_json_form() {
        for number in 1..=16 {
            let Ok(code) = ErrorCode::try_from(number) else {
                continue;
            };
            let text = json::to_vec(&Error::new(code, ""));
            let expected = format!(r#"{{"code":"{}","message":""}}"#, code.name());
            assert_eq!(String::from_utf8(text).unwrap(), expected);
            assert_eq!(ErrorCode::from(Code::from(code)), code);
        }
    }

    #[test]
    fn a_status_carries_an_error() {
        let error = Error {
            retry_after_ms: Some(250),
            ..Error::new(ErrorCode::ResourceExhausted, "too many messages")
        };
        let status = Status::from(error.clone());
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(Error::from(status), error);
        assert_eq!(
            Error::from(Status::data_loss("gone")),
            Error::new(ErrorCode::Internal, "gone")
        );
    }
}
