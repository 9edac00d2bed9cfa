//! Guarded clock: a wall clock whose great steps ahead remove nothing for a day.
//!
//! A clock that is wrong for a few seconds must not destroy what the right one would have kept.
//! Ages are therefore judged by [`Clock::retention_ms`]. After a step ahead of more
//! than a day that time goes on as if there had been none, until the clock is right again, or for 24
//! hours: an operator can set the clock right meanwhile. A clock that was set back counts at once,
//! because it removes nothing.
//!
//! While the server runs, the monotonic clock shows the step. At a start only something that was
//! stored can: the mark that the server writes from time to time ([`GuardedClock::mark`]), or, in a
//! store without one, the newest record of an engine ([`Clock::witness`]).
//!
//! ```text
//! wall clock   10:00  10:01 | +100 days      +100 days and 1 min | 10:03
//! retention    10:00  10:01 | 10:01          10:02               | 10:03
//!                           step ahead                           set right
//! ```

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Clock, SharedClock};

/// A step ahead from which on it may be a fault of the clock.
const DOUBTED_STEP_MS: i64 = 24 * 60 * 60 * 1_000;

/// Time without removals after such a step, in which an operator can set the clock right.
const DOUBT: Duration = Duration::from_secs(24 * 60 * 60);

/// State of a clock that a server stores, so that the next start notices a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockMark {
    /// The time by which ages are judged, in milliseconds since the Unix epoch.
    pub retention_ms: i64,
    /// How long a step has been in doubt, in milliseconds. 0 without a doubt.
    pub doubted_ms: u64,
}

/// A clock with a guard. All parts of a server share one, so that it warns once.
#[derive(Debug)]
pub struct GuardedClock {
    wall: SharedClock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The trusted time, and when it was.
    trusted_ms: i64,
    at: Instant,
    /// When the present doubt began. None without one.
    doubted_at: Option<Instant>,
    /// For how long the process before had the same doubt.
    doubted_before: Duration,
    /// The record that shows the time of the last process.
    evidence: Evidence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    None,
    /// The newest record so far.
    Record(i64),
    /// The mark, beside which records do not count.
    Mark,
}

impl GuardedClock {
    /// A guard of `wall`, which is trusted until something tells otherwise.
    #[must_use]
    pub fn new(wall: SharedClock) -> Self {
        let state = State {
            trusted_ms: wall.now_ms(),
            at: Instant::now(),
            doubted_at: None,
            doubted_before: Duration::ZERO,
            evidence: Evidence::None,
        };
        Self {
            wall,
            state: Mutex::new(state),
        }
    }

    /// Goes on from the mark of the process before. Call it before any engine starts.
    pub fn resume(&self, mark: ClockMark) {
        let mut state = self.state.lock();
        state.evidence = Evidence::Mark;
        state.doubted_before = Duration::from_millis(mark.doubted_ms);
        state.trust(mark.retention_ms.min(self.wall.now_ms()));
    }

    /// The mark to store. The next process resumes from it.
    pub fn mark(&self) -> ClockMark {
        let retention_ms = self.retention_ms();
        let state = self.state.lock();
        let doubted = state.doubted().unwrap_or_default().as_millis();
        ClockMark {
            retention_ms,
            doubted_ms: u64::try_from(doubted).unwrap_or(u64::MAX),
        }
    }
}

impl State {
    fn trust(&mut self, time_ms: i64) {
        self.trusted_ms = time_ms;
        self.at = Instant::now();
    }

    /// The time if there had been no step.
    fn expected_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.trusted_ms.saturating_add(elapsed)
    }

    fn doubted(&self) -> Option<Duration> {
        let doubted_at = self.doubted_at?;
        Some(self.doubted_before.saturating_add(doubted_at.elapsed()))
    }

    fn end_doubt(&mut self) {
        self.doubted_at = None;
        self.doubted_before = Duration::ZERO;
    }
}

impl Clock for GuardedClock {
    fn now_ms(&self) -> i64 {
        self.wall.now_ms()
    }

    fn retention_ms(&self) -> i64 {
        let mut state = self.state.lock();
        let now_ms = self.wall.now_ms();
        let expected_ms = state.expected_ms();
        let ahead_ms = now_ms.saturating_sub(expected_ms);
        if ahead_ms <= DOUBTED_STEP_MS {
            if state.doubted_at.is_some() {
                tracing::info!("the clock is right again: what is too old is removed again");
            }
            state.end_doubt();
            state.trust(now_ms);
            return now_ms;
        }
        if state.doubted_at.is_none() {
            let ahead_hours = ahead_ms / (60 * 60 * 1_000);
            tracing::warn!(
                ahead_hours,
                "the clock is far ahead of the time that was seen before: nothing is removed for its age in the next 24 hours, unless the clock is set right"
            );
            state.doubted_at = Some(Instant::now());
        }
        if state.doubted().is_some_and(|doubted| doubted >= DOUBT) {
            tracing::info!("the clock stayed as it is for 24 hours: what is too old is removed");
            state.end_doubt();
            state.trust(now_ms);
            return now_ms;
        }
        expected_ms
    }

