//! Fields of frames: texts, exact numbers and times as venues write them.
//!
//! Texts are borrowed from the frame. Prices never pass through a float.

use std::borrow::Cow;

use rust_decimal::Decimal;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny},
};
use serde_json::value::RawValue;
use tidewire_proto::v1::TradeSide;

use super::{
    event::{Events, FaultKind, ParseError, VenueEvent, excerpt},
    subscribe::{Refusal, has_word},
};

/// A JSON string, borrowed unless it holds escapes. Serde would copy an `Option<Cow<str>>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// The digits of a JSON number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NumberText<'a>(&'a str);

impl<'a> NumberText<'a> {
    pub(super) fn text(self) -> &'a str {
        self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for NumberText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return Ok(Self(text));
        }
        Err(D::Error::custom(format_args!(
            "expected a number, found {text}"
        )))
    }
}

/// Parses a frame, or a part of one. Its encoding is checked once, which costs less than field by
/// field. A text that is not UTF-8 is checked by field all the same: the fault may be in a field
/// that is not read.
pub(super) fn decode<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, serde_json::Error> {
    match str::from_utf8(text) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(text),
    }
}

/// The smallest price and the smallest size that count: 10^-18.
const LEAST: Decimal = Decimal::from_parts(1, 0, 0, false, 18);

/// The largest price that counts, 10^12, and the largest size, 10^15. A product of the two has room
/// in a decimal, which holds 7.9 × 10^28, and so has a price times the microseconds of a window or a
/// currency's rate. A stranger's number therefore makes no other number overflow.
const MOST_PRICE: Decimal = Decimal::from_parts(0xd4a5_1000, 0xe8, 0, false, 0);
const MOST_SIZE: Decimal = Decimal::from_parts(0xa4c6_8000, 0x0003_8d7e, 0, false, 0);

/// The smallest and the largest statistic that count, beside zero. Products and quotients of two are
/// finite.
const LEAST_STATISTIC: f64 = 1e-30;
const MOST_STATISTIC: f64 = 1e30;

/// Parses a price exactly: a number above zero, from 10^-18 to 10^12.
pub(super) fn price(field: &str, text: &str) -> Result<Decimal, ParseError> {
    positive(field, text, MOST_PRICE)
}

/// Parses a size exactly: a number above zero, from 10^-18 to 10^15.
pub(super) fn size(field: &str, text: &str) -> Result<Decimal, ParseError> {
    positive(field, text, MOST_SIZE)
}

fn positive(field: &str, text: &str, most: Decimal) -> Result<Decimal, ParseError> {
    exact(text)
        .filter(|value| is_between(*value, most))
        .ok_or_else(|| ParseError {
            kind: FaultKind::BadValue,
            detail: format!(
                "`{field}` is {:?}, expected a number above zero, from 1e-18 to {most}",
                excerpt(text)
            ),
        })
}

/// Whether a number is in the range of prices.
pub(super) fn is_price(number: Decimal) -> bool {
    is_between(number, MOST_PRICE)
}

/// Whether a number is from [`LEAST`] to `most`, which is [`MOST_PRICE`] or more.
fn is_between(number: Decimal, most: Decimal) -> bool {
    /// The digits of [`MOST_PRICE`], and the decimals of [`LEAST`].
    const USUAL: (i128, u32) = (1_000_000_000_000, 18);
    // Nearly all numbers have few digits, which are compared faster than decimals of two scales.
    let is_usual = (1..=USUAL.0).contains(&number.mantissa()) && number.scale() <= USUAL.1;
    is_usual || (LEAST..=most).contains(&number)
}

/// Parses a price that a venue may leave out or set to zero.
pub(super) fn maybe_price(text: Option<&str>) -> Option<Decimal> {
    text.and_then(exact).filter(|number| is_price(*number))
}

/// A number, exactly or not at all.
fn exact(text: &str) -> Option<Decimal> {
    // Nearly all have no exponent, and few digits.
    Decimal::from_str_exact(text)
        .ok()
        .or_else(|| match text.split_once(['e', 'E']) {
            Some((number, exponent)) => shifted(plain(number)?, exponent.parse().ok()?),
            None => trimmed(text),
        })
}

/// A number without an exponent.
fn plain(text: &str) -> Option<Decimal> {
    Decimal::from_str_exact(text).ok().or_else(|| trimmed(text))
}

/// A number without an exponent. Zeros after its last digit do not count as decimals.
fn trimmed(text: &str) -> Option<Decimal> {
    let (whole, decimals) = text.split_once('.')?;
    let decimals = decimals.trim_end_matches('0');
    Decimal::from_str_exact(&format!("{whole}.{decimals}0")).ok()
}

/// A number times a power of ten, exactly. `None` if it has more digits than a decimal holds.
pub(super) fn shifted(number: Decimal, exponent: i32) -> Option<Decimal> {
    let mut number = number.normalize();
    let scale = i64::from(number.scale()) - i64::from(exponent);
    if scale >= 0 {
        number.set_scale(u32::try_from(scale).ok()?).ok()?;
        return Some(number);
    }
    let power = 10_i128.checked_pow(u32::try_from(-scale).ok()?)?;
    number.set_scale(0).ok()?;
    number.checked_mul(Decimal::try_from_i128_with_scale(power, 0).ok()?)
}

