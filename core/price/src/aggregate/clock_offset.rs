//! Clock offset: the difference between a venue's clock and this server's.
//!
//! A message's offset is its arrival time minus the venue's time. It consists of the difference of
//! the clocks and the time on the way. The lowest offset of the last 30 to 60 seconds is the
//! clocks' part, with the shortest way, and is subtracted from ages.
//!
//! Worked example: this server's clock is 1.27 s behind, and messages take 10 to 30 ms. The lowest
//! offset is −1.26 s. A message that took 30 ms has an offset of −1.24 s, and its age is 20 ms.
//!
//! A time far from the running offset is implausible. One from the future is replaced by the
//! arrival time; data from the past does not count. When eight messages in a row agree on another
//! offset for five seconds, the venue's clock was set, and the new offset is used. A burst of old
//! trades is over sooner. An offset that no working clock has gives way to a usual one at once: it
//! came from old data that arrived first.

use crate::clock::ClockStep;

/// How long a lowest offset is used, in microseconds; at most twice as long.
const GENERATION_US: i64 = 30_000_000;

/// The largest plausible distance from the running offset, ahead and behind, in microseconds.
const MAX_AHEAD_US: i64 = 2_000_000;
const MAX_BEHIND_US: i64 = 60_000_000;

/// Bounds of the usual offsets, in microseconds. Within them the venue's own time goes on the wire.
/// Beyond them, its clock or this server's is wrong, and its times are corrected by the offset.
pub(super) const VENUE_AHEAD_US: i64 = 5_000_000;
const VENUE_BEHIND_US: i64 = 60_000_000;

/// Messages in a row that must agree on a new offset, and for how long, in microseconds.
const MIN_AGREEING: u32 = 8;
const MIN_AGREEING_US: i64 = 5_000_000;

/// The running offset of one source.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClockOffset {
    state: Option<RunningMinimum>,
    candidate_count: u32,
    candidate_us: i64,
    /// When the first message with the candidate offset arrived.
    candidate_since_us: i64,
}

#[derive(Debug, Clone, Copy)]
struct RunningMinimum {
    least_us: i64,
    previous_us: i64,
    since_us: i64,
}

/// A venue's time, judged against the running offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VenueTime {
    /// Plausible: when it happened by this server's clock, in microseconds since the Unix epoch.
    At(i64),
    /// Older than plausible, by this many microseconds.
    Past(i64),
    /// Later than plausible, by this many microseconds.
    Future(i64),
}

impl ClockOffset {
    /// Takes a message's time into account.
    pub(crate) fn observe(&mut self, venue_us: i64, arrival_us: i64) -> VenueTime {
        let offset_us = arrival_us.saturating_sub(venue_us);
        let Some(running) = &mut self.state else {
            self.state = Some(RunningMinimum::new(offset_us, arrival_us));
            return VenueTime::At(arrival_us);
        };
        let late_us = offset_us.saturating_sub(running.us());
        if (-MAX_AHEAD_US..=MAX_BEHIND_US).contains(&late_us) {
            self.candidate_count = 0;
            running.observe(offset_us, arrival_us);
            return VenueTime::At(arrival_us.saturating_sub(late_us.max(0)));
        }
        if !is_usual(running.us()) && is_usual(offset_us) {
            self.candidate_count = 0;
            *running = RunningMinimum::new(offset_us, arrival_us);
            return VenueTime::At(arrival_us);
        }
        let agrees = offset_us.saturating_sub(self.candidate_us).abs() <= MAX_AHEAD_US;
        if agrees && self.candidate_count > 0 {
            self.candidate_count = self.candidate_count.saturating_add(1);
        } else {
            (self.candidate_count, self.candidate_since_us) = (1, arrival_us);
        }
        self.candidate_us = offset_us;
        let lasted_us = arrival_us.saturating_sub(self.candidate_since_us);
        if self.candidate_count >= MIN_AGREEING && lasted_us >= MIN_AGREEING_US {
            self.candidate_count = 0;
            self.state = Some(RunningMinimum::new(offset_us, arrival_us));
            return VenueTime::At(arrival_us);
        }
        if late_us > 0 {
            VenueTime::Past(late_us)
        } else {
            VenueTime::Future(late_us.saturating_neg())
        }
    }

    /// Moves the offset with a step of this server's clock.
    pub(crate) fn step_back(&mut self, step: ClockStep) {
        if let Some(running) = &mut self.state {
            step.apply(&mut running.least_us);
            step.apply(&mut running.previous_us);
            step.apply(&mut running.since_us);
        }
        step.apply(&mut self.candidate_us);
        step.apply(&mut self.candidate_since_us);
    }

