//! A price over time, as steps, and its time-weighted mean.
//!
//! The price stands from one step to the next. The mean over the window is
//! Σ price × time / Σ time, with the time counted in microseconds and without the time for
//! which no price was known. How much time that was is the window's coverage.
//!
//! Worked example: 100 from second 0, 104 from second 6, nothing from second 8, 101 from
//! second 9. At second 10, over 10 seconds: (600 + 208 + 101) / 9 = 101, with 9 s covered.
//!
//! About [`MOST`] steps are kept. When there are more, neighbours are joined to pieces of
//! up to a [`PIECES`]th of the window, whose sums stay exact; the window then begins with the
//! first whole piece, and the coverage says so.

use std::collections::VecDeque;

use rust_decimal::Decimal;

use super::blend::divided;

/// How many steps are kept.
const MOST: usize = 256;

/// How many pieces a window has at least when steps are joined.
const PIECES: i64 = 64;

/// A price over time.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// What is over.
    past: VecDeque<Step>,
    /// Of all that is over.
    sum: Sum,
    /// The price now, and since when.
    now: Option<(Decimal, i64)>,
}

/// A piece of the past.
#[derive(Debug, Clone, Copy)]
struct Step {
    until_us: i64,
    from_us: i64,
    sum: Sum,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One price.
    Flat,
    /// Several: it cannot be cut.
    Joined,
}

/// Price × time, and time, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    area: Decimal,
    covered_us: i64,
}

/// A mean, and how much time it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mean {
    pub(super) price: Decimal,
    pub(super) covered_us: i64,
}

impl Sum {
    fn of(price: Decimal, covered_us: i64) -> Self {
        let covered_us = covered_us.max(0);
        let area = price.checked_mul(Decimal::from(covered_us));
        // What cannot be held is no price of this world, and not counted.
        area.map_or_else(Self::default, |area| Self { area, covered_us })
    }

    fn plus(self, other: Self) -> Self {
        let area = self.area.checked_add(other.area);
        area.map_or(self, |area| Self {
            area,
            covered_us: self.covered_us + other.covered_us,
        })
    }

    fn less(self, other: Self) -> Self {
        Self {
            area: self.area - other.area,
            covered_us: self.covered_us - other.covered_us,
        }
    }
}

impl Steps {
    /// The price is another from now on, or none.
    pub(super) fn set(&mut self, price: Option<Decimal>, now_us: i64, window_us: i64) {
        if self.now.map(|(price, _)| price) == price {
            return;
        }
        let now_us = now_us.max(self.past.back().map_or(i64::MIN, |step| step.until_us));
        if let Some((before, from_us)) = self.now.take()
            && now_us > from_us
        {
            let sum = Sum::of(before, now_us - from_us);
            self.sum = self.sum.plus(sum);
            self.past.push_back(Step {
                until_us: now_us,
                from_us,
                sum,
                shape: Shape::Flat,
            });
        }
        self.now = price.map(|price| (price, now_us));
        self.forget(now_us.saturating_sub(window_us));
        if self.past.len() > MOST {
            self.join(window_us / PIECES);
        }
    }

    fn forget(&mut self, start_us: i64) {
        while let Some(first) = self.past.front() {
            if first.until_us > start_us {
                return;
            }
            self.sum = self.sum.less(first.sum);
            self.past.pop_front();
        }
        // Nothing is left of the rounding that huge numbers have.
        self.sum = Sum::default();
    }

    /// Two neighbours are longer than a piece afterwards: no more than twice as many
    /// steps as pieces are left.
    fn join(&mut self, longest_us: i64) {
        let all = std::mem::replace(&mut self.past, VecDeque::with_capacity(MOST + 1));
        for step in all {
            match self.past.back_mut() {
                Some(last) if step.until_us - last.from_us <= longest_us => {
                    *last = Step {
                        until_us: step.until_us,
                        from_us: last.from_us,
                        sum: last.sum.plus(step.sum),
                        shape: Shape::Joined,
                    };
                }
                _ => self.past.push_back(step),
            }
        }
    }

