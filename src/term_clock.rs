//! Term clock: the time of the engines on a shared store, in one term.
//!
//! All nodes write into one store, and the clock of one of them may be wrong: it would remove what
//! the others keep, and give its notifications times that no later one may precede. Engines on a
//! shared store therefore go by the clock of Redis where that of the node differs from it by more
//! than [`TOLERANCE_MS`]. Within it the node's own clock counts, to which prices and timers belong.
//!
//! Each comparison also notes how far the clock of the node is ahead of one that only goes on. If it is
//! further ahead or behind later, it was set: until the next comparison, which follows at once, time
//! goes on from the last one. A clock that is wrong for a moment therefore removes nothing.
//!
//! Great steps ahead of this time are doubted too ([`GuardedClock`]). The mark is in the shared
//! store: that of the node's own folder says nothing about the time of the other nodes.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_store::{RedisStore, SharedStore, StoreError};
use tidewire_stream::{Clock, GuardedClock, SharedClock};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::clock_mark;

/// Difference from the clock of Redis that is let be, in milliseconds: clocks of machines that are
/// kept right differ by less.
const TOLERANCE_MS: i64 = 60_000;

/// Time between two comparisons with the clock of Redis.
const COMPARISON: Duration = Duration::from_secs(10);

/// Pause between two comparisons, if the clock of the node is set again and again.
const PAUSE: Duration = Duration::from_millis(250);

/// The clock of a node, set right by that of Redis.
#[derive(Debug)]
struct CorrectedClock {
    wall: SharedClock,
    /// A moment by a clock that only goes on.
    origin: Instant,
    compared: Mutex<Compared>,
    /// Told when the clock of the node was set.
    was_set: Notify,
}

/// The findings of the last comparison.
#[derive(Debug, Clone, Copy)]
struct Compared {
    /// Added to the clock of the node.
    correction_ms: i64,
    /// The time of the node at the origin.
    base_ms: i64,
}

impl CorrectedClock {
    fn new(wall: SharedClock) -> Self {
        let base_ms = wall.now_ms();
        Self {
            wall,
            origin: Instant::now(),
            compared: Mutex::new(Compared {
                correction_ms: 0,
                base_ms,
            }),
            was_set: Notify::new(),
        }
    }

    /// Compares the clock with that of Redis, which was `redis_ms` when the node's was `wall_ms`.
    fn compare(&self, redis_ms: i64, wall_ms: i64) {
        let correction_ms = match redis_ms.saturating_sub(wall_ms) {
            small if small.saturating_abs() <= TOLERANCE_MS => 0,
            great => great,
        };
        let base_ms = wall_ms.saturating_sub(self.passed_ms());
        *self.compared.lock() = Compared {
            correction_ms,
            base_ms,
        };
    }

    fn correction_ms(&self) -> i64 {
        self.compared.lock().correction_ms
    }

    /// Time since the origin.
    fn passed_ms(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Clock for CorrectedClock {
    fn now_ms(&self) -> i64 {
        let Compared {
            correction_ms,
            base_ms,
        } = *self.compared.lock();
        let wall_ms = self.wall.now_ms();
        let expected_ms = base_ms.saturating_add(self.passed_ms());
        let was_set = wall_ms.abs_diff(expected_ms) > TOLERANCE_MS.unsigned_abs();
        if was_set {
            self.was_set.notify_one();
        }
        let node_ms = if was_set { expected_ms } else { wall_ms };
        node_ms.saturating_add(correction_ms)
    }
}

/// The clock of a term. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct TermClock {
    store: RedisStore,
    corrected: Arc<CorrectedClock>,
    guarded: Arc<GuardedClock>,
}

impl TermClock {
    /// The clock of the term of `store`, on a node with this clock.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn open(store: &RedisStore, wall: SharedClock) -> Result<Self, StoreError> {
        let corrected = Arc::new(CorrectedClock::new(wall));
        let clock = Self {
            store: store.clone(),
            corrected: corrected.clone(),
            guarded: Arc::new(GuardedClock::new(corrected)),
        };
        clock.compare().await?;
        clock_mark::resume(&clock.shared_store(), &clock.guarded).await?;
        Ok(clock)
    }

    /// The time for engines.
    pub(crate) fn clock(&self) -> SharedClock {
        self.guarded.clone()
    }

