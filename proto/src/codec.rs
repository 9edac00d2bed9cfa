//! gRPC codecs of the servers, both with small buffers: one sends messages encoded beforehand
//! without copying their fields, one encodes all others.

use std::marker::PhantomData;

use bytes::{BufMut as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::v1::ServerMessage;

/// Initial size of a stream's buffer, in bytes. Tonic's default is 8 KiB, more than an idle
/// stream needs.
const BUFFER: usize = 1 << 10;

/// Bytes coalesced before a write.
const COALESCED_BYTES: usize = 32 << 10;

fn buffer() -> BufferSettings {
    BufferSettings::new(BUFFER, COALESCED_BYTES)
}

/// A [`ServerMessage`] in its protobuf encoding, shared by all its streams.
///
/// ```
/// use tidewire_proto::{EncodedMessage, prost::Message, v1::ServerMessage};
///
/// let message = ServerMessage { seq: Some(7), ..Default::default() };
/// let encoded = EncodedMessage::from(&message);
/// assert_eq!(ServerMessage::decode(encoded.into_bytes()), Ok(message));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedMessage(Bytes);

impl EncodedMessage {
    /// Returns the encoding.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl From<Bytes> for EncodedMessage {
    /// Wraps bytes, which must be the encoding of a message.
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<&ServerMessage> for EncodedMessage {
    fn from(message: &ServerMessage) -> Self {
        Self(message.encode_to_vec().into())
    }
}

/// Sends [`EncodedMessage`]s, receives messages of type `T`.
#[derive(Debug)]
pub struct SharedCodec<T>(PhantomData<T>);

impl<T> Default for SharedCodec<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Default + Send + 'static> Codec for SharedCodec<T> {
    type Encode = EncodedMessage;
    type Decode = T;
    type Encoder = SharedEncoder;
    type Decoder = RequestDecoder<T>;

    fn encoder(&mut self) -> Self::Encoder {
        SharedEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder::default()
    }
}

/// Copies an encoded message.
#[derive(Debug)]
pub struct SharedEncoder;

impl Encoder for SharedEncoder {
    type Item = EncodedMessage;
    type Error = Status;

    fn encode(&mut self, item: EncodedMessage, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item.0);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffer()
    }
}

/// Sends messages of type `T`, receives messages of type `U`.
#[derive(Debug)]
pub struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = RequestDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffer())
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder::default()
    }
}

/// Decodes requests. One that cannot be decoded is the client's fault: `INVALID_ARGUMENT`, where
/// tonic's own decoder returns `INTERNAL`.
#[derive(Debug)]
pub struct RequestDecoder<T>(ProstDecoder<T>);

impl<T> Default for RequestDecoder<T> {
    fn default() -> Self {
        Self(ProstDecoder::new(buffer()))
    }
}

impl<T: Message + Default> Decoder for RequestDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let decoded = self.0.decode(bytes);
        decoded.map_err(|error| Status::invalid_argument(error.message()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffer()
    }
}
