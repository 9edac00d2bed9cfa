//! WebSocket adapter: `/v1/ws`, in JSON and protobuf.

mod byte_stream;
pub mod deflate;
pub mod frame;
mod keep_alive;
mod reader;
mod writer;

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
use tidewire_stream::{ConnectionInfo, Encoding, ShardId, StreamError, Transport};

pub(crate) use byte_stream::{ByteStream, split_any, split_tcp};
use reader::Preamble;
use writer::Deflate;

use crate::{Gateway, client, reply::HttpError, upgrade::encode_response_head};

/// Label of WebSocket connections.
pub(crate) const TRANSPORT: Transport = Transport::new("websocket");

/// The subprotocol of text frames.
const JSON: &str = "tidewire.v1.json";

/// The subprotocol of binary frames.
const PROTO: &str = "tidewire.v1.proto";

/// An accepted upgrade.
pub(crate) struct Handshake {
    /// The response, without a body.
    pub(crate) response: Response,
    /// The parameters of the session.
    pub(crate) info: ConnectionInfo,
    /// The negotiated compression.
    pub(crate) deflate: Option<Deflate>,
}

/// Accepts or refuses an upgrade by the head of its request.
pub(crate) async fn accept<B>(
    gateway: &Gateway,
    request: &http::Request<B>,
) -> Result<Handshake, HttpError> {
    let (headers, extensions) = (request.headers(), request.extensions());
    gateway.origins.check(headers)?;
    let key = websocket_key(headers)?;
    let (encoding, protocol) = subprotocol(headers)?;
    let agreement = deflate::negotiate(headers)
        .map_err(|error| bad_request(&format!("`Sec-WebSocket-Extensions`: {error}")))?;
    let deflate = gateway.options.compression.zip(agreement);
    let deflate = deflate.map(|(options, agreement)| Deflate { agreement, options });
    let client = client::admit(gateway, headers, extensions, None).await?;
    let info = ConnectionInfo {
        identity: client.identity,
        transport: TRANSPORT,
        post_key: None,
        encoding,
        address: client.address,
        heartbeat: None,
        quota: Some(client.quota),
        // Without a listener, as in tests, the publishing thread delivers.
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
    Ok(Handshake {
        response,
        info,
        deflate,
    })
}

/// Answers `GET /v1/ws` through hyper: refused upgrades, and upgrades that follow another
/// request on their connection.
pub(crate) async fn upgrade(
    State(gateway): State<Gateway>,
    mut request: Request,
) -> Result<Response, HttpError> {
    // The body is dropped, since it would make the future not `Send`.
    let (mut parts, _) = std::mem::take(&mut request).into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let handshake = accept(&gateway, &http::Request::from_parts(parts, ())).await?;
    let upgrade =
        upgrade.ok_or_else(|| bad_request("this connection cannot be upgraded: use HTTP/1.1"))?;
    let tasks = gateway.tasks.clone();
    tasks.spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let stream = byte_stream::split_any(TokioIo::new(upgraded));
        let preamble = Preamble {
            head: Vec::new(),
            rest: &[],
            deflate: handshake.deflate,
        };
        serve(&gateway, stream, preamble, handshake.info).await;
    });
    Ok(handshake.response)
}

/// Serves a connection that the server upgraded itself. The response leaves with the
/// session's first message. `rest` are bytes that were read after the request.
pub(crate) async fn serve_handshake(
    gateway: &Gateway,
    stream: ByteStream,
    handshake: Handshake,
    rest: &[u8],
) {
    let preamble = Preamble {
        head: encode_response_head(&handshake.response),
        rest,
        deflate: handshake.deflate,
    };
    serve(gateway, stream, preamble, handshake.info).await;
}

/// Opens the session of an upgraded connection, and serves it in a task of its own.
async fn serve(
    gateway: &Gateway,
    stream: ByteStream,
    preamble: Preamble<'_>,
    info: ConnectionInfo,
) {
    let connection = gateway.stream.connect(info).await;
    let limit = gateway.options.frame_bytes;
    let router = gateway.router.clone();
    let connection = reader::serve(stream, preamble, connection, router, limit);
    gateway.tasks.spawn(connection);
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

/// The first known subprotocol of the offer. JSON if the client offers none.
fn subprotocol(headers: &HeaderMap) -> Result<(Encoding, Option<&'static str>), HttpError> {
    let mut offers = client::subprotocols(headers)
        .filter(|offer| !offer.starts_with(client::BEARER_SUBPROTOCOL));
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

/// The value of `Sec-WebSocket-Accept` (RFC 6455, section 4.2.2).
fn accept_key(key: &HeaderValue) -> HeaderValue {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
    // Base64 is always a valid header value.
    HeaderValue::from_str(&accept).unwrap_or_else(|_| HeaderValue::from_static(""))
}
