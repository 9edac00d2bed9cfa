//! How far a venue's clock is from this server's.
//!
//! The offset of a message is its arrival less the venue's time: what the clocks differ
//! by, and its way here. The least of the last 30 to 60 seconds is the clocks' part, with
//! the shortest way; it is taken out of ages. A recorder whose clock is 1.27 s behind has
//! offsets of −1.26 s, and ages from 0 on.
//!
//! What is far from the running offset is not believed: a time from the future is
//! replaced by the arrival, and what is from the past is no news. When several messages
//! in a row agree on another offset, for some seconds, it is a clock that was set, and they
//! are believed; a burst of old trades is not.

/// How long the least offset is kept, in microseconds; for twice that at most.
const GENERATION_US: i64 = 30_000_000;

/// So far from the running offset is a jump, ahead and behind.
const AHEAD_US: i64 = 2_000_000;
const BEHIND_US: i64 = 60_000_000;

/// So many messages in a row that agree are believed, over so much time at least.
const AGREED: u32 = 8;
const AGREED_US: i64 = 5_000_000;

/// The running offset of one source.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Offset {
    state: Option<Running>,
    strays: u32,
    stray_us: i64,
    /// When the first of them came.
    strays_since_us: i64,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    least_us: i64,
    before_us: i64,
    since_us: i64,
}

/// What a venue's time says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// When it happened, by this server's clock.
    At(i64),
    /// Far before all that came, by so many microseconds: this is history.
    Past(i64),
    /// Far after the arrival, likewise: the time is wrong.
    Future(i64),
}

impl Offset {
    /// Takes a message's time.
    pub(crate) fn take(&mut self, venue_us: i64, arrival_us: i64) -> Moment {
        let offset_us = arrival_us.saturating_sub(venue_us);
        let Some(running) = &mut self.state else {
            self.state = Some(Running::new(offset_us, arrival_us));
            return Moment::At(arrival_us);
        };
        let late_us = offset_us.saturating_sub(running.us());
        if (-AHEAD_US..=BEHIND_US).contains(&late_us) {
            self.strays = 0;
            running.take(offset_us, arrival_us);
            return Moment::At(arrival_us.saturating_sub(late_us.max(0)));
        }
        let agrees = offset_us.saturating_sub(self.stray_us).abs() <= AHEAD_US;
        if agrees && self.strays > 0 {
            self.strays = self.strays.saturating_add(1);
        } else {
            (self.strays, self.strays_since_us) = (1, arrival_us);
        }
        self.stray_us = offset_us;
        let lasted_us = arrival_us.saturating_sub(self.strays_since_us);
        if self.strays >= AGREED && lasted_us >= AGREED_US {
            self.strays = 0;
            self.state = Some(Running::new(offset_us, arrival_us));
            return Moment::At(arrival_us);
        }
        if late_us > 0 {
            Moment::Past(late_us)
        } else {
            Moment::Future(late_us.saturating_neg())
        }
    }

    /// The running offset, in microseconds: above zero, the venue's clock is behind, or
    /// its messages take that long at least.
    pub(crate) fn us(&self) -> Option<i64> {
        self.state.map(|running| running.us())
    }
}

impl Running {
    fn new(offset_us: i64, now_us: i64) -> Self {
        Self {
            least_us: offset_us,
            before_us: offset_us,
            since_us: now_us,
        }
    }

    fn us(&self) -> i64 {
        self.least_us.min(self.before_us)
    }

    fn take(&mut self, offset_us: i64, now_us: i64) {
        if now_us.saturating_sub(self.since_us) >= GENERATION_US {
            self.before_us = self.least_us;
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
    fn a_clock_that_differs_does_not_make_ages() {
        let mut offset = Offset::default();
        // This server's clock is 1.27 s behind; messages take 10 to 30 ms.
        let skew_us = -1_270_000;
        for (number, way_us) in (1..).zip([20_000, 10_000, 30_000, 15_000]) {
            let sent_us = number * SECOND_US;
            let arrival_us = sent_us + skew_us + way_us;
            let Moment::At(at_us) = offset.take(sent_us, arrival_us) else {
                panic!("a jump")
            };
            assert!((0..=20_000).contains(&(arrival_us - at_us)));
        }
        assert_eq!(offset.us(), Some(skew_us + 10_000));
    }

    #[test]
    fn jumps_are_told_and_believed_when_they_last() {
        let mut offset = Offset::default();
        let at = |n: i64| 1_000 * SECOND_US + n * SECOND_US;
        offset.take(at(0), at(0));
        let hour_us = 3_600 * SECOND_US;
        assert_eq!(offset.take(at(1) + hour_us, at(1)), Moment::Future(hour_us));
        assert_eq!(offset.take(at(2) - hour_us, at(2)), Moment::Past(hour_us));
        assert_eq!(offset.take(at(3), at(3)), Moment::At(at(3)));
        assert_eq!(offset.us(), Some(0));
        let jumped = (4..).map(|n| offset.take(at(n) - hour_us, at(n)));
        let told = jumped.take_while(|moment| *moment == Moment::Past(hour_us));
        assert_eq!(told.count(), AGREED as usize - 1);
        assert_eq!(offset.us(), Some(hour_us));
    }

    #[test]
    fn a_burst_of_history_is_no_clock_that_was_set() {
        let mut offset = Offset::default();
        offset.take(1_000 * SECOND_US, 1_000 * SECOND_US);
        for n in 0..1_000 {
            let moment = offset.take(n, 1_001 * SECOND_US + n);
            assert!(matches!(moment, Moment::Past(_)));
        }
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        let mut offset = Offset::default();
        for second in 0..600 {
            // A venue whose clock stands still: each message seems a second older.
            let moment = offset.take(0, second * SECOND_US);
            assert!(matches!(moment, Moment::At(_)), "{second}");
        }
    }
}
