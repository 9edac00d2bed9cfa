//! Which of the live sources count: the gate that outliers leave by.
//!
//! A source goes out when it is more than P from the median of the others that count,
//! the furthest first, and comes back when it is less than P/2 from the median of those
//! that count. Between the two it stays as it was, so that one at the edge does not
//! flap.
//!
//! - **Three sources and more**: as above, except that sources that agree within P and
//!   are half of all or more are not outvoted.
//! - **Two**: neither can outvote the other. Both count; how far they lie apart shows in
//!   the confidence. One that a majority had left out before stays out.
//! - **One**: it counts. One that is left, and was left out before, does not count
//!   until nothing else has counted for [`LAPSE_US`]: what was known to be wrong does not
//!   become the price because the others are gone.
//!
//! Worked example, with P = 2 %: of 100, 100.4 and 110 the last is 9.8 % from the median of
//! the others, 100.2, and goes out. The price is 100.2. At 101.5 it is 1.3 % off and still out;
//! at 101 it is 0.8 % off and back.

use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::blend::middle;

/// Nothing has counted for so long: who is left out is judged anew, in microseconds.
pub(super) const LAPSE_US: i64 = 60_000_000;

/// Whether a live source counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    #[default]
    Counted,
    /// It is too far from the others.
    Out,
}

/// A live source before the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) price: Decimal,
    pub(super) standing: Standing,
}

/// Judges the live sources of a symbol. `limit` is P, as a fraction.
pub(super) fn judge(candidates: &mut [Candidate], limit: Decimal) {
    if is_close(candidates, limit) {
        return;
    }
    readmit(candidates, limit / Decimal::TWO);
    expel(candidates, limit);
}

/// Whether all count and lie so close together that nothing is to be judged: the
/// usual case.
fn is_close(candidates: &[Candidate], limit: Decimal) -> bool {
    let Some(first) = candidates.first() else {
        return true;
    };
    let (mut low, mut high) = (first.price, first.price);
    for candidate in candidates {
        if candidate.standing == Standing::Out {
            return false;
        }
        low = low.min(candidate.price);
        high = high.max(candidate.price);
    }
    candidates.len() < 3 || is_within(low, high, limit)
}

fn readmit(candidates: &mut [Candidate], limit: Decimal) {
    let Some(median) = middle(&mut counted(candidates, None)) else {
        return;
    };
    for candidate in candidates {
        if is_within(median, candidate.price, limit) {
            candidate.standing = Standing::Counted;
        }
    }
}

fn expel(candidates: &mut [Candidate], limit: Decimal) {
    while let Some(furthest) = furthest(candidates, limit) {
        candidates[furthest].standing = Standing::Out;
    }
}

/// The one that is to go out first, if any is.
fn furthest(candidates: &[Candidate], limit: Decimal) -> Option<usize> {
    let all = counted(candidates, None);
    if all.len() < 3 {
        return None;
    }
    let mut furthest: Option<(Decimal, usize)> = None;
    for (place, candidate) in candidates.iter().enumerate() {
        if candidate.standing == Standing::Out {
            continue;
        }
        let median = middle(&mut counted(candidates, Some(place)))?;
        if is_within(median, candidate.price, limit) || is_camp(&all, candidate.price, limit) {
            continue;
        }
        let distance = deviation(median, candidate.price);
        if furthest.is_none_or(|(most, _)| distance > most) {
            furthest = Some((distance, place));
        }
    }
    furthest.map(|(_, place)| place)
}

/// Whether several agree on this price and are half of all or more.
fn is_camp(all: &[Decimal], price: Decimal, limit: Decimal) -> bool {
    let agree = |other: &&Decimal| is_within(price, **other, limit);
    let size = all.iter().filter(agree).count();
    size > 1 && size * 2 >= all.len()
}

/// The prices that count, without the one at `except`.
fn counted(candidates: &[Candidate], except: Option<usize>) -> SmallVec<[Decimal; 8]> {
    let others = candidates.iter().enumerate().filter(|(place, candidate)| {
        Some(*place) != except && candidate.standing == Standing::Counted
    });
    others.map(|(_, candidate)| candidate.price).collect()
}

