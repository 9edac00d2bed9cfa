//! A shard: the connections of one core, and the ticks in which they get what is
//! published.
//!
//! In a tick a shard takes all that was published since the last one, hands it to the
//! sessions that follow, and has each session that something waits for flushed once,
//! by its transport's [`Sink`]. So a burst leaves in one write for each socket, and
//! nothing is woken that has nothing to do.
//!
//! # The pause
//! Writing to many sockets costs a system call each, however little is written. So
//! after a tick that wrote to many, a shard waits [`WriteCoalescing::longest`] before the next
//! if it may expect another publication within that time, judged by how many came of
//! late: what comes meanwhile shares its writes. At 50 publications a second, 20 ms
//! apart, a wait of 15 ms would gather nothing, and there is none; at 100 a second it
//! gathers two. A tick that had sixteen has gathered enough, so that a shard with much
//! to do never waits. A tick for a few sockets is followed by no pause, and replies to commands are written by whoever answers, so
//! neither ever waits for one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use slab::Slab;
use tidewire_proto::v1::ServerMessage;
use tokio::{sync::Notify, time::Instant};

use super::{flush_schedule::FlushSchedule, timers::Timers, write_coalescing::WriteCoalescing};
use crate::{
    ChannelName, Publication,
    publication_batch::{Delivery, deliveries},
    session::{SessionCore, Slot},
};

/// A tick that wrote to fewer sockets is followed by no pause.
const MANY: usize = 64;

/// So many sockets are written to before other tasks have their tick.
const CHUNK: usize = 64;

/// So many publications may wait for a tick.
const INBOX: usize = 16_384;

/// So many subscribers are looked at before others may have the lists.
const PART: usize = 1_024;

/// Buffers of a tick that grew past this many entries are given back.
const KEEP: usize = 16_384;

/// Names a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardId(pub(super) usize);

impl ShardId {
    /// No shard of its own: deliveries are made by whoever publishes.
    pub const CALLER: Self = Self(0);
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shard-{}", self.0)
    }
}

/// The transport's end of a session on a shard.
pub trait Sink: Send + Sync + 'static {
    /// Writes what the session has to send, as far as the peer takes it, without
    /// waiting. What the peer does not take is the sink's own business: it comes
    /// back by itself when it can write again.
    fn flush(&self, now: Instant);
}

/// The connections of one core.
#[derive(Debug)]
pub struct Shard {
    inbox: Mutex<Inbox>,
    lists: Mutex<HashMap<ChannelName, Slab<Subscriber>>>,
    timers: Mutex<Timers>,
    ticks: FlushSchedule,
    wake: Notify,
}

/// What came since the last tick.
///
/// It is bounded: with [`INBOX`] publications, only the newest of each channel is kept.
/// On a latest channel that is all that counts; on a history channel the sessions find
/// the hole before it, and read the history or say `gap`. So a shard that cannot keep
/// up costs the memory of the histories, not of all that was ever published.
#[derive(Debug)]
struct Inbox {
    publications: Vec<Arc<Publication>>,
    /// With so many publications it is time to keep the newest only.
    most: usize,
    /// Sessions that have something to send for another reason.
    marked: Vec<Arc<SessionCore>>,
    /// Sessions that end once they were handed what came before, each with a last word.
    leaving: Vec<(Arc<SessionCore>, ServerMessage)>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            publications: Vec::new(),
            most: INBOX,
            marked: Vec::new(),
            leaving: Vec::new(),
        }
    }
}

impl Inbox {
    fn keep_newest(&mut self) {
        let mut seen = HashSet::new();
        let mut newest: Vec<_> = std::mem::take(&mut self.publications)
            .into_iter()
            .rev()
            .filter(|publication| seen.insert(publication.channel().clone()))
            .collect();
        newest.reverse();
        self.publications = newest;
        // With very many channels, not again at once.
        self.most = (2 * self.publications.len()).max(INBOX);
    }
}

#[derive(Debug)]
struct Subscriber {
    session: Arc<SessionCore>,
    slot: Slot,
}

impl Shard {
    pub(super) fn new(ticks: FlushSchedule) -> Self {
        Self {
            inbox: Mutex::default(),
            lists: Mutex::default(),
            timers: Mutex::default(),
            ticks,
            wake: Notify::new(),
        }
    }

