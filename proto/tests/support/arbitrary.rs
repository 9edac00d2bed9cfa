//! Arbitrary messages of any type, built from the descriptors and a supply of bytes. Fewer
//! bytes make smaller messages, so that failures shrink.
//!
//! Only values that JSON can represent are built: an `optional` enum is never unspecified, an
//! embedded document is never empty or `null`, a number is never NaN, and a decimal is always
//! canonical.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use tidewire_proto::v1::Decimal;

/// Below this depth only required fields are built.
const DEPTH: u32 = 12;

const TEXTS: &[&str] = &[
    "",
    " ",
    "null",
    "type",
    "0xdeadbeef",
    "\"\\/\u{8}\u{c}\n\r\t",
    "\u{0}\u{1f}\u{7f}",
    "é→🌊\u{2028}",
    "</script>",
];
const DOCUMENTS: &[&str] = &[
    "{}",
    "[]",
    "\"\"",
    "0",
    "-0.0",
    "1e400",
    "true",
    "123456789012345678901234567890.123456789012345678901234567890",
    r#"{"a" : [1, 2.50, {"ü":"🌊 \ud83c\udf0a \"]}"}], "a":null}"#,
    "[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]",
];
const DECIMALS: &[&str] = &[
    "0",
    "1",
    "-1.5",
    "61837.63",
    "0.000000000000000001",
    "-12345678901234567890.12345678901234567891",
    "100000000000000000000000000000000000000000",
];
const U64: &[u64] = &[
    0,
    1,
    1 << 53,
    (1 << 53) + 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
const I64: &[i64] = &[
    0,
    1,
    -1,
    i64::MIN,
    i64::MAX,
    -(1 << 53) - 1,
    1_732_300_000_000,
];
const U32: &[u32] = &[0, 1, 1 << 31, u32::MAX];
const F64: &[f64] = &[
    0.0,
    -0.0,
    1.0,
    -1.25,
    0.1,
    1e-300,
    1e300,
    9_007_199_254_740_993.0,
    f64::MIN_POSITIVE,
    f64::MAX,
];

/// Source of choices. Once its bytes are used up, every choice is the first one.
pub struct Supply<'a>(pub &'a [u8]);

impl Supply<'_> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first)
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.byte() % values.len()]
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | self.byte() as u64)
    }

    fn text(&mut self) -> String {
        match self.byte() % 4 {
            0..3 => self.one_of(TEXTS).to_owned(),
            _ => (0..self.byte() % 8)
                .filter_map(|_| char::from_u32((self.word() % 0x11_0000) as u32))
                .collect(),
        }
    }

    pub fn message(&mut self, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        if descriptor.name() == "Decimal" {
            message.set_field_by_name("value", Value::String(self.decimal()));
            return message;
        }
        for field in descriptor
            .fields()
            .filter(|field| field.containing_oneof().is_none())
        {
            self.field(&mut message, &field, depth);
        }
        // JSON shows one name: that of the enum, or another one.
        if message
            .get_field_by_name("type")
            .and_then(|value| value.as_enum_number())
            .is_some_and(|number| number != 0)
        {
            message.clear_field_by_name("custom_type");
        }
        for oneof in descriptor.oneofs() {
            let cases: Vec<_> = oneof.fields().collect();
            // A repeat without a case has no JSON form except null.
            let must_be = descriptor.name() == "AlertRepeat";
            if must_be || (depth < DEPTH && !self.byte().is_multiple_of(8)) {
                let case = &cases[self.byte() % cases.len()];
                let value = self.value(case, depth);
                message.set_field(case, value);
            }
        }
        message
    }

    fn field(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor, depth: u32) {
        let is_message = matches!(field.kind(), Kind::Message(_));
        if is_message && (depth >= DEPTH || self.byte().is_multiple_of(3)) {
            return;
        }
        let value = match field.is_list() {
            true => Value::List(
                (0..self.byte() % 4)
                    .map(|_| self.value(field, depth))
                    .collect(),
            ),
            false => self.value(field, depth),
        };
        message.set_field(field, value);
    }

    fn value(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        match field.kind() {
            Kind::Message(descriptor) => Value::Message(self.message(&descriptor, depth + 1)),
            Kind::Enum(descriptor) => {
                let is_plain = !field.is_list() && !field.supports_presence();
                let values: Vec<_> = descriptor.values().map(|value| value.number()).collect();
                let first = if is_plain { 0 } else { 1 };
                Value::EnumNumber(self.one_of(&values[first..]))
            }
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(self.one_of(DOCUMENTS).as_bytes().into()),
            Kind::Bool => Value::Bool(self.byte() % 2 == 1),
            Kind::Double => Value::F64(match self.byte() % 2 {
                0 => self.one_of(F64),
                _ => Some(f64::from_bits(self.word()))
                    .filter(|number| number.is_finite())
                    .unwrap_or(0.5),
            }),
            Kind::Uint32 => Value::U32(self.one_of(U32)),
            Kind::Uint64 => Value::U64(self.one_of(U64)),
            Kind::Int64 => Value::I64(self.one_of(I64)),
            other => panic!("no arbitrary values of {other:?}"),
        }
    }

    fn decimal(&mut self) -> String {
        if self.byte().is_multiple_of(2) {
            return self.one_of(DECIMALS).to_owned();
        }
        let text = format!(
            "{}{}.{:020}",
            self.one_of(&["", "-"]),
            self.word(),
            self.word()
        );
        Decimal::parse(&text).unwrap().value
    }
}
