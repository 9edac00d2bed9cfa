//! Shard: the connections of one core.
//!
//! In each tick a shard drains its inbox and queues every publication in the outboxes of its
//! subscribers. Then it flushes each dirty session once, through its transport's [`Sink`]. A burst
//! therefore costs one `write` for each socket, and idle sessions are never woken.
//!
//! # The pause
//! A write costs a system call for each socket, however little it writes. After a tick that
//! wrote to many sockets, a shard may pause for [`WriteCoalescing::max_pause`] before the next
//! tick. It pauses if the recent rate predicts another publication in that time. All
//! publications of the pause share its writes. Examples with a pause of 15 ms:
//!
//! - 50 publications a second are 20 ms apart: a pause would collect nothing, so there is none.
//! - 100 a second are 10 ms apart: a pause collects one or two.
//! - A tick with sixteen publications shares its writes already: a busy shard never pauses.
//!
//! A tick for a few sockets is followed by no pause. Replies to commands are written by the
//! reader of the command, and do not wait for a tick.
//!
//! # Urgent publications
//! They have an inbox of their own. A shard delivers and flushes them before it goes on: during a
//! pause, and within a tick after each [`CHUNK`] of sockets. Earlier publications of their channels
//! leave the ordinary inbox with them. One may be further on in the tick: then the session sees a
//! hole, and reads the history.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_proto::v1::ServerMessage;
use tokio::{sync::Notify, time::Instant};

use super::{
    delivery_times::{DeliveryRecorder, DeliveryTimes},
    flush_schedule::FlushSchedule,
    liveness::Liveness,
    subscriber_list::SubscriberList,
    timers::Timers,
    write_coalescing::WriteCoalescing,
};
use crate::{
    ChannelName, Publication, Urgency,
    publication_batch::{Delivery, deliveries},
    session::{SessionCore, Slot},
};

/// Sockets of a tick from which on a pause may follow: fewer writes are cheaper than a delay.
const MANY_SOCKETS: usize = 64;

/// Sockets flushed before the task yields, so that timers and replies run between chunks.
const CHUNK: usize = 64;

/// Publications that the inbox holds before it keeps the newest of each channel only.
const INBOX: usize = 16_384;

/// Bytes of publications from which on the inbox does the same: without this bound, large
/// publications that histories have dropped would stay in a shard that is late.
const INBOX_BYTES: usize = 64 << 20;

/// Subscribers that a scan visits before it releases the lock of the lists.
const SCAN_PART: usize = 1_024;

/// Entries of a tick's buffers whose memory is reused; larger buffers are freed.
const KEPT_ENTRIES: usize = 16_384;

/// Names a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardId(pub(super) usize);

impl ShardId {
    /// No shard: the publisher's thread delivers.
    pub const CALLER: Self = Self(0);
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shard-{}", self.0)
    }
}

/// Writer of a session's transport, which a shard flushes.
pub trait Sink: Send + Sync + 'static {
    /// Writes the session's outgoing messages, as far as the socket accepts them, without
    /// waiting. The sink itself writes the rest when the socket accepts more.
    fn flush(&self, now: Instant);
}

/// The connections of one core.
#[derive(Debug)]
pub struct Shard {
    inbox: Mutex<Inbox>,
    lists: Mutex<HashMap<ChannelName, SubscriberList<Subscriber>>>,
    timers: Mutex<Timers>,
    flush_schedule: FlushSchedule,
    liveness: Liveness,
    delivery_times: DeliveryRecorder,
    wake: Notify,
    /// Whether the inbox has urgent publications: read within a tick, without its lock.
    has_urgent: AtomicBool,
    /// Wakes the shard from a pause.
    wake_urgent: Notify,
}

