//! Idempotency keys: a publication that is repeated with the same key gets the same position.
//!
//! A key is remembered for its whole window. When the keys of a window take the bytes that they
//! may take, a publication with a new key is refused; repetitions of known keys still get their
//! positions. So no publication is ever made twice because others were published meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tidewire_proto::v1::ErrorCode;

use crate::{ChannelName, Epoch, Event, Position, StreamError};

/// Memory of a remembered key beside its text and its channel's name, in bytes: an entry in the
/// table and one in the order, both with room to grow, and the text's header.
const KEY_BYTES: usize = 2 * (size_of::<(Key, KeyRecord)>() + size_of::<(i64, Key)>()) + 32;

/// Keys in one saved page: about 100 KB.
const PAGE_KEYS: usize = 1_000;

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

type Key = (ChannelName, Arc<str>);

/// Keys of the last minutes.
#[derive(Debug)]
pub(super) struct IdempotencyKeys {
    window_ms: i64,
    /// The bound of `bytes`.
    limit: usize,
    /// Memory of the remembered keys.
    bytes: usize,
    records: HashMap<Key, KeyRecord>,
    order: VecDeque<(i64, Key)>,
}

#[derive(Debug)]
struct KeyRecord {
    body: u64,
    position: Position,
}

impl IdempotencyKeys {
    /// No keys yet; each is remembered for `window`, and all together take up to `limit` bytes.
    pub(super) fn new(window: Duration, limit: usize) -> Self {
        Self {
            window_ms: i64::try_from(window.as_millis()).unwrap_or(i64::MAX),
            limit,
            bytes: 0,
            records: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Returns the position that this key got before. None if the key is new and can be
    /// remembered.
    ///
    /// # Errors
    /// The key is too long, or was used with another body, or there is no room for a new one.
    pub(super) fn find(
        &mut self,
        channel: &ChannelName,
        key: &str,
        event: &Event,
        now_ms: i64,
    ) -> Result<Option<Position>, StreamError> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(StreamError::new(
                ErrorCode::InvalidArgument,
                format!(
                    "the idempotency key is {} bytes long, expected 1 to {MAX_KEY_BYTES}",
                    key.len()
                ),
            ));
        }
        self.forget_before(now_ms.saturating_sub(self.window_ms));
        let Some(record) = self.records.get(&(channel.clone(), key.into())) else {
            return self.check_room(channel, key).map(|()| None);
        };
        if record.body != fingerprint(event) {
            return Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                format!("the idempotency key {key:?} was used on {channel} with other data"),
            ));
        }
        Ok(Some(record.position.clone()))
    }

    fn check_room(&self, channel: &ChannelName, key: &str) -> Result<(), StreamError> {
        if self.bytes + key_bytes(channel, key) <= self.limit {
            return Ok(());
        }
        Err(StreamError::new(
            ErrorCode::ResourceExhausted,
            format!(
                "the {} idempotency keys of the last {} s take the {} bytes that they may take: publish again later, or without a key",
                self.order.len(),
                self.window_ms / 1_000,
                self.limit
            ),
        ))
    }

    /// Remembers the position that a key got.
    pub(super) fn remember(
        &mut self,
        channel: &ChannelName,
        key: &str,
        body: u64,
        position: Position,
        now_ms: i64,
    ) {
        let key: Key = (channel.clone(), key.into());
        self.bytes += key_bytes(&key.0, &key.1);
        self.order.push_back((now_ms, key.clone()));
        self.records.insert(key, KeyRecord { body, position });
    }

    /// All keys, encoded in pages, the oldest keys first.
    pub(super) fn pages(&self) -> Vec<Vec<u8>> {
        let order: Vec<_> = self.order.iter().collect();
        let pages = order.chunks(PAGE_KEYS).map(|keys| {
            let keys = keys.iter().filter_map(|(time_ms, key)| {
                let record = self.records.get(key)?;
                Some(SavedKey {
                    channel: key.0.as_str().to_owned(),
                    key: key.1.to_string(),
                    body: record.body,
                    epoch: record.position.epoch.as_str().to_owned(),
                    seq: record.position.seq,
                    time_ms: *time_ms,
                })
            });
            SavedKeys {
                keys: keys.collect(),
            }
            .encode_to_vec()
        });
        pages.collect()
    }

    /// Loads a page, after the pages before it.
    ///
    /// # Errors
    /// The page cannot be read.
    pub(super) fn load(&mut self, page: &[u8]) -> Result<(), StreamError> {
        let damaged = |error: &dyn std::fmt::Display| {
            StreamError::new(
                ErrorCode::Internal,
                format!("saved idempotency keys cannot be read: {error}"),
            )
        };
        let saved = SavedKeys::decode(page).map_err(|error| damaged(&error))?;
        for saved in saved.keys {
            let channel = ChannelName::parse(&saved.channel).map_err(|error| damaged(&error))?;
            let position = Position {
                epoch: Epoch::new(&saved.epoch),
                seq: saved.seq,
            };
            self.remember(&channel, &saved.key, saved.body, position, saved.time_ms);
        }
        Ok(())
    }

    fn forget_before(&mut self, limit_ms: i64) {
        while self
            .order
            .front()
            .is_some_and(|(time_ms, _)| *time_ms < limit_ms)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.bytes -= key_bytes(&key.0, &key.1);
            self.records.remove(&key);
        }
    }
}

/// Memory of a remembered key, in bytes. Its channel may be forgotten before the key is.
fn key_bytes(channel: &ChannelName, key: &str) -> usize {
    KEY_BYTES + channel.as_str().len() + key.len()
}

/// A page of keys, as it is saved.
#[derive(Clone, PartialEq, prost::Message)]
struct SavedKeys {
    #[prost(message, repeated, tag = "1")]
    keys: Vec<SavedKey>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SavedKey {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(fixed64, tag = "3")]
    body: u64,
    #[prost(string, tag = "4")]
    epoch: String,
    #[prost(uint64, tag = "5")]
    seq: u64,
    #[prost(int64, tag = "6")]
    time_ms: i64,
}

/// Fingerprint of a body, against mistakes and not against attacks. FNV-1a (RFC 9923), since
/// another build of the server compares a saved fingerprint.
pub(super) fn fingerprint(event: &Event) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x100_0000_01b3;
    let (field, data) = tidewire_proto::json::proto_fragment(event);
    let field = field.to_be_bytes();
    let bytes = field.iter().chain(&data);
    bytes.fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}
