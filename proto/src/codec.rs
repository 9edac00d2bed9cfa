//! A gRPC codec for messages that were encoded before: the bytes go out as they are.

use std::marker::PhantomData;

use bytes::{BufMut as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::v1::ServerMessage;

/// A [`ServerMessage`] in its protobuf encoding, shared by all that send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedMessage(Bytes);

impl From<Bytes> for EncodedMessage {
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

/// A stream's buffer begins at so many bytes, and what has gathered beyond is sent.
/// Tonic's own default of 8 KiB a stream is more than an idle one needs.
const BUFFER: BufferSettings = BufferSettings::new(1 << 10, 32 << 10);

impl<T: Message + Default + Send + 'static> Codec for SharedCodec<T> {
    type Encode = EncodedMessage;
    type Decode = T;
    type Encoder = SharedEncoder;
    type Decoder = PlainDecoder<T>;

    fn encoder(&mut self) -> Self::Encoder {
        SharedEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        PlainDecoder(PhantomData)
    }
}

/// Copies what was encoded before.
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
        BUFFER
    }
}

/// Decodes protobuf.
#[derive(Debug)]
pub struct PlainDecoder<T>(PhantomData<T>);

impl<T: Message + Default> Decoder for PlainDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(bytes)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("the message cannot be decoded: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BUFFER
    }
}
