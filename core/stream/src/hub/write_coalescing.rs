//! Judges whether a pause between a shard's ticks gathers anything; why there are
//! pauses is told in [`shard`](super::shard).

use std::time::Duration;

use tokio::time::Instant;

/// How fast old arrivals are forgotten.
const RATE_WINDOW: Duration = Duration::from_millis(250);

/// So many publications must be expected within a pause to make it.
const WORTHWHILE: f64 = 1.2;

/// A tick that had so many has gathered enough: its writes are shared already, and a
/// pause would only cost time.
const ENOUGH: usize = 16;

/// Judges whether a pause gathers anything.
#[derive(Debug)]
pub(super) struct WriteCoalescing {
    pub(super) longest: Duration,
    /// Publications a second, of late.
    rate: f64,
    at: Instant,
}

impl WriteCoalescing {
    pub(super) fn new(longest: Duration, now: Instant) -> Self {
        Self {
            longest,
            rate: 0.0,
            at: now,
        }
    }

    /// Notes how many publications came until `now`. The rate is an exponential
    /// moving average: each arrival counts less the longer ago it was.
    pub(super) fn arrived(&mut self, count: usize, now: Instant) {
        let window = RATE_WINDOW.as_secs_f64();
        let passed = (now - self.at).as_secs_f64();
        self.at = now;
        self.rate = self.rate * (-passed / window).exp() + count as f64 / window;
    }

    /// Whether to pause after a tick of so many publications.
    pub(super) fn is_worthwhile(&self, gathered: usize) -> bool {
        gathered < ENOUGH && self.rate * self.longest.as_secs_f64() >= WORTHWHILE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether there is a pause after `rate` publications a second have come for two
    /// seconds.
    fn pauses(rate: u32) -> bool {
        let start = Instant::now();
        let mut coalescing = WriteCoalescing::new(Duration::from_millis(15), start);
        for number in 1..=2 * rate {
            let at = start + Duration::from_secs(number.into()) / rate;
            coalescing.arrived(1, at);
        }
        coalescing.is_worthwhile(1)
    }

    #[test]
    fn a_shard_waits_only_where_more_is_to_be_expected() {
        assert!(!pauses(1));
        assert!(!pauses(50));
        assert!(pauses(100));
        assert!(pauses(5_000));
    }
}
