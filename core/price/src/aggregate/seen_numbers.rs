//! Seen numbers: which of a venue's trade numbers have arrived, in bounded memory.
//!
//! A venue may repeat trades for half a minute, while two connections overlap, or after a
//! reconnect. At thousands of trades a second these are tens of thousands of numbers.
//!
//! - Numbers that rise by one are remembered as ranges. A range costs the same however long it is,
//!   so [`NumberRanges`] remembers a million numbers. Each missing trade begins another range.
//! - Numbers with holes are remembered one by one. [`NumberSet`] forgets them by age: each is
//!   remembered for a minute at least, at any rate up to [`GENERATION_LEN`] a minute.
//!
//! Worked example: 100 to 105 and 107 have arrived. The ranges are 100–105 and 107–107. The number
//! 106 joins them to 100–107, so 106 is a repetition from then on.

use std::collections::VecDeque;

use crate::clock::ClockStep;

/// Ranges of each quote. Beyond that, the ones furthest from the newest number are forgotten.
const MAX_RANGES: usize = 1_024;

/// Numbers in a range: those of 30 seconds at 33,000 trades a second.
const RANGE_LEN: u64 = 1_000_000;

/// Numbers in one of the two generations of a set, at least and at most. The most are those of 30
/// seconds at 2,000 trades a second.
const MIN_GENERATION_LEN: usize = 1_024;
const GENERATION_LEN: usize = 65_536;

/// How long a generation of a set lasts, at least, in microseconds.
const GENERATION_US: i64 = 60_000_000;

/// The numbers from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NumberRange {
    first: u64,
    last: u64,
}

impl NumberRange {
    /// Forgets the lowest numbers of a range that is too long.
    fn bound(&mut self) {
        self.first = self.first.max(self.last.saturating_sub(RANGE_LEN - 1));
    }
}

/// Numbers that rise by one.
#[derive(Debug, Default)]
pub(super) struct NumberRanges {
    /// Sorted, with a hole between each two.
    ranges: VecDeque<NumberRange>,
}

impl NumberRanges {
    /// Whether all numbers from `first` to `last` have arrived.
    pub(super) fn contains(&self, first: u64, last: u64) -> bool {
        // Nearly all numbers are new, or in the newest range.
        match self.ranges.back() {
            Some(newest) if first < newest.first => {}
            newest => return newest.is_some_and(|newest| last <= newest.last),
        }
        let after = self.ranges.partition_point(|range| range.first <= first);
        let range = after.checked_sub(1).and_then(|at| self.ranges.get(at));
        range.is_some_and(|range| last <= range.last)
    }

    /// Forgets the numbers above this one.
    pub(super) fn forget_above(&mut self, number: u64) {
        let kept = self.ranges.partition_point(|range| range.first <= number);
        self.ranges.truncate(kept);
        if let Some(range) = self.ranges.back_mut() {
            range.last = range.last.min(number);
        }
    }

    /// Adds the numbers from `first` to `last`.
    pub(super) fn insert(&mut self, first: u64, last: u64) {
        // Nearly all numbers continue the newest range.
        if let Some(newest) = self.ranges.back_mut()
            && (newest.first..=newest.last.saturating_add(1)).contains(&first)
        {
            newest.last = newest.last.max(last);
            newest.bound();
            return;
        }
        // The ranges that overlap the new one, or touch it.
        let from = self
            .ranges
            .partition_point(|range| range.last.saturating_add(1) < first);
        let until = self
            .ranges
            .partition_point(|range| range.first <= last.saturating_add(1));
        let mut joined = NumberRange { first, last };
        for range in self.ranges.range(from..until) {
            joined.first = joined.first.min(range.first);
            joined.last = joined.last.max(range.last);
        }
        joined.bound();
        if from < until {
            self.ranges[from] = joined;
            self.ranges.drain(from + 1..until);
            return;
        }
        self.ranges.insert(from, joined);
        if self.ranges.len() > MAX_RANGES {
            // Numbers rise, so these are the oldest, unless the venue restarted its numbering.
            if from >= MAX_RANGES / 2 {
                self.ranges.pop_front();
            } else {
                self.ranges.pop_back();
            }
        }
    }
}

/// Numbers with holes.
#[derive(Debug, Default)]
pub(super) struct NumberSet {
    /// Sorted.
    current: Vec<u64>,
    /// The generation before, sorted.
    previous: Vec<u64>,
    /// When the current generation began, in microseconds since the Unix epoch.
    since_us: i64,
}

impl NumberSet {
    /// Whether the number has arrived.
    pub(super) fn contains(&self, number: u64) -> bool {
        let is_in = |generation: &[u64]| {
            generation.last().is_some_and(|last| number <= *last)
                && generation.binary_search(&number).is_ok()
        };
        is_in(&self.current) || is_in(&self.previous)
    }