/// Parses a statistic, which is approximate by nature: zero, or a number from 10^-30 to 10^30 of
/// either sign.
pub(super) fn statistic(text: Option<&str>) -> Option<f64> {
    text.and_then(|text| text.parse().ok())
        .filter(|number: &f64| {
            *number == 0.0 || (LEAST_STATISTIC..=MOST_STATISTIC).contains(&number.abs())
        })
}

/// The change from `open` to `last`, in percent.
pub(super) fn change_percent(open: Option<f64>, last: Option<f64>) -> Option<f64> {
    let open = open.filter(|open| *open > 0.0)?;
    Some((last? / open - 1.0) * 100.0)
}

/// Parses each entry on its own, so that a bad one does not discard the others.
pub(super) fn entries<'a>(
    data: &'a RawValue,
    read: impl Fn(&'a str) -> Result<VenueEvent<'a>, ParseError>,
) -> Result<Events<'a>, ParseError> {
    let text = data.get();
    if !text.starts_with('[') {
        // Fails, and says what came instead.
        serde_json::from_str::<Vec<IgnoredAny>>(text)?;
    }
    let values = Values {
        rest: text.get(1..).unwrap_or_default(),
    };
    Ok(values
        .map(|entry| read(entry).unwrap_or_else(VenueEvent::Fault))
        .collect())
}

/// The values of a list, as they are written. The list is valid JSON already, so its values end
/// where the brackets and quotes do, and need not be checked again.
struct Values<'a> {
    /// Begins within the list's brackets.
    rest: &'a str,
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let len = value_len(self.rest);
        let (value, rest) = self.rest.split_at_checked(len)?;
        // Without the comma. Nothing is left after the list's closing bracket.
        self.rest = rest.strip_prefix(',').unwrap_or_default();
        Some(value.trim_ascii()).filter(|value| !value.is_empty())
    }
}

/// Bytes before the comma or bracket that ends the first value.
fn value_len(text: &str) -> usize {
    let (mut depth, mut is_text) = (0_usize, false);
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => is_text = !is_text,
            // The byte after it ends no text.
            b'\\' => _ = bytes.next(),
            _ if is_text => {}
            b'[' | b'{' => depth += 1,
            b',' | b']' | b'}' if depth == 0 => return at,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Parses a whole number in a text.
pub(super) fn integer(field: &str, text: &str) -> Result<u64, ParseError> {
    text.parse().map_err(|_| ParseError {
        kind: FaultKind::BadValue,
        detail: format!("`{field}` is {:?}, expected a whole number", excerpt(text)),
    })
}

/// The side of a trade, as most venues name it.
pub(super) fn side(text: &str) -> Option<TradeSide> {
    match text {
        "buy" | "Buy" => Some(TradeSide::Buy),
        "sell" | "Sell" => Some(TradeSide::Sell),
        _ => None,
    }
}

/// The refusal of a request, with the reason joined from the venue's fields.
pub(super) fn refusal<const N: usize>(
    request: Option<u64>,
    parts: [Option<&str>; N],
) -> VenueEvent<'static> {
    VenueEvent::Error(Refusal::of_request(&joined(parts), request))
}

/// Joins the parts of a reason. A part that the text already has is not repeated: some venues
/// write the market in their message and in a field of its own.
pub(super) fn joined<const N: usize>(parts: [Option<&str>; N]) -> String {
    let mut text = String::new();
    for part in parts.into_iter().flatten() {
        if has_word(&text, part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(part);
    }
    text
}

/// The number of a request in its response, as a number or a text.
pub(super) fn request_id(field: Option<&RawValue>) -> Option<u64> {
    field?.get().trim_matches('"').parse().ok()
}

/// The fault of a missing field.
pub(super) fn missing(field: &str) -> ParseError {
    ParseError {
        kind: FaultKind::WrongType,
        detail: format!("`{field}` is missing"),
    }
}

/// Microseconds of an epoch time in milliseconds or microseconds. As milliseconds, 10^14 is in the
/// year 5138; as microseconds, in 1973.
pub(super) fn epoch_us(time: i64) -> Option<i64> {
    const MICROSECONDS_FROM: i64 = 100_000_000_000_000;
    if time <= 0 {
        return None;
    }
    Some(if time < MICROSECONDS_FROM {
        time * 1_000
    } else {
        time
    })
}

/// Microseconds since the Unix epoch of an RFC 3339 time in UTC, as Coinbase and Kraken write it:
/// `2024-08-08T23:54:17.102938Z`.
pub(super) fn rfc3339_us(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = integers(date, '-')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = integers(clock, ':')?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !in_range || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(6)
        .fold(0, |micros, digit| micros * 10 + i64::from(digit - b'0'));
    let seconds = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1_000_000 + micros)
}