    fn witness(&self, stored_ms: i64) {
        let mut state = self.state.lock();
        let newest_ms = match state.evidence {
            Evidence::Mark => return,
            Evidence::Record(newest_ms) if newest_ms >= stored_ms => return,
            Evidence::None | Evidence::Record(_) => stored_ms,
        };
        state.evidence = Evidence::Record(newest_ms);
        state.trust(newest_ms.min(self.wall.now_ms()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::*;
    use crate::ManualClock;

    const NOW_MS: i64 = 1_750_000_000_000;
    const HOUR_MS: i64 = 60 * 60 * 1_000;
    const DAY_MS: i64 = 24 * HOUR_MS;

    struct World {
        wall: Arc<ManualClock>,
        clock: GuardedClock,
    }

    impl World {
        fn at(now_ms: i64) -> Self {
            let wall = ManualClock::at(now_ms);
            let clock = GuardedClock::new(wall.clone());
            Self { wall, clock }
        }

        async fn pass(&self, hours: u32) {
            self.wall.advance(i64::from(hours) * HOUR_MS);
            advance(Duration::from_secs(u64::from(hours) * 60 * 60)).await;
        }

        fn ahead_ms(&self) -> i64 {
            self.clock.now_ms() - self.clock.retention_ms()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_of_more_than_a_day_is_doubted_for_a_day() {
        let world = World::at(NOW_MS);
        world.pass(1_000).await;
        assert_eq!(world.ahead_ms(), 0);
        world.wall.advance(DAY_MS);
        assert_eq!(world.ahead_ms(), 0);
        world.wall.advance(DAY_MS + 1);
        assert_eq!(world.ahead_ms(), DAY_MS + 1);
        world.pass(23).await;
        assert_eq!(world.ahead_ms(), DAY_MS + 1);
        world.pass(1).await;
        assert_eq!(world.ahead_ms(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_right_is_trusted_at_once() {
        let world = World::at(NOW_MS);
        for _ in 0..3 {
            world.wall.advance(400 * DAY_MS);
            assert_eq!(world.ahead_ms(), 400 * DAY_MS);
            world.pass(2).await;
            assert_eq!(world.ahead_ms(), 400 * DAY_MS);
            world.wall.advance(-400 * DAY_MS);
            assert_eq!(world.ahead_ms(), 0);
        }
        // Far back, and right again.
        world.wall.advance(-400 * DAY_MS);
        assert_eq!(world.ahead_ms(), 0);
        world.wall.advance(400 * DAY_MS);
        assert_eq!(world.ahead_ms(), 400 * DAY_MS);
    }

    #[tokio::test(start_paused = true)]
    async fn the_mark_shows_a_step_at_a_start_and_keeps_the_time_of_a_doubt() {
        let world = World::at(NOW_MS);
        let mark = world.clock.mark();
        let next = World::at(NOW_MS + 2 * DAY_MS);
        next.clock.resume(mark);
        // The mark counts, not a record that the wrong clock wrote.
        next.clock.witness(NOW_MS + 2 * DAY_MS);
        assert_eq!(next.ahead_ms(), 2 * DAY_MS);
        next.pass(20).await;
        let mark = next.clock.mark();
        assert_eq!(mark.retention_ms, NOW_MS + 20 * HOUR_MS);
        assert_eq!(mark.doubted_ms, 20 * 60 * 60 * 1_000);
        let last = World::at(next.wall.now_ms());
        last.clock.resume(mark);
        assert_eq!(last.ahead_ms(), 2 * DAY_MS);
        last.pass(4).await;
        assert_eq!(last.ahead_ms(), 0);
        assert_eq!(last.clock.mark().doubted_ms, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_record_shows_a_step_at_the_start_of_a_store_without_a_mark() {
        let world = World::at(NOW_MS);
        world.clock.witness(NOW_MS - 50 * DAY_MS);
        world.clock.witness(NOW_MS - 9 * DAY_MS);
        world.clock.witness(NOW_MS - 30 * DAY_MS);
        assert_eq!(world.ahead_ms(), 9 * DAY_MS);
        let world = World::at(NOW_MS);
        world.clock.witness(NOW_MS - 9 * DAY_MS);
        world.clock.witness(NOW_MS + 9 * DAY_MS);
        assert_eq!(world.ahead_ms(), 0);
    }
}
