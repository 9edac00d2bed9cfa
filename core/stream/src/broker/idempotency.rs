//! Idempotency keys: a publication that is repeated with the same key gets the same position.
//!
//! A key is remembered for its whole window. When the keys of a window take the bytes that they
//! may take, a publication with a new key is refused; repetitions of known keys still get their
//! positions. So no publication is ever made twice because others were published meanwhile.
//!
//! A key is its sender's: two senders that choose the same key publish twice. The keys of all
//! clients without the `service` scope take half of the bytes at most, and those of one client a
//! sixteenth. So no client takes the room of back ends, nor one client that of the others.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tidewire_proto::v1::ErrorCode;

use super::Sender;
use crate::{ChannelName, Epoch, Event, Position, StreamError, UserId, limit::ClientKey};

/// Memory of a remembered key beside its text and the names of its channel and its user, in
/// bytes: an entry in the table and one in the order, both with room to grow, the key that they
/// share, its headers and those of its texts.
const KEY_BYTES: usize =
    2 * (size_of::<(Arc<Key>, KeyRecord)>() + size_of::<(i64, Arc<Key>)>()) + size_of::<Key>() + 64;

/// Keys in one saved page: about 100 KB.
const PAGE_KEYS: usize = 1_000;

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// Parts of all bytes of which the keys of one client take one at most. One key it always may
/// have.
const CLIENT_PARTS: usize = 16;

/// Parts of all bytes of which the keys of all clients together take one at most.
const ALL_CLIENTS_PARTS: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    client: ClientKey,
    channel: ChannelName,
    text: Arc<str>,
}

impl Key {
    fn new(sender: &Sender, channel: &ChannelName, text: &str) -> Self {
        Self {
            client: sender.client.clone(),
            channel: channel.clone(),
            text: text.into(),
        }
    }

    /// Memory of the key when it is remembered, in bytes. Its channel may be forgotten before it
    /// is, and its user may have left.
    fn bytes(&self) -> usize {
        let user = match &self.client {
            ClientKey::User(user) => user.as_str().len(),
            ClientKey::Network(_) | ClientKey::Unknown => 0,
        };
        KEY_BYTES + user + self.channel.as_str().len() + self.text.len()
    }
}

/// Checks the length of a key.
pub(super) fn check_key(key: &str) -> Result<(), StreamError> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    Err(StreamError::new(
        ErrorCode::InvalidArgument,
        format!(
            "the idempotency key is {} bytes long, expected 1 to {MAX_KEY_BYTES}",
            key.len()
        ),
    ))
}

/// Keys of the last minutes.
#[derive(Debug)]
pub(super) struct IdempotencyKeys {
    window_ms: i64,
    /// The bound of `bytes`.
    limit: usize,
    /// Memory of the remembered keys.
    bytes: usize,
    /// The part of `bytes` of each client that is limited.
    shares: HashMap<ClientKey, usize>,
    /// The sum of the shares.
    shared: usize,
    records: HashMap<Arc<Key>, KeyRecord>,
    order: VecDeque<(i64, Arc<Key>)>,
}

