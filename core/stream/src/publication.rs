//! Publications: the messages of a channel, encoded at most once per format.
//!
//! All subscribers share a publication. Its JSON and protobuf forms, and the frames that
//! adapters make of them, are made on first use. The bytes of `data` alone can be read too, so
//! that a message that joins several publications encodes nothing again.

use std::{
    borrow::Cow,
    fmt,
    io::Write as _,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use tidewire_proto::{json, v1};

use crate::{
    ChannelName, Content,
    history_memory::{HistoryShare, heap_bytes},
};

/// Content of a publication: the `type` and `data` of a server message.
pub type Event = v1::server_message::Data;

/// A publication that an engine stored, to restore its channel after a restart.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPublication {
    /// Sequence number.
    pub seq: Seq,
    /// Time of the publication, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Published payload.
    pub event: Event,
}

/// Epoch of a channel: sequence numbers are comparable within one epoch only. Cheap to clone.
#[expect(clippy::derived_hash_with_manual_eq, reason = "both compare the text")]
#[derive(Clone, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(Arc<str>);

impl PartialEq for Epoch {
    fn eq(&self, other: &Self) -> bool {
        // Nearly always the two share their text, which need not be read then.
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Epoch {
    /// The epoch with this text.
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

/// Sequence number of a publication on its channel: 1, 2, 3 …; 0 is before the first.
pub type Seq = u64;

/// Position in a channel's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Epoch that `seq` counts in.
    pub epoch: Epoch,
    /// Sequence number of the publication, 0 before the first one.
    pub seq: Seq,
}

impl Position {
    /// The position before the first publication of an epoch.
    #[must_use]
    pub fn start(epoch: Epoch) -> Self {
        Self { epoch, seq: 0 }
    }

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

/// How a publication leaves beside those of other channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Urgency {
    /// In its turn.
    #[default]
    Ordinary,
    /// At once: before what other channels have queued, without gathering, and in the background
    /// too. Earlier publications of its own channel go ahead with it, so that each channel keeps
    /// its order.
    Urgent,
}

/// Slot of a publication that caches one framed form of it. Adapters define the content
/// of each slot; all slots of one server must differ.
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

/// An encoding, and the range of its `data`.
#[derive(Debug)]
struct Encoded {
    bytes: Bytes,
    data: Range<usize>,
}

/// A message that was published on a channel.
#[derive(Debug)]
pub struct Publication {
    channel: ChannelName,
    position: Position,
    time_ms: i64,
    /// Number before the first publication that this one stands for.
    after: Seq,
    urgency: Urgency,
    content: Content,
    /// Length of the event on the wire, in bytes, estimated. Exact for what clients published.
    event_bytes: usize,
    json: OnceLock<Encoded>,
    proto: OnceLock<Encoded>,
    frames: [OnceLock<Bytes>; FrameKind::SLOTS],
    /// Memory of the publication and its encodings, in bytes, and [`IN_HISTORY`].
    memory: AtomicUsize,
    /// Where `memory` is charged while a history has the publication.
    charged_to: OnceLock<Arc<HistoryShare>>,
}

/// Bit of [`Publication::memory`]: a history has the publication, and is charged for it.
const IN_HISTORY: usize = 1 << (usize::BITS - 1);

/// Memory of an entry of a history, with room to grow, and of the counts of a shared
/// publication, in bytes.
const ENTRY_BYTES: usize = 32;

impl Publication {
    /// A publication at `position` of `channel`, published at `time_ms`, in milliseconds since
    /// the Unix epoch.
    #[must_use]
    pub fn new(
        channel: ChannelName,
        position: Position,
        time_ms: i64,
        content: impl Into<Content>,
    ) -> Arc<Self> {
        Self::with_urgency(channel, position, time_ms, content, Urgency::Ordinary)
    }

    /// A publication as [`new`](Self::new), of this urgency.
    #[must_use]
    pub fn with_urgency(
        channel: ChannelName,
        position: Position,
        time_ms: i64,
        content: impl Into<Content>,
        urgency: Urgency,
    ) -> Arc<Self> {
        let after = position.seq.saturating_sub(1);
        Arc::new(Self::build(
            channel,
            position,
            after,
            time_ms,
            content.into(),
            urgency,
        ))
    }

    /// A publication in place of those from `first` to `last`.
    pub(crate) fn summary_of(first: &Self, last: &Self, event: Event) -> Arc<Self> {
        Arc::new(Self::build(
            last.channel.clone(),
            last.position.clone(),
            first.after,
            last.time_ms,
            event.into(),
            Urgency::Ordinary,
        ))
    }

    fn build(
        channel: ChannelName,
        position: Position,
        after: Seq,
        time_ms: i64,
        content: Content,
        urgency: Urgency,
    ) -> Self {
        let event_bytes = event_bytes(content.base());
        let memory = heap_bytes(size_of::<Self>()) + content.own_memory() + ENTRY_BYTES;
        Self {
            channel,
            position,
            time_ms,
            after,
            urgency,
            content,
            event_bytes,
            json: OnceLock::new(),
            proto: OnceLock::new(),
            frames: [const { OnceLock::new() }; FrameKind::SLOTS],
            memory: AtomicUsize::new(memory),
            charged_to: OnceLock::new(),
        }
    }

    /// The publication as a history keeps it. One with a shared event is kept without the
    /// encodings that its subscribers need now: its channel is one of very many, and each would
    /// keep its own. A client that comes back has them made again.
    pub(crate) fn for_history(self: Arc<Self>) -> Arc<Self> {
        match &self.content {
            Content::Own(_) => self,
            shared => Self::new(
                self.channel.clone(),
                self.position.clone(),
                self.time_ms,
                shared.clone(),
            ),
        }
    }

    /// Notes that a history has the publication: from now on `memory` is charged for it, and for
    /// each encoding when it is made. A publication enters one history once.
    pub(crate) fn enter_history(&self, memory: &Arc<HistoryShare>) {
        if self.charged_to.set(memory.clone()).is_ok() {
            memory.add(self.memory.fetch_or(IN_HISTORY, Ordering::AcqRel));
            if let Some(shared) = self.content.shared() {
                shared.enter_history(memory);
            }
        }
    }

    /// Notes that the history has dropped the publication, and returns the bytes that are no
    /// longer charged for.
    pub(crate) fn leave_history(&self) -> usize {
        let before = self.memory.fetch_and(!IN_HISTORY, Ordering::AcqRel);
        let bytes = before & !IN_HISTORY;
        match self.charged_to.get() {
            Some(charged) if before != bytes => {
                charged.remove(bytes);
                let shared = self.content.shared();
                bytes + shared.map_or(0, |shared| shared.leave_history())
            }
            _ => 0,
        }
    }

    /// Counts an encoding that was just made.
    fn charge(&self, length: usize) {
        let bytes = heap_bytes(length);
        let before = self.memory.fetch_add(bytes, Ordering::AcqRel);
        if before & IN_HISTORY != 0
            && let Some(charged) = self.charged_to.get()
        {
            charged.add(bytes);
        }
    }

    /// Channel.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// Position in the channel's history.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Sequence number.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.position.seq
    }

    /// Number of the publication that it follows. A summary follows the one before all that it
    /// stands for.
    pub(crate) fn after(&self) -> Seq {
        self.after
    }

    /// Time of the publication, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    /// Whether it overtakes other channels.
    #[must_use]
    pub fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// Content. It is made for this call if the publication shares a part of it with others.
    #[must_use]
    pub fn event(&self) -> Cow<'_, Event> {
        self.content.event()
    }

