//! Flush schedule: the times at which the sessions of a shard send their batches of prices.
//!
//! All sessions of a shard send at the same times. The shard thus writes to many sockets at
//! once, not to a few at a time. Such a flush costs a system call for each socket,
//! however little it writes. While it writes to many, the next one comes later, and more
//! prices share each write. A shard of few connections keeps the usual interval.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{BatchInterval, deadline};

/// Sockets of a flush from which on the long interval follows.
const MANY: usize = 256;

/// Sockets of a flush below which the usual interval follows again.
const FEW: usize = 128;

/// Flush times of one shard.
#[derive(Debug)]
pub(crate) struct FlushSchedule {
    interval: BatchInterval,
    /// Flush times are multiples of the interval from here.
    started: Instant,
    is_busy: AtomicBool,
}

impl FlushSchedule {
    pub(super) fn new(interval: BatchInterval, started: Instant) -> Self {
        Self {
            interval,
            started,
            is_busy: AtomicBool::new(false),
        }
    }

    /// The next flush time after `now`.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let interval = if self.is_busy.load(Ordering::Relaxed) {
            self.interval.busy.max(self.interval.usual)
        } else {
            self.interval.usual
        };
        let passed = (now - self.started).as_nanos();
        // Less than an interval, which is some milliseconds.
        let since = passed.checked_rem(interval.as_nanos()).unwrap_or_default();
        let since = Duration::from_nanos(u64::try_from(since).unwrap_or_default());
        deadline(now, interval.saturating_sub(since))
    }

    /// Notes to how many sockets a flush is about to write.
    pub(super) fn note_sockets(&self, sockets: usize) {
        if sockets >= MANY {
            self.is_busy.store(true, Ordering::Relaxed);
        } else if sockets < FEW {
            self.is_busy.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushes_are_further_apart_while_they_write_to_many_sockets() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let interval = BatchInterval {
            usual: Duration::from_millis(50),
            busy: Duration::from_millis(80),
        };
        let schedule = FlushSchedule::new(interval, started);
        assert_eq!(schedule.next(at(0)), at(50));
        assert_eq!(schedule.next(at(49)), at(50));
        schedule.note_sockets(MANY);
        assert_eq!(schedule.next(at(50)), at(80));
        assert_eq!(schedule.next(at(80)), at(160));
        // Between the two bounds the interval stays as it is.
        schedule.note_sockets(FEW);
        assert_eq!(schedule.next(at(160)), at(240));
        schedule.note_sockets(FEW - 1);
        assert_eq!(schedule.next(at(240)), at(250));
    }

    #[test]
    fn an_interval_of_zero_flushes_at_once() {
        let started = Instant::now();
        let interval = BatchInterval {
            usual: Duration::ZERO,
            busy: Duration::ZERO,
        };
        let later = started + Duration::from_millis(7);
        assert_eq!(FlushSchedule::new(interval, started).next(later), later);
    }

    #[test]
    fn the_longest_interval_flushes_far_away() {
        let started = Instant::now();
        let interval = BatchInterval {
            usual: Duration::MAX,
            busy: Duration::MAX,
        };
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        assert!(FlushSchedule::new(interval, started).next(started) > started + year);
    }
}
