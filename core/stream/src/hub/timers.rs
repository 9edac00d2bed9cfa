//! Timers of a shard: the times at which it flushes each session without a new publication, or
//! checks its lifetime.
//!
//! Sessions with batches of prices all wait for the same time: these are in a list, all others
//! in a heap. An entry is not removed when its session ends or is given an earlier time. It
//! stays until its time, or until there are twice as many entries as times that sessions wait
//! for: then all entries without a waiting session are removed. So an entry costs the same
//! however many there are.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    sync::{Arc, Weak},
};

use tokio::time::Instant;

use crate::session::SessionCore;

/// Entries below which none are removed early: searching costs more than they hold.
const FEW: usize = 1_024;

/// Times at which a shard flushes sessions or checks their lifetime. There are never more than
/// twice as many entries as times that sessions wait for, or [`FEW`].
#[derive(Debug)]
pub(super) struct Timers {
    heap: BinaryHeap<Timer>,
    /// Sessions that wait for `shared_time`.
    at_shared_time: Vec<Weak<SessionCore>>,
    /// Time that many sessions wait for: that of the last entry that began the list.
    shared_time: Option<Instant>,
    /// Number of entries at which those without a waiting session are removed.
    bound: usize,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            at_shared_time: Vec::new(),
            shared_time: None,
            bound: FEW,
        }
    }
}

#[derive(Debug)]
struct Timer {
    at: Instant,
    session: Weak<SessionCore>,
}

impl Timers {
    /// Adds an entry. True if no other is earlier.
    pub(super) fn add(&mut self, at: Instant, session: &Arc<SessionCore>) -> bool {
        if self.len() >= self.bound {
            self.remove_stale();
        }
        let is_next = self.next().is_none_or(|next| at < next);
        let session = Arc::downgrade(session);
        if self.shared_time == Some(at) {
            self.at_shared_time.push(session);
        } else {
            if self.at_shared_time.is_empty() {
                self.shared_time = Some(at);
            }
            self.heap.push(Timer { at, session });
        }
        is_next
    }

    fn remove_stale(&mut self) {
        let waits = |session: &Weak<SessionCore>, at: Instant| {
            let session = session.upgrade();
            session.is_some_and(|session| session.is_armed(at))
        };
        self.heap.retain(|timer| waits(&timer.session, timer.at));
        if let Some(at) = self.shared_time {
            self.at_shared_time.retain(|session| waits(session, at));
        }
        self.bound = (2 * self.len()).max(FEW);
        self.heap.shrink_to(self.bound);
        self.at_shared_time.shrink_to(self.bound);
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.heap.len() + self.at_shared_time.len()
    }

    /// The earliest time.
    pub(super) fn next(&self) -> Option<Instant> {
        let shared = self.shared_time.filter(|_| !self.at_shared_time.is_empty());
        let alone = self.heap.peek().map(|timer| timer.at);
        shared.into_iter().chain(alone).min()
    }

    /// How many sessions wait for the shared time, if it has come.
    pub(super) fn due_at_shared_time(&self, now: Instant) -> Option<usize> {
        self.shared_time
            .is_some_and(|at| at <= now)
            .then_some(self.at_shared_time.len())
    }

    /// Takes an entry whose time has come.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Arc<SessionCore>)> {
        if let Some(at) = self.shared_time.filter(|at| *at <= now) {
            while let Some(session) = self.at_shared_time.pop() {
                if let Some(session) = session.upgrade() {
                    return Some((at, session));
                }
            }
            self.shared_time = None;
        }
        while self.heap.peek().is_some_and(|timer| timer.at <= now) {
            let timer = self.heap.pop()?;
            if let Some(session) = timer.session.upgrade() {
                return Some((timer.at, session));
            }
        }
        None
    }
}

// The heap pops its greatest entry first: here, the earliest is the greatest.
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timer {}
