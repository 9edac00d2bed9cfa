//! Liveness of a shard: whether its thread still finishes ticks.
//!
//! A probe asks the shard for a tick, and the next tick that ends answers it. A shard that has
//! work for one socket only answers as well as an idle one: what counts is that its thread
//! comes round. An unanswered probe is not repeated, and its age is how late the shard is.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Age of an unanswered probe from which on a shard is late.
pub(super) const LATE_AFTER: Duration = Duration::from_secs(1);

/// A shard that has not finished a tick for a second or longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateShard {
    /// The shard.
    pub shard: super::ShardId,
    /// How long it has been asked for a tick.
    pub late_for: Duration,
}

/// The probe of one shard.
#[derive(Debug)]
pub(super) struct Liveness {
    started: Instant,
    /// Time of the unanswered probe, in milliseconds after `started`, and 0 without one.
    asked_ms: AtomicU64,
}

impl Liveness {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            asked_ms: AtomicU64::new(0),
        }
    }

    /// Asks for a tick, unless one is asked for already. True if the shard is to be woken.
    pub(super) fn ask(&self, now: Instant) -> bool {
        let asked = self.ms(now).max(1);
        let free = self
            .asked_ms
            .compare_exchange(0, asked, Ordering::Relaxed, Ordering::Relaxed);
        free.is_ok()
    }

    /// Notes that a tick has ended.
    pub(super) fn answer(&self) {
        self.asked_ms.store(0, Ordering::Relaxed);
    }

    /// How long the shard has not answered, if it is late.
    pub(super) fn late_for(&self, now: Instant) -> Option<Duration> {
        let asked = self.asked_ms.load(Ordering::Relaxed);
        let waited = Duration::from_millis(self.ms(now).saturating_sub(asked));
        (asked > 0 && waited >= LATE_AFTER).then_some(waited)
    }

    fn ms(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.started);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }
}
