//! Clock of the lease: it never goes back, and goes on while the machine is suspended.
//!
//! Redis counts the lease down meanwhile, and another node may take it. By the usual monotonic clock
//! of Linux, which stands still, a machine that wakes would still have its lease.

use std::time::Duration;

/// A moment, as the time since the machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeaseInstant(Duration);

impl LeaseInstant {
    pub(super) fn now() -> Self {
        Self(elapsed())
    }

    /// A moment after the start.
    #[cfg(test)]
    pub(super) fn at(time: Duration) -> Self {
        Self(time)
    }

    pub(super) fn after(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

#[cfg(target_os = "linux")]
fn elapsed() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither is negative: the clock begins with the machine.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Elsewhere the usual clock is the only one.
#[cfg(not(target_os = "linux"))]
fn elapsed() -> Duration {
    use std::{sync::OnceLock, time::Instant};
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_go_back() {
        let one = LeaseInstant::now();
        let two = LeaseInstant::now();
        assert!(one <= two && two < one.after(Duration::from_secs(60)));
    }
}
