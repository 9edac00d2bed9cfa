//! Sessions: one client's conversation, on any transport.
//!
//! Commands act on a [`Session`]. A transport holds a [`Connection`], takes from it the
//! messages to send, and ends the session by dropping it. The state behind the session's lock has
//! parts, each with its own invariants:
//!
//! - `subscriptions`: the channels, found by name and by slot;
//! - `outbox`: queue of outgoing messages, bounded in bytes;
//! - `recovery`: held publications, and how a subscription catches up from the history;
//! - `heartbeat`: the interval of pings and the quality of the link;
//! - `flush_timer`: times at which the shard flushes the session without a new publication.
//!
//! `lifetime` ends a session whose token has expired, or that takes too long to close.
//!
//! `delivery` is the way of a publication through the parts, and `urgent` that of an urgent one. `commands` are the requests of a
//! client, `server_actions` the actions of an operator. `registry` is the list of all sessions,
//! and `context` the state that they share.
//!
//! # Hub and session
//! The two modules know each other, and no others in this crate do. The hub calls a session
//! for every delivery and every flush; a session adds and removes its subscriptions in the
//! hub, and gives times to its shard's timer. A trait between the two would cost a virtual
//! call for each delivery, of which a server makes millions a second. The order of locks keeps
//! the circle safe: a session never calls the hub while it holds its own lock.

mod close;
mod commands;
mod connection_info;
mod context;
mod delivery;
mod flush_timer;
mod heartbeat;
mod lifetime;
mod outbox;
mod outgoing;
mod personal;
mod price_batch;
mod recovery;
mod registry;
mod server_actions;
mod state;
mod subscriptions;
mod urgent;

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_proto::v1::{
    ActiveSubscription, Error, Pong, ServerMessage, Welcome, server_message::Data,
};
use tokio::{sync::Notify, time::Instant};

pub use close::CloseReason;
pub use commands::Command;
pub use connection_info::{ConnectionId, ConnectionInfo, Encoding, PostKey};
pub(crate) use context::SessionContext;
pub use delivery::FlushOutcome;
pub(crate) use flush_timer::DueTimers;
use heartbeat::Traffic;
pub use heartbeat::{ConnectionQuality, KeepAliveTimeouts};
pub use outgoing::{DirectMessage, OutgoingItem, OutgoingMessage};
pub use price_batch::PriceBatch;
pub use registry::RegistrySizes;
pub(crate) use server_actions::UnsubscribeReason;
use state::State;
pub(crate) use subscriptions::Slot;

use crate::{
    Caller, ChannelName, Class, Identity, Position, SessionQuota, StreamError,
    health::StatusNotice,
    hub::{ShardId, Sink},
    publication_batch::Delivery,
    transport::TransportCounters,
};

