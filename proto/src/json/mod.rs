//! The JSON form of the messages, as the wire contract shows it.
//!
//! What each message looks like is generated from the proto files and their
//! options; here are the rules for the parts: `value` has the scalars, `object` the
//! fields of an object, `shapes` the shapes of messages, `document` the JSON that
//! is embedded as it is, `client` what a client sends.

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
use value::{EnumName, JsonEnum, RawJson, write_name};

pub use client::{ClientError, parse_client};
pub use document::{MAX_DOCUMENT_DEPTH, check_document};
pub use error::JsonError;
pub use value::JsonValue;

/// Messages nested deeper than this are refused.
pub const MAX_DEPTH: u32 = 64;

/// A page that grew past this is given back.
const PAGE_BYTES: usize = 64 << 10;

/// The JSON form of a message.
#[must_use]
pub fn to_vec<T: JsonValue>(message: &T) -> Vec<u8> {
    thread_local! {
        /// Where messages are written, so that each takes one allocation of its own size.
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

/// Reads the JSON form of a message.
///
/// # Errors
/// Says where the text is something else, and what was expected there.
pub fn from_slice<T: JsonValue>(text: &[u8]) -> Result<T, JsonError> {
    let raw: &RawValue = serde_json::from_slice(text).map_err(|error| JsonError::syntax(&error))?;
    T::read_value(raw, 0)
}

include!(concat!(env!("OUT_DIR"), "/json.rs"));
