//! Sessions: one client's conversation, whatever the transport.
//!
//! A [`Session`] is what commands act on; a [`Connection`] is the transport's own
//! handle, which takes what is to be sent and ends the session when it is dropped.
//! The state behind the lock lives in `state`, the way a flow is held and released
//! in `subscription`, the commands in `commands`, what an operator does to it in
//! `operated`.

mod commands;
mod operated;
mod outgoing;
mod quality;
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
use tidewire_proto::v1::{
    ActiveSubscription, Error, ErrorCode, ServerMessage, TokenExpiring, server_message::Data,
};
use tokio::{sync::Notify, time::Instant};

pub use outgoing::Outgoing;
use quality::Traffic;
pub use quality::{Quality, Rhythm};
pub(crate) use state::Slot;
use state::{Due, State};
use subscription::Flow;

use crate::{
    Allowance, ChannelName, Class, Identity, Position, Publication, Stream,
    broker::{Page, Reach},
    hub::shard::{ShardId, Sink},
    stream::Transport,
};

/// How a client wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As JSON text.
    Json,
    /// As protobuf.
    Proto,
}

/// Why a session ends. The numbers are the WebSocket close codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client reads too slowly.
    SlowConsumer,
    /// The client gave no sign of life.
    HeartbeatMissed,
    /// The server is about to stop.
    Draining,
    /// The client went on sending more than it may.
    RateLimited,
    /// The token expired.
    TokenExpired,
    /// No token was given in time, or a bad one.
    Unauthenticated,
    /// The client broke the protocol.
    ProtocolViolation,
    /// An operator disconnected the client.
    Disconnected,
    /// The token was revoked.
    Revoked,
}

impl CloseReason {
    /// The WebSocket close code.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::SlowConsumer => 4001,
            Self::HeartbeatMissed => 4002,
            Self::Draining => 4003,
            Self::RateLimited => 4004,
            Self::TokenExpired => 4005,
            Self::Unauthenticated => 4500,
            Self::ProtocolViolation => 4502,
            Self::Disconnected => 4503,
            Self::Revoked => 4504,
        }
    }

    /// The reason in words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow consumer",
            Self::HeartbeatMissed => "heartbeat missed",
            Self::Draining => "draining",
            Self::RateLimited => "rate limited",
            Self::TokenExpired => "token expired",
            Self::Unauthenticated => "not authenticated",
            Self::ProtocolViolation => "protocol violation",
            Self::Disconnected => "disconnected by an operator",
            Self::Revoked => "revoked",
        }
    }
}

/// A connection's id, and the proof that one may speak for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(Arc<str>);

impl ConnectionId {
    fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()).into())
    }

    /// The id as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ConnectionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a transport says of a client when it comes.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Who it is.
    pub identity: Identity,
    /// How it is connected.
    pub transport: Transport,
    /// How it wants its messages.
    pub encoding: Encoding,
    /// Where it comes from.
    pub address: Option<IpAddr>,
    /// How much silence it asked for before a sign of life, if it asked.
    pub heartbeat: Option<Duration>,
    /// What it may do. None: nothing holds it to a rate.
    pub allowance: Option<Allowance>,
    /// The shard that its connection lives on.
    pub shard: ShardId,
}

/// What a session is to the hub.
pub(crate) struct SessionCore {
    id: ConnectionId,
    post_key: Option<String>,
    opened_at_ms: i64,
    arrival: Arrival,
    stream: Arc<Stream>,
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
        f.debug_tuple("SessionCore")
            .field(&self.id.as_str())
            .finish()
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
        &self,
        slot: Slot,
        publications: &[Arc<Publication>],
        now: Instant,
    ) -> bool {
        self.state.lock().deliver(slot, publications, now)
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
            state.say(word);
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
        self.state.lock().armed == Some(at)
    }

    /// True if the session was armed for this time.
    pub(crate) fn disarm(&self, at: Instant) -> bool {
        let mut state = self.state.lock();
        let is_armed = state.armed == Some(at);
        if is_armed {
            state.armed = None;
        }
        is_armed
    }
}

