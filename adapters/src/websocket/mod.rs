//! The WebSocket adapter: `/v1/ws`, JSON and protobuf.

mod connection;
pub mod frame;
mod io;
mod socket;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{ConnectInfo, Request, State},
    response::Response,
};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    Arrival, CloseReason, Connection, Encoding, Identity, Session, ShardId, StreamError, Transport,
};
use tokio::net::TcpStream;

pub(crate) use connection::{error_reply, refusal};

use crate::{Gateway, access, http::reply::HttpError};

/// A client that must give a token has so long for it.
const AUTH_TIMEOUT: Duration = Duration::from_secs(5);

/// The subprotocol of text frames.
const JSON: &str = "tidewire.v1.json";

/// The subprotocol of binary frames.
const PROTO: &str = "tidewire.v1.proto";

/// Answers `GET /v1/ws`.
pub(crate) async fn upgrade(
    State(gateway): State<Gateway>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    Extension(shard): Extension<ShardId>,
    mut request: Request,
) -> Result<Response, HttpError> {
    let headers = request.headers();
    gateway.origins.admit(headers)?;
    let key = websocket_key(headers)?;
    let (encoding, protocol) = subprotocol(headers)?;
    let identity = access::identify(&gateway.stream, headers, None)?;
    let upgrade = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| bad_request("this connection cannot be upgraded: use HTTP/1.1"))?;
    let arrival = Arrival {
        identity,
        transport: Transport::WebSocket,
        encoding,
        address: Some(address.ip()),
        heartbeat: None,
        shard,
    };
    gateway
        .tasks
        .spawn(serve(gateway.clone(), upgrade, arrival));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept_key(&key));
    if let Some(protocol) = protocol {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol),
        );
    }
    Ok(response)
}

async fn serve(gateway: Gateway, upgrade: OnUpgrade, arrival: Arrival) {
    let Ok(upgraded) = upgrade.await else { return };
    let connection = Connection::open(gateway.stream.clone(), arrival).await;
    watch_authentication(&gateway, &connection);
    let limit = gateway.options.frame_bytes;
    let router = gateway.router.clone();
    // The bare socket, if that is what lies below: without hyper's layers it is
    // smaller and faster.
    let (ends, head) =
        match hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded) {
            Ok(parts) => (io::tcp(parts.io.into_inner()), parts.read_buf),
            Err(upgraded) => (io::other(TokioIo::new(upgraded)), Bytes::new()),
        };
    connection::run(ends, head, connection, router, limit).await;
}

/// Sends away who gives no token in time.
fn watch_authentication(gateway: &Gateway, connection: &Connection) {
    if connection.identity() != Identity::Unknown {
        return;
    }
    let session = Session::clone(connection);
    gateway.tasks.spawn(async move {
        tokio::time::sleep(AUTH_TIMEOUT).await;
        if session.identity() == Identity::Unknown {
            session.close(CloseReason::Unauthenticated);
        }
    });
}

fn websocket_key(headers: &HeaderMap) -> Result<HeaderValue, HttpError> {
    let is = |name, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| {
                value
                    .split(',')
                    .any(|token| token.trim().eq_ignore_ascii_case(wanted))
            })
    };
    if !is(header::UPGRADE, "websocket") || !is(header::CONNECTION, "upgrade") {
        return Err(HttpError::new(
            StatusCode::UPGRADE_REQUIRED,
            StreamError::new(
                ErrorCode::InvalidArgument,
                "this path is a WebSocket: send an upgrade request",
            ),
        ));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(bad_request("the WebSocket version is not 13"));
    }
    headers
        .get(header::SEC_WEBSOCKET_KEY)
        .cloned()
        .ok_or_else(|| bad_request("`Sec-WebSocket-Key` is missing"))
}

/// The first subprotocol that the server knows; JSON if none is offered.
fn subprotocol(headers: &HeaderMap) -> Result<(Encoding, Option<&'static str>), HttpError> {
    let mut offers = access::subprotocols(headers)
        .filter(|offer| !offer.starts_with(access::BEARER_SUBPROTOCOL));
    let mut offered = false;
    let known = offers.find_map(|offer| {
        offered = true;
        match offer {
            JSON => Some((Encoding::Json, Some(JSON))),
            PROTO => Some((Encoding::Proto, Some(PROTO))),
            _ => None,
        }
    });
    match known {
        Some(known) => Ok(known),
        None if offered => Err(bad_request(
            "no subprotocol is known, expected tidewire.v1.json or tidewire.v1.proto",
        )),
        None => Ok((Encoding::Json, None)),
    }
}

fn bad_request(message: &str) -> HttpError {
    HttpError::new(
        StatusCode::BAD_REQUEST,
        StreamError::new(ErrorCode::InvalidArgument, message),
    )
}

/// RFC 6455, section 4.2.2.
fn accept_key(key: &HeaderValue) -> HeaderValue {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
    // Base64 is always a valid header value.
    HeaderValue::from_str(&accept).unwrap_or_else(|_| HeaderValue::from_static(""))
}
