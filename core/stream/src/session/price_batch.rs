//! Price batches: several prices in one `price_batch` message, joined from the encodings that
//! the updates share.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::Encoding;
use crate::Publication;

/// Several price updates for one client, in one message.
#[derive(Debug, Clone)]
pub struct PriceBatch {
    /// The updates, one for each symbol.
    pub updates: Vec<Arc<Publication>>,
    /// Time of the batch, in milliseconds since the Unix epoch.
    pub time_ms: i64,
}

/// Field numbers of the messages that are joined from parts. A test compares them with the
/// messages.
mod field {
    pub(super) const SERVER_MESSAGE_TIMESTAMP: u32 = 4;
    pub(super) const SERVER_MESSAGE_PRICE_BATCH: u32 = 19;
    pub(super) const PRICE_BATCH_UPDATES: u32 = 1;
    pub(super) const PRICE_BATCH_TIMESTAMP: u32 = 2;
}

const JSON_BEGIN: &[u8] = br#"{"type":"price_batch","data":{"updates":["#;
const JSON_MIDDLE: &[u8] = br#"],"timestamp":"#;
const JSON_END: &[u8] = br#"},"timestamp":"#;

impl PriceBatch {
    /// Length of the message, in bytes.
    #[must_use]
    pub fn len(&self, encoding: Encoding) -> usize {
        match encoding {
            Encoding::Json => {
                let parts: usize = self
                    .updates
                    .iter()
                    .map(|one| one.json_data().len() + 1)
                    .sum();
                let time = Digits::of(self.time_ms).as_bytes().len();
                // One comma fewer than parts, and the last brace.
                JSON_BEGIN.len() + parts + JSON_MIDDLE.len() + time + JSON_END.len() + time
            }
            Encoding::Proto => {
                let batch = self.proto_batch_len();
                let time = field::SERVER_MESSAGE_TIMESTAMP;
                prost::encoding::int64::encoded_len(time, &self.time_ms)
                    + prost::encoding::key_len(field::SERVER_MESSAGE_PRICE_BATCH)
                    + encoded_len_varint(batch as u64)
                    + batch
            }
        }
    }

    /// Appends the message.
    pub fn put(&self, encoding: Encoding, out: &mut impl BufMut) {
        match encoding {
            Encoding::Json => self.put_json(out),
            Encoding::Proto => self.put_proto(out),
        }
    }

    /// The message.
    pub(super) fn bytes(&self, encoding: Encoding) -> Bytes {
        let mut out = BytesMut::with_capacity(self.len(encoding));
        self.put(encoding, &mut out);
        out.freeze()
    }

    /// The JSON form before the first update, for a writer that joins the updates itself.
    #[must_use]
    pub fn json_before(&self) -> &'static [u8] {
        JSON_BEGIN
    }

    /// Appends the JSON form after the last update.
    pub fn put_json_after(&self, out: &mut impl BufMut) {
        let time = Digits::of(self.time_ms);
        out.put_slice(JSON_MIDDLE);
        out.put_slice(time.as_bytes());
        out.put_slice(JSON_END);
        out.put_slice(time.as_bytes());
        out.put_u8(b'}');
    }

    fn put_json(&self, out: &mut impl BufMut) {
        out.put_slice(JSON_BEGIN);
        for (index, update) in self.updates.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            out.put_slice(update.json_data());
        }
        self.put_json_after(out);
    }

    fn put_proto(&self, out: &mut impl BufMut) {
        prost::encoding::int64::encode(field::SERVER_MESSAGE_TIMESTAMP, &self.time_ms, out);
        encode_key(
            field::SERVER_MESSAGE_PRICE_BATCH,
            WireType::LengthDelimited,
            out,
        );
        encode_varint(self.proto_batch_len() as u64, out);
        for update in &self.updates {
            let part = update.proto_data();
            encode_key(field::PRICE_BATCH_UPDATES, WireType::LengthDelimited, out);
            encode_varint(part.len() as u64, out);
            out.put_slice(part);
        }
        prost::encoding::int64::encode(field::PRICE_BATCH_TIMESTAMP, &self.time_ms, out);
    }

    fn proto_batch_len(&self) -> usize {
        let part = |update: &Arc<Publication>| {
            let length = update.proto_data().len();
            1 + encoded_len_varint(length as u64) + length
        };
        self.updates.iter().map(part).sum::<usize>()
            + prost::encoding::int64::encoded_len(field::PRICE_BATCH_TIMESTAMP, &self.time_ms)
    }
}

/// A number in decimal digits, without an allocation.
struct Digits {
    text: [u8; 20],
    from: usize,
}

impl Digits {
    fn of(number: i64) -> Self {
        let mut digits = Self {
            text: [b'0'; 20],
            from: 20,
        };
        let mut left = number.unsigned_abs();
        while left > 0 || digits.from == 20 {
            digits.from -= 1;
            // A digit fits a byte.
            digits.text[digits.from] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        if number < 0 {
            digits.from -= 1;
            digits.text[digits.from] = b'-';
        }
        digits
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[self.from..]
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tidewire_proto::{
        json,
        v1::{self, Decimal, PriceUpdate, ServerMessage, server_message::Data},
    };

    use super::*;
    use crate::{ChannelName, Epoch, Position};

    #[test]
    fn a_joined_batch_equals_the_encoded_message() {
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
        for time_ms in [9, 1_700_000_000_000] {
            let joined = PriceBatch {
                updates: publications.clone().collect(),
                time_ms,
            };
            let whole = ServerMessage {
                timestamp: Some(time_ms),
                data: Some(Data::PriceBatch(v1::PriceBatch {
                    updates: updates.to_vec(),
                    timestamp: time_ms,
                })),
                ..ServerMessage::default()
            };
            assert_eq!(joined.bytes(Encoding::Json), json::to_vec(&whole));
            let proto = joined.bytes(Encoding::Proto);
            assert_eq!(ServerMessage::decode(proto).unwrap(), whole);
            for encoding in [Encoding::Json, Encoding::Proto] {
                assert_eq!(joined.len(encoding), joined.bytes(encoding).len());
            }
        }
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 7, -7, 10, 1_700_000_000_000, i64::MAX, i64::MIN] {
            assert_eq!(Digits::of(number).as_bytes(), number.to_string().as_bytes());
        }
    }
}
