//! What leaves a session, and its encodings.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use tidewire_proto::{json, v1::ServerMessage};

use crate::{Publication, Run};

/// One message to a client.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// A reply, or a word of the session's own.
    Direct(Arc<ServerMessage>),
    /// Something published.
    Publication(Arc<Publication>),
    /// Prices that are told in one `price_batch`.
    Prices {
        /// One for each symbol.
        updates: Vec<Arc<Publication>>,
        /// When the batch was made, in milliseconds since the Unix epoch.
        time_ms: i64,
    },
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

/// The field numbers of the messages that are joined from parts. A test holds
/// them against the messages.
mod field {
    pub(super) const SERVER_MESSAGE_TIMESTAMP: u32 = 4;
    pub(super) const SERVER_MESSAGE_PRICE_BATCH: u32 = 19;
    pub(super) const PRICE_BATCH_UPDATES: u32 = 1;
    pub(super) const PRICE_BATCH_TIMESTAMP: u32 = 2;
}

impl Outgoing {
    /// The `type` of the message.
    #[must_use]
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::Direct(message) => message.data.as_ref().map_or("", json::data_type),
            Self::Publication(publication) => publication.event_type(),
            Self::Prices { .. } => "price_batch",
        }
    }

    /// The message as JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        match self {
            Self::Direct(message) => json::to_vec(&**message).into(),
            Self::Publication(publication) => publication.json(),
            Self::Prices { updates, time_ms } => price_batch_json(updates, *time_ms),
        }
    }

    /// The message as protobuf.
    #[must_use]
    pub fn proto(&self) -> Bytes {
        match self {
            Self::Direct(message) => message.encode_to_vec().into(),
            Self::Publication(publication) => publication.proto(),
            Self::Prices { updates, time_ms } => price_batch_proto(updates, *time_ms),
        }
    }
}

fn price_batch_json(updates: &[Arc<Publication>], time_ms: i64) -> Bytes {
    let parts: Vec<_> = updates.iter().map(|update| update.json_data()).collect();
    let mut out =
        BytesMut::with_capacity(parts.iter().map(|part| part.len() + 1).sum::<usize>() + 128);
    out.put_slice(br#"{"type":"price_batch","data":{"updates":["#);
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(part);
    }
    out.put_slice(format!(r#"],"timestamp":{time_ms}}},"timestamp":{time_ms}}}"#).as_bytes());
    out.freeze()
}

fn price_batch_proto(updates: &[Arc<Publication>], time_ms: i64) -> Bytes {
    let parts: Vec<_> = updates.iter().map(|update| update.proto_data()).collect();
    let batch_len = parts
        .iter()
        .map(|part| 1 + encoded_len_varint(part.len() as u64) + part.len())
        .sum::<usize>()
        + prost::encoding::int64::encoded_len(field::PRICE_BATCH_TIMESTAMP, &time_ms);
    let mut out = BytesMut::with_capacity(batch_len + 32);
    prost::encoding::int64::encode(field::SERVER_MESSAGE_TIMESTAMP, &time_ms, &mut out);
    encode_key(
        field::SERVER_MESSAGE_PRICE_BATCH,
        WireType::LengthDelimited,
        &mut out,
    );
    encode_varint(batch_len as u64, &mut out);
    for part in &parts {
        encode_key(
            field::PRICE_BATCH_UPDATES,
            WireType::LengthDelimited,
            &mut out,
        );
        encode_varint(part.len() as u64, &mut out);
        out.put_slice(part);
    }
    prost::encoding::int64::encode(field::PRICE_BATCH_TIMESTAMP, &time_ms, &mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::{Decimal, PriceBatch, PriceUpdate, server_message::Data};

    use super::*;
    use crate::{ChannelName, Epoch, Position};

    #[test]
    fn a_joined_batch_equals_an_encoded_one() {
        let update = |symbol: &str, price: &str| PriceUpdate {
            symbol: symbol.into(),
            price: Some(Decimal {
                value: price.into(),
            }),
            timestamp: 5,
            source: "aggregate".into(),
            ..PriceUpdate::default()
        };
        let updates = [update("BTC-USD", "61837.63"), update("ETH-USD", "2683.8")];
        let publications = updates.iter().map(|update| {
            Publication::new(
                ChannelName::parse(&format!("prices:{}", update.symbol)).unwrap(),
                Position {
                    epoch: Epoch::new("e"),
                    seq: 1,
                },
                5,
                Data::Price(update.clone()),
            )
        });
        let joined = Outgoing::Prices {
            updates: publications.collect(),
            time_ms: 9,
        };
        let whole = ServerMessage {
            timestamp: Some(9),
            data: Some(Data::PriceBatch(PriceBatch {
                updates: updates.to_vec(),
                timestamp: 9,
            })),
            ..ServerMessage::default()
        };
        assert_eq!(joined.json(), json::to_vec(&whole));
        assert_eq!(ServerMessage::decode(joined.proto()).unwrap(), whole);
    }
}
