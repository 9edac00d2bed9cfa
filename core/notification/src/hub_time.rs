//! Present of the hub: the time by which lists are read, and the one by which something is removed.
//!
//! They differ while the clock is in doubt ([`Clock::retention_ms`]). A notification that has expired
//! by the clock is then hidden, and comes back if the clock is set right. One that is too old stays.

use tidewire_stream::Clock;

/// The present, as lists and removals see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HubTime {
    /// The time of the clock, in milliseconds since the Unix epoch.
    pub(crate) now_ms: i64,
    /// The time by which something is removed for good. Earlier while the clock is in doubt.
    pub(crate) retention_ms: i64,
}

impl HubTime {
    pub(crate) fn of(clock: &dyn Clock) -> Self {
        let now_ms = clock.now_ms();
        let retention_ms = clock.retention_ms().min(now_ms);
        Self {
            now_ms,
            retention_ms,
        }
    }

    /// Whether something that expires at this time is hidden, and not removed yet.
    pub(crate) fn hides(self, expires_at_ms: Option<i64>) -> bool {
        expires_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms && at_ms > self.retention_ms)
    }
}
