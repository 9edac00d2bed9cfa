//! The time in the unit of this crate, microseconds.

use tidewire_stream::Clock;

/// Microseconds since the Unix epoch, as fine as the clock is.
pub(crate) fn now_us(clock: &dyn Clock) -> i64 {
    clock.now_ms().saturating_mul(1_000)
}
