//! Flush timer of a session: the times at which its shard flushes it without a new publication.
//!
//! The shard stores every time that a session gives it. The session therefore remembers two
//! times, the next one and a later one. While it sends prices at each flush of the schedule,
//! it does not give the shard its much later heartbeat again.
//!
//! A third time is that of the session's [`lifetime`](super::lifetime), which is checked however
//! slowly the client reads.

use tokio::time::Instant;

/// Times at which the shard flushes the session.
#[derive(Debug, Default)]
pub(super) struct FlushTimer {
    next: Option<Instant>,
    later: Option<Instant>,
    lifetime: Option<Instant>,
}

/// Reasons of a session to wait for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DueTimers {
    /// A flush.
    pub(crate) flush: bool,
    /// A check of its lifetime.
    pub(crate) lifetime: bool,
}

impl FlushTimer {
    /// The time to give to the shard, unless it flushes the session by `at` anyway.
    pub(super) fn arm(&mut self, at: Instant) -> Option<Instant> {
        let is_early = |armed: Option<Instant>| armed.is_some_and(|armed| armed <= at);
        if is_early(self.next) || is_early(self.later) {
            return None;
        }
        if let Some(later) = self.next.replace(at)
            && self.later.is_none_or(|known| later < known)
        {
            self.later = Some(later);
        }
        self.next
    }

    /// The time to give to the shard for the next check of the lifetime, unless it checks by
    /// `at` anyway.
    pub(super) fn arm_lifetime(&mut self, at: Instant) -> Option<Instant> {
        if self.lifetime.is_some_and(|armed| armed <= at) {
            return None;
        }
        self.lifetime = Some(at);
        self.lifetime
    }

    /// Whether the shard still has something to do for the session at `at`.
    pub(super) fn is_armed(&self, at: Instant) -> bool {
        [self.next, self.later, self.lifetime].contains(&Some(at))
    }

    /// Notes that `at` has come. Returns what the timer was armed for.
    pub(super) fn disarm(&mut self, at: Instant) -> DueTimers {
        let is_lifetime = self.lifetime.take_if(|armed| *armed == at).is_some();
        let mut flushes = [&mut self.next, &mut self.later].into_iter();
        DueTimers {
            flush: flushes.any(|armed| armed.take_if(|armed| *armed == at).is_some()),
            lifetime: is_lifetime,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_shard_gets_a_time_only_if_it_has_no_earlier_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timer = FlushTimer::default();
        assert_eq!(timer.arm(at(2_000)), Some(at(2_000)));
        assert_eq!(timer.arm(at(50)), Some(at(50)));
        assert_eq!(timer.arm(at(60)), None, "the shard comes before");
        assert!(timer.is_armed(at(50)) && timer.is_armed(at(2_000)));
        let mut is_flush = |ms| timer.disarm(at(ms)).flush;
        assert!(is_flush(50) && !is_flush(50));
        assert_eq!(timer.arm(at(3_000)), None, "the later time is remembered");
        assert!(timer.disarm(at(2_000)).flush);
        assert_eq!(timer.arm(at(3_000)), Some(at(3_000)));
    }

    #[test]
    fn the_lifetime_has_a_time_of_its_own() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timer = FlushTimer::default();
        assert_eq!(timer.arm(at(50)), Some(at(50)));
        assert_eq!(timer.arm_lifetime(at(60)), Some(at(60)));
        assert_eq!(timer.arm_lifetime(at(70)), None, "the check comes before");
        assert_eq!(timer.arm_lifetime(at(50)), Some(at(50)));
        assert!(timer.is_armed(at(50)) && !timer.is_armed(at(60)));
        let due = |flush, lifetime| DueTimers { flush, lifetime };
        assert_eq!(timer.disarm(at(60)), due(false, false));
        assert_eq!(timer.disarm(at(50)), due(true, true));
        assert_eq!(timer.disarm(at(50)), due(false, false));
    }
}
