//! JSON form of the messages, as the wire contract shows it.
//!
//! The code for each message is generated from the proto files and their options. The modules
//! here hold its parts: `value` scalars, `object` object fields, `shapes` message shapes,
//! `document` embedded JSON, and `client` client messages.

mod client;
mod document;
mod error;
mod object;
mod shapes;
mod value;

use std::cell::Cell;

use prost::Message as _;
use serde_json::value::RawValue;

use crate::v1;
use object::{FieldWriter, JsonFields, NameOrObject, Object};
use shapes::{number_value, object_value, serde_value, shorthand_value};
use value::{EnumName, JsonEnum, OpenName, RawJson, write_name};

pub use client::{CLIENT_TYPES, ClientError, parse_client};
pub use document::{MAX_DOCUMENT_DEPTH, check_document};
pub use error::JsonError;
pub use value::JsonValue;

/// Maximum nesting of messages.
pub const MAX_DEPTH: u32 = 64;

/// Capacity from which the shared page is freed after use, in bytes.
const PAGE_BYTES: usize = 64 << 10;

/// Returns the JSON form of a message.
#[must_use]
pub fn to_vec<T: JsonValue>(message: &T) -> Vec<u8> {
    thread_local! {
        /// Shared output page, so that each message costs one allocation of its exact size.
        static PAGE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut page = PAGE.take();
    page.clear();
    message.write_value(&mut page);
    let out = page.as_slice().to_vec();
    if page.capacity() <= PAGE_BYTES {
        PAGE.set(page);
    }
    out
}

/// Parses the JSON form of a message.
///
/// # Errors
/// The text does not match. The error names the path and what was expected.
pub fn from_slice<T: JsonValue>(text: &[u8]) -> Result<T, JsonError> {
    let raw: &RawValue = serde_json::from_slice(text).map_err(|error| JsonError::syntax(&error))?;
    T::read_value(raw, 0)
}

include!(concat!(env!("OUT_DIR"), "/json.rs"));