/// Input of the next tick.
///
/// It is bounded: from [`INBOX`] publications or [`INBOX_BYTES`] on, it keeps only the newest of
/// each channel. On a latest channel nothing else counts. On a history channel the sessions
/// notice the hole, and read the history or send `gap`. A shard that cannot keep up therefore
/// costs the memory of the histories, not of all publications.
#[derive(Debug, Default)]
struct Inbox {
    ordinary: Backlog,
    urgent: Backlog,
    /// Sessions that have something to send for another reason.
    dirty: Vec<Arc<SessionCore>>,
    /// Sessions that end after the publications of before, each with its last message.
    leaving: Vec<(Arc<SessionCore>, ServerMessage)>,
    /// When the oldest of the ordinary publications came.
    oldest: Option<Instant>,
}

/// Publications that wait for the shard.
#[derive(Debug)]
struct Backlog {
    publications: Vec<Arc<Publication>>,
    /// Number of publications at which it drops the older ones.
    bound: usize,
    /// Bytes of the publications, and the number at which it drops the older ones.
    bytes: usize,
    bytes_bound: usize,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            publications: Vec::new(),
            bound: INBOX,
            bytes: 0,
            bytes_bound: INBOX_BYTES,
        }
    }
}

impl Inbox {
    /// Adds an urgent publication, after what its channel has here already.
    fn push_urgent(&mut self, publication: Arc<Publication>) {
        let (ordinary, urgent) = (&mut self.ordinary, &mut self.urgent);
        let is_earlier = |one: &mut Arc<Publication>| one.channel() == publication.channel();
        for earlier in ordinary.publications.extract_if(.., is_earlier) {
            let bytes = earlier.encoded_size_hint();
            ordinary.bytes = ordinary.bytes.saturating_sub(bytes);
            urgent.push(earlier);
        }
        urgent.push(publication);
    }
}

impl Backlog {
    fn push(&mut self, publication: Arc<Publication>) {
        if self.publications.len() >= self.bound || self.bytes >= self.bytes_bound {
            self.keep_newest();
        }
        self.bytes += publication.encoded_size_hint();
        self.publications.push(publication);
    }

    /// Exchanges the publications for an empty list.
    fn swap(&mut self, emptied: &mut Vec<Arc<Publication>>) {
        std::mem::swap(&mut self.publications, emptied);
        self.bound = INBOX;
        self.bytes = 0;
        self.bytes_bound = INBOX_BYTES;
    }

    fn keep_newest(&mut self) {
        let mut channels = HashSet::new();
        let mut newest: Vec<_> = std::mem::take(&mut self.publications)
            .into_iter()
            .rev()
            .filter(|publication| channels.insert(publication.channel().clone()))
            .collect();
        newest.reverse();
        self.publications = newest;
        let sizes = self.publications.iter();
        self.bytes = sizes.map(|one| one.encoded_size_hint()).sum();
        // With very many channels, this is not repeated at once.
        self.bound = (2 * self.publications.len()).max(INBOX);
        self.bytes_bound = (2 * self.bytes).max(INBOX_BYTES);
    }
}

/// A subscription of a session.
#[derive(Debug)]
struct Subscriber {
    session: Arc<SessionCore>,
    slot: Slot,
}

impl Shard {
    pub(super) fn new(flush_schedule: FlushSchedule, started: Instant) -> Self {
        Self {
            inbox: Mutex::default(),
            lists: Mutex::default(),
            timers: Mutex::default(),
            flush_schedule,
            liveness: Liveness::new(started),
            delivery_times: DeliveryRecorder::default(),
            wake: Notify::new(),
            has_urgent: AtomicBool::new(false),
            wake_urgent: Notify::new(),
        }
    }

    /// Takes the delivery times since the last call.
    pub(super) fn take_delivery_times(&self) -> DeliveryTimes {
        self.delivery_times.take()
    }

    /// When its sessions send their batches of prices.
    pub(crate) fn flush_schedule(&self) -> &FlushSchedule {
        &self.flush_schedule
    }

    /// Asks for a tick, to see whether the shard's thread still runs them.
    pub(super) fn probe(&self, now: Instant) {
        if self.liveness.ask(now) {
            self.wake.notify_one();
        }
    }

    /// How long the shard has been late, if it is.
    pub(super) fn late_for(&self, now: Instant) -> Option<Duration> {
        self.liveness.late_for(now)
    }

