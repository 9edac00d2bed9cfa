//! How the sources that count become one price.
//!
//! - `median`: the middle price; the mean of the middle two of an even number.
//! - `volume_weighted_median`: each source weighs what it traded within the window. The
//!   price up to which half of the weight lies; where exactly half lies below, the mean
//!   of the two next to it. Without any trades, all weigh the same.
//! - `vwap`: Σ price × size / Σ size of all trades within the window. Without any, the
//!   median of the last prices.
//! - `twap`: the mean of the median over the window, each price weighted by how long it
//!   was the median. See [`steps`](super::steps).
//! - `ema`: the exponential moving average of the median. See [`ema`](super::ema).
//!
//! Worked example: prices 100, 103 and 101 have the median 101, and with
//! (103 − 100) / 2 the confidence ± 1.5. Without 103 the median is the mean of the
//! middle two, 100.5 ± 0.5. A lone source at 100 with offers 99.9 and 100.3 gives
//! 100 ± 0.2, and without known offers no confidence: nothing says how far it may
//! be off. With 5, 1 and 2 traded, the volume-weighted median is 100: 5 of 8 lie there.
//!
//! Sums, products and medians are exact as far as 28 digits go, and so are averages
//! until their last division, which is rounded to [`DIGITS`] digits.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use smallvec::SmallVec;

use super::{
    quote::{Life, Quote},
    volume::Traded,
};

/// What is divided is rounded to so many digits.
pub(super) const DIGITS: u32 = 18;

/// One source that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The quote's place.
    pub(super) quote: usize,
    pub(super) price: Decimal,
    pub(super) traded: Traded,
}

/// The sources that count.
pub(super) type Parts = SmallVec<[Part; 8]>;

/// The median of the parts, if there are any.
pub(super) fn median(parts: &[Part]) -> Option<Decimal> {
    let mut prices: SmallVec<[Decimal; 8]> = parts.iter().map(|part| part.price).collect();
    middle(&mut prices)
}

/// The median weighted by what was traded, if anything was.
pub(super) fn weighted_median(parts: &[Part]) -> Option<Decimal> {
    let mut parts: Parts = parts.iter().copied().collect();
    parts.sort_unstable_by_key(|part| (part.price, part.quote));
    let total = traded(&parts)?.size;
    let mut below = Decimal::ZERO;
    for (place, part) in parts.iter().enumerate() {
        below = below.checked_add(part.traded.size)?;
        let twice = below.checked_mul(Decimal::TWO)?;
        if twice == total {
            // Exactly half: the next one that weighs anything begins the other half.
            let above = parts[place + 1..].iter();
            let next = above.into_iter().find(|next| !next.traded.size.is_zero());
            return Some(next.map_or(part.price, |next| mean(part.price, next.price)));
        }
        if twice > total {
            return Some(part.price);
        }
    }
    None
}

/// The mean of all trades, weighted by their sizes, if there were any.
pub(super) fn vwap(parts: &[Part]) -> Option<Decimal> {
    let traded = traded(parts)?;
    divided(traded.value, traded.size)
}

/// What all parts traded, if that is anything.
pub(super) fn traded(parts: &[Part]) -> Option<Traded> {
    let sum = parts.iter().try_fold(Traded::default(), |sum, part| {
        Some(Traded {
            size: sum.size.checked_add(part.traded.size)?,
            value: sum.value.checked_add(part.traded.value)?,
        })
    });
    sum.filter(|sum| !sum.size.is_zero())
}

/// A part's share of all that was traded.
pub(super) fn share(part: &Part, of: &Traded) -> f64 {
    let share = part.traded.size.checked_div(of.size);
    share.and_then(|share| share.to_f64()).unwrap_or_default()
}

/// A quotient, rounded to [`DIGITS`].
pub(super) fn divided(dividend: Decimal, divisor: Decimal) -> Option<Decimal> {
    rounded(dividend.checked_div(divisor)?)
}

/// A value with no more than [`DIGITS`].
pub(super) fn rounded(value: Decimal) -> Option<Decimal> {
    value.round_sf(DIGITS).map(|value| value.normalize())
}

/// Half of the distance between the lowest and the highest price; of a lone
/// source, half of the distance between its best offers.
pub(super) fn confidence(parts: &[Part], quotes: &[Quote]) -> Option<Decimal> {
    if let [lone] = parts {
        let (bid, ask) = quotes[lone.quote].offers()?;
        return half_distance(bid, ask);
    }
    let prices = parts.iter().map(|part| part.price);
    half_distance(prices.clone().min()?, prices.max()?)
}

