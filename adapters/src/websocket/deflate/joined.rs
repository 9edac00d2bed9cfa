//! Compressed messages that are joined from parts which many clients share.
//!
//! DEFLATE data are a row of blocks (RFC 1951, section 3.2.3), and a block need not refer
//! to what came before it. So a list whose items are each compressed once, up to a byte's
//! edge, is the items' blocks one after the other, with stored blocks for the few bytes
//! around and between them: a client's own choice of items costs a copy, and no compression.
//!
//! A sync flush ends with the head of an empty stored block and its length, `00 00 ff ff`.
//! A [`Part`] is without that length: whatever is stored next takes the head.

use bytes::{BufMut, Bytes};

use super::{Level, compress};

/// The head of a stored block at a byte's edge.
const STORED: u8 = 0x00;

/// The length of a stored block, and its complement.
const LENGTH_BYTES: usize = 4;

/// The longest that fits into one stored block.
const MAX_STORED: usize = u16::MAX as usize;

/// An item's blocks, to the head of the stored block that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part(pub Bytes);

impl Part {
    /// Compresses an item. One that does not get shorter is stored as it is.
    #[must_use]
    pub fn new(item: &[u8], level: Level) -> Self {
        if let Some(blocks) = compress(item, level) {
            return Self(blocks.into());
        }
        let blocks = item.chunks(MAX_STORED);
        let mut out = Vec::with_capacity(item.len() + (1 + LENGTH_BYTES) * blocks.len() + 1);
        for block in blocks {
            out.put_u8(STORED);
            put_stored(&mut out, block);
        }
        out.put_u8(STORED);
        Self(out.into())
    }
}

/// How long the payload of a list is, of so many parts of `parts` bytes in all, between
/// two short texts.
#[must_use]
pub fn joined_len(before: &[u8], count: usize, parts: usize, after: &[u8]) -> usize {
    let around = 1 + LENGTH_BYTES + before.len() + LENGTH_BYTES + after.len() + 1;
    around + parts + count.saturating_sub(1) * (LENGTH_BYTES + 1)
}

/// Appends the payload of a list: its parts, with commas between them, between two texts
/// of at most 65,535 bytes each.
pub fn put_joined<'a>(
    out: &mut impl BufMut,
    before: &[u8],
    parts: impl IntoIterator<Item = &'a [u8]>,
    after: &[u8],
) {
    out.put_u8(STORED);
    put_stored(out, before);
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            put_stored(out, b",");
        }
        out.put_slice(part);
    }
    put_stored(out, after);
    // The flush that the receiver puts back its end to (RFC 7692, section 7.2.2).
    out.put_u8(STORED);
}

/// Appends a stored block whose head is there already.
fn put_stored(out: &mut impl BufMut, bytes: &[u8]) {
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
            let level = Level::new(level).unwrap();
            let parts: Vec<_> = items.iter().map(|item| Part::new(item.as_bytes(), level)).collect();
            let (before, after) = (before.as_bytes(), after.as_bytes());
            let mut out = Vec::new();
            put_joined(&mut out, before, parts.iter().map(|part| &part.0[..]), after);
            let length = parts.iter().map(|part| part.0.len()).sum();
            prop_assert_eq!(out.len(), joined_len(before, parts.len(), length, after));
            let whole = [before, items.join(",").as_bytes(), after].concat();
            prop_assert_eq!(inflate(&out, 1 << 20).unwrap(), whole);
        }
    }

    #[test]
    fn an_item_longer_than_a_stored_block_is_stored_in_several() {
        // No two bytes repeat the way that compression finds.
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let item: Vec<u8> = noise.take(2 * MAX_STORED + 5).collect();
        let part = Part::new(&item, Level::new(1).unwrap());
        let mut out = Vec::new();
        put_joined(&mut out, b"[", [&part.0[..]], b"]");
        assert_eq!(
            inflate(&out, 1 << 20).unwrap(),
            [b"[", &item[..], b"]"].concat()
        );
    }
}