    /// Queues a publication for the next tick, or for the next moment of this one if it is urgent.
    pub(super) fn enqueue(&self, publication: Arc<Publication>) {
        let mut inbox = self.inbox.lock();
        if publication.urgency() == Urgency::Urgent {
            inbox.push_urgent(publication);
            self.has_urgent.store(true, Ordering::Release);
            drop(inbox);
            self.wake.notify_one();
            self.wake_urgent.notify_one();
            return;
        }
        inbox.ordinary.push(publication);
        if inbox.ordinary.publications.len() == 1 {
            inbox.oldest = Some(Instant::now());
            drop(inbox);
            self.wake.notify_one();
        }
    }

    /// Flushes a session in the next tick.
    pub(crate) fn mark_dirty(&self, session: Arc<SessionCore>) {
        let mut inbox = self.inbox.lock();
        inbox.dirty.push(session);
        if inbox.dirty.len() == 1 {
            drop(inbox);
            self.wake.notify_one();
        }
    }

    /// Ends a session in the next tick, after all earlier publications, with a last message.
    pub(crate) fn leave(&self, session: Arc<SessionCore>, last: ServerMessage) {
        self.inbox.lock().leaving.push((session, last));
        self.wake.notify_one();
    }

    /// Flushes a session at `at`.
    pub(crate) fn arm(&self, at: Instant, session: &Arc<SessionCore>) {
        if self.timers.lock().add(at, session) {
            self.wake.notify_one();
        }
    }

    /// Adds a subscriber of a channel, and returns its key.
    pub(super) fn add(
        &self,
        channel: &ChannelName,
        session: Arc<SessionCore>,
        slot: Slot,
    ) -> usize {
        let mut lists = self.lists.lock();
        let list = lists.entry(channel.clone()).or_default();
        list.insert(Subscriber { session, slot })
    }

    /// Removes a subscriber. True if it was the channel's last one here.
    pub(super) fn remove(&self, channel: &ChannelName, key: usize) -> bool {
        let mut lists = self.lists.lock();
        let Some(list) = lists.get_mut(channel) else {
            return false;
        };
        list.remove(key);
        let is_empty = list.len() == 0;
        if is_empty {
            lists.remove(channel);
        }
        is_empty
    }

    /// Number of subscribers of a channel here.
    pub(super) fn subscriber_count(&self, channel: &ChannelName) -> usize {
        let lists = self.lists.lock();
        lists.get(channel).map_or(0, SubscriberList::len)
    }

    /// Visits a part of a channel's subscribers, from index `from` on. Returns the index of the
    /// next part, if there may be one.
    pub(super) fn scan_part(
        &self,
        channel: &ChannelName,
        from: usize,
        visit: &mut impl FnMut(&Arc<SessionCore>),
    ) -> Option<usize> {
        let lists = self.lists.lock();
        let list = lists.get(channel)?;
        let until = from + SCAN_PART;
        for key in from..until.min(list.keys_end()) {
            if let Some(subscriber) = list.get(key) {
                visit(&subscriber.session);
            }
        }
        (until < list.keys_end()).then_some(until)
    }

    /// How many publications are in the inbox.
    #[must_use]
    pub fn inbox_len(&self) -> usize {
        let inbox = self.inbox.lock();
        inbox.ordinary.publications.len() + inbox.urgent.publications.len()
    }

    /// Number of channels with a subscriber here, and of entries of the timers. For tests that
    /// sessions leave nothing behind.
    #[must_use]
    pub fn entry_counts(&self) -> (usize, usize) {
        (self.lists.lock().len(), self.timers.lock().len())
    }

    /// Delivers a publication to its subscribers here, at once.
    pub(super) fn deliver_now(&self, publication: &Arc<Publication>, now: Instant) {
        let delivery = Delivery::new(std::slice::from_ref(publication));
        self.deliver(&delivery, now, |session| session.mark_dirty());
    }

