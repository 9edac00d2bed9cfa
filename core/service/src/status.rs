//! Error conversion between the streaming core, gRPC and the wire.

use tidewire_proto::v1::{Error, ErrorCode};
use tidewire_stream::{Identity, StreamError};
use tonic::{Code, Request, Status};

/// The gRPC status of an error.
#[must_use]
pub fn status_of(error: &StreamError) -> Status {
    // The numbers of `ErrorCode` are those of gRPC.
    Status::new(Code::from_i32(error.code() as i32), error.message())
}

/// The error of a gRPC status.
#[must_use]
pub fn from_status(status: &Status) -> Error {
    let code = ErrorCode::try_from(status.code() as i32).unwrap_or(ErrorCode::Internal);
    Error {
        code: code.into(),
        message: status.message().to_owned(),
        retry_after_ms: None,
    }
}

/// The identity of the caller. The adapter inserts it into the extensions of the request.
/// Without one the caller is unknown and has no permission.
#[must_use]
pub fn identity_of<T>(request: &Request<T>) -> Identity {
    request
        .extensions()
        .get::<Identity>()
        .cloned()
        .unwrap_or(Identity::Unknown)
}
