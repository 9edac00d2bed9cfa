//! Sessions: one client's conversation, whatever the transport.
//!
//! A [`Session`] is what commands act on; a [`Connection`] is the transport's own
//! handle, which takes what is to be sent and ends the session when it is dropped.
//! The state behind the lock lives in `state`, the way a flow is held and released
//! in `subscription`, the commands in `commands`, what a transport takes in `delivery`,
//! what an operator does to it in `server_actions`.

mod close;
mod commands;
mod delivery;
mod heartbeat;
mod outgoing;
mod price_batch;
mod server_actions;
mod state;
mod subscription;

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_proto::v1::{ActiveSubscription, ServerMessage, server_message::Data};
use tokio::{sync::Notify, time::Instant};

pub use close::CloseReason;
pub use delivery::FlushOutcome;
use heartbeat::Traffic;
pub use heartbeat::{ConnectionQuality, KeepAliveTimeouts};
pub use outgoing::{DirectMessage, OutgoingItem, OutgoingMessage};
pub use price_batch::PriceBatch;
pub(crate) use state::Slot;
use state::State;

use crate::{
    ChannelName, Class, Identity, Position, SessionQuota, StreamCore,
    hub::shard::{ShardId, Sink},
    publication_batch::Delivery,
    transport::{Transport, TransportCounters},
};

/// How a client wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As JSON text.
    Json,
    /// As protobuf.
    Proto,
}

/// A connection's id, and the proof that one may speak for it: 128 random bits in
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId([u8; 32]);

impl ConnectionId {
    fn random() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut bits = rand::random::<u128>();
        Self([(); 32].map(|()| {
            let digit = DIGITS[(bits & 15) as usize];
            bits >>= 4;
            digit
        }))
    }

    /// The id as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits are ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

// As text, since that is what is looked up.
impl std::hash::Hash for ConnectionId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl std::borrow::Borrow<str> for ConnectionId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// Key that proves the right to send commands for a connection, where commands come as
/// requests of their own: 128 random bits in hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct PostKey(String);

impl PostKey {
    /// A key that was never used before.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The key as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PostKey")
    }
}

/// What a transport says of a client when it comes.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Who it is.
    pub identity: Identity,
    /// How it is connected.
    pub transport: Transport,
    /// Proof that its commands need, where they come beside the connection.
    pub post_key: Option<PostKey>,
    /// How it wants its messages.
    pub encoding: Encoding,
    /// Where it comes from.
    pub address: Option<IpAddr>,
    /// How much silence it asked for before a sign of life, if it asked.
    pub heartbeat: Option<Duration>,
    /// What it may do. None: nothing holds it to a rate.
    pub quota: Option<SessionQuota>,
    /// The shard that its connection lives on.
    pub shard: ShardId,
}

/// What a session is to the hub.
pub(crate) struct SessionCore {
    id: ConnectionId,
    transport: Arc<TransportCounters>,
    opened_at_ms: i64,
    arrival: ConnectionInfo,
    stream: Arc<StreamCore>,
    state: Mutex<State>,
    /// Whether the session waits for its flush already.
    marked: AtomicBool,
    /// Who writes for the session; without one, whoever takes from it is woken.
    sink: OnceLock<Weak<dyn Sink>>,
    wake: Notify,
    /// Wakes whoever waits for the client to read its replies.
    drained: Notify,
    traffic: Traffic,
}

impl std::fmt::Debug for SessionCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SessionCore").field(&self.id).finish()
    }
}

impl SessionCore {
    /// The shard that the session lives on.
    pub(crate) fn shard_id(&self) -> ShardId {
        self.arrival.shard
    }

    /// Takes publications of one channel from the hub, in order. True if the
    /// transport has to look.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        slot: Slot,
        delivery: &Delivery<'_>,
        now: Instant,
    ) -> bool {
        let mut state = self.state.lock();
        if !state.deliver(slot, delivery, now) {
            return false;
        }
        if self.sink.get().is_none() {
            return true;
        }
        // What is gathered for later needs the shard then, and no flush now.
        let Some(later) = state.later(now) else {
            return true;
        };
        let at = state.arm(later);
        drop(state);
        if let Some(at) = at {
            self.stream.hub().shard(self.shard_id()).arm(at, self);
        }
        false
    }

    /// True for the one who has to see to the next flush.
    pub(crate) fn claim(&self) -> bool {
        !self.marked.swap(true, Ordering::AcqRel)
    }

    /// Sees to it that what waits is sent soon.
    pub(crate) fn mark(self: &Arc<Self>) {
        if self.sink.get().is_none() || self.shard_id() == ShardId::CALLER {
            self.wake.notify_one();
        } else if self.claim() {
            self.stream.hub().shard(self.shard_id()).mark(self.clone());
        }
    }

    /// Says the word that sends the client away, once, and ends the session.
    pub(crate) fn leave(self: &Arc<Self>, word: ServerMessage) {
        {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.is_sent_away, true) {
                return;
            }
            state.send(word);
            state.closing.get_or_insert(CloseReason::Draining);
        }
        self.mark();
        self.drained.notify_waiters();
    }

    /// Has what waits sent.
    pub(crate) fn flush(&self, now: Instant) {
        self.marked.store(false, Ordering::Release);
        match self.sink.get() {
            Some(sink) => {
                if let Some(sink) = sink.upgrade() {
                    sink.flush(now);
                }
            }
            None => self.wake.notify_one(),
        }
    }

    /// Whether the session waits for this time.
    pub(crate) fn is_armed(&self, at: Instant) -> bool {
        self.state.lock().is_armed(at)
    }

    /// True if the session was armed for this time.
    pub(crate) fn disarm(&self, at: Instant) -> bool {
        self.state.lock().disarm(at)
    }
}

