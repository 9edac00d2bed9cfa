//! Clients: one conversation, whatever the transport.
//!
//! A [`Client`] sends the JSON form of messages and gets [`Message`]s; on a
//! binary transport it translates. So one suite of tests runs on all of them.

pub mod grpc;
mod sse;
mod websocket;

use std::collections::VecDeque;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::{Close, Message, Server, within};

pub use sse::{Event, SseStream};
pub use websocket::{RawSocket, SocketRequest};

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A WebSocket with text frames.
    WebSocketJson,
    /// A WebSocket with protobuf frames.
    WebSocketProto,
    /// Server-Sent Events, and POSTs as the way back.
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

/// Why there is no conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// An HTTP status with a body.
    Http(u16, String),
    /// A gRPC status.
    Grpc(tonic::Code, String),
}

/// What comes from the server.
#[derive(Debug)]
enum Incoming {
    Message(Message),
    Close(Close),
}

/// What a message that is sent comes to: a reply, where replies come beside the
/// stream, or why it cannot be sent.
type Sent<'a> = BoxFuture<'a, Result<Option<Message>, String>>;

/// The way to the server.
trait Outgoing: Send {
    fn send(&mut self, text: String) -> Sent<'_>;
}

/// What a transport gives a client.
struct Wire {
    incoming: mpsc::UnboundedReceiver<Incoming>,
    outgoing: Box<dyn Outgoing>,
    reader: AbortHandle,
}

/// A client.
pub struct Client {
    wire: Wire,
    welcome: Message,
    /// Received while something else was waited for.
    waiting: VecDeque<Message>,
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
        // The connection breaks off, as it does when a phone enters a tunnel.
        self.wire.reader.abort();
    }
}

impl Client {
    /// Connects without a token.
    ///
    /// # Panics
    /// It is refused.
    pub async fn connect(transport: Transport, server: &Server) -> Self {
        Self::connect_as(transport, server, None).await
    }

    /// Connects with a token.
    ///
    /// # Panics
    /// It is refused.
    pub async fn connect_as(transport: Transport, server: &Server, token: Option<&str>) -> Self {
        let opened = Self::open(transport, server, token).await;
        opened.unwrap_or_else(|refusal| panic!("{transport:?} is refused: {refusal:?}"))
    }

