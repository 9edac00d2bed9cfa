//! Side fields: the fields beside a price, whose faults cost nothing but themselves.
//!
//! A venue changes its frames without notice: a number becomes a text, a field becomes `null` or
//! is left out. Price, size and trade number are read strictly, because a wrong one is worse than
//! none. Every other field is read in either form, or left out when it cannot be read. Its name is
//! kept, so that an operator sees what has changed.

use std::borrow::Cow;

use rust_decimal::Decimal;
use serde_json::value::RawValue;
use tidewire_proto::v1::TradeSide;

use super::field::{epoch_us, maybe_price, rfc3339_us, side, statistic};

/// A field as it is in the frame. `None` if it is missing or `null`.
pub(super) type RawField<'a> = Option<&'a RawValue>;

/// The form in which the venue's documentation has a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Documented {
    /// A text, empty if unknown.
    Text,
    Number,
    /// A text that some frames lack.
    OptionalText,
    /// A number that some frames lack.
    OptionalNumber,
}

use Documented::{Number, OptionalText, Text};

/// The names of fields that are not as documented. Usually there is none, and nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct SideFields {
    unexpected: Vec<&'static str>,
}

impl SideFields {
    /// The names of the fields that were not as documented.
    pub(super) fn into_unexpected(self) -> Vec<&'static str> {
        self.unexpected
    }

    fn note(&mut self, name: &'static str) {
        if !self.unexpected.contains(&name) {
            self.unexpected.push(name);
        }
    }

    /// A field in either form, as it is written: a text without its quotes, but with its escapes.
    fn written<'a>(
        &mut self,
        name: &'static str,
        documented: Documented,
        field: RawField<'a>,
    ) -> Option<&'a str> {
        let Some(raw) = field.map(RawValue::get) else {
            if matches!(documented, Text | Number) {
                self.note(name);
            }
            return None;
        };
        // The first byte of a value gives its type.
        let is_documented_text = matches!(documented, Text | OptionalText);
        let (is_as_documented, written) = match raw.as_bytes().first() {
            Some(b'"') => (is_documented_text, raw.get(1..raw.len() - 1)),
            Some(b'-' | b'0'..=b'9') => (!is_documented_text, Some(raw)),
            _ => (false, None),
        };
        if !is_as_documented {
            self.note(name);
        }
        written
    }

    /// The text of a field in either form.
    pub(super) fn text<'a>(
        &mut self,
        name: &'static str,
        documented: Documented,
        field: RawField<'a>,
    ) -> Option<Cow<'a, str>> {
        let written = self.written(name, documented, field)?;
        if written.contains('\\') {
            return unescaped(field);
        }
        Some(written.into())
    }

    /// A field that is read from its text. An empty text means unknown. `read` must refuse texts
    /// with backslashes, so that escapes are looked for only in a text that it cannot read.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        documented: Documented,
        field: RawField<'_>,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let written = self.written(name, documented, field)?;
        if written.is_empty() {
            return None;
        }
        let value = read(written).or_else(|| match written.contains('\\') {
            true => read(&unescaped(field)?),
            false => None,
        });
        if value.is_none() {
            self.note(name);
        }
        value
    }

    /// A statistic, which is approximate by nature.
    pub(super) fn statistic(
        &mut self,
        name: &'static str,
        documented: Documented,
        field: RawField<'_>,
    ) -> Option<f64> {
        self.read(name, documented, field, |text| statistic(Some(text)))
    }

    /// An offer. Zero means that there is none.
    pub(super) fn offer(
        &mut self,
        name: &'static str,
        documented: Documented,
        field: RawField<'_>,
    ) -> Option<Decimal> {
        let offer = self.read(name, documented, field, |text| {
            let offer = maybe_price(Some(text));
            let is_zero = || statistic(Some(text)) == Some(0.0);
            offer.or_else(|| is_zero().then_some(Decimal::ZERO))
        });
        offer.filter(|offer| *offer > Decimal::ZERO)
    }

    /// A whole number.
    pub(super) fn integer<T: std::str::FromStr>(
        &mut self,
        name: &'static str,
        documented: Documented,
        field: RawField<'_>,
    ) -> Option<T> {
        self.read(name, documented, field, |text| text.parse().ok())
    }

    /// A time since the Unix epoch in milliseconds or microseconds, in microseconds.
    pub(super) fn epoch(
        &mut self,
        name: &'static str,
        documented: Documented,
        field: RawField<'_>,
    ) -> Option<i64> {
        let read = |text: &str| text.parse().ok().and_then(epoch_us);
        self.read(name, documented, field, read)
    }

    /// An RFC 3339 time, in microseconds since the Unix epoch.
    pub(super) fn rfc3339(
        &mut self,
        name: &'static str,
        documented: Documented,
        field: RawField<'_>,
    ) -> Option<i64> {
        self.read(name, documented, field, rfc3339_us)
    }

    /// The side of a trade, which is always a text.
    pub(super) fn side(&mut self, name: &'static str, field: RawField<'_>) -> TradeSide {
        self.read(name, Text, field, side)
            .unwrap_or(TradeSide::Unspecified)
    }

    /// A truth value.
    pub(super) fn flag(&mut self, name: &'static str, field: RawField<'_>) -> Option<bool> {
        match field.map(RawValue::get) {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => {
                self.note(name);
                None
            }
        }
    }
}

