//! Client errors: a kind to act on, a text for a person, and the source.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use tidewire_proto::v1::{self, ErrorCode};
use tonic::{Code, Status};

/// The beginning of the message that tonic gives a response without a gRPC status.
const HTTP_STATUS: &str = "grpc-status header missing";

/// An error of any type, as a token source may return it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Kind of an [`Error`]. Later versions may add kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL or another option of the builder cannot work.
    InvalidOptions,
    /// The token source failed, or its deadline passed.
    Token,
    /// The server does not accept the token, or wants one.
    Unauthenticated,
    /// The identity lacks permission.
    PermissionDenied,
    /// The named item does not exist.
    NotFound,
    /// The item exists already.
    AlreadyExists,
    /// The request is invalid. The text names the field and the expected value.
    InvalidArgument,
    /// The request conflicts with the current state.
    FailedPrecondition,
    /// A limit was reached. [`Error::retry_after`] may tell when to try again.
    ResourceExhausted,
    /// The server cannot be reached, or a part of it cannot.
    Unavailable,
    /// The deadline of the call passed. Its last failure is the source.
    DeadlineExceeded,
    /// This server does not implement the operation.
    Unimplemented,
    /// The server failed, or sent something that this client cannot read.
    Internal,
    /// The server ended the subscription.
    Unsubscribed,
    /// The client ended by itself: its Tokio runtime was shut down.
    Closed,
}

/// Why something failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
    #[source]
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            source: None,
        }
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns how long the server asks to wait before another attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the same request may succeed later without a change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unavailable | ErrorKind::ResourceExhausted | ErrorKind::DeadlineExceeded
        )
    }

    /// The error of a connection that could not be opened.
    pub(crate) fn unreachable(source: tonic::transport::Error) -> Self {
        let text = with_causes(&source);
        Self::new(
            ErrorKind::Unavailable,
            format!("cannot reach the server: {text}"),
        )
        .with_source(source)
    }

    /// The error of a gRPC status. A status with a source was made on this side, because the
    /// connection failed. Its code then describes the connection, not the request.
    pub(crate) fn of_status(status: &Status) -> Self {
        if let Some(source) = status.source() {
            let text = format!("{}: {}", status.message(), with_causes(source));
            return Self::new(ErrorKind::Unavailable, text);
        }
        let text = || status.message().to_owned();
        // A proxy or another server answered, perhaps for a moment: not ours refused.
        let is_foreign =
            status.code() == Code::Unknown || status.message().starts_with(HTTP_STATUS);
        match status.code() {
            Code::Unauthenticated => Self::new(ErrorKind::Unauthenticated, text()),
            _ if is_foreign => Self::new(ErrorKind::Unavailable, text()),
            _ => v1::Error::from(status).into(),
        }
    }
}

impl From<v1::Error> for Error {
    fn from(error: v1::Error) -> Self {
        let kind = match error.code() {
            ErrorCode::InvalidArgument => ErrorKind::InvalidArgument,
            ErrorCode::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            ErrorCode::NotFound => ErrorKind::NotFound,
            ErrorCode::AlreadyExists => ErrorKind::AlreadyExists,
            ErrorCode::PermissionDenied => ErrorKind::PermissionDenied,
            ErrorCode::ResourceExhausted => ErrorKind::ResourceExhausted,
            ErrorCode::FailedPrecondition => ErrorKind::FailedPrecondition,
            ErrorCode::Unimplemented => ErrorKind::Unimplemented,
            // A call that was cut off is `cancelled`.
            ErrorCode::Unavailable | ErrorCode::Cancelled => ErrorKind::Unavailable,
            ErrorCode::Unauthenticated => ErrorKind::Unauthenticated,
            ErrorCode::Unspecified | ErrorCode::Internal => ErrorKind::Internal,
        };
        Self {
            retry_after: error
                .retry_after_ms
                .map(|wait| Duration::from_millis(wait.into())),
            ..Self::new(kind, error.message)
        }
    }
}

/// An error's text with those of its causes, which often hold the reason.
fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a panic is how a test fails")]

    use std::{
        future::{Ready, ready},
        task::{Context, Poll},
    };

    use tidewire_proto::v1::stream_service_client::StreamServiceClient;
    use tonic::{
        body::Body,
        codegen::{
            Service,
            http::{Request, Response, StatusCode},
        },
    };

    use super::*;

    #[test]
    fn a_status_of_the_server_keeps_its_code_and_its_delay() {
        let error = v1::Error {
            retry_after_ms: Some(250),
            ..v1::Error::new(ErrorCode::ResourceExhausted, "too many messages")
        };
        let error = Error::of_status(&Status::from(error));
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        assert_eq!(error.to_string(), "too many messages");
        assert!(error.is_transient());
    }

    /// A proxy that does not know the path.
    #[derive(Clone)]
    struct Proxy(StatusCode);

    impl Service<Request<Body>> for Proxy {
        type Response = Response<Body>;
        type Error = BoxError;
        type Future = Ready<Result<Response<Body>, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let mut response = Response::new(Body::default());
            *response.status_mut() = self.0;
            ready(Ok(response))
        }
    }

    #[tokio::test]
    async fn a_response_of_a_proxy_is_no_refusal_of_the_server() {
        for (status, kind) in [
            (StatusCode::NOT_FOUND, ErrorKind::Unavailable),
            (StatusCode::FORBIDDEN, ErrorKind::Unavailable),
            (StatusCode::BAD_REQUEST, ErrorKind::Unavailable),
            (StatusCode::BAD_GATEWAY, ErrorKind::Unavailable),
            (StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Unavailable),
            (StatusCode::UNAUTHORIZED, ErrorKind::Unauthenticated),
        ] {
            let mut client = StreamServiceClient::new(Proxy(status));
            let answer = client.publish(v1::PublishRequest::default()).await;
            let error = Error::of_status(&answer.expect_err("a refusal"));
            assert_eq!(error.kind(), kind, "{status} {error}");
        }
    }

    #[test]
    fn a_status_with_a_source_is_a_failed_connection() {
        let source: BoxError = "connection reset".into();
        let error = Error::of_status(&Status::from_error(source));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("connection reset"), "{error}");
    }
}