    /// The mean over the window that ends now, if there is anything in it.
    pub(super) fn mean(&self, now_us: i64, window_us: i64) -> Option<Mean> {
        let start_us = now_us.saturating_sub(window_us);
        let mut sum = self.sum;
        for step in &self.past {
            if step.from_us >= start_us {
                break;
            }
            sum = sum.less(match step.shape {
                Shape::Flat => step.cut(start_us),
                Shape::Joined => step.sum,
            });
        }
        if let Some((price, from_us)) = self.now {
            sum = sum.plus(Sum::of(price, now_us - from_us.max(start_us)));
        }
        if sum.covered_us == 0 {
            // A price of this very moment.
            let (price, _) = self.now?;
            return Some(Mean {
                price,
                covered_us: 0,
            });
        }
        Some(Mean {
            price: divided(sum.area, Decimal::from(sum.covered_us))?,
            covered_us: sum.covered_us,
        })
    }
}

impl Step {
    /// What of a flat step lies before `start_us`.
    fn cut(&self, start_us: i64) -> Sum {
        if start_us >= self.until_us || self.sum.covered_us == 0 {
            return self.sum;
        }
        // Whole: the area is a multiple of the time.
        let price = self.sum.area / Decimal::from(self.sum.covered_us);
        Sum::of(price, start_us - self.from_us)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND_US: i64 = 1_000_000;

    #[test]
    fn the_worked_example_holds() {
        let mut steps = Steps::default();
        let window_us = 10 * SECOND_US;
        for (second, price) in [(0, Some(100)), (6, Some(104)), (8, None), (9, Some(101))] {
            steps.set(price.map(Decimal::from), second * SECOND_US, window_us);
        }
        let mean = steps.mean(10 * SECOND_US, window_us).unwrap();
        assert_eq!(
            (mean.price, mean.covered_us),
            (Decimal::from(101), 9 * SECOND_US)
        );
        // Half of the first step is out of the window.
        let mean = steps.mean(13 * SECOND_US, window_us).unwrap();
        let expected = Decimal::from(300 + 208 + 404) / Decimal::from(9);
        assert_eq!(
            (mean.price, mean.covered_us),
            (expected.round_sf(18).unwrap(), 9 * SECOND_US)
        );
        assert_eq!(Steps::default().mean(0, window_us), None);
    }

    proptest! {
        #[test]
        fn the_mean_is_that_of_every_microsecond(
            changes in prop::collection::vec((1..40_i64, prop::option::weighted(0.9, 1..1_000_i64)), 1..60),
            after in 0..300_i64,
        ) {
            const WINDOW_US: i64 = 200;
            let (mut steps, mut now_us, mut prices) = (Steps::default(), 0, Vec::new());
            for (pause_us, price) in changes {
                let last = prices.last().copied().flatten();
                prices.extend((0..pause_us).map(|_| last));
                now_us += pause_us;
                // The price from now on, told by the next microseconds.
                let price = price.map(|price| Decimal::new(price, 2));
                steps.set(price, now_us, WINDOW_US);
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
            let mean = steps.mean(now_us, WINDOW_US);
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
        fn many_steps_cost_coverage_and_not_truth(count in 300..2_000_i64) {
            let (mut steps, window_us) = (Steps::default(), 1_000_000);
            let price = |n: i64| Decimal::from(100 + (n * 7919) % 13);
            for n in 0..count {
                steps.set(Some(price(n)), n * 1_000, window_us);
            }
            prop_assert!(steps.past.len() <= MOST + 1);
            let now_us = count * 1_000;
            let mean = steps.mean(now_us, window_us).unwrap();
            let whole = now_us.min(window_us);
            prop_assert!(mean.covered_us <= whole && mean.covered_us >= whole - window_us / PIECES, "{}", mean.covered_us);
            // The mean of exactly that time.
            let from = (now_us - mean.covered_us) / 1_000;
            let sum: Decimal = (from..count).map(price).sum();
            prop_assert_eq!(mean.price, (sum / Decimal::from(count - from)).round_sf(18).unwrap());
        }
    }
}
