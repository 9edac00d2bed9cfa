//! Clock: the wall clock, injected so that tests can set it.
//!
//! It stamps publications and checks the expiry of tokens. Timers are tokio's, which tests can
//! pause.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Stands for a time that an [`Instant`] cannot express: 30 years.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The time `after` a start. A time that is too far to express is 30 years after it.
#[must_use]
pub fn deadline(start: Instant, after: Duration) -> Instant {
    let exact = start.checked_add(after);
    exact.unwrap_or_else(|| start + FAR_FUTURE)
}

/// A source of the wall-clock time.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// The time by which something is removed for its age, in milliseconds since the Unix epoch:
    /// that of [`now_ms`](Self::now_ms), unless this is in doubt
    /// ([`GuardedClock`](crate::GuardedClock)). A removal cannot be taken back.
    fn retention_ms(&self) -> i64 {
        self.now_ms()
    }

    /// Notes, at a start, that an engine has a record of this time. A clock that is far ahead of the
    /// newest record may be wrong.
    fn witness(&self, _stored_ms: i64) {}
}

/// A clock shared by many parts.
pub type SharedClock = Arc<dyn Clock>;

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the system's clock"
    )]
    fn now_ms(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| {
                i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
            })
    }
}

/// A clock that shows the time it was set to.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now_ms`.
    #[must_use]
    pub fn at(now_ms: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(now_ms)))
    }

    /// Sets the clock.
    pub fn set(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    /// Moves the clock on.
    pub fn advance(&self, by_ms: i64) {
        self.0.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_beyond_all_clocks_is_far_away() {
        let start = Instant::now();
        let hour = Duration::from_secs(3_600);
        assert_eq!(deadline(start, hour), start + hour);
        assert_eq!(deadline(start, Duration::MAX), start + FAR_FUTURE);
    }
}