/// One client's conversation: what its commands act on. Cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<SessionCore>);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Session").field(&self.0.id).finish()
    }
}

impl From<Arc<SessionCore>> for Session {
    fn from(core: Arc<SessionCore>) -> Self {
        Self(core)
    }
}

/// The transport's handle of a session, which ends with it.
#[derive(Debug)]
pub struct Connection(Session);

impl Connection {
    /// Opens a session: see [`StreamCore::connect`].
    pub(crate) async fn open(stream: Arc<StreamCore>, arrival: ConnectionInfo) -> Self {
        let options = *stream.options();
        let state = State::new(
            arrival.identity.clone(),
            arrival.encoding,
            options.outbox_bytes,
        );
        let transport = stream.transport_counters(arrival.transport);
        let session = Session(Arc::new(SessionCore {
            id: ConnectionId::random(),
            transport,
            opened_at_ms: stream.clock().now_ms(),
            arrival,
            stream: stream.clone(),
            state: Mutex::new(state),
            marked: AtomicBool::new(false),
            sink: OnceLock::new(),
            wake: Notify::new(),
            drained: Notify::new(),
            traffic: Traffic::default(),
        }));
        stream.register(&session);
        let connection = Self(session);
        connection.follow_own_channel().await;
        connection.send_welcome();
        connection.release_held();
        connection.leave_if_draining(&stream);
        connection
    }
}

impl std::ops::Deref for Connection {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn message(data: Data) -> ServerMessage {
    ServerMessage {
        data: Some(data),
        ..ServerMessage::default()
    }
}

impl Session {
    fn core(&self) -> &SessionCore {
        &self.0
    }

    /// The connection's id.
    #[must_use]
    pub fn id(&self) -> &ConnectionId {
        &self.0.id
    }

    /// The key that a POST must give to speak for this connection.
    #[must_use]
    pub fn post_key(&self) -> Option<&str> {
        self.0.arrival.post_key.as_ref().map(PostKey::as_str)
    }

    /// The server's clock, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.0.stream.clock().now_ms()
    }

    pub(crate) fn transport_counters(&self) -> &TransportCounters {
        &self.0.transport
    }

    /// Who the client is now.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0.state.lock().identity.clone()
    }

    /// What the client may do.
    #[must_use]
    pub fn quota(&self) -> Option<&SessionQuota> {
        self.0.arrival.quota.as_ref()
    }

    /// How the client came.
    #[must_use]
    pub fn info(&self) -> &ConnectionInfo {
        &self.0.arrival
    }

    /// What the session is subscribed to.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<ActiveSubscription> {
        let state = self.0.state.lock();
        let subscriptions =
            state
                .subscriptions
                .iter()
                .map(|(_, subscription)| ActiveSubscription {
                    channel: subscription.channel.as_str().to_owned(),
                    epoch: subscription.position.epoch.as_str().to_owned(),
                    seq: subscription.position.seq,
                });
        subscriptions.collect()
    }

    /// How far the transport has taken each history channel.
    #[must_use]
    pub fn delivered_positions(&self) -> Vec<(ChannelName, Position)> {
        let state = self.0.state.lock();
        let history = state
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.class == Class::History);
        history
            .map(|(_, subscription)| (subscription.channel.clone(), subscription.taken.clone()))
            .collect()
    }

    /// How many channels the session follows.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.0.state.lock().subscriptions.len()
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.0.state.lock().queued_bytes()
    }

    /// How many publications wait for their turn.
    #[must_use]
    pub fn queued_items(&self) -> usize {
        self.0.state.lock().queued_items()
    }

    /// Sends a message to the client, before what is published.
    pub fn send(&self, message: ServerMessage) {
        self.0.state.lock().send(message);
        self.0.mark();
    }

    /// Sends the reply to a command, and lets flow what was held back until it was
    /// said. Where a sink writes, whoever answers has it flushed.
    pub fn reply(&self, reply: ServerMessage) {
        {
            let mut state = self.0.state.lock();
            state.send(reply);
            state.release_held(Instant::now());
        }
        if self.0.sink.get().is_none() {
            self.0.mark();
        }
    }

    /// Whether so many replies wait that the client should read some before it asks
    /// for more.
    #[must_use]
    pub fn is_reply_queue_full(&self) -> bool {
        self.0.state.lock().is_reply_queue_full()
    }

    /// Ends the session when all that waits was taken.
    pub fn close(&self, reason: CloseReason) {
        self.0.state.lock().closing.get_or_insert(reason);
        self.0.mark();
        self.0.drained.notify_waiters();
    }

    /// Ends the session because the server stops, with a last word. What was published
    /// until now still goes to it.
    pub(crate) fn send_away(&self, word: ServerMessage) {
        match self.0.shard_id() {
            ShardId::CALLER => self.0.leave(word),
            shard => self
                .0
                .stream
                .hub()
                .shard(shard)
                .send_away(self.0.clone(), word),
        }
    }

    /// Waits while the client has too many replies to read.
    pub async fn wait_for_reply_room(&self) {
        loop {
            let drained = self.0.drained.notified();
            let mut drained = std::pin::pin!(drained);
            drained.as_mut().enable();
            {
                let mut state = self.0.state.lock();
                if !state.is_reply_queue_full() || state.closing.is_some() {
                    return;
                }
                state.is_awaited = true;
            }
            drained.await;
        }
    }

    /// Takes the session off the hub and the register.
    fn end(&self) {
        let mut state = self.0.state.lock();
        state.closing.get_or_insert(CloseReason::Draining);
        drop(state);
        self.leave_all();
        self.0.stream.unregister(self);
        // Others may hold the session for a while: its places are free now.
        if let Some(quota) = self.quota() {
            quota.release();
        }
        self.0.drained.notify_waiters();
    }
}
