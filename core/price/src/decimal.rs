//! Decimal arithmetic: how quotients are rounded, and how numbers go on the wire.
//!
//! Sums and products are exact as far as 28 digits go. Only a division rounds, so two servers
//! that saw the same trades publish the same digits.

use std::cmp::Ordering;

use rust_decimal::Decimal;
use tidewire_proto::v1;

/// Significant digits of a quotient.
pub(crate) const DIGITS: u32 = 18;

/// A quotient, rounded to [`DIGITS`]. `None` on division by zero or overflow.
pub(crate) fn divide(dividend: Decimal, divisor: Decimal) -> Option<Decimal> {
    round(dividend.checked_div(divisor)?)
}

/// A value rounded to [`DIGITS`], half to even. As [`Decimal::round_sf`], which counts digits by
/// dividing by ten, and takes several times as long.
pub(crate) fn round(value: Decimal) -> Option<Decimal> {
    let mantissa = value.mantissa();
    let digits = mantissa
        .unsigned_abs()
        .checked_ilog10()
        .map_or(0, |log| log + 1);
    let excess = digits.saturating_sub(DIGITS);
    if excess == 0 {
        return Some(value.normalize());
    }
    if excess > value.scale() {
        return value.round_sf(DIGITS).map(|value| value.normalize());
    }
    let power = 10_i128.pow(excess);
    let (quotient, rest) = (mantissa / power, (mantissa % power).abs());
    let is_up = match rest.cmp(&(power / 2)) {
        Ordering::Greater => true,
        Ordering::Equal => quotient % 2 != 0,
        Ordering::Less => false,
    };
    let rounded = quotient + i128::from(is_up) * mantissa.signum();
    let rounded = Decimal::try_from_i128_with_scale(rounded, value.scale() - excess).ok()?;
    Some(rounded.normalize())
}

/// A number in the protocol's canonical notation, without trailing zeros.
pub(crate) fn to_wire(value: Decimal) -> v1::Decimal {
    v1::Decimal {
        value: text(value.normalize()),
    }
}

/// The digits of a number, as its `Display` writes them. A positive one of 64 bits, as prices are,
/// takes a third of the time: each published price has several.
fn text(value: Decimal) -> String {
    let Some(mut mantissa) = u64::try_from(value.mantissa())
        .ok()
        .filter(|_| value.is_sign_positive())
    else {
        return value.to_string();
    };
    let decimals = usize::try_from(value.scale()).unwrap_or(usize::MAX);
    // Twenty digits at most, or a zero and 28 decimals, and the point.
    let mut text = [b'0'; 32];
    let (mut first, mut count) = (text.len(), 0);
    while mantissa > 0 || count <= decimals {
        if count == decimals && count > 0 {
            first -= 1;
            text[first] = b'.';
        }
        first -= 1;
        text[first] = b'0' + (mantissa % 10) as u8;
        mantissa /= 10;
        count += 1;
    }
    String::from_utf8_lossy(&text[first..]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal() -> impl Strategy<Value = Decimal> {
        // Numbers of any length, and those in the middle between two rounded ones.
        let mantissa = prop_oneof![
            -(1_i128 << 96) + 1..1 << 96,
            (any::<i64>(), 0..10_u32)
                .prop_map(|(digits, zeros)| i128::from(digits) * 10_i128.pow(zeros)),
            (-10_i64.pow(18)..10_i64.pow(18), 1..11_u32).prop_map(|(digits, more)| {
                i128::from(digits) * 10_i128.pow(more) + 5 * 10_i128.pow(more - 1)
            }),
            any::<i32>().prop_map(i128::from),
        ];
        (mantissa, 0..=28_u32)
            .prop_map(|(mantissa, scale)| Decimal::from_i128_with_scale(mantissa, scale))
    }

    proptest! {
        #[test]
        fn a_number_is_written_as_by_display(value in decimal()) {
            prop_assert_eq!(text(value), value.to_string());
            prop_assert_eq!(to_wire(value).value, value.normalize().to_string());
        }

        #[test]
        fn a_number_is_rounded_as_to_significant_digits(value in decimal()) {
            let expected = value.round_sf(DIGITS).map(|value| value.normalize().to_string());
            prop_assert_eq!(round(value).map(|value| value.to_string()), expected);
        }
    }

    #[test]
    fn numbers_at_the_ends_are_written_and_rounded() {
        let zero = Decimal::new(0, 8);
        for value in [
            zero,
            -zero,
            Decimal::MAX,
            Decimal::MIN,
            Decimal::from(u64::MAX),
        ] {
            assert_eq!(text(value), value.to_string());
        }
        for (number, rounded) in [
            ("0.1234567890123456785", "0.123456789012345678"),
            ("0.1234567890123456775", "0.123456789012345678"),
            ("-1234567890.1234567851", "-1234567890.12345679"),
            ("9.99999999999999999999", "10"),
            (
                "79228162514264337493543950335",
                "79228162514264337500000000000",
            ),
        ] {
            let value = round(number.parse().unwrap()).unwrap();
            assert_eq!(value.to_string(), rounded);
        }
        // Rounded up, it is too large.
        assert_eq!(round(Decimal::MAX), None);
    }
}