    /// The running offset, in microseconds. Positive if the venue's clock is behind, or its
    /// messages take that long.
    pub(crate) fn us(&self) -> Option<i64> {
        self.state.map(|running| running.us())
    }

    /// Whether the venue's own times can be shown. Without an offset they are compared with this
    /// server's clock.
    pub(crate) fn is_usual(&self) -> bool {
        self.us().is_none_or(is_usual)
    }
}

fn is_usual(offset_us: i64) -> bool {
    (-VENUE_AHEAD_US..=VENUE_BEHIND_US).contains(&offset_us)
}

impl RunningMinimum {
    fn new(offset_us: i64, now_us: i64) -> Self {
        Self {
            least_us: offset_us,
            previous_us: offset_us,
            since_us: now_us,
        }
    }

    fn us(&self) -> i64 {
        self.least_us.min(self.previous_us)
    }

    fn observe(&mut self, offset_us: i64, now_us: i64) {
        if now_us.saturating_sub(self.since_us) >= GENERATION_US {
            self.previous_us = self.least_us;
            self.least_us = offset_us;
            self.since_us = now_us;
        }
        self.least_us = self.least_us.min(offset_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: i64 = 1_000_000;

    #[test]
    fn a_constant_clock_difference_does_not_change_ages() {
        let mut offset = ClockOffset::default();
        // This server's clock is 1.27 s behind; messages take 10 to 30 ms.
        let skew_us = -1_270_000;
        for (number, way_us) in (1..).zip([20_000, 10_000, 30_000, 15_000]) {
            let sent_us = number * SECOND_US;
            let arrival_us = sent_us + skew_us + way_us;
            let VenueTime::At(at_us) = offset.observe(sent_us, arrival_us) else {
                panic!("a jump")
            };
            assert!((0..=20_000).contains(&(arrival_us - at_us)));
        }
        assert_eq!(offset.us(), Some(skew_us + 10_000));
    }

    #[test]
    fn a_time_jump_is_refused_until_it_lasts() {
        let mut offset = ClockOffset::default();
        let at = |n: i64| 1_000 * SECOND_US + n * SECOND_US;
        offset.observe(at(0), at(0));
        let hour_us = 3_600 * SECOND_US;
        assert_eq!(
            offset.observe(at(1) + hour_us, at(1)),
            VenueTime::Future(hour_us)
        );
        assert_eq!(
            offset.observe(at(2) - hour_us, at(2)),
            VenueTime::Past(hour_us)
        );
        assert_eq!(offset.observe(at(3), at(3)), VenueTime::At(at(3)));
        assert_eq!(offset.us(), Some(0));
        let jumped = (4..).map(|n| offset.observe(at(n) - hour_us, at(n)));
        let refused = jumped.take_while(|moment| *moment == VenueTime::Past(hour_us));
        assert_eq!(refused.count(), MIN_AGREEING as usize - 1);
        assert_eq!(offset.us(), Some(hour_us));
    }

    #[test]
    fn a_burst_of_old_trades_does_not_move_the_offset() {
        let mut offset = ClockOffset::default();
        offset.observe(1_000 * SECOND_US, 1_000 * SECOND_US);
        for n in 0..1_000 {
            let moment = offset.observe(n, 1_001 * SECOND_US + n);
            assert!(matches!(moment, VenueTime::Past(_)));
        }
    }

    #[test]
    fn an_offset_of_old_data_gives_way_to_a_usual_one() {
        let at = |n: i64| (1_000 + n) * SECOND_US;
        let mut offset = ClockOffset::default();
        // Data of an hour ago arrives first.
        offset.observe(at(0) - 3_600 * SECOND_US, at(0));
        assert_eq!(
            offset.observe(at(1), at(1) + 20_000),
            VenueTime::At(at(1) + 20_000)
        );
        assert_eq!(offset.us(), Some(20_000));
        let past = offset.observe(at(2) - 3_600 * SECOND_US, at(2));
        assert!(matches!(past, VenueTime::Past(_)), "{past:?}");
        // A minute is the most that is usual, five seconds ahead the least.
        for (usual_us, expected) in [
            (60_000_000, true),
            (60_000_001, false),
            (-5_000_000, true),
            (-5_000_001, false),
        ] {
            assert_eq!(is_usual(usual_us), expected, "{usual_us}");
        }
    }

    #[test]
    fn a_drifting_clock_moves_the_offset() {
        let mut offset = ClockOffset::default();
        for second in 0..600 {
            // A venue whose clock stands still: each message seems a second older.
            let moment = offset.observe(0, second * SECOND_US);
            assert!(matches!(moment, VenueTime::At(_)), "{second}");
        }
    }
}