    /// The `type` of the message.
    #[must_use]
    pub fn event_type(&self) -> &'static str {
        json::data_type(self.content.base())
    }

    /// The message as JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.json_encoded().bytes.clone()
    }

    /// Length of the message as JSON, in bytes.
    pub(crate) fn json_len(&self) -> usize {
        self.json_encoded().bytes.len()
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

    /// Length of the message as protobuf, in bytes.
    pub(crate) fn proto_len(&self) -> usize {
        self.proto_encoded().bytes.len()
    }

    /// The message as protobuf, which is not kept if it was not made before.
    pub(crate) fn proto_once(&self) -> Bytes {
        match self.proto.get() {
            Some(encoded) => encoded.bytes.clone(),
            None => self.make_proto().bytes,
        }
    }

    /// The `data` of the message as protobuf, without its field's key and length.
    #[must_use]
    pub fn proto_data(&self) -> &[u8] {
        let encoded = self.proto_encoded();
        &encoded.bytes[encoded.data.clone()]
    }

    /// The frame in a slot. `make` is called on first use only.
    pub fn frame(&self, kind: FrameKind, make: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.frames[kind.index()].get_or_init(|| {
            let frame = make(self);
            self.charge(frame.len());
            frame
        })
    }

    /// The message as a value, where its bytes are not enough.
    #[must_use]
    pub fn to_message(&self) -> v1::ServerMessage {
        v1::ServerMessage {
            id: None,
            channel: Some(self.channel.as_str().to_owned()),
            seq: Some(self.position.seq),
            timestamp: Some(self.time_ms),
            data: Some(self.event().into_owned()),
        }
    }

    /// Memory of the publication with the encodings that were made so far, in bytes, estimated.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory.load(Ordering::Relaxed) & !IN_HISTORY
    }

    /// Length on the wire in bytes, estimated without encoding it.
    pub(crate) fn encoded_size_hint(&self) -> usize {
        self.channel.as_str().len() + self.event_bytes + 96
    }

    fn json_encoded(&self) -> &Encoded {
        self.json.get_or_init(|| {
            let data = self.content.json();
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
            self.charge(out.capacity());
            Encoded {
                bytes: out.into(),
                data: start..end,
            }
        })
    }

    fn proto_encoded(&self) -> &Encoded {
        self.proto.get_or_init(|| {
            let encoded = self.make_proto();
            self.charge(encoded.bytes.len());
            encoded
        })
    }

    fn make_proto(&self) -> Encoded {
        let (field, data) = self.content.proto();
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
    }
}

