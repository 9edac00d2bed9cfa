//! Write coalescing: decides whether a shard pauses, so that several publications share a
//! write.
//!
//! The reason for pauses, with examples, is in [`shard`](super::shard). A pause pays when more
//! than one publication is expected in it. The expectation is an exponential moving average of
//! the rate: each publication counts less the longer ago it was.

use std::time::Duration;

use tokio::time::Instant;

/// Time constant of the average: a publication counts 1/e after it.
const RATE_WINDOW: Duration = Duration::from_millis(250);

/// Publications that a pause must be expected to collect. With fewer it only delays.
const WORTHWHILE: f64 = 1.2;

/// Publications of a tick from which on no pause follows: its writes are shared already.
const ENOUGH: usize = 16;

/// Decides on the pauses of one shard.
#[derive(Debug)]
pub(super) struct WriteCoalescing {
    max_pause: Duration,
    /// Average of publications a second.
    rate: f64,
    at: Instant,
}

impl WriteCoalescing {
    pub(super) fn new(max_pause: Duration, now: Instant) -> Self {
        Self {
            max_pause,
            rate: 0.0,
            at: now,
        }
    }

    /// Length of a pause.
    pub(super) fn max_pause(&self) -> Duration {
        self.max_pause
    }

    /// Notes how many publications came until `now`.
    pub(super) fn note_publications(&mut self, count: usize, now: Instant) {
        let window = RATE_WINDOW.as_secs_f64();
        let passed = (now - self.at).as_secs_f64();
        self.at = now;
        self.rate = self.rate * (-passed / window).exp() + count as f64 / window;
    }

    /// Whether to pause after a tick with this number of publications.
    pub(super) fn is_worthwhile(&self, publications: usize) -> bool {
        publications < ENOUGH && self.rate * self.max_pause.as_secs_f64() >= WORTHWHILE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a pause follows after two seconds with `rate` publications a second.
    fn pauses(rate: u32) -> bool {
        let start = Instant::now();
        let mut coalescing = WriteCoalescing::new(Duration::from_millis(15), start);
        for number in 1..=2 * rate {
            let at = start + Duration::from_secs(number.into()) / rate;
            coalescing.note_publications(1, at);
        }
        coalescing.is_worthwhile(1)
    }

    #[test]
    fn a_shard_pauses_only_if_it_expects_another_publication() {
        assert!(!pauses(1));
        assert!(!pauses(50));
        assert!(pauses(100));
        assert!(pauses(5_000));
    }
}
