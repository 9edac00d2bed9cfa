//! WebSocket adapter: `/v1/ws`, in JSON and protobuf.

mod byte_stream;
pub mod deflate;
pub mod frame;
mod keep_alive;
mod reader;
mod writer;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use base64::Engine as _;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tidewire_proto::{
    json,
    prost::Message as _,
    v1::{Error, ErrorCode, ServerMessage, server_message::Data},
};
use tidewire_stream::{CloseReason, ConnectionInfo, Encoding, ShardId, StreamError, Transport};

pub(crate) use byte_stream::{ByteStream, split_tcp, split_tls};
use frame::{Opcode, write_close, write_frame};
use reader::Preamble;
use writer::Deflate;

use crate::{
    Gateway, access::ConnectionGuard, client, reply::HttpError, upgrade::encode_response_head,
};

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
    /// The parameters of the session, or the reason for which there is none.
    session: Result<ConnectionInfo, Refusal>,
    /// The negotiated compression.
    pub(crate) deflate: Option<Deflate>,
}

/// The refusal of a client that can read it only on the WebSocket.
struct Refusal {
    error: Error,
    reason: CloseReason,
    encoding: Encoding,
    /// The connection counts for its address until it is closed.
    _guard: Option<Arc<ConnectionGuard>>,
}

impl Refusal {
    /// The refusal on the WebSocket, for a client that cannot read an HTTP status: a browser
    /// that sent a token. Other clients get the HTTP error.
    fn on_socket(
        error: HttpError,
        encoding: Encoding,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Self, HttpError> {
        if !client::is_browser_with_token(headers) {
            return Err(error);
        }
        let reason = match error.code() {
            ErrorCode::Unauthenticated => CloseReason::Unauthenticated,
            ErrorCode::ResourceExhausted => CloseReason::RateLimited,
            ErrorCode::Unavailable => CloseReason::Unavailable,
            _ => return Err(error),
        };
        Ok(Self {
            error: error.into_error(),
            reason,
            encoding,
            _guard: extensions.get().cloned(),
        })
    }

    /// The frames that tell the client.
    fn write(&self, out: &mut Vec<u8>) {
        let message = ServerMessage {
            data: Some(Data::Error(self.error.clone())),
            ..ServerMessage::default()
        };
        match self.encoding {
            Encoding::Json => write_frame(out, Opcode::Text, &json::to_vec(&message)),
            Encoding::Proto => write_frame(out, Opcode::Binary, &message.encode_to_vec()),
        }
        write_close(out, self.reason.code(), self.reason.text());
    }
}

/// Accepts or refuses an upgrade by the head of its request. A browser that sent a token gets
/// the reason for a refusal on the WebSocket.
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
    let session = match client::admit(gateway, headers, extensions, None).await {
        Ok(client) => Ok(ConnectionInfo {
            caller: client.caller,
            transport: TRANSPORT,
            post_key: None,
            encoding,
            heartbeat: None,
            quota: Some(client.quota),
            // Without a listener, as in tests, the publishing thread delivers.
            shard: extensions.get().copied().unwrap_or(ShardId::CALLER),
        }),
        Err(error) => Err(Refusal::on_socket(error, encoding, headers, extensions)?),
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
        session,
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
        serve(&gateway, stream, preamble, handshake.session).await;
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
    serve(gateway, stream, preamble, handshake.session).await;
}

/// Opens the session of an upgraded connection, and serves it in a task of its own; or tells
/// the client why it has none.
async fn serve(
    gateway: &Gateway,
    stream: ByteStream,
    preamble: Preamble<'_>,
    session: Result<ConnectionInfo, Refusal>,
) {
    let info = match session {
        Ok(info) => info,
        Err(refusal) => {
            let mut last_bytes = preamble.head;
            refusal.write(&mut last_bytes);
            gateway.tasks.spawn(async move {
                reader::end(stream, last_bytes).await;
                drop(refusal);
            });
            return;
        }
    };
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
