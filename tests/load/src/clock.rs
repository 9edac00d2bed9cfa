//! Clocks: monotonic nanoseconds for measurements, and wall-clock time for venue frames.

use std::{sync::OnceLock, time::Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// One second, in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// One millisecond, in nanoseconds.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// Nanoseconds since the first call.
pub(crate) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    elapsed.as_secs() * SECOND + u64::from(elapsed.subsec_nanos())
}

/// Milliseconds since the Unix epoch.
pub(crate) fn wall_ms() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime)) / MILLISECOND
}

/// The processor time that this process has used, in nanoseconds.
pub(crate) fn own_cpu() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * SECOND + u64::try_from(time.tv_nsec).unwrap_or(0)
}