    fn deliver(
        &self,
        delivery: &Delivery<'_>,
        now: Instant,
        mut mark_dirty: impl FnMut(&Arc<SessionCore>),
    ) {
        let lists = self.lists.lock();
        let Some(list) = delivery.channel().and_then(|channel| lists.get(channel)) else {
            return;
        };
        for key in 0..list.keys_end() {
            if let Some(Subscriber { session, slot }) = list.get(key)
                && session.deliver(*slot, delivery, now)
            {
                mark_dirty(session);
            }
        }
    }

    /// Runs the ticks until the future is dropped, with pauses of up to `max_write_pause`.
    /// Runs on the shard's own thread, where its connections live.
    pub async fn run(&self, max_write_pause: Duration) {
        let mut buffers = TickBuffers::default();
        let mut coalescing = WriteCoalescing::new(max_write_pause, Instant::now());
        loop {
            let due = self.timers.lock().next();
            match due {
                None => self.wake.notified().await,
                // The tick finds out which of the two it was.
                Some(due) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
            self.deliver_urgent().await;
            let started = Instant::now();
            let oldest = self.drain_inbox(&mut buffers);
            let publications = buffers.publications.len();
            coalescing.note_publications(publications, started);
            let flushed = self.deliver_and_flush(&mut buffers, started).await;
            self.liveness.answer();
            // Without a socket there was no delivery.
            if let Some(oldest) = oldest.filter(|_| flushed > 0) {
                self.delivery_times.record(oldest.elapsed(), publications);
            }
            if flushed >= MANY_SOCKETS && coalescing.is_worthwhile(publications) {
                self.pause(coalescing.max_pause()).await;
            }
        }
    }

    /// Collects publications for the next tick. Urgent ones do not wait for it.
    async fn pause(&self, length: Duration) {
        let mut end = std::pin::pin!(tokio::time::sleep(length));
        loop {
            self.deliver_urgent().await;
            tokio::select! {
                () = &mut end => return,
                () = self.wake_urgent.notified() => {}
            }
        }
    }

    /// Delivers the urgent publications that came, and flushes their subscribers.
    async fn deliver_urgent(&self) {
        if !self.has_urgent.load(Ordering::Acquire) {
            return;
        }
        let mut publications = Vec::new();
        {
            let mut inbox = self.inbox.lock();
            inbox.urgent.swap(&mut publications);
            self.has_urgent.store(false, Ordering::Release);
        }
        let now = Instant::now();
        let mut sessions = Vec::new();
        for delivery in deliveries(&publications) {
            let mut next = Some(0);
            while let Some(from) = next {
                // Also those that the tick flushes later on.
                next = self.deliver_part(&delivery, from, now, |session| {
                    sessions.push(session.clone());
                });
            }
        }
        for (index, session) in sessions.into_iter().enumerate() {
            session.flush(now);
            if index % CHUNK == CHUNK - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes the publications and sessions that came since the last tick. Returns when the oldest
    /// publication came.
    fn drain_inbox(&self, buffers: &mut TickBuffers) -> Option<Instant> {
        let mut inbox = self.inbox.lock();
        inbox.ordinary.swap(&mut buffers.publications);
        buffers.sessions.append(&mut inbox.dirty);
        buffers.leaving.append(&mut inbox.leaving);
        inbox.oldest.take()
    }

    /// Delivers the publications, and flushes each session that has something to send once.
    /// Returns how many sessions were flushed.
    async fn deliver_and_flush(&self, buffers: &mut TickBuffers, now: Instant) -> usize {
        let TickBuffers {
            publications,
            sessions,
            part,
            leaving,
        } = buffers;
        let deliveries: Vec<_> = deliveries(publications).collect();
        let is_last =
            |one: &Delivery<'_>| one.channel() == deliveries.last().and_then(Delivery::channel);
        let last = deliveries
            .iter()
            .rposition(|one| !is_last(one))
            .map_or(0, |at| at + 1);
        let (others, last) = deliveries.split_at(last);
        for delivery in others {
            let mut next = Some(0);
            while let Some(from) = next {
                next = self.deliver_part(delivery, from, now, |session| {
                    if session.claim_flush() {
                        sessions.push(session.clone());
                    }
                });
                self.deliver_urgent().await;
            }
        }
        let mut flushed = 0;
        let mut next = (!last.is_empty()).then_some(0);
        while let Some(from) = next.take() {
            for delivery in last {
                next = self.deliver_part(delivery, from, now, |session| {
                    if session.claim_flush() {
                        part.push(session.clone());
                    }
                });
            }
            // Nothing else is delivered to these sessions in this tick: they are flushed while
            // their memory is still in the cache.
            flushed += self.flush(part, now).await;
        }
        // These sessions have all that was published before.
        for (session, last) in leaving.drain(..) {
            session.leave(last);
        }
        flushed += self.flush(sessions, now).await;
        flushed += self.flush_due(part, now).await;
        drop(deliveries);
        publications.clear();
        if sessions.capacity() > KEPT_ENTRIES {
            *sessions = Vec::new();
        }
        if publications.capacity() > KEPT_ENTRIES {
            *publications = Vec::new();
        }
        flushed
    }

    /// Flushes the sessions whose time has come, and returns how many. Checks the lifetime of
    /// others.
    async fn flush_due(&self, part: &mut Vec<Arc<SessionCore>>, now: Instant) -> usize {
        let mut left = {
            let timers = self.timers.lock();
            if let Some(sockets) = timers.due_at_shared_time(now) {
                self.flush_schedule.note_sockets(sockets);
            }
            timers.len()
        };
        let mut flushed = 0;
        let mut lifetimes = Vec::new();
        while left > 0 {
            {
                let mut timers = self.timers.lock();
                while part.len() + lifetimes.len() < CHUNK
                    && left > 0
                    && let Some((at, session)) = timers.pop(now)
                {
                    left -= 1;
                    let due = session.disarm(at);
                    if due.lifetime {
                        lifetimes.push(session.clone());
                    }
                    if due.flush && session.claim_flush() {
                        part.push(session);
                    }
                }
            }
            // Without the lock of the timers, since each gives its next time to them.
            let checked = lifetimes.len();
            for session in lifetimes.drain(..) {
                session.check_lifetime(now);
            }
            if part.len() + checked == 0 {
                break;
            }
            flushed += self.flush(part, now).await;
            if checked > 0 {
                tokio::task::yield_now().await;
            }
        }
        flushed
    }

    /// Delivers publications of one channel to a part of its subscribers here, from index
    /// `from` on. Returns the index of the next part, if there may be one. A subscriber that
    /// gets an index behind meanwhile reads the history afterwards, which has them.
    fn deliver_part(
        &self,
        delivery: &Delivery<'_>,
        from: usize,
        now: Instant,
        mut mark_dirty: impl FnMut(&Arc<SessionCore>),
    ) -> Option<usize> {
        let lists = self.lists.lock();
        let list = lists.get(delivery.channel()?)?;
        let until = from + CHUNK;
        for key in from..until.min(list.keys_end()) {
            if let Some(Subscriber { session, slot }) = list.get(key)
                && session.deliver(*slot, delivery, now)
            {
                mark_dirty(session);
            }
        }
        (until < list.keys_end()).then_some(until)
    }

    /// Flushes each session once, in chunks, and returns how many. Urgent publications are
    /// delivered between two chunks.
    async fn flush(&self, sessions: &mut Vec<Arc<SessionCore>>, now: Instant) -> usize {
        let count = sessions.len();
        for (index, session) in sessions.drain(..).enumerate() {
            session.flush(now);
            if index % CHUNK == CHUNK - 1 {
                tokio::task::yield_now().await;
                self.deliver_urgent().await;
            }
        }
        count
    }
}

/// Buffers of a tick, reused by the next.
#[derive(Default)]
struct TickBuffers {
    publications: Vec<Arc<Publication>>,
    /// Sessions that are flushed at the end.
    sessions: Vec<Arc<SessionCore>>,
    /// Sessions that are flushed with their part of a channel's subscribers.
    part: Vec<Arc<SessionCore>>,
    leaving: Vec<(Arc<SessionCore>, ServerMessage)>,
}
