//! Encoded values as JSON.
//!
//! Integers become decimal strings, addresses and bytes lower-case hex, tuples objects if
//! all their parts have names, else lists. A value that its type cannot have (a `bool`
//! of 2, an address with more than an address in its word) is refused.

use std::fmt::Write as _;

use alloy::{
    hex,
    primitives::{I256, U256},
};

use super::shape::{Field, Shape};
use crate::decode::{address_word, word_at};

/// How many times each word may be visited, on average: offsets may share words, but not
/// without bound.
const VISITS: usize = 4;

/// Decodes `fields`, laid out as the arguments of a call, and hands each as JSON to `each`.
pub(super) fn decode_fields<'a>(
    fields: impl Iterator<Item = &'a Field>,
    data: &[u8],
    mut each: impl FnMut(&'a Field, &str),
) -> Option<()> {
    let mut decoder = Decoder::new(data);
    let mut place = 0;
    for field in fields {
        decoder.out.clear();
        decoder.value(&field.shape, data, place)?;
        each(field, &decoder.out);
        place += field.shape.head_words();
    }
    Some(())
}

/// A value that a topic holds itself.
pub(super) fn decode_topic(shape: &Shape, topic: &[u8; 32]) -> Option<String> {
    let mut decoder = Decoder::new(topic);
    decoder.value(shape, topic, 0)?;
    Some(decoder.out)
}

/// A text as JSON writes it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

struct Decoder {
    out: String,
    /// How many more words may be visited.
    budget: usize,
}

impl Decoder {
    fn new(data: &[u8]) -> Self {
        Self {
            out: String::new(),
            budget: data.len().div_ceil(32) * VISITS,
        }
    }

    /// Writes the value whose head is word `place` of `frame`; offsets count from the
    /// frame's start.
    fn value(&mut self, shape: &Shape, frame: &[u8], place: usize) -> Option<()> {
        if !shape.is_dynamic() {
            return self.fixed(shape, frame, place);
        }
        self.spend(1)?;
        let offset = length(frame, place)?;
        let tail = frame.get(offset..)?;
        match shape {
            Shape::Bytes => {
                let bytes = self.bytes(tail)?;
                self.hex(bytes);
            }
            Shape::String => {
                let bytes = self.bytes(tail)?;
                self.out.push_str(&quoted(&String::from_utf8_lossy(bytes)));
            }
            Shape::List(item) => {
                let count = length(tail, 0)?;
                let frame = tail.get(32..)?;
                let words = count.checked_mul(item.head_words())?;
                if words > frame.len() / 32 {
                    return None;
                }
                self.list(item, count, frame, 0)?;
            }
            Shape::FixedList(item, count) => self.list(item, *count, tail, 0)?,
            Shape::Tuple(fields) => self.tuple(fields, tail, 0)?,
            _ => return None,
        }
        Some(())
    }

    /// Writes a value that lies in its place.
    fn fixed(&mut self, shape: &Shape, frame: &[u8], place: usize) -> Option<()> {
        match shape {
            Shape::FixedList(item, count) => return self.list(item, *count, frame, place),
            Shape::Tuple(fields) => return self.tuple(fields, frame, place),
            _ => {}
        }
        self.spend(1)?;
        let word = word_at(frame, place)?;
        match shape {
            Shape::Bool if word > U256::ONE => return None,
            Shape::Bool => self
                .out
                .push_str(if word.is_zero() { "false" } else { "true" }),
            Shape::Uint(bits) if word.bit_len() > *bits => return None,
            Shape::Uint(_) => write!(self.out, "\"{word}\"").ok()?,
            Shape::Int(bits) => {
                let number = I256::from_raw(word);
                // Sign and value bits must agree with the narrower type.
                let unused = number.asr(bits.checked_sub(1)?);
                if !(unused.is_zero() || unused == I256::MINUS_ONE) {
                    return None;
                }
                write!(self.out, "\"{number}\"").ok()?;
            }
            Shape::Address => {
                let address = address_word(&word.into())?;
                self.hex(address.as_slice());
            }
            Shape::FixedBytes(length) => {
                let bytes = word.to_be_bytes::<32>();
                let (bytes, padding) = bytes.split_at_checked(*length)?;
                if padding.iter().any(|byte| *byte != 0) {
                    return None;
                }
                self.hex(bytes);
            }
            _ => return None,
        }
        Some(())
    }

    fn list(&mut self, item: &Shape, count: usize, frame: &[u8], place: usize) -> Option<()> {
        self.out.push('[');
        for index in 0..count {
            if index > 0 {
                self.out.push(',');
            }
            self.value(item, frame, place + index * item.head_words())?;
        }
        self.out.push(']');
        Some(())
    }

    fn tuple(&mut self, fields: &[Field], frame: &[u8], mut place: usize) -> Option<()> {
        let named = fields.iter().all(|field| !field.name.is_empty());
        self.out.push(if named { '{' } else { '[' });
        for (index, field) in fields.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            if named {
                self.out.push_str(&quoted(&field.name));
                self.out.push(':');
            }
            self.value(&field.shape, frame, place)?;
            place += field.shape.head_words();
        }
        self.out.push(if named { '}' } else { ']' });
        Some(())
    }

    /// The bytes after their length.
    fn bytes<'a>(&mut self, tail: &'a [u8]) -> Option<&'a [u8]> {
        let bytes = tail.get(32..)?.get(..length(tail, 0)?)?;
        self.spend(bytes.len().div_ceil(32))?;
        Some(bytes)
    }

    fn hex(&mut self, bytes: &[u8]) {
        self.out.push_str("\"0x");
        self.out.push_str(&hex::encode(bytes));
        self.out.push('"');
    }

    fn spend(&mut self, words: usize) -> Option<()> {
        self.budget = self.budget.checked_sub(words)?;
        Some(())
    }
}

/// A word that is a length or an offset.
fn length(frame: &[u8], place: usize) -> Option<usize> {
    usize::try_from(word_at(frame, place)?).ok()
}
