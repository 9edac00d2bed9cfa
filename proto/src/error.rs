//! Protocol errors, and their mapping to gRPC statuses.

use tonic::{Code, Status, metadata::MetadataMap};

use crate::v1::{Error, ErrorCode};

/// The gRPC trailer with the retry delay, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Longest message, in bytes. gRPC clients read metadata of 8 KiB by default, percent-encoded, and
/// take a longer status for another one.
pub const MAX_MESSAGE_BYTES: usize = 2_048;

/// Bytes that are kept of the beginning of a longer message. The rest is of its end, which says
/// what was expected.
const HEAD_BYTES: usize = 512;

/// Cuts the middle of a message that is too long: errors repeat what they refuse, and that can be
/// of any length.
///
/// ```
/// use tidewire_proto::{MAX_MESSAGE_BYTES, bound_message};
/// let message = format!("`symbol`: unknown symbol {}, expected one of …", "X".repeat(60_000));
/// let bounded = bound_message(message);
/// assert!(bounded.len() <= MAX_MESSAGE_BYTES);
/// assert!(bounded.starts_with("`symbol`: unknown symbol XXX"));
/// assert!(bounded.ends_with("XXX, expected one of …"));
/// ```
#[must_use]
pub fn bound_message(message: String) -> String {
    if message.len() <= MAX_MESSAGE_BYTES {
        return message;
    }
    let head = message.floor_char_boundary(HEAD_BYTES);
    let tail_bytes = MAX_MESSAGE_BYTES - HEAD_BYTES - '…'.len_utf8();
    let tail = message.ceil_char_boundary(message.len() - tail_bytes);
    format!("{}…{}", &message[..head], &message[tail..])
}

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
    /// Builds an error from a code and a text, which is [bounded](bound_message).
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: bound_message(message.into()),
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
        Self::with_metadata(error.code().into(), bound_message(error.message), metadata)
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
    fn only_a_long_message_is_cut_and_between_characters() {
        let whole = "ä".repeat(MAX_MESSAGE_BYTES / 2);
        assert_eq!(bound_message(whole.clone()), whole);
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "€".repeat(1_000));
            let bounded = bound_message(long.clone());
            assert!(bounded.len() <= MAX_MESSAGE_BYTES && bounded.len() > MAX_MESSAGE_BYTES - 8);
            let (head, tail) = bounded.split_once('…').unwrap();
            assert!(long.starts_with(head) && long.ends_with(tail));
        }
        let status = Status::from(Error {
            message: "x".repeat(60_000),
            ..Error::default()
        });
        assert_eq!(status.message().len(), MAX_MESSAGE_BYTES);
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
