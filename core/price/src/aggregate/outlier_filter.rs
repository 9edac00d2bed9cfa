//! Outlier filter: excludes sources far from the median.
//!
//! One venue with a broken feed must not move a price. A live source is excluded when it is more
//! than P from the median of the other included sources, the furthest first. It is included again
//! when it is less than P/2 from the median of the included ones. Between the two its state does
//! not change, so that a source at the edge does not flap.
//!
//! - **Three or more sources**: as above. Sources that agree within P and are at least half of all
//!   are not excluded, because no majority is against them.
//! - **Two**: neither can outvote the other, so both are included, and the confidence shows their
//!   distance. A source that a majority excluded before stays excluded.
//! - **One**: it is included. If it was excluded before, it stays so until no source has been
//!   included for [`LAPSE_US`]: a wrong price does not become right because the others are gone.
//!
//! Worked example, with P = 2 %. Of 100, 100.4 and 110 the last is 9.8 % from the median of the
//! others, 100.2, and is excluded. The price is 100.2. At 101.5 it is 1.3 % off and still excluded.
//! At 101 it is 0.8 % off and included again.

use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::methods::middle;

/// After this long without any included source, exclusions are forgotten, in microseconds.
pub(super) const LAPSE_US: i64 = 60_000_000;

/// Whether a live source counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Inclusion {
    #[default]
    Included,
    /// It is an outlier.
    Excluded,
}

/// A live source's price, and the last decision about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) price: Decimal,
    pub(super) inclusion: Inclusion,
}

/// Decides which live sources of a symbol are included. `limit` is P, as a fraction.
pub(super) fn exclude_outliers(candidates: &mut [Candidate], limit: Decimal) {
    if is_close(candidates, limit) {
        return;
    }
    let half = limit.checked_div(Decimal::TWO);
    readmit(candidates, half.unwrap_or_default());
    exclude_furthest_first(candidates, limit);
}

/// Whether all are included and close together. This is the usual case, and costs one pass.
fn is_close(candidates: &[Candidate], limit: Decimal) -> bool {
    let Some(first) = candidates.first() else {
        return true;
    };
    let (mut low, mut high) = (first.price, first.price);
    for candidate in candidates {
        if candidate.inclusion == Inclusion::Excluded {
            return false;
        }
        low = low.min(candidate.price);
        high = high.max(candidate.price);
    }
    candidates.len() < 3 || is_within(low, high, limit)
}

fn readmit(candidates: &mut [Candidate], limit: Decimal) {
    let Some(median) = middle(&mut included_prices(candidates, None)) else {
        return;
    };
    for candidate in candidates {
        if is_within(median, candidate.price, limit) {
            candidate.inclusion = Inclusion::Included;
        }
    }
}

fn exclude_furthest_first(candidates: &mut [Candidate], limit: Decimal) {
    while let Some(furthest) = furthest(candidates, limit) {
        candidates[furthest].inclusion = Inclusion::Excluded;
    }
}

/// The next candidate to exclude, if there is one.
fn furthest(candidates: &[Candidate], limit: Decimal) -> Option<usize> {
    let all = included_prices(candidates, None);
    if all.len() < 3 {
        return None;
    }
    let mut furthest: Option<(Decimal, usize)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        if candidate.inclusion == Inclusion::Excluded {
            continue;
        }
        let median = middle(&mut included_prices(candidates, Some(index)))?;
        if is_within(median, candidate.price, limit) || is_camp(&all, candidate.price, limit) {
            continue;
        }
        let distance = deviation(median, candidate.price);
        if furthest.is_none_or(|(most, _)| distance > most) {
            furthest = Some((distance, index));
        }
    }
    furthest.map(|(_, index)| index)
}

/// Whether sources agree on this price and are at least half of all, which are three or more.
fn is_camp(all: &[Decimal], price: Decimal, limit: Decimal) -> bool {
    let agree = |other: &&Decimal| is_within(price, **other, limit);
    all.iter().filter(agree).count() * 2 >= all.len()
}

/// The prices of the included candidates, without the one at `except`.
fn included_prices(candidates: &[Candidate], except: Option<usize>) -> SmallVec<[Decimal; 8]> {
    let others = candidates.iter().enumerate().filter(|(index, candidate)| {
        Some(*index) != except && candidate.inclusion == Inclusion::Included
    });
    others.map(|(_, candidate)| candidate.price).collect()
}