    /// When its sessions send the prices that they gathered.
    pub(crate) fn ticks(&self) -> &FlushSchedule {
        &self.ticks
    }

    /// Takes a publication for the next tick.
    pub(super) fn accept(&self, publication: Arc<Publication>) {
        let mut inbox = self.inbox.lock();
        if inbox.publications.len() >= inbox.most {
            inbox.keep_newest();
        }
        inbox.publications.push(publication);
        if inbox.publications.len() == 1 {
            drop(inbox);
            self.wake.notify_one();
        }
    }

    /// Has a session flushed in the next tick.
    pub(crate) fn mark(&self, session: Arc<SessionCore>) {
        let mut inbox = self.inbox.lock();
        inbox.marked.push(session);
        if inbox.marked.len() == 1 {
            drop(inbox);
            self.wake.notify_one();
        }
    }

    /// Ends a session in the next tick, after what was published until now.
    pub(crate) fn send_away(&self, session: Arc<SessionCore>, word: ServerMessage) {
        self.inbox.lock().leaving.push((session, word));
        self.wake.notify_one();
    }

    /// Has a session flushed when its time comes.
    pub(crate) fn arm(&self, at: Instant, session: &Arc<SessionCore>) {
        if self.timers.lock().add(at, session) {
            self.wake.notify_one();
        }
    }

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

    /// True if there was such a subscriber.
    pub(super) fn remove(&self, channel: &ChannelName, key: usize) -> bool {
        let mut lists = self.lists.lock();
        let Some(list) = lists.get_mut(channel) else {
            return false;
        };
        let removed = list.try_remove(key).is_some();
        if list.is_empty() {
            lists.remove(channel);
        }
        removed
    }

    /// Shows `look` a part of those who follow a channel here, from the place `from`.
    /// Gives the place of the next part, if there may be one.
    pub(super) fn look(
        &self,
        channel: &ChannelName,
        from: usize,
        look: &mut impl FnMut(&Arc<SessionCore>),
    ) -> Option<usize> {
        let lists = self.lists.lock();
        let list = lists.get(channel)?;
        let until = from + PART;
        for key in from..until.min(list.capacity()) {
            if let Some(subscriber) = list.get(key) {
                look(&subscriber.session);
            }
        }
        (until < list.capacity()).then_some(until)
    }

    /// How many publications wait for the next tick.
    #[must_use]
    pub fn inbox_len(&self) -> usize {
        self.inbox.lock().publications.len()
    }

    /// How many channels are followed here, and how many times wait to come.
    #[must_use]
    pub fn entry_counts(&self) -> (usize, usize) {
        (self.lists.lock().len(), self.timers.lock().len())
    }

    /// Hands a publication to those who follow its channel here.
    pub(super) fn deliver_now(&self, publication: &Arc<Publication>, now: Instant) {
        let delivery = Delivery::new(std::slice::from_ref(publication));
        self.deliver(&delivery, now, |session| session.mark());
    }

    fn deliver(
        &self,
        delivery: &Delivery<'_>,
        now: Instant,
        mut mark: impl FnMut(&Arc<SessionCore>),
    ) {
        let lists = self.lists.lock();
        let Some(list) = delivery.channel().and_then(|channel| lists.get(channel)) else {
            return;
        };
        for (_, subscriber) in list {
            if subscriber.session.deliver(subscriber.slot, delivery, now) {
                mark(&subscriber.session);
            }
        }
    }

