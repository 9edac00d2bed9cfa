//! Notification ids: 128 bits, strictly increasing, also across restarts.
//!
//! The upper half is the [`Order`]: the time in milliseconds, then a 16-bit counter. The lower
//! half is the realm: a random number that a store draws once, so that ids of two stores never
//! meet. The store keeps only the order, 8 bytes.
//!
//! The generator never falls behind the ids in the store, also when the clock goes back. Then
//! the times of new ids stay at the highest time so far until the clock has caught up.

use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

/// Bits of the counter within a millisecond. Beyond 65,536 ids, a millisecond borrows from the
/// next one.
const COUNTER_BITS: u32 = 16;

/// Characters of an id's text: 5 bits each.
const TEXT_LEN: usize = 26;

/// Digits of Crockford's base 32, in the order of their ASCII codes, so that texts sort like ids.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Place of a notification among all of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Order(pub(crate) u64);

impl Order {
    /// After all places.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// The first place of a millisecond since the Unix epoch. Times before the epoch count as
    /// the epoch.
    pub(crate) fn at(time_ms: i64) -> Self {
        let time = u64::try_from(time_ms).unwrap_or(0);
        Self(time.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS)
    }

    /// The time, in milliseconds since the Unix epoch.
    pub(crate) fn time_ms(self) -> i64 {
        // 48 bits always fit.
        i64::try_from(self.0 >> COUNTER_BITS).unwrap_or(i64::MAX)
    }
}

/// Id of a notification. Ids sort by time, as numbers and as texts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NotificationId {
    pub(crate) order: Order,
    pub(crate) realm: u64,
}

impl NotificationId {
    /// Reads an id's text. None if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        // 26 digits have 130 bits; the first digit has only 3.
        if text.len() != TEXT_LEN || !(b'0'..=b'7').contains(text.first()?) {
            return None;
        }
        let mut number = 0_u128;
        for character in text {
            let digit = DIGITS
                .iter()
                .position(|digit| *digit == character.to_ascii_lowercase())?;
            number = number << 5 | digit as u128;
        }
        Some(Self {
            order: Order((number >> 64) as u64),
            realm: number as u64,
        })
    }

    /// When the notification was made, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(self) -> i64 {
        self.order.time_ms()
    }
}

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u128::from(self.order.0) << 64 | u128::from(self.realm);
        let text: [u8; TEXT_LEN] = std::array::from_fn(|place| {
            let bits = number >> (5 * (TEXT_LEN - 1 - place)) & 31;
            DIGITS[bits as usize]
        });
        // The digits are ASCII.
        let text = std::str::from_utf8(&text).unwrap_or_default();
        f.write_str(text)
    }
}

impl fmt::Debug for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Source of new places.
#[derive(Debug)]
pub(crate) struct IdGenerator {
    last: AtomicU64,
}

impl IdGenerator {
    /// A generator whose first place is after `last`.
    pub(crate) fn after(last: Order) -> Self {
        Self {
            last: AtomicU64::new(last.0),
        }
    }

    /// A new place, after all before and not before `now_ms`.
    pub(crate) fn next(&self, now_ms: i64) -> Order {
        Order(self.take(now_ms, 1).start)
    }

    /// New places without a gap, after all before and not before `now_ms`.
    pub(crate) fn take(&self, now_ms: i64, count: usize) -> Range<u64> {
        let count = count as u64;
        let first = |last: u64| Order::at(now_ms).0.max(last.saturating_add(1));
        let newest = |last: u64| match count {
            0 => last,
            _ => first(last).saturating_add(count - 1),
        };
        let last = self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                Some(newest(last))
            });
        // The update never declines.
        let (Ok(last) | Err(last)) = last;
        first(last)..first(last).saturating_add(count)
    }

    /// The newest place.
    pub(crate) fn last(&self) -> Order {
        Order(self.last.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_sort_like_ids_and_parse_to_them() {
        let orders = [0, 1, 31, 32, 1 << 16, 1_732_300_000_000 << 16, u64::MAX];
        let realms = [0, 7, u64::MAX];
        let ids = orders.iter().flat_map(|order| {
            realms.map(|realm| NotificationId {
                order: Order(*order),
                realm,
            })
        });
        let texts: Vec<_> = ids.clone().map(|id| id.to_string()).collect();
        assert!(texts.is_sorted(), "{texts:?}");
        for (id, text) in ids.zip(&texts) {
            assert_eq!(NotificationId::parse(text), Some(id));
            assert_eq!(NotificationId::parse(&text.to_uppercase()), Some(id));
        }
        let long = "8".repeat(TEXT_LEN);
        for text in [
            "",
            "n-1",
            "7",
            "0000000000000000000000000u",
            "é0000000000000000000000000",
            &long,
        ] {
            assert_eq!(NotificationId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ids_increase_when_the_clock_stands_or_goes_back() {
        let ids = IdGenerator::after(Order::at(5_000));
        let mut before = ids.last();
        for now_ms in [4_000, 4_000, 5_000, 5_001, 5_001, 3, -7, 6_000] {
            let id = ids.next(now_ms);
            assert!(id > before && id.time_ms() >= now_ms, "{now_ms}");
            before = id;
        }
        assert_eq!(before.time_ms(), 6_000);
        // A full millisecond borrows from the next one.
        for _ in 0..=u16::MAX {
            before = ids.next(6_000);
        }
        assert_eq!(before.time_ms(), 6_001);
        // Reserved places are given to nobody else.
        let reserved = ids.take(6_000, 3);
        assert_eq!(reserved, before.0 + 1..before.0 + 4);
        assert!(ids.take(6_000, 0).is_empty());
        assert_eq!(ids.next(6_000).0, before.0 + 4);
    }
}
