//! Flush timer of a session: the times at which its shard flushes it without a new publication.
//!
//! The shard stores every time that a session gives it. The session therefore remembers two
//! times, the next one and a later one. While it sends prices at each flush of the schedule,
//! it does not give the shard its much later heartbeat again.

use tokio::time::Instant;

/// Times at which the shard flushes the session.
#[derive(Debug, Default)]
pub(super) struct FlushTimer {
    next: Option<Instant>,
    later: Option<Instant>,
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

    /// Whether the shard still has to flush the session at `at`.
    pub(super) fn is_armed(&self, at: Instant) -> bool {
        self.next == Some(at) || self.later == Some(at)
    }

    /// Notes that `at` has come. True if the timer was armed for it.
    pub(super) fn disarm(&mut self, at: Instant) -> bool {
        for armed in [&mut self.next, &mut self.later] {
            if *armed == Some(at) {
                *armed = None;
                return true;
            }
        }
        false
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
        assert!(timer.disarm(at(50)) && !timer.disarm(at(50)));
        assert_eq!(timer.arm(at(3_000)), None, "the later time is remembered");
        assert!(timer.disarm(at(2_000)));
        assert_eq!(timer.arm(at(3_000)), Some(at(3_000)));
    }
}