    /// Takes ticks until it is dropped, with pauses of up to `max_write_pause`. Runs on
    /// the shard's own thread, where its connections live.
    pub async fn run(&self, max_write_pause: Duration) {
        let mut tick = TickBuffers::default();
        let mut coalescing = WriteCoalescing::new(max_write_pause, Instant::now());
        loop {
            let due = self.timers.lock().next();
            match due {
                None => self.wake.notified().await,
                // Woken or due, the tick finds out.
                Some(due) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
            let began = Instant::now();
            self.collect(&mut tick);
            let publications = tick.publications.len();
            coalescing.arrived(publications, began);
            let flushed = self.hand_out(&mut tick, began).await;
            if flushed >= MANY && coalescing.is_worthwhile(publications) {
                tokio::time::sleep(coalescing.longest).await;
            }
        }
    }

    /// Takes what was published since, and the sessions that have something to send for
    /// another reason.
    fn collect(&self, tick: &mut TickBuffers) {
        let mut inbox = self.inbox.lock();
        std::mem::swap(&mut inbox.publications, &mut tick.publications);
        inbox.most = INBOX;
        tick.sessions.append(&mut inbox.marked);
        tick.leaving.append(&mut inbox.leaving);
    }

    /// Delivers what came and flushes each session that has something to send, once.
    /// Says how many there were.
    async fn hand_out(&self, tick: &mut TickBuffers, now: Instant) -> usize {
        let TickBuffers {
            publications,
            sessions,
            part,
            leaving,
        } = tick;
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
                    if session.claim() {
                        sessions.push(session.clone());
                    }
                });
            }
        }
        let mut flushed = 0;
        let mut next = (!last.is_empty()).then_some(0);
        while let Some(from) = next.take() {
            for delivery in last {
                next = self.deliver_part(delivery, from, now, |session| {
                    if session.claim() {
                        part.push(session.clone());
                    }
                });
            }
            // Nothing more comes to these: they are flushed while what the delivery
            // touched is still in the cache.
            flushed += flush(part, now).await;
        }
        // Who is sent away has got all that was published before.
        for (session, word) in leaving.drain(..) {
            session.leave(word);
        }
        flushed += flush(sessions, now).await;
        flushed += self.flush_due(part, now).await;
        drop(deliveries);
        publications.clear();
        if sessions.capacity() > KEEP {
            *sessions = Vec::new();
        }
        if publications.capacity() > KEEP {
            *publications = Vec::new();
        }
        flushed
    }

    /// Flushes the sessions whose time has come, and says how many there were.
    async fn flush_due(&self, part: &mut Vec<Arc<SessionCore>>, now: Instant) -> usize {
        let mut left = {
            let timers = self.timers.lock();
            if let Some(sockets) = timers.due_together(now) {
                self.ticks.writes_to(sockets);
            }
            timers.len()
        };
        let mut flushed = 0;
        while left > 0 {
            {
                let mut timers = self.timers.lock();
                while part.len() < CHUNK
                    && left > 0
                    && let Some((at, session)) = timers.pop(now)
                {
                    left -= 1;
                    if session.disarm(at) && session.claim() {
                        part.push(session);
                    }
                }
            }
            if part.is_empty() {
                break;
            }
            flushed += flush(part, now).await;
        }
        flushed
    }

    /// Hands publications of one channel to a part of those who follow it here, from
    /// the place `from`. Gives the place of the next part, if there may be one. Who
    /// takes a place meanwhile that was passed already reads the history after it.
    fn deliver_part(
        &self,
        delivery: &Delivery<'_>,
        from: usize,
        now: Instant,
        mut mark: impl FnMut(&Arc<SessionCore>),
    ) -> Option<usize> {
        let lists = self.lists.lock();
        let list = lists.get(delivery.channel()?)?;
        let until = from + CHUNK;
        for key in from..until.min(list.capacity()) {
            if let Some(Subscriber { session, slot }) = list.get(key)
                && session.deliver(*slot, delivery, now)
            {
                mark(session);
            }
        }
        (until < list.capacity()).then_some(until)
    }
}

/// Flushes each session once, in chunks, and says how many there were.
async fn flush(sessions: &mut Vec<Arc<SessionCore>>, now: Instant) -> usize {
    let count = sessions.len();
    for (index, session) in sessions.drain(..).enumerate() {
        session.flush(now);
        if index % CHUNK == CHUNK - 1 {
            tokio::task::yield_now().await;
        }
    }
    count
}

/// The buffers of a tick.
#[derive(Default)]
struct TickBuffers {
    publications: Vec<Arc<Publication>>,
    /// What is flushed in the end.
    sessions: Vec<Arc<SessionCore>>,
    /// What is flushed with its part of a channel's followers.
    part: Vec<Arc<SessionCore>>,
    leaving: Vec<(Arc<SessionCore>, ServerMessage)>,
}
