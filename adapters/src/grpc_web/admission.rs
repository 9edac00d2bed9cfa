//! gRPC admission: a tower service that admits a call and adds the caller to its request.
//!
//! Verification can wait for a key set, so tonic's interceptors, which are synchronous, cannot
//! do it. A call with a stream lasts like a connection and is admitted as one: a session holds
//! its quota, and the response holds that of a stream without a session. Any other call is
//! charged to the rates of its caller.
//!
//! A request of one message is read here, so that its size is judged before it is decoded:
//! tonic would answer a long one with a code that the protocol does not have.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::to_bytes;
use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{SessionQuota, StreamError, limit::Verdict};
use tonic::{Code, Status, body::Body};
use tower::Service;

use super::streams;
use crate::{
    Gateway, client,
    http::unsent::ConnectionFull,
    reply::{HttpError, source_of},
};

/// Bytes before each message of a gRPC body: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// Bytes of an answer without a session that are charged as one message.
const ANSWER_BYTES: usize = 1 << 10;

/// The header with the compression of a request.
const ENCODING: &str = "grpc-encoding";

/// Admits the callers of a gRPC service.
#[derive(Clone)]
pub(crate) struct AdmissionService<S> {
    inner: S,
    gateway: Gateway,
}

impl<S> AdmissionService<S> {
    pub(crate) fn new(inner: S, gateway: &Gateway) -> Self {
        Self {
            inner,
            gateway: gateway.clone(),
        }
    }
}

impl<S> Service<Request<Body>> for AdmissionService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Only this instance was polled ready, so it moves into the future.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let gateway = self.gateway.clone();
        Box::pin(async move {
            match admit(&gateway, request).await {
                Ok((request, None)) => inner.call(request).await,
                Ok((request, Some(quota))) => {
                    let response = inner.call(request).await?;
                    Ok(response.map(|body| {
                        Body::new(ChargedBody {
                            body: Some(body),
                            quota,
                        })
                    }))
                }
                Err(error) => Ok(error.into_grpc_status().into_http()),
            }
        })
    }
}

/// Admits a request. Returns the quota that its response has to hold, if no session does.
async fn admit(
    gateway: &Gateway,
    request: Request<Body>,
) -> Result<(Request<Body>, Option<SessionQuota>), HttpError> {
    let (mut parts, mut body) = request.into_parts();
    let mut held = None;
    let path = parts.uri.path();
    let without_session = streams::without_session(path);
    let stream = streams::with_session(path).or(without_session);
    let (headers, extensions) = (&parts.headers, &parts.extensions);
    match stream {
        Some(stream) => {
            let client = client::admit(gateway, headers, extensions, None).await?;
            if !stream.streams_request {
                body = body_of(read_message(gateway, headers, body).await?);
            }
            held = without_session.map(|_| client.quota.clone());
            parts.extensions.insert(client.caller);
            parts.extensions.insert(client.quota);
        }
        None => {
            let caller = client::caller(gateway, headers, extensions, None).await?;
            let message = read_message(gateway, headers, body).await?;
            let quota = client::charge(gateway, &caller, message.len())?;
            body = body_of(message);
            parts.extensions.insert(caller);
            parts.extensions.insert(quota);
        }
    }
    Ok((Request::from_parts(parts, body), held))
}

/// The response of a stream without a session. It holds the quota until it is dropped, and charges
/// each answer to it: one message for each KiB that was begun.
struct ChargedBody {
    /// `None` after an answer that was refused.
    body: Option<Body>,
    quota: SessionQuota,
}

impl HttpBody for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        let mut parts = (0..bytes.div_ceil(ANSWER_BYTES)).map(|_| self.quota.charge());
        if parts.all(|verdict| verdict == Verdict::Pass) {
            return Poll::Ready(frame);
        }
        self.body = None;
        let status = Status::resource_exhausted(
            "this stream was sent more than `limits.messages_per_second`: ask less often",
        );
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(
            status
                .add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }
}

/// Reads a body of one message.
async fn read_message(
    gateway: &Gateway,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, HttpError> {
    let limit = gateway.options.frame_bytes;
    let body = axum::body::Body::new(body);
    let body = to_bytes(body, limit + PREFIX_BYTES).await;
    let body = body.map_err(|error| {
        if let Some(full) = ConnectionFull::find(&error) {
            return full.into();
        }
        match source_of::<Status>(&error) {
            // A body that arrives too slowly.
            Some(slow) if slow.code() == Code::DeadlineExceeded => {
                StreamError::new(ErrorCode::DeadlineExceeded, slow.message())
            }
            _ => too_long(limit),
        }
    })?;
    // The service refuses every compression by its name.
    let is_compressed = headers.contains_key(ENCODING);
    check_framing(&body, limit, is_compressed)?;
    Ok(body)
}

/// Checks that a body is one message behind its prefix. The decoder would answer another with
/// `INTERNAL`, as if the server had failed; and it reserves what the prefix announces.
fn check_framing(body: &[u8], limit: usize, is_compressed: bool) -> Result<(), StreamError> {
    let Some((prefix, message)) = body.split_at_checked(PREFIX_BYTES) else {
        let length = body.len();
        return Err(malformed(&format!(
            "{length} bytes, expected a message behind its prefix of {PREFIX_BYTES} bytes"
        )));
    };
    let (flag, mut announced) = (prefix[0], &prefix[1..]);
    let announced = announced.get_u32() as usize;
    if announced > limit {
        return Err(too_long(limit));
    }
    match flag {
        0 => {}
        1 if is_compressed => {}
        1 => {
            let problem = "it is compressed, without the header `grpc-encoding`";
            return Err(malformed(problem));
        }
        _ => return Err(malformed(&format!("its flag is {flag}, expected 0"))),
    }
    if message.len() != announced {
        let length = message.len();
        return Err(malformed(&format!(
            "its prefix announces {announced} bytes and {length} follow, expected one message"
        )));
    }
    Ok(())
}

/// The error for a body that is not a message.
fn malformed(problem: &str) -> StreamError {
    let text = format!("the body is not one gRPC message: {problem}");
    StreamError::new(ErrorCode::InvalidArgument, text)
}

/// The error for a message beyond the limit of a frame.
fn too_long(limit: usize) -> StreamError {
    StreamError::new(
        ErrorCode::InvalidArgument,
        format!("the message is too long, expected at most {limit} bytes"),
    )
}

fn body_of(message: Bytes) -> Body {
    Body::new(Full::new(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_not_one_message_is_the_clients_fault() {
        let body = |flag: u8, length: u32, message: &[u8]| {
            [&[flag], &length.to_be_bytes()[..], message].concat()
        };
        let check = |body: &[u8]| {
            check_framing(body, 100, false).map_err(|error| error.message().to_owned())
        };
        assert_eq!(check(&body(0, 3, b"abc")), Ok(()));
        assert_eq!(check(&body(0, 0, b"")), Ok(()));
        assert_eq!(check_framing(&body(1, 3, b"abc"), 100, true), Ok(()));
        for (malformed, named) in [
            (vec![], "0 bytes"),
            (vec![0, 0, 0], "3 bytes"),
            (body(0x80, 3, b"abc"), "flag is 128"),
            (body(0x40, 3, b"abc"), "flag is 64"),
            (body(1, 3, b"abc"), "compressed"),
            (body(0, 4, b"abc"), "announces 4 bytes and 3 follow"),
            (body(0, 2, b"abc"), "announces 2 bytes and 3 follow"),
            (body(0, 101, b"abc"), "too long"),
        ] {
            let error = check(&malformed).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