    /// Connects, or says why not.
    ///
    /// # Errors
    /// The server refuses.
    ///
    /// # Panics
    /// The first message is not `welcome`.
    pub async fn open(
        transport: Transport,
        server: &Server,
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
            waiting: VecDeque::new(),
            closed: None,
            requests: 0,
        })
    }

    /// The first message.
    #[must_use]
    pub fn welcome(&self) -> &Message {
        &self.welcome
    }

    /// Sends a message and waits for nothing.
    ///
    /// # Panics
    /// The connection is broken.
    pub async fn send(&mut self, message: &Value) {
        self.send_text(message.to_string()).await;
    }

    /// Sends a text that need not be a message.
    ///
    /// # Panics
    /// The connection is broken.
    pub async fn send_text(&mut self, text: String) {
        let sent = within("a message to leave", self.wire.outgoing.send(text)).await;
        self.waiting.extend(sent.expect("the connection stands"));
    }

    /// Sends a message over a connection that may have ended. False if it has.
    pub async fn try_send(&mut self, message: &Value) -> bool {
        let sending = self.wire.outgoing.send(message.to_string());
        match within("a message to leave", sending).await {
            Ok(reply) => {
                self.waiting.extend(reply);
                true
            }
            Err(_) => false,
        }
    }

    /// Sends a message with an id of its own and waits for the reply.
    ///
    /// # Panics
    /// None comes.
    pub async fn request(&mut self, kind: &str, data: Value) -> Message {
        self.requests += 1;
        let id = format!("r{}", self.requests);
        self.send(&json!({"type": kind, "id": id, "data": data}))
            .await;
        self.reply(&id).await
    }

    /// The same over a connection that may end. None if it does.
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
                if let Some(place) = self.waiting.iter().position(is_it) {
                    return self.waiting.remove(place);
                }
                if self.closed.is_some() {
                    return None;
                }
                self.receive().await;
            }
        })
        .await
    }

    /// Waits for the reply to a message; others are kept for [`next`](Self::next).
    ///
    /// # Panics
    /// None comes.
    pub async fn reply(&mut self, id: &str) -> Message {
        self.find(&format!("the reply to {id}"), |message| {
            message.id.as_deref() == Some(id)
        })
        .await
    }

    /// Subscribes to one channel and gives what became of it.
    ///
    /// # Panics
    /// The request as a whole is refused.
    pub async fn subscribe(&mut self, channel: &str) -> Value {
        self.subscribe_with(json!(channel)).await
    }

    /// Subscribes to one channel after a position.
    ///
    /// # Panics
    /// The request as a whole is refused.
    pub async fn resume(&mut self, channel: &str, epoch: &str, seq: u64) -> Value {
        let since = json!({"epoch": epoch, "seq": seq});
        self.subscribe_with(json!({"channel": channel, "since": since}))
            .await
    }

    /// Subscribes to one channel, as the JSON of one subscription.
    ///
    /// # Panics
    /// The request as a whole is refused.
    pub async fn subscribe_with(&mut self, channel: Value) -> Value {
        let reply = self
            .request("subscribe", json!({"channels": [channel]}))
            .await;
        let reply = reply.expect("subscribed");
        reply.data["channels"][0].clone()
    }

    /// The next message that is no heartbeat and no cursor.
    ///
    /// # Panics
    /// None comes.
    pub async fn next(&mut self) -> Message {
        self.find("a message", |_| true).await
    }

    /// The next message of this type; others are kept.
    ///
    /// # Panics
    /// None comes.
    pub async fn next_of(&mut self, kind: &str) -> Message {
        self.find(&format!("a `{kind}`"), |message| message.kind == kind)
            .await
    }

    /// The next message on this channel; others are kept.
    ///
    /// # Panics
    /// None comes.
    pub async fn next_on(&mut self, channel: &str) -> Message {
        let is_on = |message: &Message| message.channel.as_deref() == Some(channel);
        self.find(&format!("a message on {channel}"), is_on).await
    }

    /// The numbers and documents of the next so many messages on this channel.
    ///
    /// # Panics
    /// Fewer come.
    pub async fn take(&mut self, channel: &str, count: usize) -> Vec<(u64, Value)> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let message = self.next_on(channel).await.expect("message");
            taken.push((message.seq.unwrap_or_default(), message.data));
        }
        taken
    }

    /// What was received and not asked for yet.
    #[must_use]
    pub fn unread(&self) -> Vec<&Message> {
        self.waiting.iter().collect()
    }

    /// Asks for a sign of life: whatever the server said before it has arrived
    /// then, except on SSE, where replies have a way of their own.
    ///
    /// # Panics
    /// None comes.
    pub async fn settle(&mut self) {
        let _ = self.request("ping", json!({})).await.expect("pong");
    }

    /// Waits for the end of the conversation.
    ///
    /// # Panics
    /// It does not end.
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

    /// Waits for the end, and gives what was said before it.
    ///
    /// # Panics
    /// It does not end.
    pub async fn drain(&mut self) -> (Vec<Message>, Close) {
        let close = self.closed().await;
        (self.waiting.drain(..).collect(), close)
    }

    async fn find(&mut self, what: &str, is_it: impl Fn(&Message) -> bool) -> Message {
        within(what, async {
            let mut from = 0;
            loop {
                let place = self.waiting.iter().skip(from).position(&is_it);
                if let Some(message) = place.and_then(|place| self.waiting.remove(from + place)) {
                    return message;
                }
                from = self.waiting.len();
                if let Some(close) = &self.closed {
                    let texts: Vec<_> = self.waiting.iter().map(|message| &message.text).collect();
                    panic!("closed with {close:?} before {what}; unread: {texts:?}");
                }
                self.receive().await;
            }
        })
        .await
    }

    async fn receive(&mut self) {
        match self.wire.incoming.recv().await {
            Some(Incoming::Message(message)) => self.waiting.push_back(message),
            Some(Incoming::Close(close)) => self.closed = Some(close),
            None => self.closed = Some(Close::Broken("the reader ended".to_owned())),
        }
    }
}
