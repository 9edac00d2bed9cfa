//! Idempotency keys: a request that is repeated under its key notifies once.
//!
//! A key belongs to its sender. It is stored in the same transaction as the notification, so that
//! a crash keeps both or neither. Repeating the request returns the first one's id; the same key
//! with another request is an error. A repetition that runs at the same time waits for the first.
//!
//! Keys are stored by period ([`KeyPeriods`](tidewire_store::KeyPeriods)). A period is removed when
//! the one after it is over, so a key is known for 24 to 48 hours, and longer if the clock was set
//! back. The key of a scheduled notification is known while it waits, and from its delivery or
//! cancellation on like any other.

use sha2::{Digest as _, Sha256};
use tidewire_stream::UserId;

use crate::{NotificationError, config::DAY_MS, id::Order};

/// Length of a period.
const PERIOD_MS: i64 = DAY_MS;

/// The period of keys whose notification waits for its delivery.
pub(crate) const SCHEDULED: u32 = u32::MAX;

/// Version of the stored record.
const VERSION: u8 = 1;

/// Hash of a sender and a key.
pub(crate) type KeyHash = [u8; 16];

/// Stored result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyRecord {
    pub(crate) order: Order,
    /// Hash of the request.
    pub(crate) request: u64,
    pub(crate) recipients: u64,
}

/// The hash of a sender and a key.
pub(crate) fn key_hash(sender: &UserId, key: &str) -> KeyHash {
    let mut hash = Sha256::new();
    hash.update((sender.as_str().len() as u64).to_le_bytes());
    hash.update(sender.as_str());
    hash.update(key);
    let hash = hash.finalize();
    std::array::from_fn(|place| hash[place])
}

/// A hash of 64 bits that stays the same across versions.
pub(crate) fn short_hash(bytes: &[u8]) -> u64 {
    let hash = Sha256::digest(bytes);
    u64::from_le_bytes(std::array::from_fn(|place| hash[place]))
}

/// The period of a time, in milliseconds since the Unix epoch.
pub(crate) fn period(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / PERIOD_MS).unwrap_or(SCHEDULED - 1)
}

/// The first period that is kept at a time.
pub(crate) fn first_kept(retention_ms: i64) -> u32 {
    period(retention_ms).saturating_sub(1)
}

/// The key of a row.
pub(crate) fn row(period: u32, hash: &KeyHash) -> Vec<u8> {
    [period.to_be_bytes().as_slice(), hash].concat()
}

/// The period of a row.
pub(crate) fn row_period(row: &[u8]) -> Option<u32> {
    row.first_chunk().map(|period| u32::from_be_bytes(*period))
}

pub(crate) fn encode(record: &KeyRecord) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend(record.order.0.to_le_bytes());
    out.extend(record.request.to_le_bytes());
    // Most requests have few recipients.
    let recipients = record.recipients.to_le_bytes();
    let len = recipients
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    out.extend(&recipients[..len]);
    out
}

pub(crate) fn decode(record: &[u8]) -> Result<KeyRecord, NotificationError> {
    let read = || {
        let (version, rest) = record.split_first()?;
        let (order, rest) = rest.split_first_chunk()?;
        let (request, rest) = rest.split_first_chunk()?;
        let mut recipients = [0; 8];
        recipients.get_mut(..rest.len())?.copy_from_slice(rest);
        (*version == VERSION).then(|| KeyRecord {
            order: Order(u64::from_le_bytes(*order)),
            request: u64::from_le_bytes(*request),
            recipients: u64::from_le_bytes(recipients),
        })
    };
    read().ok_or(NotificationError::Damaged("idempotency key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_decode_to_what_was_encoded() {
        for recipients in [0, 1, 255, 256, 10_000, u64::MAX] {
            let record = KeyRecord {
                order: Order(7),
                request: u64::MAX,
                recipients,
            };
            assert_eq!(decode(&encode(&record)), Ok(record));
        }
        assert!(decode(&[]).is_err() && decode(&[9; 20]).is_err());
    }

    #[test]
    fn keys_of_two_senders_differ() {
        let hash = |sender, key| key_hash(&UserId::new(sender), key);
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
        assert_eq!(hash("a", "bc"), hash("a", "bc"));
    }

    #[test]
    fn a_key_is_known_for_a_day_at_least() {
        for offset in [0, 1, PERIOD_MS - 1] {
            let written_ms = 20_000 * PERIOD_MS + offset;
            assert!(first_kept(written_ms + DAY_MS) <= period(written_ms));
            assert!(first_kept(written_ms + 2 * DAY_MS) > period(written_ms));
        }
    }
}
