//! Exact decimals in a canonical notation.

use crate::v1::Decimal;

/// Maximum number of digits before and after the point together.
const MAX_DIGITS: usize = 256;

/// Why a text is not a decimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a decimal number of at most {MAX_DIGITS} digits")]
pub struct DecimalError(String);

impl Decimal {
    /// Parses a number into its canonical notation: no exponent, no needless zeros, no `-0`.
    /// Equal numbers have equal text.
    ///
    /// # Errors
    /// The text is not a number in JSON notation (leading zeros and a leading `+` are
    /// accepted), or it has too many digits.
    ///
    /// ```
    /// use tidewire_proto::v1::Decimal;
    ///
    /// assert_eq!(Decimal::parse("61837.6300").unwrap(), Decimal::parse("6.183763e4").unwrap());
    /// ```
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        canonical(text)
            .map(|value| Self { value })
            .ok_or_else(|| DecimalError(text.chars().take(64).collect()))
    }
}

fn canonical(text: &str) -> Option<String> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (number, exponent) = match rest.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    if whole.len() + fraction.len() > MAX_DIGITS || exponent.unsigned_abs() as usize > MAX_DIGITS {
        return None;
    }
    // All digits without the point, and the position of the point.
    let mut digits = format!("{whole}{fraction}");
    let mut point = i64::try_from(whole.len()).ok()? + i64::from(exponent);
    if point < 0 {
        digits.insert_str(0, &"0".repeat(usize::try_from(-point).ok()?));
        point = 0;
    }
    let point = usize::try_from(point).ok()?;
    if point > digits.len() {
        digits.push_str(&"0".repeat(point - digits.len()));
    }
    let (whole, fraction) = digits.split_at(point);
    let (whole, fraction) = (
        whole.trim_start_matches('0'),
        fraction.trim_end_matches('0'),
    );
    if whole.len() + fraction.len() > MAX_DIGITS {
        return None;
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && (whole != "0" || !fraction.is_empty()) {
        "-"
    } else {
        ""
    };
    Some(match fraction {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_have_equal_text() {
        let cases = [
            ("0", "0"),
            ("-0.00", "0"),
            ("1.50", "1.5"),
            ("007", "7"),
            ("61837.63000000", "61837.63"),
            ("1e3", "1000"),
            ("1.25E-2", "0.0125"),
            ("-12.5e+1", "-125"),
            ("0.000", "0"),
            ("100", "100"),
        ];
        for (text, expected) in cases {
            assert_eq!(Decimal::parse(text).unwrap().value, expected, "{text}");
        }
    }

    #[test]
    fn texts_that_are_not_numbers_are_refused() {
        for text in [
            "",
            "-",
            ".5",
            "1.",
            "1e",
            "NaN",
            "1,5",
            "0x1",
            " 1",
            "1e999999999",
            &"9".repeat(300),
        ] {
            assert!(Decimal::parse(text).is_err(), "{text}");
        }
    }
}
