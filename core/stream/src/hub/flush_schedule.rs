//! When sessions send the prices that they gathered.
//!
//! All sessions of a shard send at the same ticks, so that it writes to many at once
//! instead of to a few at a time. A tick costs a system call for each socket, however
//! little goes through it: where one has to write to many, the next comes later, so
//! that more shares each write. A shard of few connections keeps the usual interval.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// A tick that wrote to so many sockets is followed by the long interval.
const MANY: usize = 256;

/// One that wrote to fewer is followed by the usual one again.
const FEW: usize = 128;

/// How far ticks are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchInterval {
    /// Usually.
    pub usual: Duration,
    /// While ticks write to many sockets. Not shorter than the usual one.
    pub busy: Duration,
}

/// The ticks of a shard.
#[derive(Debug)]
pub(crate) struct FlushSchedule {
    interval: BatchInterval,
    /// FlushSchedule are multiples of the interval from here.
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

    /// The next tick after `now`.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let interval = if self.is_busy.load(Ordering::Relaxed) {
            self.interval.busy.max(self.interval.usual)
        } else {
            self.interval.usual
        };
        let passed = (now - self.started).as_nanos();
        // Less than an interval, which is some milliseconds.
        let since = passed.checked_rem(interval.as_nanos()).unwrap_or_default();
        now + interval - Duration::from_nanos(u64::try_from(since).unwrap_or_default())
    }

    /// Notes to how many sockets a tick writes, before it does.
    pub(super) fn writes_to(&self, sockets: usize) {
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
    fn ticks_are_further_apart_while_they_write_to_many() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let interval = BatchInterval {
            usual: Duration::from_millis(50),
            busy: Duration::from_millis(80),
        };
        let ticks = FlushSchedule::new(interval, started);
        assert_eq!(ticks.next(at(0)), at(50));
        assert_eq!(ticks.next(at(49)), at(50));
        ticks.writes_to(MANY);
        assert_eq!(ticks.next(at(50)), at(80));
        assert_eq!(ticks.next(at(80)), at(160));
        // Between the two, it stays as it is.
        ticks.writes_to(FEW);
        assert_eq!(ticks.next(at(160)), at(240));
        ticks.writes_to(FEW - 1);
        assert_eq!(ticks.next(at(240)), at(250));
    }

    #[test]
    fn an_interval_of_nothing_gathers_nothing() {
        let started = Instant::now();
        let interval = BatchInterval {
            usual: Duration::ZERO,
            busy: Duration::ZERO,
        };
        let later = started + Duration::from_millis(7);
        assert_eq!(FlushSchedule::new(interval, started).next(later), later);
    }
}
