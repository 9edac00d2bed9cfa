//! Error conversion between the streaming core, gRPC and the wire.

use tidewire_proto::v1::Error;
use tidewire_stream::{Identity, StreamError};
use tonic::{Request, Status};

/// The gRPC status of an error.
#[must_use]
pub fn status_of(error: &StreamError) -> Status {
    Error::from(error.clone()).into()
}

/// The error of a gRPC status.
#[must_use]
pub fn from_status(status: &Status) -> Error {
    Error::from(status)
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
