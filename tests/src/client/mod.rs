//! Test clients: one API for a session on every transport.
//!
//! A [`Client`] sends the JSON form of messages and receives [`Message`]s. On a binary
//! transport it converts both, so that one test suite covers all transports.

pub mod grpc;
mod sse;
mod websocket;

use std::collections::VecDeque;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::{Close, Endpoint, Message, within};

pub use sse::{Event, SseStream};
pub use websocket::{RawSocket, SocketRequest};

/// The transport of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A WebSocket with text frames.
    WebSocketJson,
    /// A WebSocket with protobuf frames.
    WebSocketProto,
    /// Server-Sent Events, with POST requests towards the server.
    Sse,
    /// The gRPC stream `Connect`.
    Grpc,
}

impl Transport {
    /// All transports.
    pub const ALL: [Self; 4] = [
        Self::WebSocketJson,
        Self::WebSocketProto,
        Self::Sse,
        Self::Grpc,
    ];
}

/// A refused connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// HTTP status and body.
    Http(u16, String),
    /// gRPC status and message.
    Grpc(tonic::Code, String),
    /// No answer, or the connection broke before `welcome`.
    Unreachable(String),
}

impl Refusal {
    fn unreachable(reason: impl std::fmt::Display) -> Self {
        Self::Unreachable(reason.to_string())
    }
}

/// An event from the server.
#[derive(Debug)]
enum Incoming {
    Message(Message),
    Close(Close),
}

/// Result of sending a message: the reply, on transports that return replies outside of the
/// stream, or the error.
type Sent<'a> = BoxFuture<'a, Result<Option<Message>, String>>;

/// The direction towards the server.
trait Outgoing: Send {
    fn send(&mut self, text: String) -> Sent<'_>;
}

/// Both directions of a transport.
struct Wire {
    incoming: mpsc::UnboundedReceiver<Incoming>,
    outgoing: Box<dyn Outgoing>,
    reader: AbortHandle,
}

/// A connected client.
pub struct Client {
    wire: Wire,
    welcome: Message,
    /// Messages received while the test waited for another one.
    unread: VecDeque<Message>,
    closed: Option<Close>,
    requests: u64,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("welcome", &self.welcome.text)
            .finish_non_exhaustive()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Breaks the connection without a close, as a phone entering a tunnel does.
        self.wire.reader.abort();
    }
}

