//! The time in the unit of this crate, microseconds.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use tidewire_stream::{Clock, SharedClock};

/// Microseconds since the Unix epoch, as fine as the clock is.
pub(crate) fn now_us(clock: &dyn Clock) -> i64 {
    clock.now_ms().saturating_mul(1_000)
}

/// The time in an engine: that of its clock, until a recording is played. While it is, it
/// is the recording's, and it goes on from there.
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

    /// Now is this time.
    pub(crate) fn set(&self, time_us: i64) {
        let shift_us = time_us.saturating_sub(now_us(&*self.clock));
        self.shift_us.store(shift_us, Ordering::Relaxed);
    }

    /// Whether a recording makes time pass.
    pub(crate) fn is_playing(&self) -> bool {
        self.playing.load(Ordering::Relaxed)
    }

    pub(crate) fn set_playing(&self, is_playing: bool) {
        self.playing.store(is_playing, Ordering::Relaxed);
    }
}
