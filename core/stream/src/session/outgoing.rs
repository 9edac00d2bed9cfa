//! Outgoing messages of a session, and their encodings.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tidewire_proto::{json, v1::ServerMessage};

use super::{Encoding, PriceBatch};
use crate::{Publication, PublicationBatch};

/// One message to a client.
#[derive(Debug, Clone)]
pub enum OutgoingMessage {
    /// A reply, or another message for this client alone.
    Direct(Arc<DirectMessage>),
    /// A publication.
    Publication(Arc<Publication>),
    /// Prices that leave in one `price_batch`.
    PriceBatch(PriceBatch),
}

/// A message for one client alone. It is encoded when it is queued, since its size counts
/// towards the bound of the outbox, and only its bytes wait there.
#[derive(Debug)]
pub struct DirectMessage {
    event_type: &'static str,
    encoding: Encoding,
    bytes: Bytes,
}

impl DirectMessage {
    /// Encodes a message.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the message ends here, and its memory with it"
    )]
    pub fn new(message: ServerMessage, encoding: Encoding) -> Self {
        let bytes = match encoding {
            Encoding::Json => json::to_vec(&message).into(),
            Encoding::Proto => message.encode_to_vec().into(),
        };
        Self {
            event_type: message.data.as_ref().map_or("", json::data_type),
            encoding,
            bytes,
        }
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The message as a value, decoded again.
    #[must_use]
    pub fn to_message(&self) -> ServerMessage {
        let decoded = match self.encoding {
            Encoding::Json => json::from_slice(&self.bytes).ok(),
            Encoding::Proto => ServerMessage::decode(self.bytes.clone()).ok(),
        };
        debug_assert!(decoded.is_some(), "an encoded message can be decoded");
        decoded.unwrap_or_default()
    }
}

/// Unit that a sink writes in one piece: a message, or a batch of them.
#[derive(Debug, Clone)]
pub enum OutgoingItem {
    /// One message.
    Message(OutgoingMessage),
    /// Consecutive publications of one channel.
    Batch(Arc<PublicationBatch>),
}

/// Collects the messages that a transport takes from a session.
pub(super) trait OutgoingBuffer {
    /// Adds a message.
    fn push(&mut self, message: OutgoingMessage);
    /// Adds a batch of publications.
    fn push_batch(&mut self, batch: Arc<PublicationBatch>);
    /// How many messages there are.
    fn message_count(&self) -> usize;
    /// Whether there is a publication: replies come first, so the last message shows it.
    fn ends_with_publication(&self) -> bool;
}

impl OutgoingBuffer for Vec<OutgoingMessage> {
    fn push(&mut self, message: OutgoingMessage) {
        Self::push(self, message);
    }

    fn push_batch(&mut self, batch: Arc<PublicationBatch>) {
        let publications = batch.publications().iter().cloned();
        self.extend(publications.map(OutgoingMessage::Publication));
    }

    fn message_count(&self) -> usize {
        self.len()
    }

    fn ends_with_publication(&self) -> bool {
        !matches!(self.last(), None | Some(OutgoingMessage::Direct(_)))
    }
}

impl OutgoingBuffer for Vec<OutgoingItem> {
    fn push(&mut self, message: OutgoingMessage) {
        Self::push(self, OutgoingItem::Message(message));
    }

    fn push_batch(&mut self, batch: Arc<PublicationBatch>) {
        Self::push(self, OutgoingItem::Batch(batch));
    }

    fn message_count(&self) -> usize {
        let count = |item: &OutgoingItem| match item {
            OutgoingItem::Message(_) => 1,
            OutgoingItem::Batch(batch) => batch.publications().len(),
        };
        self.iter().map(count).sum()
    }

    fn ends_with_publication(&self) -> bool {
        !matches!(
            self.last(),
            None | Some(OutgoingItem::Message(OutgoingMessage::Direct(_)))
        )
    }
}

impl OutgoingMessage {
    /// The `type` of the message.
    #[must_use]
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::Direct(message) => message.event_type,
            Self::Publication(publication) => publication.event_type(),
            Self::PriceBatch(_) => "price_batch",
        }
    }

    /// The message as JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        match self {
            Self::Direct(direct) if direct.encoding == Encoding::Json => direct.bytes.clone(),
            Self::Direct(direct) => json::to_vec(&direct.to_message()).into(),
            Self::Publication(publication) => publication.json(),
            Self::PriceBatch(prices) => prices.bytes(Encoding::Json),
        }
    }

    /// The message as protobuf.
    #[must_use]
    pub fn proto(&self) -> Bytes {
        match self {
            Self::Direct(direct) if direct.encoding == Encoding::Proto => direct.bytes.clone(),
            Self::Direct(direct) => direct.to_message().encode_to_vec().into(),
            Self::Publication(publication) => publication.proto(),
            Self::PriceBatch(prices) => prices.bytes(Encoding::Proto),
        }
    }
}
