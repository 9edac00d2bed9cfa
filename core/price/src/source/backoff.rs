//! How long to wait before the next try.

use std::time::Duration;

/// The pause after the first failure, doubled with each further one up to the last.
const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(30);

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

    /// It went well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
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
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
