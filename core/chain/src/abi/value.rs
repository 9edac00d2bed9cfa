//! Value decoder: turns ABI-encoded values into JSON.
//!
//! | ABI | JSON |
//! |---|---|
//! | integers | decimal strings |
//! | addresses and bytes | lower-case hex |
//! | tuples with all names | objects |
//! | other tuples, lists | arrays |
//!
//! A value out of its type's range is refused, for example a `bool` of 2.

use std::fmt::Write as _;

use alloy::{
    hex,
    primitives::{I256, U256},
};

use super::{
    abi_type::{AbiType, Field},
    word::{address_word, word_at},
};

/// The visits that a word may get on average. Offsets may share words, but not without bound.
const MAX_VISITS: usize = 4;

/// Decodes `fields`, encoded as the arguments of a call, and passes each as JSON to `each`.
pub(super) fn decode_fields<'a>(
    fields: impl Iterator<Item = &'a Field>,
    data: &[u8],
    mut each: impl FnMut(&'a Field, &str),
) -> Option<()> {
    let mut decoder = Decoder::new(data);
    let mut index = 0;
    for field in fields {
        decoder.out.clear();
        decoder.value(&field.ty, data, index)?;
        each(field, &decoder.out);
        index += field.ty.head_words();
    }
    Some(())
}

/// The value in a topic.
pub(super) fn decode_topic(ty: &AbiType, topic: &[u8; 32]) -> Option<String> {
    let mut decoder = Decoder::new(topic);
    decoder.value(ty, topic, 0)?;
    Some(decoder.out)
}

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

struct Decoder {
    out: String,
    /// The words that may still be visited.
    budget: usize,
}

impl Decoder {
    fn new(data: &[u8]) -> Self {
        Self {
            out: String::new(),
            budget: data.len().div_ceil(32) * MAX_VISITS,
        }
    }

    /// Writes the value whose head is the word at `index` of `frame`. Offsets count from the
    /// start of the frame.
    fn value(&mut self, ty: &AbiType, frame: &[u8], index: usize) -> Option<()> {
        if !ty.is_dynamic() {
            return self.head_value(ty, frame, index);
        }
        self.spend(1)?;
        let offset = length(frame, index)?;
        let tail = frame.get(offset..)?;
        match ty {
            AbiType::Bytes => {
                let bytes = self.bytes(tail)?;
                self.hex(bytes);
            }
            AbiType::String => {
                let bytes = self.bytes(tail)?;
                self.out.push_str(&quoted(&String::from_utf8_lossy(bytes)));
            }
            AbiType::List(item) => {
                let count = length(tail, 0)?;
                let frame = tail.get(32..)?;
                let words = count.checked_mul(item.head_words())?;
                if words > frame.len() / 32 {
                    return None;
                }
                self.list(item, count, frame, 0)?;
            }
            AbiType::FixedList(item, count) => self.list(item, *count, tail, 0)?,
            AbiType::Tuple(fields) => self.tuple(fields, tail, 0)?,
            _ => return None,
        }
        Some(())
    }

    /// Writes a value that lies in the head.
    fn head_value(&mut self, ty: &AbiType, frame: &[u8], index: usize) -> Option<()> {
        match ty {
            AbiType::FixedList(item, count) => return self.list(item, *count, frame, index),
            AbiType::Tuple(fields) => return self.tuple(fields, frame, index),
            _ => {}
        }
        self.spend(1)?;
        let word = word_at(frame, index)?;
        match ty {
            AbiType::Bool if word > U256::ONE => return None,
            AbiType::Bool => self
                .out
                .push_str(if word.is_zero() { "false" } else { "true" }),
            AbiType::Uint(bits) if word.bit_len() > *bits => return None,
            AbiType::Uint(_) => write!(self.out, "\"{word}\"").ok()?,
            AbiType::Int(bits) => {
                let number = I256::from_raw(word);
                // The bits beyond the type must all equal the sign bit.
                let unused = number.asr(bits.checked_sub(1)?);
                if !(unused.is_zero() || unused == I256::MINUS_ONE) {
                    return None;
                }
                write!(self.out, "\"{number}\"").ok()?;
            }
            AbiType::Address => {
                let address = address_word(&word.into())?;
                self.hex(address.as_slice());
            }
            AbiType::FixedBytes(length) => {
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

    fn list(&mut self, item: &AbiType, count: usize, frame: &[u8], index: usize) -> Option<()> {
        self.out.push('[');
        for item_index in 0..count {
            if item_index > 0 {
                self.out.push(',');
            }
            self.value(item, frame, index + item_index * item.head_words())?;
        }
        self.out.push(']');
        Some(())
    }

    fn tuple(&mut self, fields: &[Field], frame: &[u8], mut index: usize) -> Option<()> {
        let named = fields.iter().all(|field| !field.name.is_empty());
        self.out.push(if named { '{' } else { '[' });
        for (field_index, field) in fields.iter().enumerate() {
            if field_index > 0 {
                self.out.push(',');
            }
            if named {
                self.out.push_str(&quoted(&field.name));
                self.out.push(':');
            }
            self.value(&field.ty, frame, index)?;
            index += field.ty.head_words();
        }
        self.out.push(if named { '}' } else { ']' });
        Some(())
    }

    /// The bytes that follow their length.
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

    /// Counts visited words. None once the budget is used up.
    fn spend(&mut self, words: usize) -> Option<()> {
        self.budget = self.budget.checked_sub(words)?;
        Some(())
    }
}

/// The word at `index` as a length or an offset.
fn length(frame: &[u8], index: usize) -> Option<usize> {
    usize::try_from(word_at(frame, index)?).ok()
}
