//! WebSocket transport, on a library that shares no code with the server.

use bytes::Bytes;
use futures::{
    FutureExt as _, SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use http::{HeaderValue, header};
use tidewire_proto::{json, prost::Message as _};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{self, Message as Frame, client::IntoClientRequest as _},
};

use super::{Incoming, Outgoing, Refusal, Sent, Wire};
use crate::{Close, Endpoint, Message, within};

pub(super) const JSON: &str = "tidewire.v1.json";
pub(super) const PROTO: &str = "tidewire.v1.proto";

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Headers of the handshake.
#[derive(Debug, Clone, Default)]
pub struct SocketRequest {
    /// Offered subprotocols.
    pub protocols: Vec<String>,
    /// Bearer token of `Authorization`.
    pub token: Option<String>,
    /// The `Origin` header.
    pub origin: Option<String>,
}

impl SocketRequest {
    /// Offers one subprotocol.
    #[must_use]
    pub fn offering(protocol: &str) -> Self {
        Self {
            protocols: vec![protocol.to_owned()],
            ..Self::default()
        }
    }

    /// Performs the handshake. Returns the socket and the selected subprotocol.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    ///
    /// # Panics
    /// The handshake is never answered.
    pub async fn open(&self, server: &Endpoint) -> Result<(RawSocket, Option<String>), Refusal> {
        // `https` becomes `wss`.
        let url = server.url("/v1/ws").replacen("http", "ws", 1);
        let connector = server.authority().map_or(Connector::Plain, |authority| {
            Connector::Rustls(authority.client_config("http/1.1", None))
        });
        let mut request = url.into_client_request().expect("a request");
        let value = |text: String| HeaderValue::from_str(&text).expect("a header value");
        let headers = request.headers_mut();
        if !self.protocols.is_empty() {
            headers.insert(
                header::SEC_WEBSOCKET_PROTOCOL,
                value(self.protocols.join(", ")),
            );
        }
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, value(format!("Bearer {token}")));
        }
        if let Some(origin) = &self.origin {
            headers.insert(header::ORIGIN, value(origin.clone()));
        }
        let connecting = connect_async_tls_with_config(request, None, false, Some(connector));
        match within("a WebSocket", Box::pin(connecting)).await {
            Ok((socket, response)) => {
                let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
                let chosen = chosen
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned);
                Ok((RawSocket(socket), chosen))
            }
            Err(tungstenite::Error::Http(response)) => Err(Refusal::Http(
                response.status().as_u16(),
                String::from_utf8_lossy(response.body().as_deref().unwrap_or_default())
                    .into_owned(),
            )),
            Err(error) => Err(Refusal::unreachable(error)),
        }
    }
}

/// A socket for frames that a well-behaved client never sends.
#[derive(Debug)]
pub struct RawSocket(Socket);

impl RawSocket {
    /// Sends a frame.
    ///
    /// # Panics
    /// The connection is broken.
    pub async fn send(&mut self, frame: Frame) {
        within("a frame to leave", self.0.send(frame))
            .await
            .expect("the connection is open");
    }

    /// Returns the next message.
    ///
    /// # Panics
    /// No message comes.
    pub async fn next(&mut self) -> Message {
        loop {
            match within("a frame", self.0.next()).await {
                Some(Ok(frame)) => match read(&frame) {
                    Some(Incoming::Message(message)) => return message,
                    Some(Incoming::Close(close)) => panic!("closed with {close:?}"),
                    None => {}
                },
                other => panic!("a frame was expected, not {other:?}"),
            }
        }
    }

    /// Returns the next frame, except the server's pings.
    ///
    /// # Panics
    /// No frame comes.
    pub async fn frame(&mut self) -> Frame {
        loop {
            let frame = within("a frame", self.0.next()).await;
            let frame = frame.expect("the connection is open").expect("a frame");
            if !frame.is_ping() {
                return frame;
            }
        }
    }

    /// Waits for the close frame and returns its code.
    ///
    /// # Panics
    /// No close frame comes.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match within("a close frame", self.0.next()).await {
                Some(Ok(Frame::Close(Some(close)))) => return close.code.into(),
                Some(Ok(_)) => {}
                other => panic!("a close frame was expected, not {other:?}"),
            }
        }
    }
}

pub(super) async fn open(
    server: &Endpoint,
    token: Option<&str>,
    protocol: &str,
) -> Result<(Wire, Message), Refusal> {
    let mut request = SocketRequest::offering(protocol);
    request.token = token.map(str::to_owned);
    let (RawSocket(socket), chosen) = request.open(server).await?;
    assert_eq!(chosen.as_deref(), Some(protocol), "the subprotocol");
    let (sink, stream) = socket.split();
    let (sender, mut incoming) = mpsc::unbounded_channel();
    let reader = tokio::spawn(listen(stream, sender)).abort_handle();
    let welcome = match incoming.recv().await {
        Some(Incoming::Message(welcome)) => welcome,
        other => return Err(Refusal::unreachable(format!("{other:?}, no `welcome`"))),
    };
    let outgoing = Box::new(Side {
        sink,
        is_binary: protocol == PROTO,
    });
    Ok((
        Wire {
            incoming,
            outgoing,
            reader,
        },
        welcome,
    ))
}

struct Side {
    sink: SplitSink<Socket, Frame>,
    is_binary: bool,
}

impl Outgoing for Side {
    fn send(&mut self, text: String) -> Sent<'_> {
        let frame = if self.is_binary {
            let message = json::parse_client(text.as_bytes())
                .unwrap_or_else(|error| panic!("{text} has no protobuf form: {error}"));
            Frame::Binary(Bytes::from(message.encode_to_vec()))
        } else {
            Frame::text(text)
        };
        async move {
            let sent = self.sink.send(frame).await;
            sent.map(|()| None).map_err(|error| error.to_string())
        }
        .boxed()
    }
}

async fn listen(mut stream: SplitStream<Socket>, sender: mpsc::UnboundedSender<Incoming>) {
    while let Some(frame) = stream.next().await {
        let incoming = match frame {
            Ok(frame) => read(&frame),
            Err(error) => Some(Incoming::Close(Close::Broken(error.to_string()))),
        };
        let is_over = matches!(incoming, Some(Incoming::Close(_)));
        if let Some(incoming) = incoming
            && (sender.send(incoming).is_err() || is_over)
        {
            return;
        }
    }
}

fn read(frame: &Frame) -> Option<Incoming> {
    match frame {
        Frame::Text(text) => Some(Incoming::Message(Message::parse(text))),
        Frame::Binary(bytes) => Some(Incoming::Message(Message::decode(bytes))),
        Frame::Close(Some(close)) => Some(Incoming::Close(Close::WebSocket {
            code: close.code.into(),
            reason: close.reason.as_str().to_owned(),
        })),
        Frame::Close(None) => Some(Incoming::Close(Close::Broken(
            "closed without a code".to_owned(),
        ))),
        Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => None,
    }
}
