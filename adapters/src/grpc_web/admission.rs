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
    task::{Context, Poll},
};

use axum::body::to_bytes;
use bytes::{Buf as _, Bytes};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{SessionQuota, StreamError};
use tonic::{Code, Status, body::Body};
use tower::Service;

use super::streams;
use crate::{
    Gateway, client,
    http::unsent::ResponsesFull,
    reply::{HttpError, source_of},
};

/// Bytes before each message of a gRPC body: a flag and the length.
const PREFIX_BYTES: usize = 5;

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
                    Ok(response.map(|body| holding(body, quota)))
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
                body = body_of(read_message(gateway, body).await?);
            }
            held = without_session.map(|_| client.quota.clone());
            parts.extensions.insert(client.caller);
            parts.extensions.insert(client.quota);
        }
        None => {
            let caller = client::caller(gateway, headers, extensions, None).await?;
            let message = read_message(gateway, body).await?;
            let quota = client::charge(gateway, &caller, message.len())?;
            body = body_of(message);
            parts.extensions.insert(caller);
            parts.extensions.insert(quota);
        }
    }
    Ok((Request::from_parts(parts, body), held))
}

/// A body that holds the quota until it is dropped.
fn holding(body: Body, quota: SessionQuota) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _held = &quota;
        frame
    }))
}

/// Reads a body of one message.
async fn read_message(gateway: &Gateway, body: Body) -> Result<Bytes, HttpError> {
    let limit = gateway.options.frame_bytes;
    let body = axum::body::Body::new(body);
    let body = to_bytes(body, limit + PREFIX_BYTES).await;
    let body = body.map_err(|error| {
        if let Some(full) = ResponsesFull::find(&error) {
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
    // The decoder reserves what the prefix announces.
    let announced = body.get(1..PREFIX_BYTES).map(|mut length| length.get_u32());
    if announced.is_some_and(|length| length as usize > limit) {
        return Err(too_long(limit).into());
    }
    Ok(body)
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
