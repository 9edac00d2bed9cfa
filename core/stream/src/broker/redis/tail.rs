//! Tail: the newest publications of a channel, in memory for a moment.
//!
//! The clients of a server that ended come to this one within seconds, and recover the same
//! channels. The first one of a channel reads its history, and what is published meanwhile is
//! added as it is delivered. The others are served from memory, as long as the tail ends at the
//! newest position that was delivered.
//!
//! # Example
//! The node has delivered up to 100. A client recovers since 60: the tail begins at 100, empty.
//! While the history is read, 101 is delivered and added. The read brings 61 to 101: those up to
//! 100 are put before it, and the tail has 61 to 101. A client that recovers since 80 needs no
//! read; one that recovers since 40 does.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::reads::PAGE_BYTES;
use crate::{Position, Publication, broker::History, publication::Seq};

/// Time for which a tail is used. Later its first publications may be older than the history's.
const LIFETIME: Duration = Duration::from_secs(10);

/// Bytes of a tail at most: one that is read, and as much again that is published meanwhile.
const MAX_BYTES: usize = 2 * PAGE_BYTES;

/// Bytes of all tails at most.
const MAX_TOTAL_BYTES: usize = 64 << 20;

/// Bytes of all tails.
#[derive(Debug, Clone, Default)]
pub(super) struct TailBudget(Arc<AtomicUsize>);

impl TailBudget {
    /// Whether there is room for another tail.
    pub(super) fn has_room(&self) -> bool {
        self.bytes() < MAX_TOTAL_BYTES
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// The newest publications of a channel.
#[derive(Debug)]
pub(super) struct Tail {
    /// All publications after it, up to the end, are here.
    after: Seq,
    end: Position,
    publications: VecDeque<Arc<Publication>>,
    bytes: usize,
    made_at: Instant,
    budget: TailBudget,
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Tail {
    /// A tail without publications, which ends here.
    pub(super) fn at(end: Position, budget: TailBudget) -> Self {
        Self {
            after: end.seq,
            end,
            publications: VecDeque::new(),
            bytes: 0,
            made_at: Instant::now(),
            budget,
        }
    }

    /// Whether the time of the tail is over.
    pub(super) fn is_old(&self) -> bool {
        self.made_at.elapsed() >= LIFETIME
    }

    /// Whether it ends at a position.
    pub(super) fn ends_at(&self, top: &Position) -> bool {
        self.end == *top
    }

    /// The publications after `since`, if all of them are here.
    pub(super) fn after(
        &self,
        since: &Position,
    ) -> Option<impl Iterator<Item = &Arc<Publication>>> {
        let is_here =
            since.epoch == self.end.epoch && (self.after..=self.end.seq).contains(&since.seq);
        let skipped = usize::try_from(since.seq.saturating_sub(self.after)).ok()?;
        is_here.then(|| {
            self.publications
                .range(skipped.min(self.publications.len())..)
        })
    }

    /// Adds a publication that was delivered. False if it does not follow, or if there is no room:
    /// the tail is of no use any more.
    #[must_use]
    pub(super) fn push(&mut self, publication: &Arc<Publication>) -> bool {
        let position = publication.position();
        let follows = position.epoch == self.end.epoch && position.seq == self.end.seq + 1;
        if !follows || self.is_old() || !self.reserve(publication.memory_bytes()) {
            return false;
        }
        self.end.seq = position.seq;
        self.publications.push_back(publication.clone());
        true
    }

    /// Puts the publications before it that a read after `since` has brought. False if some are
    /// missing between the two.
    #[must_use]
    pub(super) fn put_before(&mut self, since: &Position, read: &History) -> bool {
        let before: Vec<_> = read
            .publications
            .iter()
            .filter(|one| one.seq() <= self.after)
            .collect();
        let is_whole = since.epoch == self.end.epoch
            && read.top.epoch == self.end.epoch
            && since.seq.checked_add(before.len() as u64) == Some(self.after);
        let bytes = before.iter().map(|one| one.memory_bytes()).sum();
        if !is_whole || !self.reserve(bytes) {
            return false;
        }
        for one in before.into_iter().rev() {
            self.publications.push_front(one.clone());
        }
        self.after = since.seq;
        true
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        if self.bytes + bytes > MAX_BYTES {
            return false;
        }
        self.bytes += bytes;
        self.budget.0.fetch_add(bytes, Ordering::AcqRel);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChannelName, Epoch, Event, broker::Reach};

    fn position(seq: Seq) -> Position {
        Position {
            epoch: Epoch::new("e"),
            seq,
        }
    }

    fn publications(seqs: std::ops::RangeInclusive<Seq>) -> Vec<Arc<Publication>> {
        let channel = ChannelName::parse("orders:1").unwrap();
        let event = || Event::Message("1".into());
        seqs.map(|seq| Publication::new(channel.clone(), position(seq), 0, event()))
            .collect()
    }

    fn seqs(tail: &Tail, since: Seq) -> Option<Vec<Seq>> {
        let since = position(since);
        Some(tail.after(&since)?.map(|one| one.seq()).collect())
    }

    #[test]
    fn a_tail_has_what_was_read_and_what_was_delivered_meanwhile() {
        let budget = TailBudget::default();
        let mut tail = Tail::at(position(100), budget.clone());
        assert_eq!(seqs(&tail, 100), Some(vec![]));
        assert_eq!(seqs(&tail, 99), None);
        for one in publications(101..=102) {
            assert!(tail.push(&one));
        }
        let read = History {
            top: position(101),
            publications: publications(98..=101),
            reach: Reach::Complete,
        };
        assert!(!tail.put_before(&position(96), &read), "97 is missing");
        assert!(tail.put_before(&position(97), &read));
        assert_eq!(seqs(&tail, 97), Some(vec![98, 99, 100, 101, 102]));
        assert_eq!(seqs(&tail, 101), Some(vec![102]));
        assert_eq!(seqs(&tail, 102), Some(vec![]));
        assert_eq!((seqs(&tail, 96), seqs(&tail, 103)), (None, None));
        assert!(tail.ends_at(&position(102)) && budget.bytes() > 0);
        assert!(!tail.push(&publications(104..=104)[0]), "103 is missing");
        drop(tail);
        assert_eq!(budget.bytes(), 0);
    }
}
