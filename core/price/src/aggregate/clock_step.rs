//! Clock steps: what the aggregator does when the clock is set back.
//!
//! Windows, deadlines and the times of prices only go forward. With a clock that was set back by an
//! hour, they would stand still for an hour: averages would not move, and nothing would become
//! stale. So every time in memory moves by the step, and ages stay as they were. The times that
//! clients see go back with the clock.

use super::Aggregator;
use crate::clock::ClockStep;

impl Aggregator {
    /// Notes the time. If the clock was set back, all times follow it.
    #[inline]
    pub(super) fn follow_clock(&mut self, now_us: i64) {
        match ClockStep::between(self.newest_us, now_us) {
            None => self.newest_us = self.newest_us.max(now_us),
            Some(step) => self.step_back(step, now_us),
        }
    }

    #[cold]
    fn step_back(&mut self, step: ClockStep, now_us: i64) {
        let seconds = step.back_us() / 1_000_000;
        tracing::warn!(
            seconds,
            "the clock was set back: the times of prices go back with it"
        );
        self.newest_us = now_us;
        step.apply(&mut self.windows_advanced_us);
        self.deadlines.step_back(step);
        self.market.step_back(step);
        for source in &mut self.sources {
            source.step_back(step);
        }
        for symbol in &mut self.symbols {
            symbol.step_back(step);
        }
    }
}
