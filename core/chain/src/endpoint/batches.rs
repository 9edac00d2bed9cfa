//! Batch size: the number of calls that an endpoint answers in one HTTP request.
//!
//! Providers limit batches by number, by bytes or by plan, and refuse in different ways: with a
//! status, with another document, by leaving answers out, with errors from some call on, with a
//! rate limit, or not at all. The size is therefore learned. It
//! begins at 50, is halved by each batch that is not answered as a whole, down to single calls,
//! and doubled again after ten minutes.
//!
//! Example: a provider accepts 10 calls. A batch of 50 fails, and its first call alone succeeds.
//! The others are sent in batches of 25, then 12, then 6, which are answered.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Calls in one request at first. Many providers refuse larger batches.
const MAX_BATCH: usize = 50;

/// The time after which a larger batch is tried again.
const GROW_AFTER: Duration = Duration::from_secs(600);

/// The learned batch size of one endpoint.
#[derive(Debug)]
pub(super) struct BatchSize(Mutex<State>);

#[derive(Debug)]
struct State {
    size: usize,
    /// When the size is doubled. None at the maximum.
    grows_at: Option<Instant>,
}

impl Default for BatchSize {
    fn default() -> Self {
        Self(Mutex::new(State {
            size: MAX_BATCH,
            grows_at: None,
        }))
    }
}

impl BatchSize {
    /// Calls that the next request may hold.
    pub(super) fn get(&self, now: Instant) -> usize {
        let mut state = self.0.lock();
        if state.grows_at.is_some_and(|at| at <= now) {
            state.size = (state.size * 2).min(MAX_BATCH);
            state.grows_at = (state.size < MAX_BATCH).then(|| now + GROW_AFTER);
        }
        state.size
    }

    /// Records that a batch of this many calls was not answered as a whole. Returns the new
    /// size.
    pub(super) fn shrink(&self, calls: usize, now: Instant) -> usize {
        let mut state = self.0.lock();
        state.size = state.size.min(calls / 2).max(1);
        state.grows_at = Some(now + GROW_AFTER);
        state.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_batch_shrinks_to_single_calls_and_grows_again() {
        let (size, mut now) = (BatchSize::default(), Instant::now());
        let mut sizes = Vec::new();
        while size.get(now) > 1 {
            sizes.push(size.shrink(size.get(now), now));
        }
        assert_eq!(sizes, [25, 12, 6, 3, 1]);
        assert_eq!(size.shrink(1, now), 1);
        for grown in [2, 4, 8, 16, 32, 50, 50] {
            assert!(size.get(now) < grown || grown == 50);
            now += GROW_AFTER;
            assert_eq!(size.get(now), grown);
        }
        // A late failure of a large batch does not make the size grow.
        size.shrink(4, now);
        assert_eq!(size.shrink(50, now), 2);
    }
}
