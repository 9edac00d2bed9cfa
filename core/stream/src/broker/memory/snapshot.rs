//! Snapshot of a memory broker: a graceful stop saves the channels, the next start loads them,
//! and clients recover across the restart.

use std::sync::Arc;

use prost::Message as _;
use tidewire_proto::v1::{ErrorCode, ServerMessage};

use super::{Channel, LocalDelivery, MemoryBroker, SnapshotEntry};
use crate::{
    ChannelEpoch, ChannelName, Class, Epoch, Position, Publication, PublishRight, StreamError,
    broker::INCOMPLETE,
};

/// Key of the epoch of channels that were never published on: no channel has this name.
const FRESH_EPOCH: &[u8] = b"";

/// First byte of the keys of a namespace's own epoch: no channel's name begins with it.
const NAMESPACE_EPOCH: u8 = 0;

/// First byte of the keys of idempotency pages: no channel's name begins with it.
const IDEMPOTENCY: u8 = b'#';

/// Outcome of loading a channel.
enum LoadOutcome {
    Known,
    /// Its namespace does not exist any more.
    UnknownNamespace,
}

/// A channel with its history.
#[derive(Debug, Clone)]
struct SavedChannel {
    top: Position,
    /// Time of the last use, in milliseconds since the Unix epoch.
    used_ms: i64,
    /// Newest publications, consecutive, the last one at `top`.
    publications: Vec<Arc<Publication>>,
}

impl<D: LocalDelivery> MemoryBroker<D> {
    /// All entries.
    pub(super) fn all_saved(&self) -> impl Iterator<Item = SnapshotEntry> + '_ {
        let epochs = self.fresh_epochs.all().into_iter();
        let epochs = epochs.map(|(namespace, epoch)| SnapshotEntry {
            key: match namespace {
                None => FRESH_EPOCH.to_vec(),
                Some(namespace) => [&[NAMESPACE_EPOCH], namespace.as_bytes()].concat(),
            },
            value: epoch.as_str().as_bytes().to_vec(),
        });
        let mut names = Vec::new();
        self.for_each(|name, channel| names.push((channel.lock().used_ms, name)));
        // Those that were used last first: a snapshot may be cut short.
        names.sort_unstable_by_key(|(used_ms, _)| std::cmp::Reverse(*used_ms));
        let channels = names.into_iter().filter_map(|(_, name)| {
            Some(SnapshotEntry {
                value: self.saved(&name)?.encode(),
                key: name.as_str().as_bytes().to_vec(),
            })
        });
        let pages = self.keys.lock().pages().into_iter().enumerate();
        let keys = pages.map(|(number, value)| SnapshotEntry {
            // Zero-padded, so that the order of the keys is that of the pages.
            key: format!("{}{number:08}", char::from(IDEMPOTENCY)).into_bytes(),
            value,
        });
        epochs.chain(keys).chain(channels)
    }

    /// Loads an entry.
    pub(super) fn load_one(&self, saved: &SnapshotEntry) -> Result<(), StreamError> {
        if saved.key.first() == Some(&IDEMPOTENCY) {
            return self.keys.lock().load(&saved.value);
        }
        if saved.key == [INCOMPLETE] {
            self.fresh_epochs.change_all();
            return Ok(());
        }
        let loaded = self.load_saved(saved);
        if !matches!(loaded, Ok(LoadOutcome::Known)) {
            // The channel may have been in this epoch: it must not start there again.
            self.fresh_epochs.change_all();
        }
        loaded.map(|_| ())
    }

    /// Reads a channel to save it. A latest value of an engine is out of date after a restart:
    /// of such a channel only the position is saved, so that none is given twice.
    fn saved(&self, name: &ChannelName) -> Option<SavedChannel> {
        let namespace = self.namespaces.get(name)?;
        let is_transient =
            namespace.class == Class::Latest && namespace.publish == PublishRight::Engine;
        let channel = self.channels.read().get(name).cloned()?;
        let mut channel = channel.lock();
        self.trim(name, &mut channel, self.clock.now_ms());
        Some(SavedChannel {
            top: Position {
                epoch: channel.epoch.clone(),
                seq: channel.seq,
            },
            used_ms: match self.subscribers.has_subscribers(name) {
                // It is in use until the server stops.
                true => self.clock.now_ms().max(channel.used_ms),
                false => channel.used_ms,
            },
            publications: match is_transient {
                true => Vec::new(),
                false => channel.log.iter().cloned().collect(),
            },
        })
    }

    fn load_now(&self, name: &ChannelName, channel: &mut Channel, saved: &SavedChannel) {
        if channel.seq > 0 {
            return;
        }
        channel.epoch = saved.top.epoch.clone();
        channel.seq = saved.top.seq;
        channel.used_ms = saved.used_ms;
        for publication in &saved.publications {
            self.push(channel, publication.clone());
        }
        self.trim(name, channel, self.clock.now_ms());
    }

    fn load_saved(&self, saved: &SnapshotEntry) -> Result<LoadOutcome, StreamError> {
        let damaged = |what: &dyn std::fmt::Display| {
            StreamError::new(
                ErrorCode::Internal,
                format!("a saved channel cannot be read: {what}"),
            )
        };
        let namespace = match saved.key.strip_prefix(&[NAMESPACE_EPOCH]) {
            Some(name) => Some(std::str::from_utf8(name).map_err(|error| damaged(&error))?),
            None => None,
        };
        if namespace.is_some() || saved.key == FRESH_EPOCH {
            let epoch = std::str::from_utf8(&saved.value).map_err(|error| damaged(&error))?;
            self.fresh_epochs.set(namespace, Epoch::new(epoch));
            return Ok(LoadOutcome::Known);
        }
        let name = std::str::from_utf8(&saved.key).map_err(|error| damaged(&error))?;
        let name = ChannelName::parse(name).map_err(|error| damaged(&error))?;
        if self.namespaces.get(&name).is_none() {
            // The configuration has changed since.
            return Ok(LoadOutcome::UnknownNamespace);
        }
        let saved = SavedChannel::decode(&name, &saved.value)?;
        let continues = match self.namespaces.epoch(&name) {
            ChannelEpoch::BrokerChosen => true,
            ChannelEpoch::Active(epoch) => epoch == saved.top.epoch,
            ChannelEpoch::Inactive => false,
        };
        if !continues {
            return Ok(LoadOutcome::Known);
        }
        self.with_channel(&name, |channel| self.load_now(&name, channel, &saved))?;
        Ok(LoadOutcome::Known)
    }
}

