//! Key: a decimal as an ordered integer of eight bytes, for the index.
//!
//! A key is a cell and a rank. The cell is the decimal as a double, cut to 51 significant bits.
//! Decimals of at most 15 significant digits have different cells if they differ, because the
//! distance of two of them is larger than a cell. Longer decimals may share a cell, and the
//! double may be off by one cell. They have a rank of their own, and a range that concerns them
//! is a cell wider. The index may therefore touch a rule too many, never one too few; the
//! exact comparison of [`crate::leaf`] decides.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};

/// On which side of a threshold the boundary between false and true is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Below it: a value that equals the threshold is above the boundary.
    Before,
    /// Above it: a value that equals the threshold is below the boundary.
    After,
}

/// Bits of the rank.
const RANK_BITS: u32 = 2;

/// Ranks within a cell, from low to high. A value lies where the long thresholds are.
const BEFORE: i64 = 0;
const LONG: i64 = 1;
const AFTER: i64 = 2;

/// Decimals below this have at most 15 digits.
const SHORT_MANTISSA: u128 = 1_000_000_000_000_000;

/// Powers of ten up to this one are exact as doubles.
const EXACT_POWER: u32 = 22;

/// A decimal's cell, and whether it is the decimal's own.
fn cell(value: Decimal) -> (i64, bool) {
    // Both operands of the division are exact, so that the quotient is rounded once, and equal
    // decimals have equal ones whatever their trailing zeros.
    let short = |value: Decimal| {
        let is_short =
            value.mantissa().unsigned_abs() < SHORT_MANTISSA && value.scale() <= EXACT_POWER;
        is_short.then(|| value.mantissa() as f64 / POWERS[value.scale() as usize])
    };
    let double = short(value).or_else(|| short(value.normalize()));
    // Every decimal is within the range of a double.
    let (double, is_short) = match double {
        Some(double) => (double, true),
        None => (value.to_f64().unwrap_or(0.0), false),
    };
    // Adding zero turns -0 to 0.
    let bits = (double + 0.0).to_bits().cast_signed();
    // The order of doubles as integers: negative ones are mirrored.
    let ordered = bits ^ ((bits >> 63) & i64::MAX);
    (ordered >> RANK_BITS, is_short)
}

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// The key of a threshold's boundary, and whether the threshold is long.
pub(crate) fn boundary(threshold: Decimal, side: Side) -> (i64, bool) {
    let (cell, is_short) = cell(threshold);
    let rank = match (is_short, side) {
        (false, _) => LONG,
        (true, Side::Before) => BEFORE,
        (true, Side::After) => AFTER,
    };
    (join(cell, rank), !is_short)
}

fn join(cell: i64, rank: i64) -> i64 {
    (cell << RANK_BITS) | rank
}

/// A range of keys, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl KeyRange {
    /// All keys.
    pub(crate) const ALL: Self = Self {
        low: i64::MIN,
        high: i64::MAX,
    };

    /// The keys of all boundaries between two values. `has_long` says whether the index has long
    /// thresholds.
    pub(crate) fn between(from: Decimal, to: Decimal, has_long: bool) -> Self {
        let (least, most) = if from <= to { (from, to) } else { (to, from) };
        let low = match cell(least) {
            (cell, true) if !has_long => join(cell, LONG),
            (cell, _) => join(cell - 1, BEFORE),
        };
        let high = match cell(most) {
            (cell, true) if !has_long => join(cell, LONG),
            (cell, _) => join(cell + 1, AFTER),
        };
        Self { low, high }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn short_decimals_have_cells_of_their_own() {
        let texts = [
            "0.00000000172",
            "0.00000000173",
            "3.01",
            "3.010000000001",
            "99999.9999999999",
            "999999999999999",
            "999999999999998",
            "100000",
            "100000.000000001",
        ];
        for one in texts {
            for other in texts {
                let (left, right) = (cell(decimal(one)), cell(decimal(other)));
                assert_eq!(
                    left.0.cmp(&right.0),
                    decimal(one).cmp(&decimal(other)),
                    "{one} {other}"
                );
                assert!(left.1);
            }
        }
    }

    #[test]
    fn a_range_has_every_boundary_between_two_values() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..200_000 {
            let mut draw = || {
                let digits = random.random_range(1..=28_u32);
                let mantissa = random.random_range(0..10_i128.pow(digits));
                let mantissa = if random.random_ratio(1, 4) {
                    -mantissa
                } else {
                    mantissa
                };
                Decimal::from_i128_with_scale(mantissa, random.random_range(0..=28))
            };
            let (from, threshold) = (draw(), draw());
            let to = match random.random_range(0..3) {
                0 => threshold,
                1 => threshold + Decimal::new(1, random.random_range(0..28)),
                _ => from + (threshold - from) / Decimal::from(7),
            };
            for side in [Side::Before, Side::After] {
                let is_above = |value: Decimal| match side {
                    Side::Before => value >= threshold,
                    Side::After => value > threshold,
                };
                let (key, is_long) = boundary(threshold, side);
                let range = KeyRange::between(from, to, is_long);
                if is_above(from) != is_above(to) {
                    assert!(
                        (range.low..=range.high).contains(&key),
                        "{from} {to} {threshold}"
                    );
                }
            }
        }
    }

    #[test]
    fn short_boundaries_that_are_not_passed_are_not_in_the_range() {
        let range = |from: &str, to: &str| KeyRange::between(decimal(from), decimal(to), false);
        let before = boundary(decimal("100"), Side::Before).0;
        let after = boundary(decimal("100"), Side::After).0;
        assert!(range("99", "100").high >= before && range("99", "100").high < after);
        assert!(range("100", "101").low > before && range("100", "101").low <= after);
        assert!(range("101", "100").low > before);
    }
}