/// A session as the hub sees it.
pub(crate) struct SessionCore {
    id: ConnectionId,
    transport: Arc<TransportCounters>,
    opened_at_ms: i64,
    info: ConnectionInfo,
    context: Arc<SessionContext>,
    state: Mutex<State>,
    /// Whether the session is to be flushed already.
    is_dirty: AtomicBool,
    /// Writes for the session. Without a sink, the transport waits for `wake`.
    sink: OnceLock<Weak<dyn Sink>>,
    wake: Notify,
    /// Bytes that the transport took and has not sent.
    unsent: AtomicUsize,
    /// Wakes those who wait for the client to read its replies, or for the session to close.
    replies_read: Notify,
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
        self.info.shard
    }

    /// Queues publications of one channel, in order. True if the session is to be flushed.
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
        // A batch for later needs the shard's timer, and no flush now.
        let Some(later) = state.idle_until(now) else {
            return true;
        };
        let at = state.flush_timer.arm(later);
        drop(state);
        if let Some(at) = at {
            self.context.hub().shard(self.shard_id()).arm(at, self);
        }
        false
    }

    /// Claims the next flush. True for one caller alone, which has to see to it.
    pub(crate) fn claim_flush(&self) -> bool {
        !self.is_dirty.swap(true, Ordering::AcqRel)
    }

    /// Requests a flush of the session soon.
    pub(crate) fn mark_dirty(self: &Arc<Self>) {
        if self.sink.get().is_none() || self.shard_id() == ShardId::CALLER {
            self.wake.notify_one();
        } else if self.claim_flush() {
            let shard = self.context.hub().shard(self.shard_id());
            shard.mark_dirty(self.clone());
        }
    }

    /// Ends the session for a drain, after a last message. Only the first call counts.
    pub(crate) fn leave(self: &Arc<Self>, last: ServerMessage) {
        {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.is_draining, true) {
                return;
            }
            state.send(last);
            state.close(CloseReason::Draining, Instant::now());
        }
        self.begin_closing();
    }

    /// Makes the transport write the outgoing messages.
    pub(crate) fn flush(&self, now: Instant) {
        self.is_dirty.store(false, Ordering::Release);
        match self.sink.get() {
            Some(sink) => {
                if let Some(sink) = sink.upgrade() {
                    sink.flush(now);
                }
            }
            None => self.wake.notify_one(),
        }
    }

    /// Whether the session still waits for the shard's timer at `at`.
    pub(crate) fn is_armed(&self, at: Instant) -> bool {
        self.state.lock().flush_timer.is_armed(at)
    }

    /// Notes that the shard's timer has come to `at`. Returns what the session waits for.
    pub(crate) fn disarm(&self, at: Instant) -> DueTimers {
        self.state.lock().flush_timer.disarm(at)
    }

    /// The heartbeat interval as it should be now, in milliseconds: never shorter than the
    /// client requested.
    fn heartbeat_interval_ms(&self, state: &State, now: Instant) -> u32 {
        let options = self.context.options();
        let interval = state.heartbeat.interval(now, state.visibility, options);
        let shortest = self.info.heartbeat.unwrap_or_default();
        u32::try_from(interval.max(shortest).as_millis()).unwrap_or(u32::MAX)
    }

    /// Notes that a publication or a command passes. A client that uses a longer heartbeat
    /// interval than it has now is announced the new one.
    fn note_activity(&self, state: &mut State, now: Instant) {
        state.heartbeat.note_activity(now);
        let announced_ms = state.heartbeat.announced_ms();
        if u128::from(announced_ms) <= self.context.options().heartbeat.as_millis() {
            return;
        }
        if self.heartbeat_interval_ms(state, now) < announced_ms {
            let pong = self.pong(state, None, now);
            state.send(message(Data::Pong(pong)));
        }
    }

    /// A pong, which announces the heartbeat interval.
    fn pong(&self, state: &mut State, t: Option<f64>, now: Instant) -> Pong {
        let interval_ms = self.heartbeat_interval_ms(state, now);
        state.heartbeat.announce(interval_ms);
        state.heartbeat.pong(t, self.context.clock().now_ms())
    }
}

/// One client's conversation, on which its commands act. Cheap to clone.
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

/// Room for a reply that is being made.
#[derive(Debug)]
pub struct ReplyReservation {
    session: Session,
    bytes: usize,
}

impl ReplyReservation {
    /// Length that the reply should not exceed, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for ReplyReservation {
    fn drop(&mut self) {
        self.session.0.state.lock().outbox.unreserve(self.bytes);
        self.session.0.replies_read.notify_waiters();
    }
}

/// The transport's handle of a session. Dropping it ends the session.
#[derive(Debug)]
pub struct Connection(Session);

