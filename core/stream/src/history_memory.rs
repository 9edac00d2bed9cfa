//! History memory: what all histories together take, with every encoding of their publications.
//!
//! A publication is encoded when a client first needs a form of it, often long after it entered
//! its history. It therefore charges its memory itself: its size when it enters a history, each
//! encoding when it is made, and everything back when it leaves. Example: a document of 1,000
//! bytes takes about 1,900 bytes at first, 3,100 with its JSON form, and 4,300 with the frame
//! for WebSocket clients; a history of 512 MiB holds fewer of them the more forms clients use.
//!
//! # Shares
//! Each namespace is charged by itself ([`HistoryShare`]). When all together exceed the bound,
//! the namespaces that take most are cut down to the same size ([`largest_share`]). So one
//! namespace may take nearly everything that the others leave free, and none of them loses
//! anything to it while it takes less than its part of the bound.

use std::sync::{
    Arc,
    atomic::{AtomicIsize, Ordering},
};

use tokio::sync::Notify;

/// Memory of a pointer that refers to an allocation, its header, and what the allocator rounds
/// up at least, in bytes.
const ALLOCATION: usize = 48;

/// Memory of a piece of `length` bytes on the heap: an allocator rounds up to its size classes,
/// which are an eighth of the size apart, and so by a sixteenth on average.
pub(crate) const fn heap_bytes(length: usize) -> usize {
    length + length / 16 + ALLOCATION
}

/// Memory of all histories of a broker, and its bound.
#[derive(Debug)]
pub(crate) struct HistoryMemory {
    limit: usize,
    /// Bytes in use. For moments below what it should be, while a publication that leaves is
    /// being encoded; so it has a sign.
    used: AtomicIsize,
    /// Notified when the bound is crossed.
    exceeded: Notify,
}

impl HistoryMemory {
    /// No history yet, of up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicIsize::new(0),
            exceeded: Notify::new(),
        }
    }

    fn add(&self, bytes: usize) {
        let before = self.used.fetch_add(signed(bytes), Ordering::Relaxed);
        let limit = signed(self.limit);
        if before <= limit && before + signed(bytes) > limit {
            self.exceeded.notify_one();
        }
    }

    fn remove(&self, bytes: usize) {
        self.used.fetch_sub(signed(bytes), Ordering::Relaxed);
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        usize::try_from(self.used.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// How many bytes to free, if the bound is exceeded: a sixteenth more than the excess, so
    /// that the search for old histories is rare.
    pub(crate) fn excess(&self) -> Option<usize> {
        let used = self.used();
        (used > self.limit).then(|| used - self.limit + self.limit / 16)
    }

    /// Whether so much is in use that a publisher should free memory itself.
    pub(crate) fn is_far_exceeded(&self) -> bool {
        self.used() > self.limit + self.limit / 8
    }

    /// Waits until the bound is crossed.
    pub(crate) async fn exceeded(&self) {
        self.exceeded.notified().await;
    }
}

/// Memory of the histories of one namespace.
#[derive(Debug)]
pub(crate) struct HistoryShare {
    used: AtomicIsize,
    all: Arc<HistoryMemory>,
}

impl HistoryShare {
    /// A share of `all` without a history.
    pub(crate) fn new(all: &Arc<HistoryMemory>) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicIsize::new(0),
            all: all.clone(),
        })
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.used.fetch_add(signed(bytes), Ordering::Relaxed);
        self.all.add(bytes);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.used.fetch_sub(signed(bytes), Ordering::Relaxed);
        self.all.remove(bytes);
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        usize::try_from(self.used.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// The size to which shares that use more are to be cut down, so that all together use `kept`
/// bytes. Example: of 10, 30 and 80 bytes, 100 are to be kept. Each may have a third; the first
/// needs less, so that the others may have 45 each. The second needs less too, and the third may
/// have 60.
pub(crate) fn largest_share(mut used: Vec<usize>, kept: usize) -> usize {
    used.sort_unstable();
    let mut rest = kept;
    for (index, bytes) in used.iter().enumerate() {
        let part = rest / (used.len() - index);
        if *bytes > part {
            return part;
        }
        rest -= bytes;
    }
    usize::MAX
}

/// Memory sizes are far below the largest number with a sign.
fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_shares_alone_are_cut_down() {
        assert_eq!(largest_share(vec![80, 10, 30], 100), 60);
        assert_eq!(largest_share(vec![80, 10, 90], 100), 45);
        assert_eq!(largest_share(vec![50, 50, 50], 90), 30);
        assert_eq!(largest_share(vec![50, 50], 100), usize::MAX);
        assert_eq!(largest_share(vec![7], 0), 0);
        assert_eq!(largest_share(Vec::new(), 0), usize::MAX);
    }

    #[test]
    fn what_a_share_uses_counts_among_all() {
        let all = Arc::new(HistoryMemory::new(100));
        let (one, other) = (HistoryShare::new(&all), HistoryShare::new(&all));
        one.add(60);
        other.add(50);
        assert_eq!((one.used(), other.used(), all.used()), (60, 50, 110));
        assert!(all.excess().is_some());
        one.remove(60);
        assert_eq!((one.used(), all.used(), all.excess()), (0, 50, None));
    }
}
