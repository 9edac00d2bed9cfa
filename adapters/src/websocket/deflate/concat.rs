//! Compressed concatenation: one message of parts that many clients share.
//!
//! DEFLATE data is a sequence of blocks (RFC 1951, section 3.2.3), and a block need not
//! refer to earlier ones. Each item of a list is compressed once, up to a byte boundary. A
//! list is then the blocks of its items, with stored blocks for the few bytes around and
//! between them. A client's own choice of items costs a copy and no compression.
//!
//! Example: `[A,B]` is a stored `[`, the blocks of A, a stored `,`, the blocks of B and a
//! stored `]`.
//!
//! A sync flush ends with the header of an empty stored block and its length, `00 00 ff ff`.
//! A [`DeflatedPart`] lacks that length, so that the next stored block completes the header.

use bytes::{BufMut, Bytes};

use super::{CompressionLevel, compress};

/// The header of a stored block at a byte boundary.
const STORED: u8 = 0x00;

/// Bytes of the length of a stored block and its complement.
const LENGTH_BYTES: usize = 4;

/// The longest stored block, in bytes.
const MAX_STORED: usize = u16::MAX as usize;

/// The blocks of an item, up to the header of the next stored block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeflatedPart(pub Bytes);

impl DeflatedPart {
    /// Compresses an item. An item that would not get shorter is stored as it is.
    #[must_use]
    pub fn new(item: &[u8], level: CompressionLevel) -> Self {
        if let Some(blocks) = compress(item, level) {
            return Self(blocks.into());
        }
        let blocks = item.chunks(MAX_STORED);
        let mut out = Vec::with_capacity(item.len() + (1 + LENGTH_BYTES) * blocks.len() + 1);
        for block in blocks {
            out.put_u8(STORED);
            write_stored(&mut out, block);
        }
        out.put_u8(STORED);
        Self(out.into())
    }
}

/// The length of the payload of a list, in bytes: `count` parts of `parts` bytes in total,
/// between two short texts.
#[must_use]
pub fn concat_len(before: &[u8], count: usize, parts: usize, after: &[u8]) -> usize {
    let around = 1 + LENGTH_BYTES + before.len() + LENGTH_BYTES + after.len() + 1;
    around + parts + count.saturating_sub(1) * (LENGTH_BYTES + 1)
}

/// Appends the payload of a list: its parts with commas between them, between two texts of
/// at most 65,535 bytes each.
pub fn write_concat<'a>(
    out: &mut impl BufMut,
    before: &[u8],
    parts: impl IntoIterator<Item = &'a [u8]>,
    after: &[u8],
) {
    out.put_u8(STORED);
    write_stored(out, before);
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            write_stored(out, b",");
        }
        out.put_slice(part);
    }
    write_stored(out, after);
    // The flush whose tail the receiver appends (RFC 7692, section 7.2.2).
    out.put_u8(STORED);
}

/// Appends a stored block whose header is written already.
fn write_stored(out: &mut impl BufMut, bytes: &[u8]) {
    debug_assert!(
        bytes.len() <= MAX_STORED,
        "a stored block holds 65,535 bytes"
    );
    let length = bytes.len() as u16;
    out.put_u16_le(length);
    out.put_u16_le(!length);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::inflate, *};

    proptest! {
        #[test]
        fn a_joined_list_inflates_to_the_list(
            before in "[ -~]{0,60}",
            items in prop::collection::vec("([ -~]{0,400}|(\"key\":[0-9]{3},){5,30})", 1..12),
            after in "[ -~]{0,60}",
            level in 1_u8..=9,
        ) {
            let level = CompressionLevel::new(level).unwrap();
            let parts: Vec<_> = items.iter().map(|item| DeflatedPart::new(item.as_bytes(), level)).collect();
            let (before, after) = (before.as_bytes(), after.as_bytes());
            let mut out = Vec::new();
            write_concat(&mut out, before, parts.iter().map(|part| &part.0[..]), after);
            let length = parts.iter().map(|part| part.0.len()).sum();
            prop_assert_eq!(out.len(), concat_len(before, parts.len(), length, after));
            let whole = [before, items.join(",").as_bytes(), after].concat();
            prop_assert_eq!(inflate(&out, 1 << 20).unwrap(), whole);
        }
    }

    #[test]
    fn an_item_longer_than_a_stored_block_is_stored_in_several() {
        // Noise that does not compress.
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let item: Vec<u8> = noise.take(2 * MAX_STORED + 5).collect();
        let part = DeflatedPart::new(&item, CompressionLevel::new(1).unwrap());
        let mut out = Vec::new();
        write_concat(&mut out, b"[", [&part.0[..]], b"]");
        assert_eq!(
            inflate(&out, 1 << 20).unwrap(),
            [b"[", &item[..], b"]"].concat()
        );
    }
}