/// One client's conversation: what its commands act on. Cheap to clone.
#[derive(Clone)]
pub struct Session(Arc<SessionCore>);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Session").field(&self.0.id.as_str()).finish()
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
    /// Opens a session. The first thing it says is `welcome`; a known user is
    /// subscribed to its own channel.
    pub async fn open(stream: Arc<Stream>, arrival: Arrival) -> Self {
        let options = *stream.options();
        let state = State::new(
            arrival.identity.clone(),
            arrival.encoding,
            options.outbox_bytes,
            options.batch_interval,
            stream.started(),
        );
        let post_key = (arrival.transport == Transport::Sse)
            .then(|| format!("{:032x}", rand::random::<u128>()));
        let session = Session(Arc::new(SessionCore {
            id: ConnectionId::random(),
            post_key,
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
        connection.say_welcome();
        connection.resume();
        connection.leave_if_draining(&stream);
        connection
    }

    /// Waits until there is something to send, and takes up to about `budget`
    /// bytes of it.
    ///
    /// # Errors
    /// The session is over, and everything was taken: close with this reason.
    pub async fn next(&self, budget: usize, out: &mut Vec<Outgoing>) -> Result<(), CloseReason> {
        self.next_or(|| None, budget, out).await
    }

    /// The same, but comes back with nothing at `quiet_at` if there is nothing till then.
    /// Whenever the session is woken that is asked anew.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub async fn next_or(
        &self,
        quiet_at: impl Fn() -> Option<Instant>,
        budget: usize,
        out: &mut Vec<Outgoing>,
    ) -> Result<(), CloseReason> {
        loop {
            let now = Instant::now();
            let due = match self.step(now, budget, out, None) {
                Step::Take(_) => return Ok(()),
                Step::Read(slot) => {
                    self.read_history(slot).await;
                    continue;
                }
                Step::Close(reason) => return Err(reason),
                Step::Wait(due) => due,
            };
            let quiet_at = quiet_at();
            if quiet_at.is_some_and(|quiet_at| quiet_at <= now) {
                return Ok(());
            }
            match due.into_iter().chain(quiet_at).min() {
                None => self.core().wake.notified().await,
                Some(due) => {
                    // Woken or due, the next step finds out.
                    tokio::select! {
                        () = self.core().wake.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
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

/// What a sink took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Something, and there may be more.
    Some,
    /// All that is to be sent now.
    All,
    /// There is nothing to send now.
    Nothing,
    /// The session is over: close with this reason.
    Close(CloseReason),
}

/// A token's end is told so long before, in milliseconds.
const EXPIRY_NOTICE_MS: u64 = 30_000;

enum Step {
    Take(Next),
    Read(Slot),
    Wait(Option<Instant>),
    Close(CloseReason),
}

/// When there is more to take.
enum Next {
    Now,
    At(Option<Instant>),
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

    /// Has `sink` write for this connection from now on, on the connection's shard.
    pub fn attach(&self, sink: Weak<dyn Sink>) {
        // A second sink changes nothing: the first one writes already.
        let _ = self.core().sink.set(sink);
    }

    /// Takes up to about `budget` bytes of what is to be sent now, for a sink. The
    /// sink is called again when there is more, and at `again_at` in any case.
    pub fn take(
        &self,
        now: Instant,
        budget: usize,
        out: &mut Vec<Outgoing>,
        again_at: Instant,
    ) -> Taken {
        loop {
            match self.step(now, budget, out, Some(again_at)) {
                Step::Take(Next::Now) => return Taken::Some,
                Step::Take(Next::At(due)) => {
                    self.arm(due);
                    return Taken::All;
                }
                // What waits already goes on meanwhile.
                Step::Read(slot) => self.catch_up(slot),
                Step::Close(reason) => return Taken::Close(reason),
                Step::Wait(due) => {
                    self.arm(due);
                    return Taken::Nothing;
                }
            }
        }
    }

    /// Takes what there is, or says what to wait for. A sink gives the time at which
    /// it is to be called in any case; it is then told of a time only if the shard
    /// does not come back before.
    fn step(
        &self,
        now: Instant,
        budget: usize,
        out: &mut Vec<Outgoing>,
        again_at: Option<Instant>,
    ) -> Step {
        let core = self.core();
        let mut state = core.state.lock();
        let expiry = self.watch_expiry(&mut state, now);
        loop {
            if let Some(slot) = state.next_to_read() {
                return Step::Read(slot);
            }
            match state.due(now) {
                Due::Now => {}
                _ if state.closing.is_some() => {
                    return Step::Close(state.closing.unwrap_or(CloseReason::Draining));
                }
                due => return Step::Wait(state.arm(due.earliest(expiry), again_at)),
            }
            state.take(now, core.stream.clock(), budget, out);
            if !out.is_empty() {
                break;
            }
        }
        // Replies and words of the session come first: what is last tells.
        if !matches!(out.last(), None | Some(Outgoing::Direct(_))) {
            core.touch(&mut state, now);
        }
        let next = match state.due(now) {
            due @ (Due::At(_) | Due::Never) if !state.has_more() => {
                Next::At(state.arm(due.earliest(expiry), again_at))
            }
            _ => Next::Now,
        };
        let is_awaited = std::mem::take(&mut state.is_awaited);
        drop(state);
        if is_awaited {
            core.drained.notify_waiters();
        }
        core.stream
            .count_deliveries(core.arrival.transport, out.len());
        Step::Take(next)
    }

    /// Tells of a token that expires soon, and ends the session when it has.
    fn watch_expiry(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let expires_at_ms = state.identity.expires_at_ms()?;
        if state.closing.is_some() {
            return None;
        }
        let now_ms = self.core().stream.clock().now_ms();
        let left_ms = u64::try_from(expires_at_ms.saturating_sub(now_ms)).unwrap_or(0);
        if left_ms == 0 {
            state.say(message(Data::Error(Error {
                code: ErrorCode::Unauthenticated.into(),
                message: "the token has expired".to_owned(),
                retry_after_ms: None,
            })));
            state.closing = Some(CloseReason::TokenExpired);
            return None;
        }
        if left_ms > EXPIRY_NOTICE_MS {
            return Some(now + Duration::from_millis(left_ms - EXPIRY_NOTICE_MS));
        }
        if state.expiry_told != Some(expires_at_ms) {
            state.expiry_told = Some(expires_at_ms);
            state.say(message(Data::TokenExpiring(TokenExpiring {
                expires_at: expires_at_ms,
            })));
        }
        Some(now + Duration::from_millis(left_ms))
    }

    /// Reads what a held flow misses, as far as there is room for it.
    async fn read_history(&self, slot: Slot) {
        let core = self.core();
        let (channel, since) = {
            let mut state = core.state.lock();
            state.drain_gate(slot);
            let Some(subscription) = state.get(slot) else {
                return;
            };
            if matches!(subscription.flow, Flow::Live) {
                return;
            }
            (subscription.channel.clone(), subscription.position.clone())
        };
        let page = Page {
            items: usize::MAX,
            bytes: core.stream.options().outbox_bytes,
        };
        let history = match core
            .stream
            .broker()
            .history(&channel, Some(&since), page)
            .await
        {
            Ok(history) => history,
            Err(error) => {
                tracing::warn!(%channel, %error, "a history cannot be read, the client is told of a gap");
                let mut state = core.state.lock();
                if let Some(Flow::Held(hold)) =
                    state.get(slot).map(|subscription| &subscription.flow)
                {
                    let top = hold.top.clone();
                    state.gap(slot, top);
                }
                return;
            }
        };
        let mut state = core.state.lock();
        let is_where_it_was = state
            .get(slot)
            .is_some_and(|subscription| subscription.position == since);
        if !is_where_it_was {
            return;
        }
        state.note_top(slot, &history.top);
        if history.reach == Reach::Lost {
            state.gap(slot, history.top);
            state.drain_gate(slot);
            return;
        }
        for publication in history.publications {
            let size = state.size_of(&publication);
            if !state.has_room(size) {
                return;
            }
            state.push(slot, publication, size);
        }
        state.drain_gate(slot);
    }

    /// Reads a history beside the sink's work, which never waits.
    fn catch_up(&self, slot: Slot) {
        self.core().state.lock().is_reading = true;
        let session = self.clone();
        tokio::spawn(async move {
            session.read_history(slot).await;
            session.core().state.lock().is_reading = false;
            session.0.mark();
        });
    }

    /// Has the shard come back at `due`, which the state says it was armed for.
    fn arm(&self, due: Option<Instant>) {
        let Some(due) = due else { return };
        let shard = self.core().stream.hub().shard(self.core().shard_id());
        shard.arm(due, &self.0);
    }

    /// The connection's id.
    #[must_use]
    pub fn id(&self) -> &ConnectionId {
        &self.0.id
    }

    /// The key that a POST must give to speak for this connection.
    #[must_use]
    pub fn post_key(&self) -> Option<&str> {
        self.0.post_key.as_deref()
    }

    /// The server's clock, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.0.stream.clock().now_ms()
    }

    /// Who the client is now.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0.state.lock().identity.clone()
    }

    /// What the client may do.
    #[must_use]
    pub fn allowance(&self) -> Option<&Allowance> {
        self.0.arrival.allowance.as_ref()
    }

    /// How the client came.
    #[must_use]
    pub fn arrival(&self) -> &Arrival {
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
    pub fn taken(&self) -> Vec<(ChannelName, Position)> {
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
    pub fn queued_places(&self) -> usize {
        self.0.state.lock().queued_places()
    }

    /// Sends a message to the client, before what is published.
    pub fn say(&self, message: ServerMessage) {
        self.0.state.lock().say(message);
        self.0.mark();
    }

    /// Sends the reply to a command, and lets flow what was held back until it was
    /// said. Where a sink writes, whoever answers has it flushed.
    pub fn answer(&self, reply: ServerMessage) {
        {
            let mut state = self.0.state.lock();
            state.say(reply);
            state.resume(Instant::now());
        }
        if self.0.sink.get().is_none() {
            self.0.mark();
        }
    }

    /// Whether so many replies wait that the client should read some before it asks
    /// for more.
    #[must_use]
    pub fn is_talked_out(&self) -> bool {
        self.0.state.lock().is_talked_out()
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
    pub async fn ready_for_command(&self) {
        loop {
            let drained = self.0.drained.notified();
            let mut drained = std::pin::pin!(drained);
            drained.as_mut().enable();
            {
                let mut state = self.0.state.lock();
                if !state.is_talked_out() || state.closing.is_some() {
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
        if let Some(allowance) = self.allowance() {
            allowance.release();
        }
        self.0.drained.notify_waiters();
    }
}
