//! Ids of rules and fires: 64 bits, strictly increasing, also across restarts.
//!
//! An id is the time in milliseconds, then a 16-bit counter. It sorts by time, as a number, as a
//! key of the store and as a text.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

/// Bits of the counter within a millisecond. Beyond 65,536 ids, a millisecond borrows from the
/// next one.
const COUNTER_BITS: u32 = 16;

/// Characters of an id's text: 5 bits each.
const TEXT_LEN: usize = 13;

/// Digits of Crockford's base 32, in the order of their ASCII codes, so that texts sort like ids.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Id of a rule, or of a fire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Id(pub(crate) u64);

/// A map by ids. The server makes them, so that nobody can choose ones that collide.
pub(crate) type IdMap<V> = HashMap<Id, V, BuildHasherDefault<IdHasher>>;

/// A quick hasher of ids.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        // An odd number without a pattern: the golden ratio. Both ends of the product are used.
        let product = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Id {
    /// The first id of a millisecond since the Unix epoch. Times before the epoch count as the
    /// epoch.
    pub(crate) fn at(time_ms: i64) -> Self {
        let time = u64::try_from(time_ms).unwrap_or(0);
        Self(time.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS)
    }

    /// Reads an id's text. None if it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        // 13 digits have 65 bits, so the first digit is below 16.
        if text.len() != TEXT_LEN {
            return None;
        }
        let mut number = 0_u64;
        for (place, character) in text.iter().enumerate() {
            let digit = DIGITS.iter().position(|digit| digit == character)?;
            if place == 0 && digit >= 16 {
                return None;
            }
            number = number << 5 | digit as u64;
        }
        Some(Self(number))
    }

    pub(crate) fn key(self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    /// The id at the start of a key.
    pub(crate) fn of_key(key: &[u8]) -> Option<Self> {
        key.first_chunk()
            .map(|bytes| Self(u64::from_be_bytes(*bytes)))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: [u8; TEXT_LEN] = std::array::from_fn(|place| {
            let bits = u128::from(self.0) >> (5 * (TEXT_LEN - 1 - place)) & 31;
            DIGITS[bits as usize]
        });
        // The digits are ASCII.
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Source of new ids.
#[derive(Debug)]
pub(crate) struct IdSource {
    last: AtomicU64,
}

impl IdSource {
    /// A source whose first id is after `last`.
    pub(crate) fn after(last: Id) -> Self {
        Self {
            last: AtomicU64::new(last.0),
        }
    }

    /// A new id, after all before and not before `now_ms`.
    pub(crate) fn next(&self, now_ms: i64) -> Id {
        let next = |last: u64| Id::at(now_ms).0.max(last.saturating_add(1));
        let last = self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
        // The update never declines.
        let (Ok(last) | Err(last)) = last;
        Id(next(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_parse_to_their_ids_and_sort_like_them() {
        let ids = [0, 1, 31, 32, 1 << 40, u64::MAX - 1, u64::MAX].map(Id);
        for pair in ids.windows(2) {
            assert!(pair[0].to_string() < pair[1].to_string());
        }
        for id in ids {
            assert_eq!(Id::parse(&id.to_string()), Some(id));
        }
        for wrong in [
            "",
            "g",
            "zzzzzzzzzzzzz",
            "000000000000I",
            "0000000000000000",
        ] {
            assert_eq!(Id::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ids_increase_when_the_clock_goes_back() {
        let ids = IdSource::after(Id::at(5));
        let (first, second, third) = (ids.next(9), ids.next(9), ids.next(1));
        assert_eq!(first, Id::at(9));
        assert!(first < second && second < third);
    }
}