impl Client {
    /// Connects without a token.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn connect(transport: Transport, server: &Endpoint) -> Self {
        Self::connect_as(transport, server, None).await
    }

    /// Connects with a token.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn connect_as(transport: Transport, server: &Endpoint, token: Option<&str>) -> Self {
        let opened = Self::open(transport, server, token).await;
        opened.unwrap_or_else(|refusal| panic!("{transport:?} is refused: {refusal:?}"))
    }

    /// Connects, or returns the refusal.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    ///
    /// # Panics
    /// The first message is not `welcome`.
    pub async fn open(
        transport: Transport,
        server: &Endpoint,
        token: Option<&str>,
    ) -> Result<Self, Refusal> {
        let opened = within("a connection", async {
            match transport {
                Transport::WebSocketJson => websocket::open(server, token, websocket::JSON).await,
                Transport::WebSocketProto => websocket::open(server, token, websocket::PROTO).await,
                Transport::Sse => sse::open(server, token).await,
                Transport::Grpc => grpc::open(server, token).await,
            }
        });
        let (wire, welcome) = opened.await?;
        assert_eq!(
            welcome.kind, "welcome",
            "the first message on {transport:?}"
        );
        Ok(Self {
            wire,
            welcome,
            unread: VecDeque::new(),
            closed: None,
            requests: 0,
        })
    }

    /// Returns the first message.
    #[must_use]
    pub fn welcome(&self) -> &Message {
        &self.welcome
    }

    /// Sends a message without waiting for a reply.
    ///
    /// # Panics
    /// The connection is broken.
    pub async fn send(&mut self, message: &Value) {
        self.send_text(message.to_string()).await;
    }

    /// Sends any text, valid message or not.
    ///
    /// # Panics
    /// The connection is broken.
    pub async fn send_text(&mut self, text: String) {
        let sent = within("a message to leave", self.wire.outgoing.send(text)).await;
        self.unread.extend(sent.expect("the connection is open"));
    }

    /// Sends a message on a connection that may have ended. Returns false if it has.
    pub async fn try_send(&mut self, message: &Value) -> bool {
        let sending = self.wire.outgoing.send(message.to_string());
        match within("a message to leave", sending).await {
            Ok(reply) => {
                self.unread.extend(reply);
                true
            }
            Err(_) => false,
        }
    }

    /// Sends a message with a new id and waits for the reply.
    ///
    /// # Panics
    /// No reply comes.
    pub async fn request(&mut self, kind: &str, data: Value) -> Message {
        self.requests += 1;
        let id = format!("r{}", self.requests);
        self.send(&json!({"type": kind, "id": id, "data": data}))
            .await;
        self.reply(&id).await
    }

    /// Like [`request`](Self::request), but returns `None` if the connection ends.
    pub async fn try_request(&mut self, kind: &str, data: Value) -> Option<Message> {
        self.requests += 1;
        let id = format!("r{}", self.requests);
        let message = json!({"type": kind, "id": id, "data": data});
        if !self.try_send(&message).await {
            return None;
        }
        within(format!("the reply to {id}, or the end"), async {
            loop {
                let is_it = |message: &Message| message.id.as_deref() == Some(&*id);
                if let Some(place) = self.unread.iter().position(is_it) {
                    return self.unread.remove(place);
                }
                if self.closed.is_some() {
                    return None;
                }
                self.receive().await;
            }
        })
        .await
    }

    /// Waits for the reply to a message. Other messages stay unread for [`next`](Self::next).
    ///
    /// # Panics
    /// No reply comes.
    pub async fn reply(&mut self, id: &str) -> Message {
        self.find(&format!("the reply to {id}"), |message| {
            message.id.as_deref() == Some(id)
        })
        .await
    }

    /// Subscribes to one channel and returns its entry of the reply.
    ///
    /// # Panics
    /// The whole request is refused.
    pub async fn subscribe(&mut self, channel: &str) -> Value {
        self.subscribe_with(json!(channel)).await
    }

    /// Subscribes to one channel and recovers from a position.
    ///
    /// # Panics
    /// The whole request is refused.
    pub async fn resume(&mut self, channel: &str, epoch: &str, seq: u64) -> Value {
        let since = json!({"epoch": epoch, "seq": seq});
        self.subscribe_with(json!({"channel": channel, "since": since}))
            .await
    }

    /// Subscribes to one channel, given as the JSON of a subscription.
    ///
    /// # Panics
    /// The whole request is refused.
    pub async fn subscribe_with(&mut self, channel: Value) -> Value {
        let reply = self
            .request("subscribe", json!({"channels": [channel]}))
            .await;
        let reply = reply.expect("subscribed");
        reply.data["channels"][0].clone()
    }

    /// Returns the next message except heartbeats and cursors.
    ///
    /// # Panics
    /// No message comes.
    pub async fn next(&mut self) -> Message {
        self.find("a message", |_| true).await
    }

    /// Returns the next message, or `None` at the end of the connection. The caller decides how
    /// long to wait.
    pub async fn try_next(&mut self) -> Option<Message> {
        while self.unread.is_empty() && self.closed.is_none() {
            self.receive().await;
        }
        self.unread.pop_front()
    }

    /// Returns the next message of this type. Others stay unread.
    ///
    /// # Panics
    /// No message comes.
    pub async fn next_of(&mut self, kind: &str) -> Message {
        self.find(&format!("a `{kind}`"), |message| message.kind == kind)
            .await
    }

    /// Returns the next message on this channel. Others stay unread.
    ///
    /// # Panics
    /// No message comes.
    pub async fn next_on(&mut self, channel: &str) -> Message {
        let is_on = |message: &Message| message.channel.as_deref() == Some(channel);
        self.find(&format!("a message on {channel}"), is_on).await
    }

    /// Returns sequence numbers and payloads of the next `count` messages on this channel.
    ///
    /// # Panics
    /// Fewer messages come.
    pub async fn take(&mut self, channel: &str, count: usize) -> Vec<(u64, Value)> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let message = self.next_on(channel).await.expect("message");
            taken.push((message.seq.unwrap_or_default(), message.data));
        }
        taken
    }

    /// Returns the messages received but not read.
    #[must_use]
    pub fn unread(&self) -> Vec<&Message> {
        self.unread.iter().collect()
    }

    /// Sends a ping and waits for the pong. Every earlier server message has then arrived,
    /// except on SSE, where replies bypass the stream.
    ///
    /// # Panics
    /// No pong comes.
    pub async fn settle(&mut self) {
        let _ = self.request("ping", json!({})).await.expect("pong");
    }

    /// Waits for the connection to close.
    ///
    /// # Panics
    /// It does not close.
    pub async fn closed(&mut self) -> Close {
        within("the end of the conversation", async {
            loop {
                if let Some(close) = &self.closed {
                    return close.clone();
                }
                self.receive().await;
            }
        })
        .await
    }

    /// Waits for the close, and returns the messages before it.
    ///
    /// # Panics
    /// It does not close.
    pub async fn drain(&mut self) -> (Vec<Message>, Close) {
        let close = self.closed().await;
        (self.unread.drain(..).collect(), close)
    }

    async fn find(&mut self, what: &str, is_it: impl Fn(&Message) -> bool) -> Message {
        within(what, async {
            let mut from = 0;
            loop {
                let place = self.unread.iter().skip(from).position(&is_it);
                if let Some(message) = place.and_then(|place| self.unread.remove(from + place)) {
                    return message;
                }
                from = self.unread.len();
                if let Some(close) = &self.closed {
                    let texts: Vec<_> = self.unread.iter().map(|message| &message.text).collect();
                    panic!("closed with {close:?} before {what}; unread: {texts:?}");
                }
                self.receive().await;
            }
        })
        .await
    }

    async fn receive(&mut self) {
        match self.wire.incoming.recv().await {
            Some(Incoming::Message(message)) => self.unread.push_back(message),
            Some(Incoming::Close(close)) => self.closed = Some(close),
            None => self.closed = Some(Close::Broken("the reader ended".to_owned())),
        }
    }
}
