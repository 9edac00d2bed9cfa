//! Reconnect delays: exponential with full jitter.
//!
//! Attempt `n`, counted from zero, waits a random time between zero and `250 ms · 2ⁿ`, at most 4 s.
//! Full jitter spreads the clients of a server that restarted evenly ("Exponential Backoff And
//! Jitter", AWS Architecture Blog, 2015).

use std::time::Duration;

/// Upper bound of the first delay.
const FIRST: Duration = Duration::from_millis(250);

/// Upper bound of the first delay after an end for rate or load: the server needs the pause.
const FIRST_OF_OVERLOAD: Duration = Duration::from_secs(2);

/// Upper bound of every delay.
const LONGEST: Duration = Duration::from_secs(4);

/// Time after which a connection counts as a success. A server that ends each connection soon after
/// it opened is given longer delays.
const STABLE: Duration = Duration::from_secs(5);

/// Longest delay that a server may ask for. A longer one would look like a client that hangs.
pub(crate) const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// Delays of consecutive attempts.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// Number of the attempt that follows, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.saturating_add(1)
    }

    /// Begins with the first delay again, after a success.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Begins with the first delay again after a connection that lasted long enough. Returns
    /// whether it did.
    pub(crate) fn note_connection(&mut self, lasted: Duration) -> bool {
        let is_stable = lasted >= STABLE;
        if is_stable {
            self.reset();
        }
        is_stable
    }

    /// Returns the delay before the next attempt: random, but not below `minimum`, which a
    /// server asked for.
    pub(crate) fn next(&mut self, minimum: Option<Duration>) -> Duration {
        self.next_from(FIRST, minimum)
    }

    /// As [`next`](Self::next), after an end for rate or load.
    pub(crate) fn next_of_overload(&mut self, minimum: Option<Duration>) -> Duration {
        self.next_from(FIRST_OF_OVERLOAD, minimum)
    }

    fn next_from(&mut self, first: Duration, minimum: Option<Duration>) -> Duration {
        let delay = delay(first, self.attempt, rand::random());
        self.attempt = self.attempt.saturating_add(1);
        // The random part on top spreads the clients that were given one delay.
        minimum.map_or(delay, |minimum| minimum.min(LONGEST_ASKED) + delay)
    }
}

/// The delay of an attempt, counted from zero, for a random number in 0..1.
fn delay(first: Duration, attempt: u32, random: f64) -> Duration {
    let bound = first.saturating_mul(1 << attempt.min(10)).min(LONGEST);
    bound.mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_four_seconds() {
        let bounds: Vec<_> = (0..6).map(|attempt| delay(FIRST, attempt, 1.0)).collect();
        assert_eq!(
            bounds,
            [250, 500, 1_000, 2_000, 4_000, 4_000].map(Duration::from_millis)
        );
        assert_eq!(delay(FIRST, u32::MAX, 1.0), LONGEST);
        assert_eq!(delay(FIRST, 3, 0.0), Duration::ZERO);
        assert_eq!(delay(FIRST, 3, 0.5), Duration::from_secs(1));
        let bounds: Vec<_> = (0..3)
            .map(|attempt| delay(FIRST_OF_OVERLOAD, attempt, 1.0))
            .collect();
        assert_eq!(bounds, [2, 4, 4].map(Duration::from_secs));
    }

    #[test]
    fn a_connection_that_ends_at_once_is_no_success() {
        let mut backoff = Backoff::default();
        for attempt in 1..=3 {
            assert_eq!(backoff.attempt(), attempt);
            backoff.next(None);
            assert!(!backoff.note_connection(STABLE.saturating_sub(Duration::from_millis(1))));
        }
        assert!(backoff.note_connection(STABLE));
        assert_eq!(backoff.attempt(), 1);
    }

    #[test]
    fn a_server_can_ask_for_a_longer_delay() {
        let mut backoff = Backoff::default();
        let asked = Duration::from_secs(20);
        let next = backoff.next(Some(asked));
        assert!((asked..=asked + FIRST).contains(&next), "{next:?}");
        assert!(backoff.next(Some(Duration::MAX)) <= LONGEST_ASKED + LONGEST);
        assert_eq!(backoff.attempt(), 3);
        backoff.reset();
        assert_eq!(backoff.attempt(), 1);
    }
}