/// A channel, as it is saved.
#[derive(Clone, PartialEq, prost::Message)]
struct ChannelRecord {
    #[prost(string, tag = "1")]
    epoch: String,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(int64, tag = "3")]
    used_ms: i64,
    /// Encoded `ServerMessage`s.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    publications: Vec<bytes::Bytes>,
}

impl SavedChannel {
    fn encode(&self) -> Vec<u8> {
        let publications = self.publications.iter();
        ChannelRecord {
            epoch: self.top.epoch.as_str().to_owned(),
            seq: self.top.seq,
            used_ms: self.used_ms,
            publications: publications
                .map(|publication| publication.proto_once())
                .collect(),
        }
        .encode_to_vec()
    }

    fn decode(channel: &ChannelName, value: &[u8]) -> Result<Self, StreamError> {
        let damaged = |what: &dyn std::fmt::Display| {
            StreamError::new(
                ErrorCode::Internal,
                format!("the saved history of {channel} cannot be read: {what}"),
            )
        };
        let record = ChannelRecord::decode(value).map_err(|error| damaged(&error))?;
        let epoch = Epoch::new(&record.epoch);
        let mut publications = Vec::with_capacity(record.publications.len());
        let first = (record.seq + 1).saturating_sub(record.publications.len() as u64);
        for (seq, bytes) in (first..).zip(record.publications) {
            let message = ServerMessage::decode(bytes).map_err(|error| damaged(&error))?;
            let (Some(event), Some(time_ms)) = (message.data, message.timestamp) else {
                return Err(damaged(&"a publication has no data or no time"));
            };
            if message.seq != Some(seq) {
                return Err(damaged(&"a publication is missing in it"));
            }
            let position = Position {
                epoch: epoch.clone(),
                seq,
            };
            publications.push(Publication::new(channel.clone(), position, time_ms, event));
        }
        Ok(Self {
            top: Position {
                epoch,
                seq: record.seq,
            },
            used_ms: record.used_ms,
            publications,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidewire_proto::v1::{PriceUpdate, server_message::Data};

    use super::*;
    use crate::{
        ManualClock, Namespace, Namespaces,
        broker::{Broker as _, PageLimit, Reach, memory::MemoryLimits},
    };

    #[derive(Debug)]
    struct NoSubscribers;

    impl LocalDelivery for NoSubscribers {
        fn deliver(&self, _publication: &Arc<Publication>) -> bool {
            false
        }

        fn note_newest(&self, _channel: &ChannelName, _newest: &Position) {}

        fn has_subscribers(&self, _channel: &ChannelName) -> bool {
            false
        }
    }

    fn broker(history_size: usize) -> MemoryBroker<NoSubscribers> {
        let mut namespaces = Namespaces::built_in();
        let orders = Namespace {
            history_size,
            ..Namespace::history("orders")
        };
        namespaces.add(orders).unwrap();
        let namespaces = Arc::new(namespaces);
        let clock = ManualClock::at(1_000_000);
        MemoryBroker::new(
            namespaces,
            Arc::new(NoSubscribers),
            clock,
            MemoryLimits::default(),
        )
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn publish(broker: &MemoryBroker<NoSubscribers>, name: &str, times: u64) -> Position {
        for number in 0..times {
            let event = match name.starts_with("prices") {
                true => Data::Price(PriceUpdate::default()),
                false => Data::Message(Bytes::from(number.to_string())),
            };
            broker.offer(&channel(name), event, crate::Urgency::Ordinary);
        }
        broker.history_now(&channel(name), None, PageLimit::ALL).top
    }

    #[test]
    fn a_saved_channel_continues_after_it_is_loaded() {
        let first = broker(3);
        let orders = publish(&first, "orders:1", 5);
        let price = publish(&first, "prices:BTC-USD", 4);
        let second = broker(3);
        for saved in first.save() {
            second.load(&saved).unwrap();
        }
        let all = |broker: &MemoryBroker<NoSubscribers>, name: &str| {
            let history = broker.history_now(&channel(name), None, PageLimit::ALL);
            let messages = history.publications.iter();
            let messages: Vec<_> = messages.map(|one| one.to_message()).collect();
            (history.top, messages)
        };
        assert_eq!(all(&second, "orders:1"), all(&first, "orders:1"));
        assert_eq!(publish(&second, "orders:1", 1).seq, orders.seq + 1);
        // An old price is not sent again, and its position is not given again.
        assert_eq!(all(&second, "prices:BTC-USD"), (price.clone(), vec![]));
        let next = publish(&second, "prices:BTC-USD", 1);
        assert_eq!((next.epoch, next.seq), (price.epoch, price.seq + 1));
        // A channel that was published on meanwhile stays as it is.
        let third = broker(3);
        let newest = publish(&third, "orders:1", 1);
        for saved in first.save() {
            third.load(&saved).unwrap();
        }
        assert_eq!(all(&third, "orders:1").0, newest);
    }

    #[test]
    fn an_unreadable_channel_is_an_error_and_starts_a_new_epoch() {
        let first = broker(3);
        let top = publish(&first, "orders:1", 2);
        let saved: Vec<_> = first.save().collect();
        let cut = |saved: &SnapshotEntry| SnapshotEntry {
            key: saved.key.clone(),
            value: saved.value[..saved.value.len() - 1].to_vec(),
        };
        let second = broker(3);
        second.load(&saved[0]).unwrap();
        let error = second.load(&cut(&saved[1])).unwrap_err();
        assert!(error.to_string().contains("orders:1"), "{error}");
        let history = second.history_now(&channel("orders:1"), Some(&top), PageLimit::ALL);
        assert_eq!(history.reach, Reach::Lost);
        assert_ne!(history.top.epoch, top.epoch);
    }
}
