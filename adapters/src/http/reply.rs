//! Errors over HTTP: `{"code","message"}` with the matching status.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, StatusCode, Uri, header};
use tidewire_proto::{
    json,
    v1::{Error, ErrorCode},
};
use tidewire_stream::{LimitError, StreamError};

/// An error with the status that fits it.
#[derive(Debug, Clone)]
pub(crate) struct HttpError {
    status: StatusCode,
    error: Error,
}

impl HttpError {
    /// An error with a status of its own.
    pub(crate) fn new(status: StatusCode, error: StreamError) -> Self {
        Self {
            status,
            error: error.into(),
        }
    }
}

impl HttpError {
    /// As [`new`](Self::new), for an error that may be tried again.
    pub(crate) fn of(status: StatusCode, error: Error) -> Self {
        Self { status, error }
    }

    /// The same over gRPC.
    pub(crate) fn status_in_grpc(self) -> tonic::Status {
        // The numbers of `ErrorCode` are those of gRPC.
        tonic::Status::new(tonic::Code::from_i32(self.error.code), self.error.message)
    }
}

impl From<LimitError> for HttpError {
    fn from(error: LimitError) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for HttpError {
    fn from(error: Error) -> Self {
        Self {
            status: status_of(error.code()),
            error,
        }
    }
}

impl From<StreamError> for HttpError {
    fn from(error: StreamError) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, json::to_vec(&self.error));
        if let Some(retry_after_ms) = self.error.retry_after_ms {
            // Whole seconds, never too few.
            let seconds = HeaderValue::from(retry_after_ms.div_ceil(1_000));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// An answer in JSON.
pub(crate) fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// As google.rpc.Code maps them to HTTP.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidArgument | ErrorCode::FailedPrecondition => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::AlreadyExists => StatusCode::CONFLICT,
        ErrorCode::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Unspecified | ErrorCode::Cancelled | ErrorCode::Internal => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// There is nothing at this path.
pub(crate) async fn not_found(uri: Uri) -> HttpError {
    StreamError::new(
        ErrorCode::NotFound,
        format!("there is nothing at {}", uri.path()),
    )
    .into()
}

/// The path is right and the method is not.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> HttpError {
    HttpError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        StreamError::new(
            ErrorCode::Unimplemented,
            format!("{} does not take {method}", uri.path()),
        ),
    )
}
