//! How often a source speaks of a symbol, and how long its silence is no news.
//!
//! Until a source's habit is known, it may be silent for `stale_after`. Then for three
//! times the longest of its recent silences, but no less than half of `stale_after`
//! and no more than twenty times it: a liquid symbol's source that falls mute is found
//! soon, and a symbol that trades once in two minutes does not flap. Heartbeats do not
//! come here.
//!
//! "Recent" is the last 256 to 512 messages. One silence makes the longest at most four
//! times as long as before: an outage is not taken for a habit.

/// How many messages one generation of silences has.
const GENERATION: u32 = 256;

/// A habit is known after so many messages.
const KNOWN: u32 = 32;

/// How many times the longest silence is waited for.
const PATIENCE: i64 = 3;

/// By how much one silence may change the longest.
const GROWTH: i64 = 4;

/// The bounds of patience, in parts and times of `stale_after`.
const LEAST_PART: i64 = 2;
const MOST_TIMES: i64 = 20;

/// The recent silences of a source, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// The longest of this generation and of the one before.
    longest_us: i64,
    before_us: i64,
    /// Messages of this generation.
    count: u32,
    known: u32,
}

impl Pace {
    /// Data came, so long after the last.
    pub(super) fn heard_after(&mut self, silence_us: i64) {
        let silence_us = silence_us.max(0);
        let most_us = match self.known {
            0 => silence_us,
            _ => self.longest().saturating_mul(GROWTH).max(1_000),
        };
        self.longest_us = self.longest_us.max(silence_us.min(most_us));
        self.known = self.known.saturating_add(1);
        self.count += 1;
        if self.count == GENERATION {
            (self.before_us, self.longest_us, self.count) = (self.longest_us, 0, 0);
        }
    }

    fn longest(&self) -> i64 {
        self.longest_us.max(self.before_us)
    }

    /// How long a silence is no news.
    pub(super) fn patience_us(&self, stale_after_us: i64) -> i64 {
        let least_us = if self.known < KNOWN {
            stale_after_us
        } else {
            stale_after_us / LEAST_PART
        };
        let most_us = stale_after_us.saturating_mul(MOST_TIMES);
        self.longest()
            .saturating_mul(PATIENCE)
            .clamp(least_us, most_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE_AFTER_US: i64 = 30_000_000;

    fn after(silences_us: impl IntoIterator<Item = i64>) -> i64 {
        let mut pace = Pace::default();
        silences_us.into_iter().for_each(|us| pace.heard_after(us));
        pace.patience_us(STALE_AFTER_US)
    }

    #[test]
    fn patience_follows_the_habit() {
        assert_eq!(after([]), STALE_AFTER_US);
        // A few fast messages say nothing yet.
        assert_eq!(after([1_000; 31]), STALE_AFTER_US);
        assert_eq!(after([1_000; 32]), 15_000_000);
        assert_eq!(after([5_000_000; 100]), 15_000_000);
        // Once in two minutes: known after the first.
        assert_eq!(after([120_000_000]), 360_000_000);
        assert_eq!(after([7_200_000_000; 3]), 600_000_000);
    }

    #[test]
    fn an_outage_is_no_habit_and_is_forgotten() {
        let usual = [100_000; 300];
        let outage = usual.into_iter().chain([3_600_000_000]);
        assert_eq!(after(outage.clone()), 15_000_000);
        assert_eq!(after(outage.chain([100_000; 512])), 15_000_000);
        // A market that grows quiet is learnt in steps.
        let slower = usual
            .into_iter()
            .chain([400_000, 1_600_000, 6_400_000, 25_000_000]);
        assert_eq!(after(slower), 75_000_000);
    }

    #[test]
    fn a_liquid_contract_may_be_silent_for_12_seconds() {
        // As recorded: trades many times a second, now and then pauses, once of 12.7 s.
        let trades = (0..2_000).map(|n| match n % 100 {
            50 => 4_400_000,
            _ => 120_000,
        });
        assert!(after(trades) > 12_700_000);
    }
}
