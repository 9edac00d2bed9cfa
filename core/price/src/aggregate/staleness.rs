//! Staleness: how long a source may be silent about a symbol before its price stops counting.
//!
//! A liquid symbol that falls silent must be noticed within seconds. A symbol that trades once in
//! two minutes must not flap. So the timeout adapts to each source's recent silences.
//!
//! - The first 32 messages: at least `stale_after`.
//! - Then three times the longest recent silence, but at least half of `stale_after` and at most
//!   twenty times it.
//!
//! "Recent" means the last 256 to 512 messages. One silence raises the longest at most fourfold, so
//! that an outage is not learnt as normal. Only market data counts, never heartbeats, and no ticker
//! that repeats the one before.
//!
//! Worked example, with `stale_after` = 30 s. A source sends every 100 ms: its timeout is 15 s, the
//! lower bound. Another sends once in 120 s: its timeout is 360 s. After an hour's outage the first
//! source's longest silence counts as 400 ms, and its timeout stays 15 s.
//!
//! [`Deadlines`] finds the quotes whose timeout has passed. Each quote has one entry at most. Data
//! does not move the entry; when it comes up, a quote with newer data gets a new one. So data costs
//! nothing here, and a tick costs only its due entries.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::clock::ClockStep;

/// Messages in one generation of silences.
const GENERATION_LEN: u32 = 256;

/// Messages after which the timeout may fall below `stale_after`.
const MIN_SAMPLES: u32 = 32;

/// The timeout, as a multiple of the longest recent silence.
const SILENCE_FACTOR: i64 = 3;

/// The most that one silence may raise the longest, as a factor.
const MAX_GROWTH: i64 = 4;

/// The bounds of the timeout: `stale_after` divided by the first, and times the second.
const MIN_DIVISOR: i64 = 2;
const MAX_FACTOR: i64 = 20;

/// The recent intervals between arrivals of one source's data for one symbol.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ArrivalIntervals {
    /// The longest of the current generation and of the one before, in microseconds.
    longest_us: i64,
    previous_us: i64,
    /// Messages in the current generation.
    count: u32,
    samples: u32,
}

impl ArrivalIntervals {
    /// Records the silence before a message, in microseconds.
    pub(super) fn record(&mut self, silence_us: i64) {
        let silence_us = silence_us.max(0);
        let most_us = match self.samples {
            0 => silence_us,
            _ => self.longest().saturating_mul(MAX_GROWTH).max(1_000),
        };
        self.longest_us = self.longest_us.max(silence_us.min(most_us));
        self.samples = self.samples.saturating_add(1);
        self.count += 1;
        if self.count == GENERATION_LEN {
            (self.previous_us, self.longest_us, self.count) = (self.longest_us, 0, 0);
        }
    }

    /// How long the last message holds against other words of its source, in microseconds: the
    /// timeout, or until it is known, its upper bound.
    pub(super) fn authority_us(&self, stale_after_us: i64) -> i64 {
        if self.samples < MIN_SAMPLES {
            return stale_after_us.saturating_mul(MAX_FACTOR);
        }
        self.timeout_us(stale_after_us)
    }

    fn longest(&self) -> i64 {
        self.longest_us.max(self.previous_us)
    }

    /// The longest silence that still counts as live, in microseconds.
    pub(super) fn timeout_us(&self, stale_after_us: i64) -> i64 {
        let least_us = if self.samples < MIN_SAMPLES {
            stale_after_us
        } else {
            stale_after_us / MIN_DIVISOR
        };
        let most_us = stale_after_us.saturating_mul(MAX_FACTOR);
        self.longest()
            .saturating_mul(SILENCE_FACTOR)
            .clamp(least_us, most_us)
    }
}

/// Deadlines, the soonest first.
#[derive(Debug)]
pub(super) struct Deadlines<K>(BinaryHeap<Reverse<(i64, K)>>);

impl<K: Ord> Default for Deadlines<K> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

impl<K: Ord> Deadlines<K> {
    pub(super) fn push(&mut self, at_us: i64, key: K) {
        self.0.push(Reverse((at_us, key)));
    }

    /// Moves all deadlines by a step of the clock.
    pub(super) fn step_back(&mut self, step: ClockStep) {
        let mut all = std::mem::take(&mut self.0).into_vec();
        for Reverse((at_us, _)) in &mut all {
            step.apply(at_us);
        }
        self.0 = all.into();
    }

    /// Takes out one deadline that has passed, with its time.
    pub(super) fn pop_due(&mut self, now_us: i64) -> Option<(i64, K)> {
        let Reverse((at_us, _)) = self.0.peek()?;
        if *at_us > now_us {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE_AFTER_US: i64 = 30_000_000;

    fn after(silences_us: impl IntoIterator<Item = i64>) -> i64 {
        let mut intervals = ArrivalIntervals::default();
        silences_us.into_iter().for_each(|us| intervals.record(us));
        intervals.timeout_us(STALE_AFTER_US)
    }

    #[test]
    fn the_timeout_follows_recent_silences() {
        assert_eq!(after([]), STALE_AFTER_US);
        // A few fast messages are not enough.
        assert_eq!(after([1_000; 31]), STALE_AFTER_US);
        assert_eq!(after([1_000; 32]), 15_000_000);
        assert_eq!(after([5_000_000; 100]), 15_000_000);
        // Once in two minutes: known after the first.
        assert_eq!(after([120_000_000]), 360_000_000);
        assert_eq!(after([7_200_000_000; 3]), 600_000_000);
    }

    #[test]
    fn a_message_holds_for_the_timeout_once_that_is_known() {
        let mut intervals = ArrivalIntervals::default();
        for _ in 0..31 {
            intervals.record(10_000_000);
            assert_eq!(intervals.authority_us(STALE_AFTER_US), 600_000_000);
        }
        intervals.record(10_000_000);
        assert_eq!(intervals.authority_us(STALE_AFTER_US), 30_000_000);
    }

    #[test]
    fn an_outage_does_not_raise_the_timeout() {
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
        // As recorded: many trades a second, sometimes pauses, once of 12.7 s.
        let trades = (0..2_000).map(|n| match n % 100 {
            50 => 4_400_000,
            _ => 120_000,
        });
        assert!(after(trades) > 12_700_000);
    }
}