/// The text of a field that is written with escapes.
fn unescaped<'a>(field: RawField<'_>) -> Option<Cow<'a, str>> {
    serde_json::from_str(field?.get()).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::{Documented::OptionalNumber, *};

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    /// The statistic, and whether the field is noted.
    fn read(documented: Documented, json: Option<&str>) -> (Option<f64>, bool) {
        let (mut fields, json) = (SideFields::default(), json.map(raw));
        let value = fields.statistic("q", documented, json.as_deref());
        (value, !fields.into_unexpected().is_empty())
    }

    #[test]
    fn a_field_is_read_in_either_form_and_noted_if_it_is_not_as_documented() {
        assert_eq!(read(Text, Some("\"1.5\"")), (Some(1.5), false));
        assert_eq!(read(Text, Some("1.5")), (Some(1.5), true));
        assert_eq!(read(Number, Some("-1.5")), (Some(-1.5), false));
        assert_eq!(read(Number, Some("\"-1.5\"")), (Some(-1.5), true));
        assert_eq!(read(OptionalNumber, Some("\"2\"")), (Some(2.0), true));
        assert_eq!(read(Text, Some("\"\\u0031\"")), (Some(1.0), false));
        for unreadable in [
            "{}",
            "[1]",
            "true",
            "\"x\"",
            "\"NaN\"",
            "\"1e999\"",
            "\"\\ud800\"",
        ] {
            for documented in [Text, Number, OptionalText, OptionalNumber] {
                assert_eq!(
                    read(documented, Some(unreadable)),
                    (None, true),
                    "{unreadable}"
                );
            }
        }
        assert_eq!(read(Text, None), (None, true));
        assert_eq!(read(Number, None), (None, true));
        assert_eq!(read(OptionalText, None), (None, false));
        assert_eq!(read(OptionalNumber, None), (None, false));
        // An empty text means unknown.
        assert_eq!(read(Text, Some("\"\"")), (None, false));
    }

    #[test]
    fn offers_times_sides_and_flags_are_read() {
        let mut fields = SideFields::default();
        let zero = raw("\"0.00\"");
        assert_eq!(fields.offer("b", Text, Some(&zero)), None);
        let offer = fields.offer("b", Text, Some(&raw("\"1.50\"")));
        assert_eq!(offer, Some(Decimal::new(15, 1)));
        let at = fields.epoch("T", Number, Some(&raw("1723161257102")));
        assert_eq!(at, Some(1_723_161_257_102_000));
        let at = fields.rfc3339("time", Text, Some(&raw("\"1970-01-01T00:00:01Z\"")));
        assert_eq!(at, Some(1_000_000));
        assert_eq!(fields.flag("m", Some(&raw("true"))), Some(true));
        assert_eq!(fields.side("S", Some(&raw("\"Sell\""))), TradeSide::Sell);
        assert_eq!(
            fields.integer::<u8>("type", Number, Some(&raw("1"))),
            Some(1)
        );
        assert!(fields.unexpected.is_empty(), "{fields:?}");
        assert_eq!(fields.offer("b", Text, Some(&raw("\"-1\""))), None);
        assert_eq!(fields.offer("b", Text, Some(&raw("\"x\""))), None);
        assert_eq!(fields.epoch("T", Number, Some(&raw("-5"))), None);
        assert_eq!(fields.rfc3339("time", Text, Some(&raw("\"noon\""))), None);
        assert_eq!(fields.flag("m", Some(&raw("\"true\""))), None);
        assert_eq!(fields.flag("M", None), None);
        let unknown = fields.side("S", Some(&raw("\"ask\"")));
        assert_eq!(unknown, TradeSide::Unspecified);
        assert_eq!(
            fields.integer::<u8>("type", Number, Some(&raw("300"))),
            None
        );
        // Each name once.
        assert_eq!(
            fields.into_unexpected(),
            ["b", "T", "time", "m", "M", "S", "type"]
        );
    }
}