#[derive(Debug)]
struct KeyRecord {
    /// Whether the key counts in a share.
    is_shared: bool,
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
            shares: HashMap::new(),
            shared: 0,
            records: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Returns the position that this key of a sender got before. None if the key is new and can
    /// be remembered.
    ///
    /// # Errors
    /// The key is too long, or was used with another body, or there is no room for a new one.
    pub(super) fn find(
        &mut self,
        sender: &Sender,
        channel: &ChannelName,
        key: &str,
        event: &Event,
        now_ms: i64,
    ) -> Result<Option<Position>, StreamError> {
        check_key(key)?;
        self.forget_before(now_ms.saturating_sub(self.window_ms));
        let own = Key::new(sender, channel, key);
        let Some(record) = self.records.get(&own) else {
            return self.check_room(sender, &own).map(|()| None);
        };
        if record.body != fingerprint(event) {
            return Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                format!("the idempotency key {key:?} was used on {channel} with other data"),
            ));
        }
        Ok(Some(record.position.clone()))
    }

    fn check_room(&self, sender: &Sender, key: &Key) -> Result<(), StreamError> {
        let bytes = key.bytes();
        let share = self.shares.get(&sender.client).copied();
        let most = self.limit / CLIENT_PARTS;
        let most_of_clients = self.limit / ALL_CLIENTS_PARTS;
        let (owner, most) = if sender.is_limited && share.is_some_and(|own| own + bytes > most) {
            ("this client", most)
        } else if sender.is_limited && self.shared + bytes > most_of_clients {
            ("all clients", most_of_clients)
        } else if self.bytes + bytes > self.limit {
            ("all senders", self.limit)
        } else {
            return Ok(());
        };
        Err(StreamError::new(
            ErrorCode::ResourceExhausted,
            format!(
                "the idempotency keys of {owner} in the last {} s take the {most} bytes that they may take: publish again later, or without a key",
                self.window_ms / 1_000,
            ),
        ))
    }

    /// Remembers the position that a key got.
    pub(super) fn remember(
        &mut self,
        sender: &Sender,
        channel: &ChannelName,
        key: &str,
        body: u64,
        position: Position,
        now_ms: i64,
    ) {
        let key = Arc::new(Key::new(sender, channel, key));
        let bytes = key.bytes();
        self.bytes += bytes;
        if sender.is_limited {
            self.shared += bytes;
            *self.shares.entry(sender.client.clone()).or_default() += bytes;
        }
        let record = KeyRecord {
            is_shared: sender.is_limited,
            body,
            position,
        };
        self.order.push_back((now_ms, key.clone()));
        self.records.insert(key, record);
    }

    /// All keys, encoded in pages, the oldest keys first.
    pub(super) fn pages(&self) -> Vec<Vec<u8>> {
        let order: Vec<_> = self.order.iter().collect();
        let pages = order.chunks(PAGE_KEYS).map(|keys| {
            let keys = keys.iter().filter_map(|(time_ms, key)| {
                let record = self.records.get(key)?;
                let (user, address) = match &key.client {
                    ClientKey::User(user) => (Some(user.as_str().to_owned()), None),
                    ClientKey::Network(network) => (None, Some(network.address().to_string())),
                    ClientKey::Unknown => (None, None),
                };
                Some(SavedKey {
                    user,
                    address,
                    is_limited: record.is_shared,
                    channel: key.channel.as_str().to_owned(),
                    key: key.text.to_string(),
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
            let address = saved.address.map(|address| address.parse::<IpAddr>());
            let address = address.transpose().map_err(|error| damaged(&error))?;
            let sender = Sender {
                client: match (saved.user, address) {
                    (Some(user), _) => ClientKey::User(UserId::new(&user)),
                    (None, Some(address)) => ClientKey::Network(address.into()),
                    (None, None) => ClientKey::Unknown,
                },
                is_limited: saved.is_limited,
            };
            let (body, time_ms) = (saved.body, saved.time_ms);
            self.remember(&sender, &channel, &saved.key, body, position, time_ms);
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
        let Some((_, key)) = self.order.pop_front() else {
            return;
        };
        let bytes = key.bytes();
        self.bytes -= bytes;
        let record = self.records.remove(&key);
        if record.is_none_or(|record| !record.is_shared) {
            return;
        }
        self.shared -= bytes;
        if let Some(share) = self.shares.get_mut(&key.client) {
            *share -= bytes;
            if *share == 0 {
                self.shares.remove(&key.client);
            }
        }
    }
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
    #[prost(string, optional, tag = "7")]
    user: Option<String>,
    #[prost(string, optional, tag = "8")]
    address: Option<String>,
    #[prost(bool, tag = "9")]
    is_limited: bool,
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