/// Length of an event on the wire, in bytes, estimated. JSON takes about twice as much as protobuf.
fn event_bytes(event: &Event) -> usize {
    match event {
        Event::Message(bytes) => bytes.len(),
        Event::Notification(notification) => notification.data.len() + 2 * event.encoded_len(),
        event => 2 * event.encoded_len(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{SharedEvent, history_memory::HistoryMemory};

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
    fn a_frame_is_made_once() {
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

    #[test]
    fn a_history_is_charged_for_every_encoding_and_for_nothing_afterwards() {
        let memory = HistoryShare::new(&Arc::new(HistoryMemory::new(1 << 20)));
        let publication = Publication::new(
            ChannelName::parse("demo:hello").unwrap(),
            Position {
                epoch: Epoch::new("e"),
                seq: 1,
            },
            0,
            Event::Message(Bytes::from(vec![b'1'; 1_000])),
        );
        let _ = publication.json();
        publication.enter_history(&memory);
        assert_eq!(memory.used(), publication.memory_bytes());
        let with_json = memory.used();
        assert!(with_json > 2_000, "{with_json}");
        let _ = (publication.json(), publication.proto());
        publication.frame(FrameKind::new(0), |_| Bytes::from(vec![b'x'; 500]));
        assert_eq!(memory.used(), publication.memory_bytes());
        assert!(memory.used() > with_json + 1_500, "{}", memory.used());
        assert_eq!(publication.leave_history(), publication.memory_bytes());
        assert_eq!((memory.used(), publication.leave_history()), (0, 0));
        publication.frame(FrameKind::new(1), |_| Bytes::from(vec![b'x'; 500]));
        assert_eq!(memory.used(), 0, "a session that still has it is charged");
    }

    /// A publication on channel `user:{user}`, at number 1.
    fn publication_for(user: usize, content: impl Into<Content>) -> Arc<Publication> {
        let position = Position {
            epoch: Epoch::new("e"),
            seq: 1,
        };
        let channel = ChannelName::user(&user.to_string()).unwrap();
        Publication::new(channel, position, 0, content)
    }

    fn long_notification() -> Event {
        Event::Notification(v1::Notification {
            title: "t".to_owned(),
            body: "b".repeat(10_000),
            data: Bytes::from(vec![b'1'; 16_000]),
            ..v1::Notification::default()
        })
    }

    #[test]
    fn a_notification_is_charged_for_its_parts_once() {
        let bytes = publication_for(1, long_notification()).memory_bytes();
        assert!((26_000..30_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_shared_event_is_charged_once_and_kept_without_encodings() {
        let memory = HistoryShare::new(&Arc::new(HistoryMemory::new(usize::MAX / 4)));
        let shared = SharedEvent::new(long_notification());
        let kept: Vec<_> = (0..100)
            .map(|user| {
                let delivered = publication_for(user, shared.clone());
                let _ = (delivered.json(), delivered.proto());
                let kept = delivered.clone().for_history();
                kept.enter_history(&memory);
                assert_eq!(delivered.to_message(), kept.to_message());
                kept
            })
            .collect();
        let used = memory.used();
        // The event and its two encodings once, and a publication for each user.
        assert!(
            (100 * 500..100 * 1_500).contains(&(used - 3 * 26_000)),
            "{used}"
        );
        // Who comes back has it encoded again, and that is charged.
        let _ = kept[0].json();
        assert!(memory.used() > used + 26_000);
        for one in &kept {
            one.leave_history();
        }
        assert_eq!(memory.used(), 0);
        // A history may have the event again.
        let again = publication_for(7, shared).for_history();
        again.enter_history(&memory);
        assert!(memory.used() > 26_000);
        assert!(again.leave_history() > 26_000);
        assert_eq!(memory.used(), 0);
    }
}