fn half_distance(low: Decimal, high: Decimal) -> Option<Decimal> {
    // Offers may cross for a moment.
    let distance = high.checked_sub(low)?;
    Some(distance.abs() / Decimal::TWO)
}

/// The middle of some prices, which are put into order.
pub(super) fn middle(prices: &mut [Decimal]) -> Option<Decimal> {
    prices.sort_unstable();
    let middle = prices.len() / 2;
    let upper = *prices.get(middle)?;
    if prices.len().is_multiple_of(2) {
        return Some(mean(prices[middle - 1], upper));
    }
    Some(upper)
}

/// Halved first where the sum would not fit.
fn mean(a: Decimal, b: Decimal) -> Decimal {
    match a.checked_add(b) {
        Some(sum) => sum / Decimal::TWO,
        None => a / Decimal::TWO + b / Decimal::TWO,
    }
}

/// The change over 24 hours: the median of what the live sources say it is, as one
/// venue whose window is off must not move it.
pub(super) fn change_percent(quotes: &[Quote]) -> Option<f64> {
    let mut changes: SmallVec<[f64; 8]> = live(quotes).filter_map(Quote::change_percent).collect();
    changes.sort_unstable_by(f64::total_cmp);
    let middle = changes.len() / 2;
    let upper = *changes.get(middle)?;
    if changes.len().is_multiple_of(2) {
        return Some(f64::midpoint(changes[middle - 1], upper));
    }
    Some(upper)
}

/// The volume of 24 hours: that of all live sources together.
pub(super) fn volume_quote(quotes: &[Quote]) -> Option<f64> {
    live(quotes)
        .filter_map(Quote::volume_quote)
        .reduce(|a, b| a + b)
}

/// How much of the 24 hours the figures cover, in microseconds, where they are all
/// counted here.
pub(super) fn day_covered_us(quotes: &[Quote], now_us: i64) -> Option<i64> {
    let covered = |quote: &Quote| quote.day_covered_us(now_us);
    if live(quotes).any(|quote| covered(quote).is_none()) {
        return None;
    }
    live(quotes).filter_map(covered).max()
}

fn live(quotes: &[Quote]) -> impl Iterator<Item = &Quote> {
    quotes.iter().filter(|quote| quote.life == Life::Live)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(of: &[(i64, i64)]) -> Parts {
        let part = |(quote, (price, size)): (usize, &(i64, i64))| Part {
            quote,
            price: Decimal::from(*price),
            traded: Traded {
                size: Decimal::from(*size),
                value: Decimal::from(price * size),
            },
        };
        of.iter().enumerate().map(part).collect()
    }

    #[test]
    fn the_worked_example_holds() {
        let all = parts(&[(100, 5), (103, 1), (101, 2)]);
        assert_eq!(median(&all), Some(Decimal::from(101)));
        assert_eq!(weighted_median(&all), Some(Decimal::from(100)));
        assert_eq!(vwap(&all), Some(Decimal::new(100_625, 3)));
        assert_eq!(share(&all[0], &traded(&all).unwrap()), 0.625);
        assert_eq!(median(&all[..0]), None);
        let untraded = parts(&[(100, 0), (103, 0)]);
        assert_eq!((weighted_median(&untraded), vwap(&untraded)), (None, None));
        let half = parts(&[(100, 2), (101, 0), (104, 1), (109, 1)]);
        assert_eq!(weighted_median(&half), Some(Decimal::from(102)));
    }

    proptest! {
        /// Whole sizes: as if each source said its price so many times.
        #[test]
        fn a_weighted_median_is_that_of_repeated_prices(of in prop::collection::vec((1..500_i64, 0..6_i64), 1..9)) {
            let mut all: Vec<_> = of.iter().flat_map(|(price, size)| vec![Decimal::from(*price); *size as usize]).collect();
            prop_assert_eq!(weighted_median(&parts(&of)), middle(&mut all));
        }

        #[test]
        fn a_vwap_is_between_the_prices(of in prop::collection::vec((1..500_i64, 1..6_i64), 1..9)) {
            let (value, size) = of.iter().fold((0, 0), |(value, size), (p, s)| (value + p * s, size + s));
            let expected = rounded(Decimal::from(value) / Decimal::from(size));
            prop_assert_eq!(vwap(&parts(&of)), expected);
        }
    }
}
