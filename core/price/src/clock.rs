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
