//! TWAP: a price over time, and its time-weighted mean.
//!
//! A price holds until the next one. The mean over the window is Σ price × time / Σ time, in
//! microseconds. Time without a known price is left out; the rest is the window's coverage.
//!
//! Worked example: the price is 100 from second 0, 104 from second 6, unknown from second 8, and
//! 101 from second 9. At second 10 the mean over 10 seconds is (6 × 100 + 2 × 104 + 1 × 101) / 9 =
//! 101. The coverage is 9 s.
//!
//! The window holds about [`MAX_SEGMENTS`] segments. Beyond that, neighbours are merged into
//! pieces of at most a [`MIN_PIECES`]th of the window. Their sums stay exact, but a merged piece
//! cannot be cut: the window then begins with the first whole piece, and the coverage is that
//! much shorter.

use std::collections::VecDeque;

use rust_decimal::Decimal;

use crate::{clock::ClockStep, decimal::divide};

/// Segments of each symbol in memory.
const MAX_SEGMENTS: usize = 256;

/// Pieces in a window after merging, at least.
const MIN_PIECES: i64 = 64;

/// A price over time.
#[derive(Debug, Default)]
pub(crate) struct Twap {
    /// Segments that have ended.
    past: VecDeque<Segment>,
    /// The sum over `past`.
    sum: Sum,
    /// The current price, and since when.
    now: Option<(Decimal, i64)>,
}

/// A time range in the past.
#[derive(Debug, Clone, Copy)]
struct Segment {
    until_us: i64,
    from_us: i64,
    sum: Sum,
    kind: SegmentKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SegmentKind {
    /// One price.
    Single,
    /// Several prices, so it cannot be cut.
    Merged,
}

/// Price × time, and the time in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    area: Decimal,
    covered_us: i64,
}

/// A mean, and the time that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mean {
    pub(crate) price: Decimal,
    pub(crate) covered_us: i64,
}

impl Sum {
    fn of(price: Decimal, covered_us: i64) -> Self {
        let covered_us = covered_us.max(0);
        let area = price.checked_mul(Decimal::from(covered_us));
        // A price that overflows is not a market price, and is left out.
        area.map_or_else(Self::default, |area| Self { area, covered_us })
    }

    fn plus(self, other: Self) -> Self {
        let area = self.area.checked_add(other.area);
        area.map_or(self, |area| Self {
            area,
            covered_us: self.covered_us.saturating_add(other.covered_us),
        })
    }

    fn less(self, other: Self) -> Self {
        Self {
            area: self.area.saturating_sub(other.area),
            covered_us: self.covered_us.saturating_sub(other.covered_us),
        }
    }
}

impl Twap {
    /// Sets the price from now on; `None` if it is unknown.
    pub(crate) fn set(&mut self, price: Option<Decimal>, now_us: i64, window_us: i64) {
        if self.now.map(|(price, _)| price) == price {
            return;
        }
        let now_us = now_us.max(
            self.past
                .back()
                .map_or(i64::MIN, |segment| segment.until_us),
        );
        if let Some((before, from_us)) = self.now.take()
            && now_us > from_us
        {
            let sum = Sum::of(before, now_us - from_us);
            self.sum = self.sum.plus(sum);
            self.past.push_back(Segment {
                until_us: now_us,
                from_us,
                sum,
                kind: SegmentKind::Single,
            });
        }
        self.now = price.map(|price| (price, now_us));
        self.drop_before(now_us.saturating_sub(window_us));
        if self.past.len() > MAX_SEGMENTS {
            self.merge_neighbours(window_us / MIN_PIECES);
        }
    }

    /// Moves all times by a step of the clock.
    pub(crate) fn step_back(&mut self, step: ClockStep) {
        for segment in &mut self.past {
            step.apply(&mut segment.from_us);
            step.apply(&mut segment.until_us);
        }
        if let Some((_, since_us)) = &mut self.now {
            step.apply(since_us);
        }
    }

    fn drop_before(&mut self, start_us: i64) {
        while let Some(first) = self.past.front() {
            if first.until_us > start_us {
                return;
            }
            self.sum = self.sum.less(first.sum);
            self.past.pop_front();
        }
        // Clears the rounding error of very large numbers.
        self.sum = Sum::default();
    }

    /// Merges neighbours up to `longest_us`. Two neighbours together are then longer, so at most
    /// twice as many segments as pieces remain.
    fn merge_neighbours(&mut self, longest_us: i64) {
        let all = std::mem::replace(&mut self.past, VecDeque::with_capacity(MAX_SEGMENTS + 1));
        for segment in all {
            match self.past.back_mut() {
                Some(last) if segment.until_us - last.from_us <= longest_us => {
                    *last = Segment {
                        until_us: segment.until_us,
                        from_us: last.from_us,
                        sum: last.sum.plus(segment.sum),
                        kind: SegmentKind::Merged,
                    };
                }
                _ => self.past.push_back(segment),
            }
        }
    }

