//! gRPC authentication: a tower service that adds the identity of the caller to a request.
//!
//! Verification can wait for a key set, so tonic's interceptors, which are synchronous,
//! cannot do it. A call that opens a session is also admitted, and receives its quota.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tidewire_service::{ClientAddress, status_of};
use tower::Service;

use crate::{Gateway, client};

/// Authenticates the callers of a gRPC service.
#[derive(Clone)]
pub(crate) struct AuthenticationService<S> {
    inner: S,
    gateway: Gateway,
}

impl<S> AuthenticationService<S> {
    pub(crate) fn new(inner: S, gateway: &Gateway) -> Self {
        Self {
            inner,
            gateway: gateway.clone(),
        }
    }
}

/// The calls that open a session, and so need admission.
const SESSION_CALLS: [&str; 2] = [
    "/tidewire.v1.StreamService/Subscribe",
    "/tidewire.v1.StreamService/Connect",
];

impl<S, B> Service<Request<B>> for AuthenticationService<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Only this instance was polled ready, so it moves into the future.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let gateway = self.gateway.clone();
        Box::pin(async move {
            let opens_session = SESSION_CALLS.contains(&request.uri().path());
            let (headers, extensions) = (request.headers(), request.extensions());
            let refusal = if opens_session {
                match client::admit(&gateway, headers, extensions, None).await {
                    Ok(client) => {
                        let extensions = request.extensions_mut();
                        extensions.insert(client.identity);
                        extensions.insert(client.quota);
                        if let Some(address) = client.address {
                            extensions.insert(ClientAddress(address));
                        }
                        None
                    }
                    Err(error) => Some(error.into_grpc_status()),
                }
            } else {
                match client::authenticate(&gateway.stream, headers, extensions, None).await {
                    Ok(identity) => {
                        request.extensions_mut().insert(identity);
                        None
                    }
                    Err(error) => Some(status_of(&error)),
                }
            };
            match refusal {
                Some(status) => Ok(status.into_http()),
                None => inner.call(request).await,
            }
        })
    }
}