    /// Moves its time by a step of the clock.
    pub(super) fn step_back(&mut self, step: ClockStep) {
        step.apply(&mut self.since_us);
    }

    /// Adds a number that has not arrived before.
    pub(super) fn insert(&mut self, number: u64, now_us: i64) {
        let is_old = now_us.saturating_sub(self.since_us) >= GENERATION_US;
        let len = self.current.len();
        if len >= GENERATION_LEN || (is_old && len >= MIN_GENERATION_LEN) {
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.clear();
        }
        if self.current.is_empty() {
            self.since_us = now_us;
        }
        if self.current.last().is_none_or(|last| *last < number) {
            self.current.push(number);
            return;
        }
        let at = self.current.partition_point(|other| *other < number);
        self.current.insert(at, number);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const SECOND_US: i64 = 1_000_000;

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_numbers_added(added in prop::collection::vec((0..300_u64, 0..6_u64), 1..200)) {
            let (mut ranges, mut plain) = (NumberRanges::default(), HashSet::new());
            for (first, more) in added {
                ranges.insert(first, first + more);
                plain.extend(first..=first + more);
                for number in 0..310 {
                    prop_assert_eq!(ranges.contains(number, number), plain.contains(&number), "{}", number);
                }
                let sorted = ranges.ranges.iter().zip(ranges.ranges.iter().skip(1));
                for (range, next) in sorted {
                    prop_assert!(range.last + 1 < next.first, "{:?}", ranges);
                }
            }
        }

        #[test]
        fn a_set_holds_the_numbers_of_the_last_minute(
            steps in prop::collection::vec((1..4_u64, 0..200_i64), 1..3_000),
        ) {
            let (mut set, mut all) = (NumberSet::default(), Vec::new());
            let (mut number, mut now_us) = (0, SECOND_US);
            for (step, pause_ms) in steps {
                number += step;
                now_us += pause_ms * 1_000;
                prop_assert!(!set.contains(number));
                set.insert(number, now_us);
                all.push((number, now_us));
            }
            let recent = all.iter().filter(|(_, at_us)| now_us - at_us < GENERATION_US);
            for (number, _) in recent.chain(all.iter().rev().take(MIN_GENERATION_LEN)) {
                prop_assert!(set.contains(*number), "{}", number);
                prop_assert_eq!(set.contains(number + 1), all.binary_search_by_key(&(number + 1), |(number, _)| *number).is_ok());
            }
        }
    }

    #[test]
    fn ranges_are_bounded_in_number_and_length() {
        let mut ranges = NumberRanges::default();
        for number in 0..2 * RANGE_LEN {
            ranges.insert(number, number);
        }
        assert_eq!(ranges.ranges.len(), 1);
        assert!(ranges.contains(RANGE_LEN, 2 * RANGE_LEN - 1));
        assert!(!ranges.contains(RANGE_LEN - 1, RANGE_LEN - 1));
        ranges.insert(0, u64::MAX);
        assert_eq!(ranges.ranges.len(), 1);
        assert!(ranges.contains(u64::MAX, u64::MAX));
        // Every second number is missing: the newest ranges stay.
        let mut ranges = NumberRanges::default();
        for number in (10_000..20_000).step_by(2) {
            ranges.insert(number, number);
        }
        assert_eq!(ranges.ranges.len(), MAX_RANGES);
        let oldest = 20_000 - 2 * MAX_RANGES as u64;
        assert!(ranges.contains(19_998, 19_998) && ranges.contains(oldest, oldest));
        assert!(!ranges.contains(oldest - 2, oldest - 2));
        // The venue restarts its numbering: now the highest are the oldest.
        ranges.insert(1, 1);
        assert!(ranges.contains(1, 1) && !ranges.contains(19_998, 19_998));
    }

    #[test]
    fn a_set_is_bounded_and_forgets_by_age() {
        let mut set = NumberSet::default();
        for number in 0..5 * GENERATION_LEN as u64 {
            set.insert(number, SECOND_US);
        }
        assert!(set.current.len() + set.previous.len() <= 2 * GENERATION_LEN);
        assert!(set.contains(4 * GENERATION_LEN as u64) && !set.contains(0));
        // A quiet market keeps its last numbers for any time.
        let mut quiet = NumberSet::default();
        for number in 0..MIN_GENERATION_LEN as u64 {
            quiet.insert(number, number as i64 * 3_600 * SECOND_US);
        }
        assert!(quiet.contains(0));
        let after_us = 2_000 * 3_600 * SECOND_US;
        quiet.insert(5_000, after_us);
        assert!(quiet.contains(0) && quiet.contains(5_000));
        // Late numbers are found too.
        quiet.insert(4_000, after_us);
        assert!(quiet.contains(4_000) && quiet.contains(5_000) && !quiet.contains(4_500));
    }
}
