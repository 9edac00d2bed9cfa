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
///
/// Sessions that gather prices all wait for the same time: these are in a list of their
/// own.
#[derive(Debug)]
pub(super) struct Timers {
    heap: BinaryHeap<Timer>,
    /// Those that wait for `common`.
    together: Vec<Weak<SessionCore>>,
    /// What the last one waits for.
    common: Option<Instant>,
    /// With so many entries it is time to look through them.
    most: usize,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            together: Vec::new(),
            common: None,
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
        if self.len() >= self.most {
            self.forget_idle();
        }
        let is_next = self.next().is_none_or(|next| at < next);
        let session = Arc::downgrade(session);
        if self.common == Some(at) {
            self.together.push(session);
        } else {
            if self.together.is_empty() {
                self.common = Some(at);
            }
            self.heap.push(Timer { at, session });
        }
        is_next
    }

    fn forget_idle(&mut self) {
        let waits = |session: &Weak<SessionCore>, at: Instant| {
            let session = session.upgrade();
            session.is_some_and(|session| session.is_armed(at))
        };
        self.heap.retain(|timer| waits(&timer.session, timer.at));
        if let Some(at) = self.common {
            self.together.retain(|session| waits(session, at));
        }
        self.most = (2 * self.len()).max(FEW);
        self.heap.shrink_to(self.most);
        self.together.shrink_to(self.most);
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.heap.len() + self.together.len()
    }

    /// The earliest time.
    pub(super) fn next(&self) -> Option<Instant> {
        let common = self.common.filter(|_| !self.together.is_empty());
        let alone = self.heap.peek().map(|timer| timer.at);
        common.into_iter().chain(alone).min()
    }

    /// How many wait for the common time, if it has come.
    pub(super) fn due_together(&self, now: Instant) -> Option<usize> {
        self.common
            .is_some_and(|at| at <= now)
            .then_some(self.together.len())
    }

    /// Takes a session whose time has come, and that time.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Arc<SessionCore>)> {
        if let Some(at) = self.common.filter(|at| *at <= now) {
            while let Some(session) = self.together.pop() {
                if let Some(session) = session.upgrade() {
                    return Some((at, session));
                }
            }
            self.common = None;
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
