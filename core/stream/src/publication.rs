//! Publications: what was said on a channel, encoded at most once per format.
//!
//! A publication is shared by everyone who gets it. Its JSON and protobuf forms,
//! and the frames that adapters make of them, are made on first use and shared
//! from then on. The part that says only `data` can be had alone, so that frames
//! of several publications are joined without encoding anything again.

use std::{
    fmt,
    io::Write as _,
    ops::Range,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use tidewire_proto::{json, v1};

use crate::{ChannelName, broker::BrokerFuture};

/// What a publication says: the `type` and `data` of a server message.
pub type Event = v1::server_message::Data;

/// Takes what engines have to say.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes `event` on `channel`. Never blocks: on one channel, events keep
    /// their order.
    fn publish(&self, channel: &ChannelName, event: Event);
}

/// What an engine kept of a channel, to go on with after a restart.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPublication {
    /// The number that it had.
    pub seq: Seq,
    /// When it was published, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// What was published.
    pub event: Event,
}

/// A publisher whose channels outlive the process: an engine that keeps what it
/// publishes, and is alone on its channels, asks for the place that the next
/// publication will have, and gives back after a restart what it kept.
///
/// # By example
/// `position` says `(e, 4)`. The engine stores the event as 5 of `e`, then publishes
/// it. Killed between the two, it gives `(e, 5)` back at the next start, and whoever
/// resumes after `(e, 4)` gets it.
pub trait DurablePublisher: Publisher {
    /// The newest position of a channel.
    fn position<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, Position>;

    /// Goes on with a channel that nothing was published on yet, from these
    /// publications, whose numbers follow each other.
    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        kept: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()>;

    /// Begins a channel anew, under another epoch: whoever follows it is told at once
    /// that something is lost.
    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()>;

    /// Forgets a channel that nobody follows: whoever comes back to it is told that
    /// something may be lost.
    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()>;
}

/// The history that a channel's numbers count in. Cheap to clone.
#[expect(clippy::derived_hash_with_manual_eq, reason = "both go by the text")]
#[derive(Clone, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(Arc<str>);

impl PartialEq for Epoch {
    fn eq(&self, other: &Self) -> bool {
        // Nearly always it is the same text: nobody has to read it.
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Epoch {
    /// Takes an epoch over.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// An epoch that was never used before.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:012x}", rand::random::<u64>() >> 16).into())
    }

    /// The epoch as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a publication on its channel: 1, 2, 3 …; 0 is before the first.
pub type Seq = u64;

/// A place in a channel's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The history that `seq` counts in.
    pub epoch: Epoch,
    /// The publication at this place, 0 for the place before the first.
    pub seq: Seq,
}

impl Position {
    /// Moves on to `to`.
    pub(crate) fn advance(&mut self, to: &Self) {
        // Nearly always only the number changes.
        if self.epoch != to.epoch {
            self.epoch = to.epoch.clone();
        }
        self.seq = to.seq;
    }
}

impl From<v1::Position> for Position {
    fn from(position: v1::Position) -> Self {
        Self {
            epoch: Epoch::new(&position.epoch),
            seq: position.seq,
        }
    }
}

/// Slot of a publication that caches one framed form of it. Adapters say what each slot
/// holds; all slots of one server must differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameKind(usize);

impl FrameKind {
    /// Slots of a publication: one for each framing of the adapters. A slot costs 40 bytes.
    pub const SLOTS: usize = 6;

    /// The slot with this index.
    ///
    /// # Panics
    /// The index is [`SLOTS`](Self::SLOTS) or more. In a constant, this fails the build.
    #[must_use]
    pub const fn new(slot: usize) -> Self {
        assert!(slot < Self::SLOTS, "a publication has no such slot");
        Self(slot)
    }

    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// An encoding and where its `data` part lies.
#[derive(Debug)]
struct Encoded {
    bytes: Bytes,
    data: Range<usize>,
}

/// What was said on a channel.
#[derive(Debug)]
pub struct Publication {
    channel: ChannelName,
    position: Position,
    time_ms: i64,
    event: Event,
    json: OnceLock<Encoded>,
    proto: OnceLock<Encoded>,
    frames: [OnceLock<Bytes>; FrameKind::SLOTS],
}

impl Publication {
    /// A publication that took `position` on `channel` at `time_ms`, in
    /// milliseconds since the Unix epoch.
    #[must_use]
    pub fn new(channel: ChannelName, position: Position, time_ms: i64, event: Event) -> Arc<Self> {
        Arc::new(Self {
            channel,
            position,
            time_ms,
            event,
            json: OnceLock::new(),
            proto: OnceLock::new(),
            frames: [const { OnceLock::new() }; FrameKind::SLOTS],
        })
    }

    /// Where it was said.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Its place in the channel's history.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Its number.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.position.seq
    }

    /// When it was said, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    /// What was said.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The `type` of its message.
    #[must_use]
    pub fn event_type(&self) -> &'static str {
        json::data_type(&self.event)
    }

