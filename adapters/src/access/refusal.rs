//! Refusal: the response to a request that a limit refuses, as JSON or for gRPC.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use tidewire_proto::v1;
use tidewire_stream::LimitError;

use crate::reply::HttpError;

/// The response to a request with these headers, with the status of its error.
pub(crate) fn response_of(headers: &HeaderMap, error: LimitError) -> Response {
    response(headers, StatusCode::TOO_MANY_REQUESTS, error)
}

/// The response to a request with these headers. gRPC has a status of its own.
pub(crate) fn response(headers: &HeaderMap, status: StatusCode, error: LimitError) -> Response {
    let is_grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return tonic::Status::resource_exhausted(error.to_string()).into_http();
    }
    HttpError::new(status, v1::Error::from(error)).into_response()
}
