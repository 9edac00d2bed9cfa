//! The body of a request, read whole and no longer than allowed.

use axum::body::{Body, Bytes, to_bytes};
use http::StatusCode;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::StreamError;

use super::reply::HttpError;

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, HttpError> {
    to_bytes(body, limit).await.map_err(|_| {
        HttpError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            StreamError::new(
                ErrorCode::InvalidArgument,
                format!("the body cannot be read, expected at most {limit} bytes"),
            ),
        )
    })
}
