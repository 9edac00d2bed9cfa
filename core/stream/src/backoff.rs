//! Back-off: growing pauses between attempts at something that fails.
//!
//! Every crate that reconnects or retries pauses by [`Backoff`], so that the rule is written
//! once. The pauses come from `backon`. Nothing here sleeps: the caller does, on the clock
//! that it was given, so that tests decide how time passes.
//!
//! Worked example: `Backoff::new(250 ms, 30 s)` gives 250 ms, 500 ms, 1 s, 2 s, 4 s, 8 s, 16 s,
//! then 30 s each time. `Backoff::with_jitter` draws each of these from its upper half:
//! 125 to 250 ms, 250 to 500 ms, and so on up to 15 to 30 s.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// The pauses after consecutive failures, each twice as long as the one before, up to a
/// longest one.
#[derive(Debug)]
pub struct Backoff {
    policy: ExponentialBuilder,
    pauses: ExponentialBackoff,
    longest: Duration,
    /// How many pauses are as long as the first one, and how many of these were taken.
    eager: (u32, u32),
}

impl Backoff {
    /// Pauses of exactly `first`, twice that, and so on up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        let policy = ExponentialBuilder::new()
            .with_min_delay(first)
            .with_max_delay(longest)
            .without_max_times();
        Self {
            policy,
            pauses: policy.build(),
            longest,
            eager: (0, 0),
        }
    }

    /// The same pauses, each drawn at random from its upper half, so that many servers do
    /// not reconnect at once.
    #[must_use]
    pub fn with_jitter(first: Duration, longest: Duration) -> Self {
        // The library adds up to as much again to each delay.
        let policy = Self::new(first / 2, longest / 2).policy.with_jitter();
        Self {
            policy,
            pauses: policy.build(),
            longest,
            eager: (0, 0),
        }
    }

    /// The same pauses after `count` that are as long as the first one: for faults that are usually
    /// over within a second, which doubled pauses would nearly double.
    #[must_use]
    pub fn eager(self, count: u32) -> Self {
        Self {
            eager: (count, 0),
            ..self
        }
    }

    /// The pause after one more failure.
    pub fn next_pause(&mut self) -> Duration {
        if self.eager.1 < self.eager.0 {
            self.eager.1 += 1;
            self.pauses = self.policy.build();
        }
        // Without a most number of times the library's iterator has no end.
        self.pauses.next().unwrap_or(self.longest)
    }

    /// Begins again at the first pause, after a success.
    pub fn reset(&mut self) {
        self.pauses = self.policy.build();
        self.eager.1 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let mut expected = FIRST;
        for _ in 0..100 {
            assert_eq!(backoff.next_pause(), expected);
            expected = (expected * 2).min(LONGEST);
        }
        backoff.reset();
        assert_eq!(backoff.next_pause(), FIRST);
    }

    #[test]
    fn eager_pauses_do_not_grow() {
        let mut backoff = Backoff::new(FIRST, LONGEST).eager(3);
        for _ in 0..2 {
            let pauses: Vec<_> = (0..5).map(|_| backoff.next_pause()).collect();
            let expected = [1, 1, 1, 2, 4].map(|times| FIRST * times);
            assert_eq!(pauses, expected);
            backoff.reset();
        }
    }

    #[test]
    fn jitter_draws_each_pause_from_its_upper_half() {
        let mut backoff = Backoff::with_jitter(FIRST, LONGEST);
        let mut most = FIRST;
        let mut drawn = Vec::new();
        for _ in 0..100 {
            let pause = backoff.next_pause();
            assert!((most / 2..=most).contains(&pause), "{pause:?} of {most:?}");
            drawn.push(pause);
            most = (most * 2).min(LONGEST);
        }
        drawn.dedup();
        assert!(drawn.len() > 50, "{drawn:?}");
        backoff.reset();
        assert!(backoff.next_pause() <= FIRST);
    }
}
