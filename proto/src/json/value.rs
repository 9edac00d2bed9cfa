//! Scalars, enums and embedded documents.

use std::marker::PhantomData;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{JsonError, document::check_depth};

/// A type with a JSON form.
pub trait JsonValue: Sized {
    /// Writes the JSON form.
    fn write_value(&self, out: &mut Vec<u8>);

    /// Parses the JSON form. `depth` counts the enclosing objects.
    ///
    /// # Errors
    /// `raw` does not match. The error names what was expected.
    fn read_value(raw: &RawValue, depth: u32) -> Result<Self, JsonError>;
}

/// Writes a value through serde_json, which does not fail for these types.
fn write(value: impl serde::Serialize, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, &value);
    debug_assert!(written.is_ok(), "a scalar can be written to a vector");
}

macro_rules! scalar {
    ($type:ty, $expected:literal) => {
        impl JsonValue for $type {
            fn write_value(&self, out: &mut Vec<u8>) {
                write(self, out);
            }

            fn read_value(raw: &RawValue, _depth: u32) -> Result<Self, JsonError> {
                serde_json::from_str(raw.get()).map_err(|_| JsonError::expected($expected, raw))
            }
        }
    };
}

scalar!(String, "a string");
scalar!(bool, "true or false");

/// A signed integer. Most of them are times, which people also write as dates.
impl JsonValue for i64 {
    fn write_value(&self, out: &mut Vec<u8>) {
        write(self, out);
    }

    fn read_value(raw: &RawValue, _depth: u32) -> Result<Self, JsonError> {
        serde_json::from_str(raw.get()).map_err(|_| {
            let expected = match is_like_a_date(raw.get()) {
                true => "milliseconds since the Unix epoch, a whole number",
                false => "a whole number",
            };
            JsonError::expected(expected, raw)
        })
    }
}

/// Whether a value begins like `"2026-12-01`.
fn is_like_a_date(text: &str) -> bool {
    let Some(date) = text.as_bytes().get(1..11) else {
        return false;
    };
    date.iter().enumerate().all(|(place, byte)| match place {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    })
}

/// An unsigned integer. The error names no upper bound, because most fields have a smaller one
/// than their type.
macro_rules! unsigned {
    ($type:ty) => {
        impl JsonValue for $type {
            fn write_value(&self, out: &mut Vec<u8>) {
                write(self, out);
            }

            fn read_value(raw: &RawValue, _depth: u32) -> Result<Self, JsonError> {
                serde_json::from_str(raw.get()).map_err(|_| {
                    let is_whole = raw.get().bytes().all(|byte| byte.is_ascii_digit());
                    let expected = match is_whole {
                        true => "a smaller number",
                        false => "a whole number, not negative",
                    };
                    JsonError::expected(expected, raw)
                })
            }
        }
    };
}

unsigned!(u32);
unsigned!(u64);

impl JsonValue for f64 {
    /// Writes NaN and infinities as null, because JSON has neither. Whole numbers have no
    /// `.0`.
    fn write_value(&self, out: &mut Vec<u8>) {
        write(self, out);
        if out.ends_with(b".0") {
            out.truncate(out.len() - 2);
        }
    }

    fn read_value(raw: &RawValue, _depth: u32) -> Result<Self, JsonError> {
        // serde_json's own parser may by default be one bit off.
        let number = raw
            .get()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| JsonError::expected("a finite number", raw))
    }
}

/// Writes a generated name, which needs no escape.
pub(super) fn write_name(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
}

/// An enum and its names.
pub(super) trait JsonEnum {
    /// Number and name of each value except the unspecified one.
    const NAMES: &'static [(i32, &'static str)];
}

/// An enum's number, written as its name. The unspecified value is null.
pub(super) struct EnumName<T>(pub(super) i32, PhantomData<T>);

impl<T> EnumName<T> {
    pub(super) fn new(number: i32) -> Self {
        Self(number, PhantomData)
    }
}

impl<T> Default for EnumName<T> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<T: JsonEnum> JsonValue for EnumName<T> {
    fn write_value(&self, out: &mut Vec<u8>) {
        match T::NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => write_name(name, out),
            None => out.extend_from_slice(b"null"),
        }
    }

    fn read_value(raw: &RawValue, _depth: u32) -> Result<Self, JsonError> {
        if raw.get() == "null" {
            return Ok(Self::new(0));
        }
        let found: Option<String> = serde_json::from_str(raw.get()).ok();
        let known = T::NAMES
            .iter()
            .find(|(_, name)| found.as_deref() == Some(*name));
        known.map(|(number, _)| Self::new(*number)).ok_or_else(|| {
            let names: Vec<_> = T::NAMES.iter().map(|(_, name)| *name).collect();
            JsonError::expected(&format!("one of {}", names.join(", ")), raw)
        })
    }
}

/// A name of an enum, or another name. The unspecified value is null.
pub(super) enum OpenName<T> {
    Number(EnumName<T>),
    Other(String),
}

impl<T> Default for OpenName<T> {
    fn default() -> Self {
        Self::Number(EnumName::default())
    }
}

impl<T> OpenName<T> {
    /// The enum's value, or the other name if the value is unspecified.
    pub(super) fn one(number: i32, other: &str) -> Self {
        match number == 0 && !other.is_empty() {
            true => Self::Other(other.to_owned()),
            false => Self::Number(EnumName::new(number)),
        }
    }

    /// The enum's values, then the other names.
    pub(super) fn list(numbers: &[i32], others: &[String]) -> Vec<Self> {
        let numbers = numbers.iter().map(|number| EnumName::new(*number));
        let others = others.iter().cloned().map(Self::Other);
        numbers.map(Self::Number).chain(others).collect()
    }

    /// The enum's value.
    pub(super) fn number(self) -> Option<i32> {
        match self {
            Self::Number(name) => Some(name.0),
            Self::Other(_) => None,
        }
    }

    /// The other name.
    pub(super) fn other(self) -> Option<String> {
        match self {
            Self::Number(_) => None,
            Self::Other(name) => Some(name),
        }
    }
}

impl<T: JsonEnum> JsonValue for OpenName<T> {
    fn write_value(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(name) => name.write_value(out),
            Self::Other(name) => name.write_value(out),
        }
    }

    fn read_value(raw: &RawValue, depth: u32) -> Result<Self, JsonError> {
        EnumName::read_value(raw, depth)
            .map(Self::Number)
            .or_else(|_| String::read_value(raw, depth).map(Self::Other))
    }
}

/// An embedded JSON document. Empty bytes are null.
#[derive(Default)]
pub(super) struct RawJson(pub(super) Bytes);

impl JsonValue for RawJson {
    fn write_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.0.is_empty() { b"null" } else { &self.0 });
    }

    fn read_value(raw: &RawValue, _depth: u32) -> Result<Self, JsonError> {
        check_depth(raw)?;
        Ok(Self(Bytes::copy_from_slice(raw.get().as_bytes())))
    }
}