impl Connection {
    /// Opens a session: see [`StreamCore::connect`](crate::StreamCore::connect).
    pub(crate) async fn open(context: Arc<SessionContext>, info: ConnectionInfo) -> Self {
        let state = State::new(
            info.caller.identity.clone(),
            info.encoding,
            context.options().outbox_bytes,
        );
        let id = ConnectionId::random();
        let id = context.broker().node_tag().map_or(id, |node| id.on(node));
        let session = Session(Arc::new(SessionCore {
            id,
            transport: context.transports().counters(info.transport),
            opened_at_ms: context.clock().now_ms(),
            info,
            context,
            state: Mutex::new(state),
            is_dirty: AtomicBool::new(false),
            sink: OnceLock::new(),
            wake: Notify::new(),
            unsent: AtomicUsize::new(0),
            replies_read: Notify::new(),
            traffic: Traffic::default(),
        }));
        session.start();
        let connection = Self(session);
        let opening = connection.begin_command();
        opening.subscribe_to_personal_channels().await;
        connection.send_welcome();
        drop(opening);
        connection.leave_if_draining();
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

    /// Id of the connection.
    #[must_use]
    pub fn id(&self) -> &ConnectionId {
        &self.0.id
    }

    /// Key that a command beside the connection has to give.
    #[must_use]
    pub fn post_key(&self) -> Option<&str> {
        self.0.info.post_key.as_ref().map(PostKey::as_str)
    }

    /// The server's clock, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.0.context.clock().now_ms()
    }