    /// The message as JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.json_encoded().bytes.clone()
    }

    /// The `data` of the message as JSON.
    #[must_use]
    pub fn json_data(&self) -> &[u8] {
        let encoded = self.json_encoded();
        &encoded.bytes[encoded.data.clone()]
    }

    /// The message as protobuf.
    #[must_use]
    pub fn proto(&self) -> Bytes {
        self.proto_encoded().bytes.clone()
    }

    /// The `data` of the message as protobuf, without its field's key and length.
    #[must_use]
    pub fn proto_data(&self) -> &[u8] {
        let encoded = self.proto_encoded();
        &encoded.bytes[encoded.data.clone()]
    }

    /// A frame of the message: `make` is called on first use only.
    pub fn frame(&self, kind: FrameKind, make: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.frames[kind.index()].get_or_init(|| make(self))
    }

    /// The message as a value, for those that need more than its bytes.
    #[must_use]
    pub fn to_message(&self) -> v1::ServerMessage {
        v1::ServerMessage {
            id: None,
            channel: Some(self.channel.as_str().to_owned()),
            seq: Some(self.position.seq),
            timestamp: Some(self.time_ms),
            data: Some(self.event.clone()),
        }
    }

    /// About how much memory it takes, encodings included, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let frames: usize = self
            .frames
            .iter()
            .filter_map(OnceLock::get)
            .map(Bytes::len)
            .sum();
        let encodings = [&self.json, &self.proto];
        let encodings: usize = encodings
            .iter()
            .filter_map(|e| e.get())
            .map(|e| e.bytes.len())
            .sum();
        size_of::<Self>() + json_size_hint(&self.event) + encodings + frames
    }

    /// About how long it is on the wire, in bytes, without encoding it.
    pub(crate) fn encoded_size_hint(&self) -> usize {
        self.channel.as_str().len() + json_size_hint(&self.event) + 96
    }

    fn json_encoded(&self) -> &Encoded {
        self.json.get_or_init(|| {
            let data = json::fragment(&self.event);
            let mut out = Vec::with_capacity(data.len() + self.channel.as_str().len() + 96);
            // Types and channel names hold nothing that JSON escapes.
            let head = write!(
                out,
                r#"{{"type":"{}","channel":"{}","seq":{},"data":"#,
                self.event_type(),
                self.channel,
                self.position.seq
            );
            debug_assert!(head.is_ok(), "writing to a vector does not fail");
            let start = out.len();
            out.extend_from_slice(&data);
            let end = out.len();
            let tail = write!(out, r#","timestamp":{}}}"#, self.time_ms);
            debug_assert!(tail.is_ok(), "writing to a vector does not fail");
            Encoded {
                bytes: out.into(),
                data: start..end,
            }
        })
    }

    fn proto_encoded(&self) -> &Encoded {
        self.proto.get_or_init(|| {
            let (field, data) = json::proto_fragment(&self.event);
            let mut out = Vec::with_capacity(data.len() + self.channel.as_str().len() + 32);
            prost::encoding::string::encode(2, &self.channel.as_str().to_owned(), &mut out);
            prost::encoding::uint64::encode(3, &self.position.seq, &mut out);
            prost::encoding::int64::encode(4, &self.time_ms, &mut out);
            encode_key(field, WireType::LengthDelimited, &mut out);
            encode_varint(data.len() as u64, &mut out);
            let start = out.len();
            out.extend_from_slice(&data);
            let end = out.len();
            Encoded {
                bytes: out.into(),
                data: start..end,
            }
        })
    }
}

/// What an event holds on the heap; only what clients send can be large.
fn json_size_hint(event: &Event) -> usize {
    match event {
        Event::Message(bytes) => bytes.len(),
        Event::Notification(notification) => notification.body.len() + notification.data.len(),
        _ => 256,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn assembled_encodings_equal_those_of_the_message() {
        let publication = Publication::new(
            ChannelName::parse("demo:hello").unwrap(),
            Position {
                epoch: Epoch::new("e"),
                seq: 7,
            },
            1_700_000_000_000,
            Event::Message(Bytes::from_static(br#"{"a":1.50,"b":"\n"}"#)),
        );
        assert_eq!(
            publication.proto(),
            publication.to_message().encode_to_vec()
        );
        assert_eq!(publication.json(), json::to_vec(&publication.to_message()));
        assert_eq!(publication.json_data(), &br#"{"a":1.50,"b":"\n"}"#[..]);
        assert_eq!(publication.proto_data(), &br#"{"a":1.50,"b":"\n"}"#[..]);
    }

    #[test]
    fn frames_are_made_once() {
        let publication = Publication::new(
            ChannelName::parse("demo:hello").unwrap(),
            Position {
                epoch: Epoch::new("e"),
                seq: 1,
            },
            0,
            Event::Message(Bytes::from_static(b"1")),
        );
        let first = publication.frame(FrameKind::new(0), |_| Bytes::from_static(b"x"));
        let again = publication.frame(FrameKind::new(0), |_| unreachable!("made before"));
        assert_eq!(first, again);
    }
}
