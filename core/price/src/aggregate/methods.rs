//! Methods: how the included sources become one price.
//!
//! - `median`: the middle price; of an even number, the mean of the middle two.
//! - `volume_weighted_median`: the price up to which half of the window's volume lies. Where
//!   exactly half lies below, the mean of that price and the next. Without trades, the median.
//! - `vwap`: Σ price × size / Σ size of all trades in the window. Without trades, the median.
//! - `twap`: the time-weighted mean of the median over the window; see
//!   [`twap`](super::window::Twap).
//! - `ema`: the exponential moving average of the median; see [`ema`](super::window::Ema).
//!
//! Worked example: the prices 100, 103 and 101 have the median 101. The confidence is (103 − 100) /
//! 2 = ± 1.5. With volumes of 5, 1 and 2 the volume-weighted median is 100, because 5 of 8 lie
//! there. The vwap is 805 / 8 = 100.625. Without the 103, the median is 100.5 ± 0.5.
//!
//! A lone source at 100 with offers of 99.9 and 100.3 gives 100 ± 0.2. Without offers it has no
//! confidence, because nothing shows how far it may be off.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use smallvec::SmallVec;

use super::window::Turnover;
use crate::decimal::divide;

/// The contribution of one included source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contribution {
    /// The index of the quote.
    pub(super) quote: usize,
    pub(super) price: Decimal,
    pub(super) turnover: Turnover,
}

/// The contributions to one price.
pub(super) type Contributions = SmallVec<[Contribution; 8]>;

/// The median price, if there is any contribution.
pub(super) fn median(contributions: &[Contribution]) -> Option<Decimal> {
    let mut prices: SmallVec<[Decimal; 8]> = contributions
        .iter()
        .map(|contribution| contribution.price)
        .collect();
    middle(&mut prices)
}

/// The median weighted by volume, if there is any.
pub(super) fn weighted_median(contributions: &[Contribution]) -> Option<Decimal> {
    let mut contributions: Contributions = contributions.iter().copied().collect();
    contributions.sort_unstable_by_key(|contribution| (contribution.price, contribution.quote));
    let total = turnover(&contributions)?.size;
    let mut below = Decimal::ZERO;
    for (index, contribution) in contributions.iter().enumerate() {
        below = below.checked_add(contribution.turnover.size)?;
        let twice = below.checked_mul(Decimal::TWO)?;
        if twice == total {
            // Exactly half: the next price with any volume begins the other half.
            let above = contributions[index + 1..].iter();
            let next = above.into_iter().find(|next| !next.turnover.size.is_zero());
            return Some(next.map_or(contribution.price, |next| {
                mean(contribution.price, next.price)
            }));
        }
        if twice > total {
            return Some(contribution.price);
        }
    }
    None
}

/// The volume-weighted mean of all trades, if there are any.
pub(super) fn vwap(contributions: &[Contribution]) -> Option<Decimal> {
    let turnover = turnover(contributions)?;
    divide(turnover.value, turnover.size)
}

/// The total volume of all contributions, unless it is zero.
pub(super) fn turnover(contributions: &[Contribution]) -> Option<Turnover> {
    let sum = contributions
        .iter()
        .try_fold(Turnover::default(), |sum, contribution| {
            Some(Turnover {
                size: sum.size.checked_add(contribution.turnover.size)?,
                value: sum.value.checked_add(contribution.turnover.value)?,
            })
        });
    sum.filter(|sum| !sum.size.is_zero())
}

/// A contribution's share of the total volume.
pub(super) fn share(contribution: &Contribution, of: &Turnover) -> f64 {
    let share = contribution.turnover.size.checked_div(of.size);
    share.and_then(|share| share.to_f64()).unwrap_or_default()
}

