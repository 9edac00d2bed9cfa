//! The JSON form of the messages, as the wire contract shows it.
//!
//! What each message looks like is generated from the proto files and their
//! options; here are the rules for the parts: `value` has the scalars, `object` the
//! fields of an object, `client` what a client sends.

mod client;
mod object;
mod value;

use bytes::Bytes;
use serde_json::value::RawValue;

pub use client::{ClientError, parse_client};
use object::{FieldWriter, JsonFields, NameOrObject, Object};
pub use value::JsonValue;
use value::{EnumName, JsonEnum, RawJson};

use crate::v1;

/// Nested deeper than this, a message is refused.
const MAX_DEPTH: u32 = 64;

/// Why a text is not the JSON form of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// Where, from the outside in.
    path: String,
    message: String,
}

impl JsonError {
    fn new(message: impl Into<String>) -> Self {
        Self { path: String::new(), message: message.into() }
    }

    /// Something else than `raw` was expected.
    fn expected(what: &str, raw: &RawValue) -> Self {
        let found: String = raw.get().chars().take(40).collect();
        Self::new(format!("expected {what}, found {found}"))
    }

    fn unknown_tag(tag: &str, found: &str) -> Self {
        Self::new(format!("there is no `{tag}` {found:?}"))
    }

    /// The same error, seen from outside of `name`.
    fn within(mut self, name: &str) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{name}{joint}{}", self.path);
        self
    }
}

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "`{}`: {}", self.path, self.message)
    }
}

impl std::error::Error for JsonError {}

/// The JSON form of a message.
#[must_use]
pub fn to_vec<T: JsonValue>(message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    message.write_value(&mut out);
    out
}

/// Reads the JSON form of a message.
///
/// # Errors
/// Says where the text is something else, and what was expected there.
pub fn from_slice<T: JsonValue>(text: &[u8]) -> Result<T, JsonError> {
    let raw: &RawValue =
        serde_json::from_slice(text).map_err(|error| JsonError::new(format!("not JSON: {error}")))?;
    T::read_value(raw, 0)
}

/// The `type` of a server message.
#[must_use]
pub fn data_type(data: &v1::server_message::Data) -> &'static str {
    server_data_type(data)
}

macro_rules! object_value {
    ($message:ty) => {
        impl JsonValue for $message {
            fn write_value(&self, out: &mut Vec<u8>) {
                FieldWriter::object(out, |o| self.write_fields(o));
            }

            fn read_value(raw: &RawValue, depth: u32) -> Result<Self, JsonError> {
                Self::read_fields(&mut Object::read(raw, depth)?)
            }
        }
    };
}

macro_rules! shorthand_value {
    ($message:ty, $field:ident) => {
        impl JsonValue for $message {
            fn write_value(&self, out: &mut Vec<u8>) {
                let bare = Self { $field: self.$field.clone(), ..Self::default() };
                if *self == bare {
                    return self.$field.write_value(out);
                }
                FieldWriter::object(out, |o| self.write_fields(o));
            }

            fn read_value(raw: &RawValue, depth: u32) -> Result<Self, JsonError> {
                if raw.get().starts_with('"') {
                    return Ok(Self { $field: JsonValue::read_value(raw, depth)?, ..Self::default() });
                }
                if !raw.get().starts_with('{') {
                    return Err(JsonError::expected("a string or an object", raw));
                }
                Self::read_fields(&mut Object::read(raw, depth)?)
            }
        }
    };
}

macro_rules! number_value {
    ($message:ty, $field:ident) => {
        impl JsonValue for $message {
            fn write_value(&self, out: &mut Vec<u8>) {
                // What a gRPC client sent may be anything: JSON stays JSON.
                match <$message>::parse(&self.$field) {
                    Ok(number) => out.extend_from_slice(number.$field.as_bytes()),
                    Err(_) => out.extend_from_slice(b"null"),
                }
            }

            fn read_value(raw: &RawValue, _depth: u32) -> Result<Self, JsonError> {
                let text = raw.get().trim_matches('"');
                <$message>::parse(text).map_err(|_| JsonError::expected("a number", raw))
            }
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/json.rs"));
