//! EMA: the exponential moving average of a price.
//!
//! The window has [`STEPS`] steps. At the end of each step the average moves towards the current
//! price by α = 2 / (60 + 1) of the distance. That is the 60-period average of charts, independent
//! of how often the price is published. It begins at the first price.
//!
//! Worked example: the average is 100, and the price is 161 from now on. One step later it is 100 +
//! 61 × 2 / 61 = 102. After the next it is 102 + 59 × 2 / 61 = 103.93….
//!
//! An average that began at a price of a source that was later excluded would remember it for hours.
//! Its owner therefore restarts it ([`Ema::restart`]).
//!
//! All arithmetic is decimal, rounded to [`DIGITS`](crate::decimal::DIGITS) when the price changes,
//! so every server computes the same digits.

use rust_decimal::Decimal;

use crate::{clock::ClockStep, decimal::round};

/// Steps in a window: the periods of the chart's average.
const STEPS: i64 = 60;

/// The part of the distance that remains after one step, 1 − 2 / (STEPS + 1), as a fraction.
const REMAINDER: (i64, i64) = (STEPS - 1, STEPS + 1);

/// Steps after which nothing remains within the digits: (59/61)^1300 < 10^-18.
const NEGLIGIBLE_AFTER: i64 = 1_300;

/// The average at the end of a step.
#[derive(Debug, Clone, Copy)]
struct EmaState {
    average: Decimal,
    step: i64,
    price: Decimal,
}

/// An exponential moving average.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ema(Option<EmaState>);

impl Ema {
    /// Sets the price from now on.
    pub(crate) fn set(&mut self, price: Decimal, now_us: i64, window_us: i64) {
        let step = step(now_us, window_us);
        let before = self.0.get_or_insert(EmaState {
            average: price,
            step,
            price,
        });
        if before.price != price || step.saturating_sub(before.step) > NEGLIGIBLE_AFTER {
            *before = EmaState {
                average: before.average(step),
                step: step.max(before.step),
                price,
            };
        }
    }

    /// Moves its steps by a step of the clock.
    pub(crate) fn step_back(&mut self, step: ClockStep, window_us: i64) {
        if let Some(state) = &mut self.0 {
            state.step = state.step.saturating_sub(step.slots(window_us / STEPS));
        }
    }

    /// Begins anew with the next price.
    pub(crate) fn restart(&mut self) {
        self.0 = None;
    }

    /// The average at `now_us`, if there was any price.
    pub(crate) fn average(&self, now_us: i64, window_us: i64) -> Option<Decimal> {
        self.0.map(|state| state.average(step(now_us, window_us)))
    }
}

impl EmaState {
    fn average(&self, step: i64) -> Decimal {
        let steps = step.saturating_sub(self.step);
        if steps <= 0 {
            return self.average;
        }
        let distance = self.average.checked_sub(self.price);
        let left = distance.and_then(|distance| distance.checked_mul(remainder_after(steps)));
        let average = left.and_then(|left| self.price.checked_add(left));
        average.and_then(round).unwrap_or(self.price)
    }
}

/// The part of a distance that remains after `steps`, by squaring.
fn remainder_after(mut steps: i64) -> Decimal {
    if steps > NEGLIGIBLE_AFTER {
        return Decimal::ZERO;
    }
    let (part, whole) = REMAINDER;
    let one_step = Decimal::from(part).checked_div(Decimal::from(whole));
    let mut factor = one_step.unwrap_or_default();
    let mut left = Decimal::ONE;
    while steps > 0 {
        // Both are below one, so their products are too.
        if steps % 2 == 1 {
            left = left.saturating_mul(factor);
        }
        factor = factor.saturating_mul(factor);
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
        fn the_average_equals_that_of_single_steps(
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
    fn the_average_reaches_the_price() {
        let mut ema = Ema::default();
        assert_eq!(ema.average(0, WINDOW_US), None);
        ema.set(Decimal::from(100), 0, WINDOW_US);
        ema.set(Decimal::from(161), 0, WINDOW_US);
        assert_eq!(ema.average(1_999, WINDOW_US), Some(Decimal::from(102)));
        assert_eq!(ema.average(i64::MAX, WINDOW_US), Some(Decimal::from(161)));
    }
}