fn integers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let is_digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        part.parse().ok().filter(|_| is_digits)
    });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// Days since 1970-01-01, after Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted / 400;
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_parsed() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-08-08T23:54:17.102938Z", 1_723_161_257_102_938),
            ("2024-02-29T12:00:00.5Z", 1_709_208_000_500_000),
            ("2024-02-29T12:00:00.123456789Z", 1_709_208_000_123_456),
        ];
        for (text, expected) in cases {
            assert_eq!(rfc3339_us(text), Some(expected), "{text}");
        }
        for bad in [
            "",
            "2024-08-08",
            "2024-13-08T00:00:00Z",
            "2024-08-08T00:00:00.xZ",
            "2024-08-08T00:00:00.1é5Z",
            "x-08-08T00:00:00Z",
            "+024-08-08T00:00:00Z",
            "2024-08-08T00:00:00:00Z",
        ] {
            assert_eq!(rfc3339_us(bad), None, "{bad}");
        }
    }

    /// A value with its text, whatever its form.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|flag| json!(flag)),
            any::<i64>().prop_map(|number| json!(number)),
            any::<f64>().prop_map(|number| json!(number)),
            r"[ -~é币\n]{0,12}".prop_map(|text| json!(text)),
            r#"["\\\[\]\{\},a]{0,8}"#.prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|list| json!(list)),
                prop::collection::btree_map(r#"[a-z\["\\]{0,4}"#, inner, 0..4)
                    .prop_map(|fields| json!(fields)),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_list_has_the_values_of_its_json(
            list in prop::collection::vec(value(), 0..6),
            is_pretty in any::<bool>(),
        ) {
            let text = match is_pretty {
                true => serde_json::to_string_pretty(&list),
                false => serde_json::to_string(&list),
            };
            let text = text.unwrap();
            let expected: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
            let found: Vec<_> = Values { rest: &text[1..] }.collect();
            let expected: Vec<_> = expected.iter().map(|value| value.get()).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn entries_of_anything_but_a_list_are_refused() {
        for (data, found) in [
            ("{}", "map"),
            (" \"[]\"", "string \"[]\""),
            ("1", "integer `1`"),
        ] {
            let data: Box<RawValue> = serde_json::from_str(data).unwrap();
            let error = entries(&data, |_| Ok(VenueEvent::Ignored)).unwrap_err();
            assert_eq!(error.kind, FaultKind::WrongType);
            let expected = format!("invalid type: {found}, expected a sequence");
            assert!(error.detail.starts_with(&expected), "{error:?}");
        }
    }

    #[test]
    fn epoch_times_have_their_unit() {
        assert_eq!(epoch_us(1_723_161_257_102), Some(1_723_161_257_102_000));
        assert_eq!(epoch_us(1_723_161_257_102_938), Some(1_723_161_257_102_938));
        assert_eq!(epoch_us(0), None);
        assert_eq!(epoch_us(-1), None);
    }

    #[test]
    fn numbers_are_exact_or_refused() {
        assert_eq!(
            price("p", "0.00012345678901").unwrap().to_string(),
            "0.00012345678901"
        );
        assert_eq!(price("p", "1e-8").unwrap().to_string(), "0.00000001");
        // Zeros after the last digit are no digits.
        let zeros = |digits: &str| format!("{digits}{}", "0".repeat(40));
        for (text, expected) in [
            (zeros("61838.5"), "61838.5"),
            (zeros("5."), "5"),
            (zeros("1.2") + "e3", "1200"),
            ("1.25e+1".to_owned(), "12.5"),
            ("120E-1".to_owned(), "12"),
            ("0.1e13".to_owned(), "1000000000000"),
            ("10e-19".to_owned(), "0.000000000000000001"),
        ] {
            let number = price("p", &text).unwrap().normalize();
            assert_eq!(number.to_string(), expected, "{text}");
        }
        // One digit more than fits is refused, not rounded.
        let long = format!("0.{}1", "0".repeat(28));
        for bad in [
            "0", "-1", "", "NaN", "1e999", "1e29", "1e-29", "1.5e", "e5", "1e5e5", "1.2.3", "1,5",
            &long,
        ] {
            assert_eq!(
                price("p", bad).unwrap_err().kind,
                FaultKind::BadValue,
                "{bad}"
            );
        }
    }

    #[test]
    fn numbers_that_could_make_others_overflow_are_refused() {
        let greatest = Decimal::MAX.to_string();
        for (text, is_a_price, is_a_size) in [
            ("1e-18", true, true),
            ("9e-19", false, false),
            ("1e12", true, true),
            ("1000000000000.1", false, true),
            ("1e15", false, true),
            ("1000000000000000.1", false, false),
            (&greatest, false, false),
        ] {
            assert_eq!(price("p", text).is_ok(), is_a_price, "{text}");
            assert_eq!(maybe_price(Some(text)).is_some(), is_a_price, "{text}");
            assert_eq!(size("q", text).is_ok(), is_a_size, "{text}");
        }
        for (text, is_read) in [
            ("0", true),
            ("-1e30", true),
            ("1e-30", true),
            ("1e31", false),
            ("1e-320", false),
            ("NaN", false),
        ] {
            assert_eq!(statistic(Some(text)).is_some(), is_read, "{text}");
        }
    }
}
