//! The error message of the protocol, and gRPC's statuses.

use tonic::{Code, Status};

use crate::v1::{Error, ErrorCode};

impl From<Code> for ErrorCode {
    /// Codes that the protocol does not have are faults of the server.
    fn from(code: Code) -> Self {
        Self::try_from(code as i32).ok().filter(|code| *code != Self::Unspecified).unwrap_or(Self::Internal)
    }
}

impl From<&Status> for Error {
    fn from(status: &Status) -> Self {
        let code = ErrorCode::from(status.code());
        Self { code: code.into(), message: status.message().to_owned(), retry_after_ms: None }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(Code::from_i32(error.code), error.message)
    }
}
