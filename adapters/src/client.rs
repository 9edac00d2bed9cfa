//! Client context: the identity, address and quota of the client that sends a request.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::extract::ConnectInfo;
use http::{Extensions, HeaderMap, header};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{CallQuota, Caller, Identity, SessionQuota, StreamCore, StreamError};

use crate::{Gateway, access::ConnectionGuard, reply::HttpError, tls::PeerIdentity};

/// The subprotocol prefix of a token. Browsers use it, because they cannot set headers.
pub(crate) const BEARER_SUBPROTOCOL: &str = "tidewire.bearer.";

/// A client that may open a session.
#[derive(Debug)]
pub(crate) struct ClientContext {
    /// The client.
    pub(crate) caller: Caller,
    /// The quota of the session. It holds the permits of the session and its connection.
    pub(crate) quota: SessionQuota,
}

/// Authenticates and admits a client that opens a session.
pub(crate) async fn admit(
    gateway: &Gateway,
    headers: &HeaderMap,
    extensions: &Extensions,
    query_token: Option<&str>,
) -> Result<ClientContext, HttpError> {
    let caller = caller(gateway, headers, extensions, query_token).await?;
    let sessions = gateway.admission.sessions();
    let quota = sessions.admit(caller.address, &caller.identity)?;
    if let Some(guard) = extensions.get::<Arc<ConnectionGuard>>() {
        quota.hold(guard.clone());
    }
    Ok(ClientContext { caller, quota })
}

/// The client that sends a request: its identity, address and locality. A bad token is charged
/// to the rates of the address, so that tokens cannot be tried without limit.
pub(crate) async fn caller(
    gateway: &Gateway,
    headers: &HeaderMap,
    extensions: &Extensions,
    query_token: Option<&str>,
) -> Result<Caller, HttpError> {
    let mut caller = unidentified(gateway, headers, extensions);
    match authenticate(&gateway.stream, headers, extensions, query_token).await {
        Ok(identity) => {
            caller.identity = identity;
            Ok(caller)
        }
        Err(error) => {
            charge(gateway, &caller, 0)?;
            Err(error.into())
        }
    }
}

/// The client that sends a request, whoever it is.
pub(crate) fn unidentified(
    gateway: &Gateway,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Caller {
    Caller {
        identity: Identity::Unknown,
        address: address(gateway, headers, extensions),
        locality: extensions.get().copied().unwrap_or_default(),
        connection: None,
    }
}

/// Charges a call without a session to its caller's rates.
pub(crate) fn charge(
    gateway: &Gateway,
    caller: &Caller,
    bytes: usize,
) -> Result<CallQuota, HttpError> {
    Ok(gateway.admission.calls().charge(caller, bytes)?)
}

/// The address of a client: its peer address, or the address that a trusted proxy names.
pub(crate) fn address(
    gateway: &Gateway,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Option<IpAddr> {
    let ConnectInfo(peer) = extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(gateway.admission.proxies().client(peer.ip(), headers))
}

/// Authenticates a request: by the `Authorization` header, by the bearer subprotocol, by
/// `query_token`, or by the client certificate of its connection.
async fn authenticate(
    stream: &StreamCore,
    headers: &HeaderMap,
    extensions: &Extensions,
    query_token: Option<&str>,
) -> Result<Identity, StreamError> {
    match bearer(headers)?.or(query_token) {
        Some(token) => stream.authenticator().authenticate(token).await,
        None => match extensions.get::<PeerIdentity>() {
            Some(peer) => peer.identity(stream.clock()),
            None => Ok(stream.authenticator().without_token()),
        },
    }
}

/// The subprotocols that a client offers.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Whether a WebSocket client is a browser that sent a token. Scripts of a page cannot read the
/// status of a refused upgrade.
pub(crate) fn is_browser_with_token(headers: &HeaderMap) -> bool {
    let is_offer = |offer: &str| offer.starts_with(BEARER_SUBPROTOCOL);
    subprotocols(headers).any(is_offer)
        || (headers.contains_key(header::ORIGIN) && headers.contains_key(header::AUTHORIZATION))
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
            "`Authorization` cannot be read, expected `Bearer TOKEN`",
        )
    })
}
