//! Token buckets.
//!
//! A bucket is one number: the time at which it is full again (the "theoretical
//! arrival time" of the generic cell rate algorithm). It needs no timer, and one
//! that is full says nothing that a new one would not say.
//!
//! An example: a rate of 10 a second with a burst of 20. At rest 20 may come at
//! once; then the bucket is full again in 2 s. Another must wait until that is
//! 1.9 s away: 100 ms.

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time that one token takes, in nanoseconds.
    token_ns: i64,
    /// The time that a whole bucket takes, in nanoseconds.
    burst_ns: i64,
}

/// A second, in nanoseconds.
const SECOND_NS: i64 = 1_000_000_000;

/// A millisecond, in nanoseconds.
const MS_NS: i64 = 1_000_000;

impl Rate {
    /// So many tokens a second, and so many at once. At least one of each.
    #[must_use]
    pub fn per_second(tokens: u32, burst: u32) -> Self {
        let token_ns = (SECOND_NS / i64::from(tokens.max(1))).max(1);
        Self {
            token_ns,
            burst_ns: token_ns.saturating_mul(i64::from(burst.max(1))),
        }
    }

    /// One token in so many milliseconds, and so many at once.
    #[must_use]
    pub fn one_in(interval_ms: u32, burst: u32) -> Self {
        let token_ns = i64::from(interval_ms.max(1)) * MS_NS;
        Self {
            token_ns,
            burst_ns: token_ns.saturating_mul(i64::from(burst.max(1))),
        }
    }
}

/// A bucket, full at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When it is full again, in nanoseconds of the clock's own count.
    full_at_ns: i64,
    /// When something was last taken, in milliseconds: a clock that shows less was
    /// set back, and the bucket goes back with it.
    taken_ms: i64,
}

impl Bucket {
    /// Takes `tokens`, or says after how many milliseconds to ask again; nothing
    /// is taken then. Whoever asks for more than the bucket holds gets it when the
    /// bucket is full, and pays for all of it.
    ///
    /// # Errors
    /// The milliseconds, 1 at least.
    pub fn take(&mut self, rate: Rate, now_ms: i64, tokens: u64) -> Result<(), u32> {
        let now_ns = now_ms.saturating_mul(MS_NS);
        let cost_ns = i64::try_from(tokens)
            .unwrap_or(i64::MAX)
            .saturating_mul(rate.token_ns);
        let full_at_ns = self.full_at_ns(now_ms).max(now_ns);
        let asked_ns = cost_ns.min(rate.burst_ns);
        let wait_ns = full_at_ns
            .saturating_add(asked_ns)
            .saturating_sub(now_ns.saturating_add(rate.burst_ns));
        if wait_ns > 0 {
            let wait_ms = (wait_ns + MS_NS - 1) / MS_NS;
            return Err(u32::try_from(wait_ms).unwrap_or(u32::MAX));
        }
        self.full_at_ns = full_at_ns.saturating_add(cost_ns);
        self.taken_ms = now_ms;
        Ok(())
    }

    /// Whether it is full, and so as good as new.
    #[must_use]
    pub fn is_full(&self, now_ms: i64) -> bool {
        self.full_at_ns(now_ms) <= now_ms.saturating_mul(MS_NS)
    }

    fn full_at_ns(&self, now_ms: i64) -> i64 {
        let set_back_ms = self.taken_ms.saturating_sub(now_ms).max(0);
        self.full_at_ns
            .saturating_sub(set_back_ms.saturating_mul(MS_NS))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_head_holds() {
        let rate = Rate::per_second(10, 20);
        let mut bucket = Bucket::default();
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
    fn more_than_it_holds_takes_a_full_bucket() {
        let rate = Rate::per_second(1_000, 1_000);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(rate, 0, 5_000), Ok(()));
        assert_eq!(bucket.take(rate, 0, 1), Err(4_001));
        assert_eq!(bucket.take(rate, 4_000, 1), Err(1));
        assert_eq!(bucket.take(rate, 4_500, 5_000), Err(500));
        assert_eq!(bucket.take(rate, 5_000, 5_000), Ok(()));
    }

    #[test]
    fn a_clock_set_back_does_not_lock_anyone_out() {
        let rate = Rate::per_second(10, 10);
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(rate, 1_000_000, 1), Ok(()));
        for _ in 1..10 {
            assert_eq!(bucket.take(rate, 0, 1), Ok(()));
        }
        assert_eq!(bucket.take(rate, 0, 1), Err(100));
        assert_eq!(bucket.take(rate, 100, 1), Ok(()));
    }

    proptest! {
        /// Against a bucket of plain arithmetic: never more than the burst and what
        /// the time since brought, and whoever waits as told is served.
        #[test]
        fn no_more_than_the_rate_and_the_waits_are_true(
            tokens in 1_u32..1_000,
            burst in 1_u32..1_000,
            steps in prop::collection::vec((0_i64..2_000, 1_u64..50), 1..200),
        ) {
            let rate = Rate::per_second(tokens, burst);
            let mut bucket = Bucket::default();
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