    /// When the session was opened, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn opened_at_ms(&self) -> i64 {
        self.0.opened_at_ms
    }

    /// Identity of the client now. An expired token proves none, also before the session ends
    /// for it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let identity = self.0.state.lock().identity.clone();
        match identity.expires_at_ms() {
            Some(expires_at) if expires_at <= self.now_ms() => Identity::Unknown,
            _ => identity,
        }
    }

    /// The client, with its identity now.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            identity: self.identity(),
            connection: Some(self.0.id),
            ..self.0.info.caller.clone()
        }
    }

    /// Rates that the client is held to.
    #[must_use]
    pub fn quota(&self) -> Option<&SessionQuota> {
        self.0.info.quota.as_ref()
    }

    /// Facts that the transport knew about the client when it connected.
    #[must_use]
    pub fn info(&self) -> &ConnectionInfo {
        &self.0.info
    }

    pub(crate) fn transport_counters(&self) -> &TransportCounters {
        &self.0.transport
    }

    /// Whether the session is subscribed to a channel.
    #[must_use]
    pub fn is_subscribed(&self, channel: &ChannelName) -> bool {
        self.0.state.lock().subscriptions.contains(channel)
    }

    /// Channels of the session, each with the position up to which the client was sent its
    /// publications: a client that resumes from there misses nothing. A channel whose history has
    /// not been read yet is announced by its own reply.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<ActiveSubscription> {
        let state = self.0.state.lock();
        let subscriptions = state.subscriptions.iter().filter_map(|(_, subscription)| {
            let position = subscription.sent()?;
            Some(ActiveSubscription {
                channel: subscription.channel().as_str().to_owned(),
                epoch: position.epoch.as_str().to_owned(),
                seq: position.seq,
            })
        });
        subscriptions.collect()
    }

    /// Position of each history channel up to which the transport took its publications. None
    /// while one of them is unknown, since the channel's history has not been read yet.
    #[must_use]
    pub fn delivered_positions(&self) -> Option<Vec<(ChannelName, Position)>> {
        let state = self.0.state.lock();
        let subscriptions = state.subscriptions.iter();
        subscriptions
            .filter(|(_, subscription)| subscription.class() == Class::History)
            .map(|(_, one)| Some((one.channel().clone(), one.delivered()?)))
            .collect()
    }

    /// How many channels the session is subscribed to.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.0.state.lock().subscriptions.len()
    }

    /// Bytes in the outbox.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.0.state.lock().outbox.bytes()
    }

    /// Bytes that wait for the client anywhere: in the outbox, in the buffers of held
    /// subscriptions, in replies that are being made, and in the transport.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        let state = self.0.state.lock();
        let held = state.recovery.held.used();
        let unsent = self.0.unsent.load(Ordering::Relaxed);
        state.outbox.bytes() + state.outbox.reserved_bytes() + held + unsent
    }

    /// Notes how many of the bytes that the transport took it has not sent yet.
    pub fn record_unsent(&self, bytes: usize) {
        self.0.unsent.store(bytes, Ordering::Relaxed);
    }

    /// Reserves room for a reply before it is made: up to `most` bytes, or as many as there is
    /// room for. Keep the reservation until the reply is queued.
    #[must_use]
    pub fn reserve_reply(&self, most: usize) -> ReplyReservation {
        let bytes = self.0.state.lock().outbox.reserve(most);
        ReplyReservation {
            session: self.clone(),
            bytes,
        }
    }

    /// How many publications and pending values wait to be sent.
    #[must_use]
    pub fn queued_items(&self) -> usize {
        self.0.state.lock().outbox.len()
    }

    /// Sends a message to this client alone. It leaves before later publications.
    pub fn send(&self, message: ServerMessage) {
        self.0.state.lock().send(message);
        self.0.mark_dirty();
    }

    /// Sends an error that answers no message, or the message with this id.
    pub fn send_error(&self, id: Option<String>, error: Error) {
        self.send(ServerMessage {
            id,
            ..message(Data::Error(error))
        });
    }

    fn send_welcome(&self) {
        let heartbeat_ms = self.announce_heartbeat();
        let identity = self.identity();
        let welcome = Welcome {
            connection_id: self.id().as_str().to_owned(),
            user_id: identity.user().map(|user| user.as_str().to_owned()),
            heartbeat_ms,
            server_time: self.now_ms(),
            expires_at: identity.expires_at_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            subscriptions: self.subscriptions(),
            post_key: self.post_key().map(str::to_owned),
            sample: self.0.context.options().sample,
        };
        {
            let mut state = self.0.state.lock();
            // Whatever was sent while the session opened comes after it.
            state.outbox.push_first(message(Data::Welcome(welcome)));
            state.status_notice = StatusNotice::Ok;
            self.queue_status(&mut state);
        }
        self.0.mark_dirty();
    }

    /// Sends `status`, if the client was sent another one last. A client without `welcome`
    /// gets it then.
    pub(crate) fn send_status(&self) {
        let is_queued = self.queue_status(&mut self.0.state.lock());
        if is_queued {
            self.0.mark_dirty();
        }
    }

    /// Queues `status`, if the client was sent another one last. The health is read under
    /// the session's lock: so a change reaches a session either here or by its broadcast.
    fn queue_status(&self, state: &mut State) -> bool {
        let news = self.0.context.health().news(state.status_notice);
        let Some((notice, status)) = news.filter(|_| state.closing.is_none()) else {
            return false;
        };
        state.status_notice = notice;
        state.send(message(Data::Status(status)));
        true
    }

    /// Whether the client should read some of its queued replies before its next command.
    #[must_use]
    pub fn is_reply_queue_full(&self) -> bool {
        self.0.state.lock().outbox.is_reply_queue_full()
    }

    /// Waits until the client has read enough of its replies for another command.
    pub async fn wait_for_reply_room(&self) {
        loop {
            let replies_read = self.0.replies_read.notified();
            let mut replies_read = std::pin::pin!(replies_read);
            replies_read.as_mut().enable();
            {
                let mut state = self.0.state.lock();
                if !state.outbox.is_reply_queue_full() || state.closing.is_some() {
                    return;
                }
                state.has_waiting_command = true;
            }
            replies_read.await;
        }
    }

    /// Ends the session when its outbox is empty, or after ten seconds. Only the first reason
    /// counts.
    pub fn close(&self, reason: CloseReason) {
        self.0.state.lock().close(reason, Instant::now());
        self.0.begin_closing();
    }

    /// Lists the session. If its token was revoked meanwhile, it is closed.
    fn start(&self) {
        self.0.transport.count_connect();
        self.0.context.registry().add(self);
        // A refusal has closed the session already.
        let _ = self.identify();
        self.0.check_lifetime(Instant::now());
    }

    /// Removes the session from the hub and the list, and frees its quota.
    fn end(&self) {
        {
            let mut state = self.0.state.lock();
            state.close(CloseReason::Draining, Instant::now());
            if let Some(end) = &mut state.closing {
                end.is_over = true;
            }
        }
        self.unsubscribe_from_all();
        self.0.context.registry().remove(self);
        let (sent, received) = self.traffic();
        self.0.transport.add_ended(sent, received);
        // The session may be held for a while: its share of the limits is free now.
        if let Some(quota) = self.quota() {
            quota.release();
        }
        self.0.replies_read.notify_waiters();
    }

    /// Lists the session under its user and token, and closes it if they were revoked.
    ///
    /// # Errors
    /// They were revoked.
    fn identify(&self) -> Result<(), StreamError> {
        let context = &self.0.context;
        context.registry().identify(self);
        let Identity::User(identity) = self.identity() else {
            return Ok(());
        };
        let checked = context.authenticator().revocations().check(&identity);
        if checked.is_err() {
            self.disconnect(CloseReason::Revoked);
        }
        checked
    }

    /// Answers a ping, and notes that the client sends pings.
    pub fn answer_ping(&self, t: Option<f64>) -> Pong {
        let mut state = self.0.state.lock();
        state.heartbeat.note_ping();
        self.0.pong(&mut state, t, Instant::now())
    }

    /// Notes that the client sent a command: the heartbeat interval is short again.
    pub fn record_activity(&self) {
        let has_message = {
            let mut state = self.0.state.lock();
            let before = state.heartbeat.announced_ms();
            self.0.note_activity(&mut state, Instant::now());
            state.heartbeat.announced_ms() != before
        };
        if has_message {
            self.0.mark_dirty();
        }
    }

    /// Heartbeat interval that the client was announced, in milliseconds.
    #[must_use]
    pub fn heartbeat_ms(&self) -> u32 {
        self.0.state.lock().heartbeat.announced_ms()
    }

    /// The heartbeat interval as it is now, in milliseconds, noted as announced.
    fn announce_heartbeat(&self) -> u32 {
        let mut state = self.0.state.lock();
        let interval_ms = self.0.heartbeat_interval_ms(&state, Instant::now());
        state.heartbeat.announce(interval_ms);
        interval_ms
    }

    /// When the client's silence is worth a probe now.
    #[must_use]
    pub fn keep_alive_timeouts(&self, now: Instant) -> KeepAliveTimeouts {
        let state = self.0.state.lock();
        let options = self.0.context.options();
        state.heartbeat.timeouts(now, state.visibility, options)
    }

    /// Records a round trip to the client and back.
    pub fn record_round_trip(&self, round_trip: Duration) {
        self.0.state.lock().heartbeat.record_round_trip(round_trip);
        self.0.context.record_round_trip(round_trip);
    }

    /// Records that no sign of life came in time.
    pub fn record_missed_heartbeat(&self) {
        self.0.state.lock().heartbeat.note_missed();
        self.0.context.count_missed_heartbeat();
    }

    /// Counts bytes that were sent. Only the writer calls this.
    pub fn record_sent(&self, bytes: usize) {
        self.0.traffic.add_sent(bytes);
    }

    /// Counts bytes that were received. Only the reader calls this.
    pub fn record_received(&self, bytes: usize) {
        self.0.traffic.add_received(bytes);
    }

    /// Bytes sent and bytes received.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        self.0.traffic.totals()
    }

    /// How good the connection is.
    #[must_use]
    pub fn quality(&self) -> ConnectionQuality {
        let state = self.0.state.lock();
        state.heartbeat.quality(&self.0.traffic)
    }
}