    /// The mean over the window that ends at `now_us`, if there was any price in it.
    pub(crate) fn mean(&self, now_us: i64, window_us: i64) -> Option<Mean> {
        let start_us = now_us.saturating_sub(window_us);
        let mut sum = self.sum;
        for segment in &self.past {
            if segment.from_us >= start_us {
                break;
            }
            sum = sum.less(match segment.kind {
                SegmentKind::Single => segment.cut(start_us),
                SegmentKind::Merged => segment.sum,
            });
        }
        if let Some((price, from_us)) = self.now {
            let covered_us = now_us.saturating_sub(from_us.max(start_us));
            sum = sum.plus(Sum::of(price, covered_us));
        }
        if sum.covered_us <= 0 {
            // The price was set at this very moment.
            let (price, _) = self.now?;
            return Some(Mean {
                price,
                covered_us: 0,
            });
        }
        Some(Mean {
            price: divide(sum.area, Decimal::from(sum.covered_us))?,
            covered_us: sum.covered_us,
        })
    }
}

impl Segment {
    /// The part of a single-price segment before `start_us`.
    fn cut(&self, start_us: i64) -> Sum {
        if start_us >= self.until_us || self.sum.covered_us == 0 {
            return self.sum;
        }
        // Exact: the area is a multiple of the time.
        let price = self
            .sum
            .area
            .checked_div(Decimal::from(self.sum.covered_us));
        price.map_or_else(Sum::default, |price| {
            Sum::of(price, start_us.saturating_sub(self.from_us))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND_US: i64 = 1_000_000;

    #[test]
    fn the_worked_example_holds() {
        let mut twap = Twap::default();
        let window_us = 10 * SECOND_US;
        for (second, price) in [(0, Some(100)), (6, Some(104)), (8, None), (9, Some(101))] {
            twap.set(price.map(Decimal::from), second * SECOND_US, window_us);
        }
        let mean = twap.mean(10 * SECOND_US, window_us).unwrap();
        assert_eq!(
            (mean.price, mean.covered_us),
            (Decimal::from(101), 9 * SECOND_US)
        );
        // Half of the first segment has left the window.
        let mean = twap.mean(13 * SECOND_US, window_us).unwrap();
        let expected = Decimal::from(300 + 208 + 404) / Decimal::from(9);
        assert_eq!(
            (mean.price, mean.covered_us),
            (expected.round_sf(18).unwrap(), 9 * SECOND_US)
        );
        assert_eq!(Twap::default().mean(0, window_us), None);
    }

    #[test]
    fn segments_that_have_left_the_window_are_dropped() {
        let (mut twap, window_us) = (Twap::default(), 50 * SECOND_US);
        for second in 0..1_000 {
            let price = Decimal::from(100 + second % 2);
            twap.set(Some(price), second * SECOND_US, window_us);
        }
        // Half of the window lasts too long to be merged.
        assert_eq!(twap.past.len(), 50);
    }

    proptest! {
        #[test]
        fn the_mean_equals_that_of_single_microseconds(
            changes in prop::collection::vec((1..40_i64, prop::option::weighted(0.9, 1..1_000_i64)), 1..60),
            after in 0..300_i64,
        ) {
            const WINDOW_US: i64 = 200;
            let (mut twap, mut now_us, mut prices) = (Twap::default(), 0, Vec::new());
            for (pause_us, price) in changes {
                let last = prices.last().copied().flatten();
                prices.extend((0..pause_us).map(|_| last));
                now_us += pause_us;
                // The price from now on, which the next microseconds show.
                let price = price.map(|price| Decimal::new(price, 2));
                twap.set(price, now_us, WINDOW_US);
                prices.push(price);
                prices.pop();
                prices.push(price);
                now_us += 1;
            }
            let last = prices.last().copied().flatten();
            prices.extend((0..after).map(|_| last));
            now_us += after;
            let inside = &prices[prices.len().saturating_sub(WINDOW_US as usize)..];
            let known: Vec<Decimal> = inside.iter().flatten().copied().collect();
            let mean = twap.mean(now_us, WINDOW_US);
            match known.len() {
                0 => prop_assert!(mean.is_none_or(|mean| mean.covered_us == 0)),
                count => {
                    let expected = known.iter().sum::<Decimal>() / Decimal::from(count);
                    let mean = mean.unwrap();
                    prop_assert_eq!(mean.covered_us, count as i64);
                    prop_assert_eq!(mean.price, expected.round_sf(18).unwrap());
                }
            }
        }

        #[test]
        fn merging_costs_coverage_and_stays_exact(count in 300..2_000_i64) {
            let (mut twap, window_us) = (Twap::default(), 1_000_000);
            let price = |n: i64| Decimal::from(100 + (n * 7919) % 13);
            for n in 0..count {
                twap.set(Some(price(n)), n * 1_000, window_us);
            }
            prop_assert!(twap.past.len() <= MAX_SEGMENTS + 1);
            let now_us = count * 1_000;
            let mean = twap.mean(now_us, window_us).unwrap();
            let whole = now_us.min(window_us);
            prop_assert!(mean.covered_us <= whole && mean.covered_us >= whole - window_us / MIN_PIECES, "{}", mean.covered_us);
            // The mean of exactly the covered time.
            let from = (now_us - mean.covered_us) / 1_000;
            let sum: Decimal = (from..count).map(price).sum();
            prop_assert_eq!(mean.price, (sum / Decimal::from(count - from)).round_sf(18).unwrap());
        }
    }
}
