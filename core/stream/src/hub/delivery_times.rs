//! Delivery times: how long publications took from the shard's inbox to the sockets.
//!
//! Times are counted in buckets, four for each doubling, so that a quantile is exact to a fifth.
//! A tick counts with its longest time, for all of its publications: the true times are shorter.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Number of buckets: up to 2²⁴ µs, 17 s. The last one holds longer times too.
const BUCKETS: usize = 97;

/// Counts of delivery times, by bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryTimes([u64; BUCKETS]);

impl Default for DeliveryTimes {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl DeliveryTimes {
    /// The time that this share of all publications did not exceed. `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.0.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (total as f64 * share).ceil().max(1.0) as u64;
        let mut count = 0;
        let bucket = self.0.iter().position(|in_bucket| {
            count += in_bucket;
            count >= rank
        });
        bucket.map(upper_bound)
    }

    /// Adds the counts of another shard.
    pub(super) fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own += other;
        }
    }
}

/// The upper bound of a bucket.
fn upper_bound(bucket: usize) -> Duration {
    Duration::from_secs_f64((bucket as f64 / 4.0).exp2() / 1e6)
}

/// The counts of one shard, which its thread adds to.
#[derive(Debug)]
pub(super) struct DeliveryRecorder([AtomicU64; BUCKETS]);

impl Default for DeliveryRecorder {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl DeliveryRecorder {
    /// Counts publications that took this long.
    pub(super) fn record(&self, time: Duration, publications: usize) {
        let micros = time.as_secs_f64() * 1e6;
        let bucket = (micros.max(1.0).log2() * 4.0).ceil() as usize;
        let count = &self.0[bucket.min(BUCKETS - 1)];
        count.fetch_add(publications as u64, Ordering::Relaxed);
    }

    /// Takes the counts since the last call.
    pub(super) fn take(&self) -> DeliveryTimes {
        let counts = self
            .0
            .each_ref()
            .map(|count| count.swap(0, Ordering::Relaxed));
        DeliveryTimes(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_exact_to_a_fifth() {
        let recorder = DeliveryRecorder::default();
        assert_eq!(recorder.take().quantile(0.99), None);
        for micros in 1..=1_000 {
            recorder.record(Duration::from_micros(micros), 1);
        }
        let times = recorder.take();
        for (share, micros) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0), (0.0, 1.0)] {
            let found = times.quantile(share).unwrap_or_default().as_secs_f64() * 1e6;
            assert!((micros..=micros * 1.2).contains(&found), "{share}: {found}");
        }
        assert_eq!(recorder.take(), DeliveryTimes::default());
        recorder.record(Duration::from_secs(1_000), 3);
        assert!(recorder.take().quantile(0.5) >= Some(Duration::from_secs(16)));
    }
}