/// Whether `price` is at most `limit` from `from`.
pub(super) fn is_within(from: Decimal, price: Decimal, limit: Decimal) -> bool {
    // An overflow means far.
    let distance = price.checked_sub(from).map(|distance| distance.abs());
    distance
        .zip(from.checked_mul(limit))
        .is_some_and(|(distance, most)| distance <= most)
}

/// The distance of `price` from `from`, as a fraction.
pub(super) fn deviation(from: Decimal, price: Decimal) -> Decimal {
    let distance = price.checked_sub(from).map(|distance| distance.abs());
    distance
        .and_then(|distance| distance.checked_div(from))
        .unwrap_or(Decimal::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(candidates: &mut Vec<Candidate>, prices: &[i64]) -> Vec<bool> {
        candidates.resize(
            prices.len(),
            Candidate {
                price: Decimal::ONE,
                inclusion: Inclusion::Included,
            },
        );
        for (candidate, price) in candidates.iter_mut().zip(prices) {
            candidate.price = Decimal::new(*price, 1);
        }
        exclude_outliers(candidates, Decimal::new(2, 2));
        let is_counted = |candidate: &Candidate| candidate.inclusion == Inclusion::Included;
        candidates.iter().map(is_counted).collect()
    }

    #[test]
    fn an_outlier_is_excluded_above_p_and_included_below_half_of_it() {
        let mut candidates = Vec::new();
        assert_eq!(
            run(&mut candidates, &[1_000, 1_004, 1_020]),
            [true, true, true]
        );
        assert_eq!(
            run(&mut candidates, &[1_000, 1_004, 1_100]),
            [true, true, false]
        );
        assert_eq!(
            run(&mut candidates, &[1_000, 1_004, 1_015]),
            [true, true, false]
        );
        assert_eq!(
            run(&mut candidates, &[1_000, 1_004, 1_010]),
            [true, true, true]
        );
        assert_eq!(
            run(&mut candidates, &[1_000, 1_004, 1_015]),
            [true, true, true]
        );
    }

    #[test]
    fn one_and_two_are_not_outvoted() {
        assert_eq!(run(&mut Vec::new(), &[1]), [true]);
        assert_eq!(run(&mut Vec::new(), &[1, 1_000]), [true, true]);
        // Two groups of the same size.
        let camps = [1_000, 1_000, 1_100, 1_100];
        assert_eq!(run(&mut Vec::new(), &camps), [true; 4]);
        // A source that was outvoted stays excluded.
        let mut candidates = Vec::new();
        run(&mut candidates, &[1_000, 1_100, 1_001]);
        candidates.remove(2);
        assert_eq!(run(&mut candidates, &[1_000, 1_100]), [true, false]);
        candidates.remove(0);
        assert_eq!(run(&mut candidates, &[1_100]), [false]);
    }

    #[test]
    fn several_outliers_are_excluded_one_by_one() {
        let prices = [1_000, 1_001, 1_002, 5_000, 10];
        assert_eq!(
            run(&mut Vec::new(), &prices),
            [true, true, true, false, false]
        );
    }

    proptest! {
        #[test]
        fn included_sources_agree_or_have_no_majority_against_them(
            rounds in prop::collection::vec(prop::collection::vec(900..1_100_i64, 5), 1..8),
        ) {
            let mut candidates = Vec::new();
            for prices in rounds {
                let after = run(&mut candidates, &prices);
                prop_assert!(after.iter().filter(|counts| **counts).count() >= 2);
                let of = |except: usize| {
                    let mut others: Vec<i64> = (0..5).filter(|i| *i != except && after[*i]).map(|i| prices[i] * 2).collect();
                    others.sort_unstable();
                    let n = others.len();
                    if n == 0 { None } else { Some((others[(n - 1) / 2] + others[n / 2]) / 2) }
                };
                for index in 0..5 {
                    let Some(median) = of(index) else { continue };
                    let distance = (prices[index] * 2 - median).abs();
                    let size = after.iter().filter(|counts| **counts).count();
                    if after[index] && size > 2 {
                        let near = (0..5).filter(|i| after[*i] && (prices[*i] - prices[index]).abs() * 50 <= prices[index]).count();
                        prop_assert!(distance * 50 <= median || (near > 1 && near * 2 >= size), "{prices:?} {after:?}");
                    }
                }
            }
        }
    }
}
