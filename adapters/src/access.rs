//! Who sends a request, where from, and whether there is room for it: what every
//! adapter asks before it answers.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::extract::ConnectInfo;
use http::{Extensions, HeaderMap, Request, Response, header};
use tidewire_proto::v1::ErrorCode;
use tidewire_service::{ClientAddress, status_of};
use tidewire_stream::{Allowance, Identity, StreamCore, StreamError};
use tower::Service;

use crate::{Gateway, admission::Ticket, http::reply::HttpError, tls::PeerIdentity};

/// A subprotocol that carries a token, for browsers, which cannot set headers.
pub(crate) const BEARER_SUBPROTOCOL: &str = "tidewire.bearer.";

/// A client that may open a session.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Who it is.
    pub(crate) identity: Identity,
    /// Where it is, as far as that can be trusted.
    pub(crate) address: Option<IpAddr>,
    /// What its session may do. It holds the places that the session takes.
    pub(crate) allowance: Allowance,
}

/// Admits a client that wants to open a session.
pub(crate) async fn admit(
    gateway: &Gateway,
    headers: &HeaderMap,
    extensions: &Extensions,
    query_token: Option<&str>,
) -> Result<Admitted, HttpError> {
    let identity = authenticate(&gateway.stream, headers, extensions, query_token).await?;
    let address = client_address(gateway, headers, extensions);
    let allowance = gateway.admission.sessions().admit(address, &identity)?;
    if let Some(ticket) = extensions.get::<Arc<Ticket>>() {
        allowance.keep(ticket.clone());
    }
    Ok(Admitted {
        identity,
        address,
        allowance,
    })
}

/// Where a client is: its peer address, or what a proxy that is trusted says.
pub(crate) fn client_address(
    gateway: &Gateway,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Option<IpAddr> {
    let ConnectInfo(peer) = extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(gateway.admission.proxies().client(peer.ip(), headers))
}

/// Who sends a request: by `Authorization`, by subprotocol, by the token of a
/// query where the transport allows one, or by the certificate of its connection.
pub(crate) async fn authenticate(
    stream: &StreamCore,
    headers: &HeaderMap,
    extensions: &Extensions,
    query_token: Option<&str>,
) -> Result<Identity, StreamError> {
    match bearer(headers)?.or(query_token) {
        Some(token) => stream.authenticator().authenticate(token).await,
        None => Ok(match extensions.get::<PeerIdentity>() {
            Some(peer) => peer.identity(stream.clock()),
            None => stream.authenticator().without_token(),
        }),
    }
}

/// The offered subprotocols.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, StreamError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(subprotocols(headers).find_map(|offer| offer.strip_prefix(BEARER_SUBPROTOCOL)));
    };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.map(Some).ok_or_else(|| {
        StreamError::new(
            ErrorCode::Unauthenticated,
            "`Authorization` is not understood, expected `Bearer TOKEN`",
        )
    })
}

/// Has a gRPC service know its callers: what tonic's interceptors do, for an
/// identity that may have to be waited for. A call that opens a session gets its
/// [`Allowance`] too.
#[derive(Clone)]
pub(crate) struct Identified<S> {
    inner: S,
    gateway: Gateway,
}

impl<S> Identified<S> {
    pub(crate) fn new(inner: S, gateway: &Gateway) -> Self {
        Self {
            inner,
            gateway: gateway.clone(),
        }
    }
}

/// The calls that open a session.
const SESSION_CALLS: [&str; 2] = [
    "/tidewire.v1.StreamService/Subscribe",
    "/tidewire.v1.StreamService/Connect",
];

impl<S, B> Service<Request<B>> for Identified<S>
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
        // The one that was ready goes into the future; its clone takes its place.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let gateway = self.gateway.clone();
        Box::pin(async move {
            let opens_session = SESSION_CALLS.contains(&request.uri().path());
            let (headers, extensions) = (request.headers(), request.extensions());
            let refused = if opens_session {
                match admit(&gateway, headers, extensions, None).await {
                    Ok(admitted) => {
                        let extensions = request.extensions_mut();
                        extensions.insert(admitted.identity);
                        extensions.insert(admitted.allowance);
                        if let Some(address) = admitted.address {
                            extensions.insert(ClientAddress(address));
                        }
                        None
                    }
                    Err(error) => Some(error.status_in_grpc()),
                }
            } else {
                match authenticate(&gateway.stream, headers, extensions, None).await {
                    Ok(identity) => {
                        request.extensions_mut().insert(identity);
                        None
                    }
                    Err(error) => Some(status_of(&error)),
                }
            };
            match refused {
                Some(status) => Ok(status.into_http()),
                None => inner.call(request).await,
            }
        })
    }
}
