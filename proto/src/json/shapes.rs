//! Message shapes. Generated code selects the shape of each message.

/// A message is an object of its fields.
macro_rules! object_value {
    ($message:ty) => {
        impl JsonValue for $message {
            fn write_value(&self, out: &mut Vec<u8>) {
                FieldWriter::object(out, |o| self.write_fields(o));
            }

            fn read_value(raw: &RawValue, depth: u32) -> Result<Self, JsonError> {
                Self::read_fields(&Object::read(raw, depth)?)
            }
        }
    };
}

/// A message is an object, or a bare string that stands for one field.
macro_rules! shorthand_value {
    ($message:ty, $field:ident) => {
        impl JsonValue for $message {
            fn write_value(&self, out: &mut Vec<u8>) {
                let bare = Self {
                    $field: self.$field.clone(),
                    ..Self::default()
                };
                if *self == bare {
                    return self.$field.write_value(out);
                }
                FieldWriter::object(out, |o| self.write_fields(o));
            }

            fn read_value(raw: &RawValue, depth: u32) -> Result<Self, JsonError> {
                if raw.get().starts_with('"') {
                    let $field = JsonValue::read_value(raw, depth)?;
                    return Ok(Self {
                        $field,
                        ..Self::default()
                    });
                }
                if !raw.get().starts_with('{') {
                    return Err(JsonError::expected("a string or an object", raw));
                }
                Self::read_fields(&Object::read(raw, depth)?)
            }
        }
    };
}

/// A message is a number with exactly the digits of one field.
macro_rules! number_value {
    ($message:ty, $field:ident) => {
        impl JsonValue for $message {
            fn write_value(&self, out: &mut Vec<u8>) {
                // A gRPC client may send any text. Output must stay valid JSON.
                match <$message>::parse(&self.$field) {
                    Ok(number) => out.extend_from_slice(number.$field.as_bytes()),
                    Err(_) => out.extend_from_slice(b"null"),
                }
            }

            fn read_value(raw: &RawValue, _depth: u32) -> Result<Self, JsonError> {
                let text = raw.get();
                let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
                <$message>::parse(quoted.unwrap_or(text))
                    .map_err(|_| JsonError::expected("a number of at most 256 digits", raw))
            }
        }
    };
}

/// Serde support of the same JSON form, for serde_json only: numbers and documents keep their
/// text.
macro_rules! serde_value {
    ($message:ty) => {
        impl serde::Serialize for $message {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                shapes::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $message {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                shapes::deserialize(deserializer)
            }
        }
    };
}

use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de, ser};
use serde_json::value::RawValue;

use super::JsonValue;

pub(super) use {number_value, object_value, serde_value, shorthand_value};

pub(super) fn serialize<T: JsonValue, S: Serializer>(
    message: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = String::from_utf8(super::to_vec(message)).map_err(ser::Error::custom)?;
    // Fails only if an embedded document is not JSON.
    let raw = RawValue::from_string(text).map_err(ser::Error::custom)?;
    raw.serialize(serializer)
}

pub(super) fn deserialize<'de, T: JsonValue, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    T::read_value(&raw, 0).map_err(de::Error::custom)
}
