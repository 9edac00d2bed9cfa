//! What leaves a session, and its encodings.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tidewire_proto::{json, v1::ServerMessage};

use super::{Encoding, PriceBatch};
use crate::{Publication, PublicationBatch};

/// One message to a client.
#[derive(Debug, Clone)]
pub enum OutgoingMessage {
    /// A reply, or a word of the session's own.
    Direct(Arc<DirectMessage>),
    /// Something published.
    Publication(Arc<Publication>),
    /// Prices that are told in one `price_batch`.
    PriceBatch(PriceBatch),
}

/// A message for one client alone. It is encoded once, the way its client wants it:
/// its size counts before it is sent.
#[derive(Debug)]
pub struct DirectMessage {
    message: ServerMessage,
    encoding: Encoding,
    bytes: Bytes,
}

impl DirectMessage {
    /// Encodes a message.
    #[must_use]
    pub fn new(message: ServerMessage, encoding: Encoding) -> Self {
        let bytes = match encoding {
            Encoding::Json => json::to_vec(&message).into(),
            Encoding::Proto => message.encode_to_vec().into(),
        };
        Self {
            message,
            encoding,
            bytes,
        }
    }

    /// How long it is, in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl std::ops::Deref for DirectMessage {
    type Target = ServerMessage;

    fn deref(&self) -> &ServerMessage {
        &self.message
    }
}

/// What a sink takes: a message, or a run of them in one piece.
#[derive(Debug, Clone)]
pub enum OutgoingItem {
    /// One message.
    Message(OutgoingMessage),
    /// Several that follow each other on one channel.
    Batch(Arc<PublicationBatch>),
}

/// What is taken from a session is put here.
pub(super) trait Taking {
    /// Takes a message.
    fn put(&mut self, message: OutgoingMessage);
    /// Takes a run.
    fn put_run(&mut self, run: Arc<PublicationBatch>);
    /// How many messages were taken.
    fn count(&self) -> usize;
    /// Whether anything of a channel was taken: replies and words of the session come
    /// first, so what is last tells.
    fn has_published(&self) -> bool;
}

impl Taking for Vec<OutgoingMessage> {
    fn put(&mut self, message: OutgoingMessage) {
        self.push(message);
    }

    fn put_run(&mut self, run: Arc<PublicationBatch>) {
        self.extend(
            run.publications()
                .iter()
                .cloned()
                .map(OutgoingMessage::Publication),
        );
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn has_published(&self) -> bool {
        !matches!(self.last(), None | Some(OutgoingMessage::Direct(_)))
    }
}

impl Taking for Vec<OutgoingItem> {
    fn put(&mut self, message: OutgoingMessage) {
        self.push(OutgoingItem::Message(message));
    }

    fn put_run(&mut self, run: Arc<PublicationBatch>) {
        self.push(OutgoingItem::Batch(run));
    }

    fn count(&self) -> usize {
        let count = |item: &OutgoingItem| match item {
            OutgoingItem::Message(_) => 1,
            OutgoingItem::Batch(run) => run.publications().len(),
        };
        self.iter().map(count).sum()
    }

    fn has_published(&self) -> bool {
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
            Self::Direct(message) => message.data.as_ref().map_or("", json::data_type),
            Self::Publication(publication) => publication.event_type(),
            Self::PriceBatch(_) => "price_batch",
        }
    }

    /// The message as JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        match self {
            Self::Direct(direct) if direct.encoding == Encoding::Json => direct.bytes.clone(),
            Self::Direct(direct) => json::to_vec(&direct.message).into(),
            Self::Publication(publication) => publication.json(),
            Self::PriceBatch(prices) => prices.bytes(Encoding::Json),
        }
    }

    /// The message as protobuf.
    #[must_use]
    pub fn proto(&self) -> Bytes {
        match self {
            Self::Direct(direct) if direct.encoding == Encoding::Proto => direct.bytes.clone(),
            Self::Direct(direct) => direct.message.encode_to_vec().into(),
            Self::Publication(publication) => publication.proto(),
            Self::PriceBatch(prices) => prices.bytes(Encoding::Proto),
        }
    }
}
