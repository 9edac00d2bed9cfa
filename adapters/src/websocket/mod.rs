//! The WebSocket adapter: `/v1/ws`, JSON and protobuf.

mod connection;
pub mod deflate;
pub mod frame;
mod io;
mod peer;
mod socket;

use std::time::Duration;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use base64::Engine as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    CloseReason, Connection, ConnectionInfo, Encoding, Identity, Session, ShardId, StreamError,
    Transport,
};

use connection::Start;
pub(crate) use connection::refusal;
pub(crate) use io::{Ends, other as other_ends, tcp as tcp_ends};
use socket::Deflate;

use crate::{Gateway, access, front, http::reply::HttpError};

/// Label of WebSocket connections.
pub(crate) const TRANSPORT: Transport = Transport::new("websocket");

/// A client that must give a token has so long for it.
const AUTH_TIMEOUT: Duration = Duration::from_secs(5);

/// The subprotocol of text frames.
const JSON: &str = "tidewire.v1.json";

/// The subprotocol of binary frames.
const PROTO: &str = "tidewire.v1.proto";

/// An upgrade that is granted.
pub(crate) struct Accepted {
    /// The answer, without a body.
    pub(crate) response: Response,
    /// Who arrives.
    pub(crate) arrival: ConnectionInfo,
    /// What was agreed on compression.
    pub(crate) deflate: Option<Deflate>,
}

/// Judges an upgrade by the head of its request.
pub(crate) async fn accept<B>(
    gateway: &Gateway,
    request: &http::Request<B>,
) -> Result<Accepted, HttpError> {
    let (headers, extensions) = (request.headers(), request.extensions());
    gateway.origins.admit(headers)?;
    let key = websocket_key(headers)?;
    let (encoding, protocol) = subprotocol(headers)?;
    let agreement = deflate::negotiate(headers)
        .map_err(|error| bad_request(&format!("`Sec-WebSocket-Extensions`: {error}")))?;
    let deflate = gateway.options.compression.zip(agreement);
    let deflate = deflate.map(|(compressor, agreement)| Deflate {
        agreement,
        compressor,
    });
    let admitted = access::admit(gateway, headers, extensions, None).await?;
    let arrival = ConnectionInfo {
        identity: admitted.identity,
        transport: TRANSPORT,
        post_key: None,
        encoding,
        address: admitted.address,
        heartbeat: None,
        allowance: Some(admitted.allowance),
        // The listener says where; without one, whoever publishes delivers.
        shard: extensions.get().copied().unwrap_or(ShardId::CALLER),
    };
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
    if let Some(deflate) = deflate {
        let extension = deflate.agreement.response();
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extension);
    }
    Ok(Accepted {
        response,
        arrival,
        deflate,
    })
}

/// Answers `GET /v1/ws` where the front door left it to hyper: upgrades that come
/// after another request on the same connection, and those that are refused.
pub(crate) async fn upgrade(
    State(gateway): State<Gateway>,
    mut request: Request,
) -> Result<Response, HttpError> {
    // The body is not of use, and cannot be shared while it is waited for.
    let (mut parts, _) = std::mem::take(&mut request).into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let accepted = accept(&gateway, &http::Request::from_parts(parts, ())).await?;
    let upgrade =
        upgrade.ok_or_else(|| bad_request("this connection cannot be upgraded: use HTTP/1.1"))?;
    let tasks = gateway.tasks.clone();
    tasks.spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let ends = io::other(TokioIo::new(upgraded));
        let start = Start {
            head: Vec::new(),
            rest: &[],
            deflate: accepted.deflate,
        };
        serve(&gateway, ends, start, accepted.arrival).await;
    });
    Ok(accepted.response)
}

/// Serves a connection that was taken at the front door: the answer to its upgrade
/// leaves with the session's first words, `rest` was read already.
pub(crate) async fn serve_accepted(gateway: &Gateway, ends: Ends, accepted: Accepted, rest: &[u8]) {
    let start = Start {
        head: front::head_bytes(&accepted.response),
        rest,
        deflate: accepted.deflate,
    };
    serve(gateway, ends, start, accepted.arrival).await;
}

/// Serves an upgraded connection in a task of its own.
async fn serve(gateway: &Gateway, ends: Ends, start: Start<'_>, arrival: ConnectionInfo) {
    let connection = gateway.stream.connect(arrival).await;
    watch_authentication(gateway, &connection);
    let limit = gateway.options.frame_bytes;
    let router = gateway.router.clone();
    let run = connection::run(ends, start, connection, router, limit);
    gateway.tasks.spawn(run);
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
