//! Method memory: which methods an endpoint refused, and when to ask it again.
//!
//! A plan without a method, a daily quota, an internal error: all of these concern one method of
//! one endpoint, and none lasts for ever. Other endpoints are called first for that method
//! meanwhile. The pause begins at 250 ms and doubles up to 10 minutes; a result but null ends it.
//!
//! Example: a node behind a shared address does not know `eth_getBlockReceipts`. The next block
//! is read without it, the block 250 ms later with it. If every node refuses, the method is
//! tried a few times in the first seconds, and six times an hour later on.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tidewire_stream::Backoff;
use tokio::time::Instant;

use super::Failure;

/// The pauses after refusals in a row: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(600);

/// The methods that one endpoint refused. The engine uses few methods, which bounds the memory.
#[derive(Debug, Default)]
pub(super) struct MethodMemory(Mutex<HashMap<&'static str, RefusedMethod>>);

#[derive(Debug)]
struct RefusedMethod {
    backoff: Backoff,
    until: Instant,
    /// The newest failure.
    failure: Failure,
}

impl MethodMemory {
    /// Records a refusal. Returns whether it is the first one since the last result.
    pub(super) fn record_refusal(
        &self,
        method: &'static str,
        failure: &Failure,
        now: Instant,
    ) -> bool {
        let mut methods = self.0.lock();
        let is_first = !methods.contains_key(method);
        let refused = methods.entry(method).or_insert_with(|| RefusedMethod {
            backoff: Backoff::new(FIRST_PAUSE, LAST_PAUSE),
            until: now,
            failure: failure.clone(),
        });
        refused.failure = failure.clone();
        refused.until = now + refused.backoff.next_pause();
        is_first
    }

    /// Records a result: the method is not refused any more.
    pub(super) fn record_result(&self, method: &'static str) {
        self.0.lock().remove(method);
    }

    /// The rest of a method's pause; zero if it has none.
    pub(super) fn pause(&self, method: &str, now: Instant) -> Duration {
        let methods = self.0.lock();
        methods.get(method).map_or(Duration::ZERO, |refused| {
            refused.until.saturating_duration_since(now)
        })
    }

    /// The failure of a method that the endpoint does not implement, during its pause. A call
    /// would only return it again.
    pub(super) fn unsupported(&self, method: &str, now: Instant) -> Option<Failure> {
        let methods = self.0.lock();
        let refused = methods.get(method)?;
        let is_unsupported = matches!(refused.failure, Failure::Unsupported(_));
        (is_unsupported && refused.until > now).then(|| refused.failure.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refused_method_is_tried_again_after_a_growing_pause() {
        let (memory, start) = (MethodMemory::default(), Instant::now());
        let missing = Failure::Unsupported("no".to_owned());
        assert!(memory.record_refusal("a", &missing, start));
        let mut now = start;
        for pause in [250, 500, 1_000, 2_000] {
            assert_eq!(memory.pause("a", now), Duration::from_millis(pause));
            assert_eq!(memory.unsupported("a", now), Some(missing.clone()));
            assert_eq!(memory.pause("b", now), Duration::ZERO);
            now += Duration::from_millis(pause);
            assert_eq!(memory.unsupported("a", now), None);
            assert!(!memory.record_refusal("a", &missing, now));
        }
        for _ in 0..20 {
            memory.record_refusal("a", &missing, now);
        }
        assert_eq!(memory.pause("a", now), LAST_PAUSE);
        memory.record_result("a");
        assert_eq!(memory.pause("a", now), Duration::ZERO);
        assert!(memory.record_refusal("a", &missing, now));
        assert_eq!(memory.pause("a", now), FIRST_PAUSE);
    }
}
