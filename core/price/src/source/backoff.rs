//! How long to wait before the next try.

use std::time::Duration;

/// The pause after the first failure, doubled with each further one up to the last.
const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(30);

/// A connection that had data for so long went well. One that a venue takes and ends at
/// once did not: trying again without a pause would break the venue's limits.
const HELD: Duration = Duration::from_secs(10);

/// Exponential backoff. The pauses are spread over their upper half, so that many
/// servers do not come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(super) fn pause(&mut self) -> Duration {
        // 250 ms doubled seven times is above the last.
        let pause = FIRST.saturating_mul(1 << self.failures.min(7)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(rand::random_range(0.5..1.0))
    }

    /// A connection ended that had data for so long. Gives how that went.
    pub(super) fn ended(&mut self, live: Duration) -> Held {
        if live < HELD {
            return Held::Briefly;
        }
        self.failures = 0;
        Held::Well
    }
}

/// Whether a connection held for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Well,
    Briefly,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let mut most = FIRST;
        for _ in 0..100 {
            let pause = backoff.pause();
            assert!((most / 2..=most).contains(&pause), "{pause:?} of {most:?}");
            most = (most * 2).min(LAST);
        }
        assert_eq!(backoff.ended(Duration::from_secs(9)), Held::Briefly);
        assert!(backoff.pause() > FIRST);
        assert_eq!(backoff.ended(HELD), Held::Well);
        assert!(backoff.pause() <= FIRST);
    }
}
