//! A shard: the connections of one core, and the turns in which they get what is
//! published.
//!
//! In a turn a shard takes all that was published since the last one, hands it to the
//! sessions that follow, and has each session that something waits for flushed once,
//! by its transport's [`Sink`]. So a burst leaves in one write for each socket, and
//! nothing is woken that has nothing to do.
//!
//! # The pause
//! After a turn that wrote to many sockets the shard waits about as long as the
//! writing took, [`MAX_PAUSE`] at most, before the next one: what comes meanwhile
//! shares its writes. A turn for a few sockets is followed by no pause, and replies
//! to commands are written by whoever answers, so neither ever waits for one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use slab::Slab;
use tokio::{sync::Notify, time::Instant};

use super::timers::Timers;
use crate::{
    ChannelName, Publication,
    session::{SessionCore, Slot},
};

/// The longest wait between two turns that write to many sockets.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// A turn that wrote to fewer sockets is followed by no pause.
const MANY: usize = 64;

/// So many sockets are written to before other tasks have their turn.
const CHUNK: usize = 64;

/// Buffers of a turn that grew past this many entries are given back.
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
#[derive(Debug, Default)]
pub struct Shard {
    inbox: Mutex<Inbox>,
    lists: Mutex<HashMap<ChannelName, Slab<Subscriber>>>,
    timers: Mutex<Timers>,
    wake: Notify,
}

/// What came since the last turn.
#[derive(Debug, Default)]
struct Inbox {
    publications: Vec<Arc<Publication>>,
    /// Sessions that have something to send for another reason.
    marked: Vec<Arc<SessionCore>>,
}

#[derive(Debug)]
struct Subscriber {
    session: Arc<SessionCore>,
    slot: Slot,
}

impl Shard {
    /// Takes a publication for the next turn.
    pub(super) fn accept(&self, publication: Arc<Publication>) {
        let mut inbox = self.inbox.lock();
        inbox.publications.push(publication);
        if inbox.publications.len() == 1 {
            drop(inbox);
            self.wake.notify_one();
        }
    }

    /// Has a session flushed in the next turn.
    pub(crate) fn mark(&self, session: Arc<SessionCore>) {
        let mut inbox = self.inbox.lock();
        inbox.marked.push(session);
        if inbox.marked.len() == 1 {
            drop(inbox);
            self.wake.notify_one();
        }
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

    /// Hands publications of one channel to those who follow it here.
    pub(super) fn deliver_now(&self, publications: &[Arc<Publication>], now: Instant) {
        self.deliver(publications, now, |session| session.mark());
    }

    fn deliver(
        &self,
        publications: &[Arc<Publication>],
        now: Instant,
        mut mark: impl FnMut(&Arc<SessionCore>),
    ) {
        let Some(first) = publications.first() else {
            return;
        };
        let lists = self.lists.lock();
        let Some(list) = lists.get(first.channel()) else {
            return;
        };
        for (_, subscriber) in list {
            if subscriber
                .session
                .deliver(subscriber.slot, publications, now)
            {
                mark(&subscriber.session);
            }
        }
    }

    /// Takes turns until it is dropped. Runs on the shard's own thread, where its
    /// connections live.
    pub async fn run(&self) {
        let mut turn = Turn::default();
        loop {
            let due = self.timers.lock().next();
            match due {
                None => self.wake.notified().await,
                // Woken or due, the turn finds out.
                Some(due) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
            let began = Instant::now();
            self.gather(&mut turn, began);
            let count = turn.flush(began).await;
            if count >= MANY {
                tokio::time::sleep(began.elapsed().min(MAX_PAUSE)).await;
            }
        }
    }

    /// Delivers what came, and finds all sessions that have something to send.
    fn gather(&self, turn: &mut Turn, now: Instant) {
        {
            let mut inbox = self.inbox.lock();
            std::mem::swap(&mut inbox.publications, &mut turn.publications);
            turn.sessions.append(&mut inbox.marked);
        }
        {
            let mut timers = self.timers.lock();
            while let Some((at, session)) = timers.pop(now) {
                if session.disarm(at) && session.claim() {
                    turn.sessions.push(session);
                }
            }
        }
        // Publications that follow each other on one channel are handed out together.
        let together =
            |one: &Arc<Publication>, next: &Arc<Publication>| one.channel() == next.channel();
        for run in turn.publications.chunk_by(together) {
            self.deliver(run, now, |session| {
                if session.claim() {
                    turn.sessions.push(session.clone());
                }
            });
        }
        turn.publications.clear();
    }
}

/// The buffers of a turn.
#[derive(Default)]
struct Turn {
    publications: Vec<Arc<Publication>>,
    sessions: Vec<Arc<SessionCore>>,
}

impl Turn {
    /// Flushes each session once, and says how many there were.
    async fn flush(&mut self, now: Instant) -> usize {
        let count = self.sessions.len();
        for (index, session) in self.sessions.drain(..).enumerate() {
            session.flush(now);
            if index % CHUNK == CHUNK - 1 {
                tokio::task::yield_now().await;
            }
        }
        if self.sessions.capacity() > KEEP {
            self.sessions = Vec::new();
        }
        if self.publications.capacity() > KEEP {
            self.publications = Vec::new();
        }
        count
    }
}
