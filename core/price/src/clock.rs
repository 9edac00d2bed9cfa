//! Engine time: the clock in microseconds, which a replay can move.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use tidewire_stream::{Clock, SharedClock};

/// Microseconds since the Unix epoch, at the clock's resolution.
pub(crate) fn now_us(clock: &dyn Clock) -> i64 {
    clock.now_ms().saturating_mul(1_000)
}

/// How far the time may go back without being a step of the clock, in microseconds. Tasks read the
/// clock one after the other and report in another order.
const DISORDER_US: i64 = 2_000_000;

/// A step of the clock back, for example when it was set.
///
/// All times that an engine holds move by the step, so that ages, windows and deadlines stay as they
/// were. Worked example: the clock shows 12:00, and a price arrived at 11:59. Then it shows 11:00.
/// The price now arrived at 10:59, and is a minute old as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockStep {
    from_us: i64,
    to_us: i64,
}

impl ClockStep {
    /// The step from the newest time so far to now, if it is one.
    #[inline]
    pub(crate) fn between(newest_us: i64, now_us: i64) -> Option<Self> {
        (now_us < newest_us.saturating_sub(DISORDER_US)).then_some(Self {
            from_us: newest_us,
            to_us: now_us,
        })
    }

    /// How far the clock went back, in microseconds.
    pub(crate) fn back_us(self) -> i64 {
        self.from_us.saturating_sub(self.to_us)
    }

    /// Moves a time by the step.
    pub(crate) fn apply(self, at_us: &mut i64) {
        *at_us = at_us.saturating_sub(self.back_us());
    }

    /// How many slots of this length the step covers.
    pub(crate) fn slots(self, length_us: i64) -> i64 {
        let length_us = length_us.max(1);
        let number = |at_us: i64| at_us.div_euclid(length_us);
        number(self.from_us).saturating_sub(number(self.to_us))
    }
}

/// The time of an engine. It follows the clock until a recording is played. During the replay it is
/// the recording's time, and it goes on from there afterwards.
#[derive(Debug, Clone)]
pub(crate) struct EngineTime {
    clock: SharedClock,
    shift_us: Arc<AtomicI64>,
    playing: Arc<AtomicBool>,
}

impl EngineTime {
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            shift_us: Arc::default(),
            playing: Arc::default(),
        }
    }

    pub(crate) fn now_us(&self) -> i64 {
        now_us(&*self.clock).saturating_add(self.shift_us.load(Ordering::Relaxed))
    }

    /// The clock's own time.
    pub(crate) fn clock_us(&self) -> i64 {
        now_us(&*self.clock)
    }

    /// Sets the current time.
    pub(crate) fn set(&self, time_us: i64) {
        let shift_us = time_us.saturating_sub(now_us(&*self.clock));
        self.shift_us.store(shift_us, Ordering::Relaxed);
    }

    /// Whether a replay moves the time.
    pub(crate) fn is_playing(&self) -> bool {
        self.playing.load(Ordering::Relaxed)
    }

    pub(crate) fn set_playing(&self, is_playing: bool) {
        self.playing.store(is_playing, Ordering::Relaxed);
    }
}
