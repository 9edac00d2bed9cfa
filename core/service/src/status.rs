//! Error conversion between the streaming core, gRPC and the wire.

use tidewire_proto::{bound_message, v1::Error};
use tidewire_stream::{Caller, Identity, StreamError};
use tonic::{Code, Request, Status};

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

/// The status of a refusal whose text may repeat what the caller sent, however long.
pub(crate) fn refusal(code: Code, text: &impl ToString) -> Status {
    Status::new(code, bound_message(text.to_string()))
}

/// Checks that a text field is there. Protobuf cannot tell a missing text from an empty one.
///
/// # Errors
/// Names the field and what was expected.
pub(crate) fn require_field(field: &str, value: &str, expected: &str) -> Result<(), Status> {
    match value.is_empty() {
        true => Err(Status::invalid_argument(format!(
            "`{field}` is missing, expected {expected}"
        ))),
        false => Ok(()),
    }
}

/// The caller of a request. The adapter inserts it into the extensions. Without it the caller
/// is unknown and has no permission.
#[must_use]
pub fn caller_of<T>(request: &Request<T>) -> Caller {
    let caller = request.extensions().get::<Caller>();
    caller.cloned().unwrap_or(Identity::Unknown.into())
}

/// The identity of the caller of a request.
pub(crate) fn identity_of<T>(request: &Request<T>) -> Identity {
    caller_of(request).identity
}

/// How many servers did not answer, if any.
pub(crate) fn missing_nodes(count: usize) -> Option<u32> {
    (count > 0).then(|| u32::try_from(count).unwrap_or(u32::MAX))
}
