//! What leaves a session, and its encodings.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tidewire_proto::{json, v1::ServerMessage};

use super::{Encoding, Prices};
use crate::{Publication, Run};

/// One message to a client.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// A reply, or a word of the session's own.
    Direct(Arc<Direct>),
    /// Something published.
    Publication(Arc<Publication>),
    /// Prices that are told in one `price_batch`.
    Prices(Prices),
}

/// A message for one client alone. It is encoded once, the way its client wants it:
/// its size counts before it is sent.
#[derive(Debug)]
pub struct Direct {
    message: ServerMessage,
    encoding: Encoding,
    bytes: Bytes,
}

impl Direct {
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

impl std::ops::Deref for Direct {
    type Target = ServerMessage;

    fn deref(&self) -> &ServerMessage {
        &self.message
    }
}

/// What a sink takes: a message, or a run of them in one piece.
#[derive(Debug, Clone)]
pub enum Parcel {
    /// One message.
    One(Outgoing),
    /// Several that follow each other on one channel.
    Run(Arc<Run>),
}

/// What is taken from a session is put here.
pub(super) trait Taking {
    /// Takes a message.
    fn put(&mut self, message: Outgoing);
    /// Takes a run.
    fn put_run(&mut self, run: Arc<Run>);
    /// How many messages were taken.
    fn count(&self) -> usize;
    /// Whether anything of a channel was taken: replies and words of the session come
    /// first, so what is last tells.
    fn has_published(&self) -> bool;
}

impl Taking for Vec<Outgoing> {
    fn put(&mut self, message: Outgoing) {
        self.push(message);
    }

    fn put_run(&mut self, run: Arc<Run>) {
        self.extend(
            run.publications()
                .iter()
                .cloned()
                .map(Outgoing::Publication),
        );
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn has_published(&self) -> bool {
        !matches!(self.last(), None | Some(Outgoing::Direct(_)))
    }
}

impl Taking for Vec<Parcel> {
    fn put(&mut self, message: Outgoing) {
        self.push(Parcel::One(message));
    }

    fn put_run(&mut self, run: Arc<Run>) {
        self.push(Parcel::Run(run));
    }

    fn count(&self) -> usize {
        let count = |parcel: &Parcel| match parcel {
            Parcel::One(_) => 1,
            Parcel::Run(run) => run.publications().len(),
        };
        self.iter().map(count).sum()
    }

    fn has_published(&self) -> bool {
        !matches!(self.last(), None | Some(Parcel::One(Outgoing::Direct(_))))
    }
}

impl Outgoing {
    /// The `type` of the message.
    #[must_use]
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::Direct(message) => message.data.as_ref().map_or("", json::data_type),
            Self::Publication(publication) => publication.event_type(),
            Self::Prices(_) => "price_batch",
        }
    }

    /// The message as JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        match self {
            Self::Direct(direct) if direct.encoding == Encoding::Json => direct.bytes.clone(),
            Self::Direct(direct) => json::to_vec(&direct.message).into(),
            Self::Publication(publication) => publication.json(),
            Self::Prices(prices) => prices.bytes(Encoding::Json),
        }
    }

    /// The message as protobuf.
    #[must_use]
    pub fn proto(&self) -> Bytes {
        match self {
            Self::Direct(direct) if direct.encoding == Encoding::Proto => direct.bytes.clone(),
            Self::Direct(direct) => direct.message.encode_to_vec().into(),
            Self::Publication(publication) => publication.proto(),
            Self::Prices(prices) => prices.bytes(Encoding::Proto),
        }
    }
}