/// Half of the distance between the lowest and the highest price. For a lone source, half of the
/// distance between its best offers, which `offers` gives by the quote's index.
pub(super) fn confidence(
    contributions: &[Contribution],
    offers: impl FnOnce(usize) -> Option<(Decimal, Decimal)>,
) -> Option<Decimal> {
    if let [lone] = contributions {
        let (bid, ask) = offers(lone.quote)?;
        return half_distance(bid, ask);
    }
    let prices = contributions.iter().map(|contribution| contribution.price);
    half_distance(prices.clone().min()?, prices.max()?)
}

fn half_distance(low: Decimal, high: Decimal) -> Option<Decimal> {
    // Offers may cross for a moment.
    let distance = high.checked_sub(low)?;
    distance.abs().checked_div(Decimal::TWO)
}

/// The middle of some prices, which it sorts.
pub(super) fn middle(prices: &mut [Decimal]) -> Option<Decimal> {
    prices.sort_unstable();
    let middle = prices.len() / 2;
    let upper = *prices.get(middle)?;
    if prices.len().is_multiple_of(2) {
        return Some(mean(prices[middle - 1], upper));
    }
    Some(upper)
}

/// The mean of two prices, the lower first. It lies between them, also where their sum is too large
/// for a decimal: the sum of two halves that were rounded up would be too.
fn mean(low: Decimal, high: Decimal) -> Decimal {
    let halved = low
        .checked_add(high)
        .and_then(|sum| sum.checked_div(Decimal::TWO));
    let stepped = || {
        let half = high.checked_sub(low)?.checked_div(Decimal::TWO)?;
        low.checked_add(half)
    };
    halved.or_else(stepped).unwrap_or(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decimal::round;

    fn contributions(of: &[(i64, i64)]) -> Contributions {
        let contribution = |(quote, (price, size)): (usize, &(i64, i64))| Contribution {
            quote,
            price: Decimal::from(*price),
            turnover: Turnover {
                size: Decimal::from(*size),
                value: Decimal::from(price * size),
            },
        };
        of.iter().enumerate().map(contribution).collect()
    }

    #[test]
    fn the_mean_of_the_greatest_numbers_lies_between_them() {
        let (most, next) = (Decimal::MAX, Decimal::MAX - Decimal::ONE);
        assert_eq!(middle(&mut [most, most]), Some(most));
        let mean = middle(&mut [most, next]).unwrap();
        assert!((next..=most).contains(&mean), "{mean}");
    }

    #[test]
    fn the_worked_example_holds() {
        let all = contributions(&[(100, 5), (103, 1), (101, 2)]);
        assert_eq!(median(&all), Some(Decimal::from(101)));
        assert_eq!(weighted_median(&all), Some(Decimal::from(100)));
        assert_eq!(vwap(&all), Some(Decimal::new(100_625, 3)));
        assert_eq!(share(&all[0], &turnover(&all).unwrap()), 0.625);
        assert_eq!(median(&all[..0]), None);
        let untraded = contributions(&[(100, 0), (103, 0)]);
        assert_eq!((weighted_median(&untraded), vwap(&untraded)), (None, None));
        let half = contributions(&[(100, 2), (101, 0), (104, 1), (109, 1)]);
        assert_eq!(weighted_median(&half), Some(Decimal::from(102)));
    }

    proptest! {
        /// With whole volumes, each price counts as if it were repeated that often.
        #[test]
        fn a_weighted_median_equals_that_of_repeated_prices(of in prop::collection::vec((1..500_i64, 0..6_i64), 1..9)) {
            let mut all: Vec<_> = of.iter().flat_map(|(price, size)| vec![Decimal::from(*price); *size as usize]).collect();
            prop_assert_eq!(weighted_median(&contributions(&of)), middle(&mut all));
        }

        #[test]
        fn a_vwap_is_between_the_prices(of in prop::collection::vec((1..500_i64, 1..6_i64), 1..9)) {
            let (value, size) = of.iter().fold((0, 0), |(value, size), (p, s)| (value + p * s, size + s));
            let expected = round(Decimal::from(value) / Decimal::from(size));
            prop_assert_eq!(vwap(&contributions(&of)), expected);
        }
    }
}
