//! HTTP replies: JSON bodies, and errors as `{"code","message"}` with the matching status.

use axum::{
    body::{Body, Bytes, to_bytes},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use http_body_util::LengthLimitError;
use tidewire_proto::{
    json::{self, ClientError},
    v1::{Error, ErrorCode},
};
use tidewire_stream::{LimitError, StreamError};

use crate::http::{request_body::SlowBody, unsent::ConnectionFull};

/// An error with its HTTP status.
#[derive(Debug, Clone)]
pub(crate) struct HttpError {
    status: StatusCode,
    error: Error,
}

impl HttpError {
    /// An error with a status other than its code's.
    pub(crate) fn new(status: StatusCode, error: impl Into<Error>) -> Self {
        Self {
            status,
            error: error.into(),
        }
    }

    /// The same error as a gRPC status.
    pub(crate) fn into_grpc_status(self) -> tonic::Status {
        self.error.into()
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The code of the error.
    pub(crate) fn code(&self) -> ErrorCode {
        self.error.code()
    }

    /// The error without its status.
    pub(crate) fn into_error(self) -> Error {
        self.error
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
            // `Retry-After` has whole seconds, so the time is rounded up.
            let seconds = HeaderValue::from(retry_after_ms.div_ceil(1_000));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// A response with a JSON body.
pub(crate) fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// The HTTP status of a code, after the mapping of google.rpc.Code.
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

/// Reads the body of a request, at most `limit` bytes.
pub(crate) async fn read_body(body: Body, limit: usize) -> Result<Bytes, HttpError> {
    to_bytes(body, limit).await.map_err(|error| {
        if let Some(slow) = source_of::<SlowBody>(&error) {
            let error = StreamError::new(ErrorCode::DeadlineExceeded, slow.to_string());
            return HttpError::new(StatusCode::REQUEST_TIMEOUT, error);
        }
        if let Some(full) = ConnectionFull::find(&error) {
            return full.into();
        }
        if source_of::<LengthLimitError>(&error).is_some() {
            let text = format!(
                "the body is too long, expected at most {limit} bytes (`limits.frame_bytes`)"
            );
            let error = StreamError::new(ErrorCode::InvalidArgument, text);
            return HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, error);
        }
        let text = "the body ends too early, expected a whole request";
        StreamError::new(ErrorCode::InvalidArgument, text).into()
    })
}

/// The error of this type among an error and its causes.
pub(crate) fn source_of<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref())
}

/// The message type that an unknown one may mean: the same words in lower snake case.
fn nearest_type(kind: &str) -> Option<String> {
    let mut snake = String::with_capacity(kind.len() + 4);
    for letter in kind.chars().take(64) {
        match letter {
            'A'..='Z' if !snake.is_empty() => {
                snake.push('_');
                snake.push(letter.to_ascii_lowercase());
            }
            '-' | ' ' | '.' => snake.push('_'),
            letter if letter.is_ascii_alphanumeric() || letter == '_' => {
                snake.push(letter.to_ascii_lowercase());
            }
            _ => return None,
        }
    }
    let message = format!(r#"{{"type":"{snake}"}}"#);
    let is_known = !matches!(
        json::parse_client(message.as_bytes()),
        Err(ClientError::UnknownType { .. })
    );
    (is_known && snake != kind).then_some(snake)
}

/// The error for a client message that cannot be parsed, and the message's id if it was
/// readable.
pub(crate) fn parse_failure(error: ClientError) -> (Option<String>, Error) {
    let (id, code, message) = match error {
        ClientError::Malformed { message } => (None, ErrorCode::InvalidArgument, message),
        ClientError::UnknownType { id, kind, expected } => (
            id,
            ErrorCode::Unimplemented,
            match nearest_type(&kind) {
                Some(near) => {
                    format!("there is no message type {kind:?}, did you mean {near:?}?")
                }
                None => format!("there is no message type {kind:?}, expected {expected}"),
            },
        ),
        ClientError::Invalid { id, message } => (id, ErrorCode::InvalidArgument, message),
    };
    (id, Error::new(code, message))
}