/// Whether `price` is no further than `limit` from `from`.
fn is_within(from: Decimal, price: Decimal, limit: Decimal) -> bool {
    // What cannot be held is far.
    let distance = price.checked_sub(from).map(|distance| distance.abs());
    distance
        .zip(from.checked_mul(limit))
        .is_some_and(|(distance, most)| distance <= most)
}

/// How far `price` is from `from`, as a fraction.
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

    fn run(gate: &mut Vec<Candidate>, prices: &[i64]) -> Vec<bool> {
        gate.resize(
            prices.len(),
            Candidate {
                price: Decimal::ONE,
                standing: Standing::Counted,
            },
        );
        for (candidate, price) in gate.iter_mut().zip(prices) {
            candidate.price = Decimal::new(*price, 1);
        }
        judge(gate, Decimal::new(2, 2));
        let is_counted = |candidate: &Candidate| candidate.standing == Standing::Counted;
        gate.iter().map(is_counted).collect()
    }

    #[test]
    fn an_outlier_goes_at_p_and_comes_back_at_half_of_it() {
        let mut gate = Vec::new();
        assert_eq!(run(&mut gate, &[1_000, 1_004, 1_020]), [true, true, true]);
        assert_eq!(run(&mut gate, &[1_000, 1_004, 1_100]), [true, true, false]);
        assert_eq!(run(&mut gate, &[1_000, 1_004, 1_015]), [true, true, false]);
        assert_eq!(run(&mut gate, &[1_000, 1_004, 1_010]), [true, true, true]);
        assert_eq!(run(&mut gate, &[1_000, 1_004, 1_015]), [true, true, true]);
    }

    #[test]
    fn one_and_two_are_not_outvoted() {
        assert_eq!(run(&mut Vec::new(), &[1]), [true]);
        assert_eq!(run(&mut Vec::new(), &[1, 1_000]), [true, true]);
        // Two camps of the same size.
        let camps = [1_000, 1_000, 1_100, 1_100];
        assert_eq!(run(&mut Vec::new(), &camps), [true; 4]);
        // Who was outvoted before stays out.
        let mut gate = Vec::new();
        run(&mut gate, &[1_000, 1_100, 1_001]);
        gate.remove(2);
        assert_eq!(run(&mut gate, &[1_000, 1_100]), [true, false]);
        gate.remove(0);
        assert_eq!(run(&mut gate, &[1_100]), [false]);
    }

    #[test]
    fn several_outliers_leave_one_by_one() {
        let prices = [1_000, 1_001, 1_002, 5_000, 10];
        assert_eq!(
            run(&mut Vec::new(), &prices),
            [true, true, true, false, false]
        );
    }

    proptest! {
        #[test]
        fn who_counts_agrees_or_is_not_outvoted(
            rounds in prop::collection::vec(prop::collection::vec(900..1_100_i64, 5), 1..8),
        ) {
            let mut gate = Vec::new();
            for prices in rounds {
                let after = run(&mut gate, &prices);
                prop_assert!(after.iter().filter(|counts| **counts).count() >= 2);
                let of = |except: usize| {
                    let mut others: Vec<i64> = (0..5).filter(|i| *i != except && after[*i]).map(|i| prices[i] * 2).collect();
                    others.sort_unstable();
                    let n = others.len();
                    if n == 0 { None } else { Some((others[(n - 1) / 2] + others[n / 2]) / 2) }
                };
                for place in 0..5 {
                    let Some(median) = of(place) else { continue };
                    let distance = (prices[place] * 2 - median).abs();
                    let size = after.iter().filter(|counts| **counts).count();
                    if after[place] && size > 2 {
                        let near = (0..5).filter(|i| after[*i] && (prices[*i] - prices[place]).abs() * 50 <= prices[place]).count();
                        prop_assert!(distance * 50 <= median || (near > 1 && near * 2 >= size), "{prices:?} {after:?}");
                    }
                }
            }
        }
    }
}
