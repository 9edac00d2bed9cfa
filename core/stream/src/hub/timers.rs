//! When a shard has to look at which session again.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    sync::{Arc, Weak},
};

use tokio::time::Instant;

use crate::session::SessionCore;

/// So many entries are never looked through.
const FEW: usize = 1_024;

/// The times of a shard's sessions, the next one first. A session that has ended, or
/// was armed for an earlier time since, leaves its entry until its time comes, or
/// until there are twice as many entries as sessions that wait: then all that no
/// session waits for go. So there are never more than twice as many as sessions, or
/// [`FEW`], and an entry costs the same however many there are.
#[derive(Debug)]
pub(super) struct Timers {
    heap: BinaryHeap<Timer>,
    /// With so many entries it is time to look through them.
    most: usize,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            most: FEW,
        }
    }
}

#[derive(Debug)]
struct Timer {
    at: Instant,
    session: Weak<SessionCore>,
}

impl Timers {
    /// Adds a time. True if none is earlier.
    pub(super) fn add(&mut self, at: Instant, session: &Arc<SessionCore>) -> bool {
        if self.heap.len() >= self.most {
            self.forget_idle();
        }
        let is_next = self.next().is_none_or(|next| at < next);
        let session = Arc::downgrade(session);
        self.heap.push(Timer { at, session });
        is_next
    }

    fn forget_idle(&mut self) {
        self.heap.retain(|timer| {
            let session = timer.session.upgrade();
            session.is_some_and(|session| session.is_armed(timer.at))
        });
        self.most = (2 * self.heap.len()).max(FEW);
        self.heap.shrink_to(self.most);
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|timer| timer.at)
    }

    /// Takes a session whose time has come, and that time.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Arc<SessionCore>)> {
        while self.next().is_some_and(|at| at <= now) {
            let timer = self.heap.pop()?;
            if let Some(session) = timer.session.upgrade() {
                return Some((timer.at, session));
            }
        }
        None
    }
}

// The heap gives its greatest first: the earliest is the greatest here.
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