    /// Follows the clock of Redis until cancelled.
    pub(crate) async fn follow(&self, cancel: CancellationToken) {
        let following = async {
            loop {
                tokio::select! {
                    () = sleep(COMPARISON) => {}
                    () = self.corrected.was_set.notified() => {}
                }
                // The fault of a store that cannot be read is reported by others.
                let _ = self.compare().await;
                sleep(PAUSE).await;
            }
        };
        cancel.run_until_cancelled(following).await;
    }

    /// The same, writes the mark, and warns of a clock that is wrong.
    pub(crate) async fn keep(&self, cancel: CancellationToken) {
        let marking = clock_mark::run(self.guarded.clone(), self.shared_store(), cancel.clone());
        let warning = cancel.run_until_cancelled(self.warn());
        tokio::join!(self.follow(cancel.clone()), marking, warning);
    }

    async fn warn(&self) {
        let mut is_known = false;
        loop {
            let correction_ms = self.corrected.correction_ms();
            let is_wrong = correction_ms != 0;
            if is_wrong && !is_known {
                let ahead_s = -correction_ms / 1_000;
                tracing::warn!(
                    ahead_s,
                    "the clock of this node is not that of Redis: notifications and alerts go by that of Redis"
                );
            }
            is_known = is_wrong;
            sleep(COMPARISON).await;
        }
    }

    fn shared_store(&self) -> SharedStore {
        Arc::new(self.store.clone())
    }

    async fn compare(&self) -> Result<(), StoreError> {
        let redis_ms = self.store.time_ms().await?;
        // Of the moment after the answer: later than the time in it by less than the tolerance.
        self.corrected
            .compare(redis_ms, self.corrected.wall.now_ms());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidewire_stream::ManualClock;

    use super::*;

    const NOW_MS: i64 = 1_750_000_000_000;
    const DAYS_MS: i64 = 100 * 24 * 60 * 60 * 1_000;

    #[test]
    fn a_clock_that_is_far_from_that_of_redis_does_not_count() {
        for wrong_ms in [NOW_MS + DAYS_MS, NOW_MS - DAYS_MS] {
            let wall = ManualClock::at(wrong_ms);
            let corrected = Arc::new(CorrectedClock::new(wall.clone()));
            corrected.compare(NOW_MS, wall.now_ms());
            assert_eq!(corrected.now_ms(), NOW_MS);
            // Nothing is too old for it that is not too old for the others.
            let guarded = GuardedClock::new(corrected.clone());
            guarded.witness(NOW_MS);
            assert_eq!((guarded.now_ms(), guarded.retention_ms()), (NOW_MS, NOW_MS));
            wall.advance(1_000);
            corrected.compare(NOW_MS + 1_000, wall.now_ms());
            assert_eq!(corrected.now_ms(), NOW_MS + 1_000);
            // It is set right.
            wall.advance(NOW_MS - wrong_ms);
            corrected.compare(NOW_MS + 1_000, wall.now_ms());
            assert_eq!(corrected.now_ms(), NOW_MS + 1_000);
        }
    }

    #[test]
    fn a_clock_that_is_set_counts_once_it_was_compared() {
        for hours in [2, -2] {
            let step_ms = hours * 60 * 60 * 1_000;
            let wall = ManualClock::at(NOW_MS);
            let corrected = CorrectedClock::new(wall.clone());
            corrected.compare(NOW_MS, NOW_MS);
            let is_right = || corrected.now_ms().abs_diff(NOW_MS) < 60_000;
            wall.advance(step_ms);
            assert!(is_right(), "{hours}");
            corrected.compare(NOW_MS, wall.now_ms());
            assert!(is_right(), "{hours}");
            wall.advance(-step_ms);
            assert!(is_right(), "{hours}");
            corrected.compare(NOW_MS, wall.now_ms());
            assert_eq!(corrected.now_ms(), NOW_MS);
        }
    }

    #[test]
    fn a_small_difference_is_let_be() {
        let wall = ManualClock::at(NOW_MS);
        let corrected = CorrectedClock::new(wall);
        for redis_ms in [NOW_MS - TOLERANCE_MS, NOW_MS + TOLERANCE_MS] {
            corrected.compare(redis_ms, NOW_MS);
            assert_eq!(corrected.now_ms(), NOW_MS);
        }
    }
}
