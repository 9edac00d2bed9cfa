//! The exponential moving average of a price.
//!
//! The window has [`STEPS`] steps. At the end of each the average moves to the price
//! that stands by α = 2 / (60 + 1) of the distance: the average of 60 periods as charts
//! know it, and independent of how often the price is told. It begins at the first price.
//!
//! Computed in decimals, with [`DIGITS`](super::blend::DIGITS) kept after each change of
//! the price: the same everywhere.

use rust_decimal::Decimal;

use super::blend::rounded;

/// How many steps a window has.
const STEPS: i64 = 60;

/// What is left of the distance to the price after one step: 1 − 2 / (STEPS + 1), as a
/// fraction.
const LEFT: (i64, i64) = (STEPS - 1, STEPS + 1);

/// After so many steps nothing is left of the distance within the digits kept:
/// (59/61)^1300 < 10^-18.
const FOR_EVER: i64 = 1_300;

/// The average, as of the end of a step.
#[derive(Debug, Clone, Copy)]
struct State {
    average: Decimal,
    step: i64,
    price: Decimal,
}

/// An exponential moving average.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ema(Option<State>);

impl Ema {
    /// The price is this from now on.
    pub(super) fn set(&mut self, price: Decimal, now_us: i64, window_us: i64) {
        let step = step(now_us, window_us);
        let before = self.0.get_or_insert(State {
            average: price,
            step,
            price,
        });
        if before.price != price || step - before.step > FOR_EVER {
            *before = State {
                average: before.average(step),
                step: step.max(before.step),
                price,
            };
        }
    }

    /// The average now, if there was any price.
    pub(super) fn average(&self, now_us: i64, window_us: i64) -> Option<Decimal> {
        self.0.map(|state| state.average(step(now_us, window_us)))
    }
}

impl State {
    fn average(&self, step: i64) -> Decimal {
        let steps = step.saturating_sub(self.step);
        if steps <= 0 {
            return self.average;
        }
        let distance = self.average.checked_sub(self.price);
        let left = distance.and_then(|distance| distance.checked_mul(left_after(steps)));
        let average = left.and_then(|left| self.price.checked_add(left));
        average.and_then(rounded).unwrap_or(self.price)
    }
}

/// What is left of a distance after some steps, by squaring.
fn left_after(mut steps: i64) -> Decimal {
    if steps > FOR_EVER {
        return Decimal::ZERO;
    }
    let mut factor = Decimal::from(LEFT.0) / Decimal::from(LEFT.1);
    let mut left = Decimal::ONE;
    while steps > 0 {
        if steps % 2 == 1 {
            left *= factor;
        }
        factor *= factor;
        steps /= 2;
    }
    left
}

fn step(now_us: i64, window_us: i64) -> i64 {
    now_us.div_euclid((window_us / STEPS).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW_US: i64 = 60_000;

    proptest! {
        #[test]
        fn it_is_that_of_steps_taken_one_by_one(
            changes in prop::collection::vec((0..5_000_i64, 1..10_000_i64), 1..40),
        ) {
            let mut ema = Ema::default();
            let (mut now_us, mut naive, mut last): (i64, Option<f64>, f64) = (0, None, 0.0);
            for (pause_us, cents) in changes {
                let before = now_us / 1_000;
                now_us += pause_us;
                for _ in before..now_us / 1_000 {
                    naive = naive.map(|average| average + (last - average) * 2.0 / 61.0);
                }
                ema.set(Decimal::new(cents, 2), now_us, WINDOW_US);
                last = cents as f64 / 100.0;
                let naive = *naive.get_or_insert(last);
                let average: f64 = ema.average(now_us, WINDOW_US).unwrap().try_into().unwrap();
                prop_assert!((average - naive).abs() < 1e-9 * naive.max(1.0), "{average} {naive}");
            }
        }
    }

    #[test]
    fn in_the_end_it_is_the_price() {
        let mut ema = Ema::default();
        assert_eq!(ema.average(0, WINDOW_US), None);
        ema.set(Decimal::from(100), 0, WINDOW_US);
        ema.set(Decimal::from(161), 0, WINDOW_US);
        assert_eq!(ema.average(1_999, WINDOW_US), Some(Decimal::from(102)));
        assert_eq!(ema.average(i64::MAX, WINDOW_US), Some(Decimal::from(161)));
    }
}
