//! WebSocket frames (RFC 6455): the opcodes, the frames of clients and their errors.
//!
//! `decode` parses the masked frames of clients; `encode` writes the frames of the
//! server. Compression is in [`deflate`](super::deflate).

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use decode::FrameDecoder;
pub use encode::{
    encode_close_frame, encode_deflated_frame, encode_frame, write_close, write_deflated_header,
    write_frame, write_header,
};

/// A message or control frame of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// A text message, valid UTF-8.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping. The pong carries the same payload.
    Ping(Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// A close frame, with its code if it has one.
    Close(Option<u16>),
}

impl ClientFrame {
    /// The length of the payload, in bytes. 0 for a close frame.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => {
                bytes.len()
            }
            Self::Close(_) => 0,
        }
    }
}

/// A protocol violation of a client. Each one closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message is longer than the limit.
    #[error("the message is longer than {0} bytes")]
    TooBig(usize),
    /// A text message, or the reason of a close frame, is not UTF-8.
    #[error("a text message is not UTF-8")]
    NotUtf8,
    /// A compressed message is not DEFLATE data, or ends within a block.
    #[error("a compressed message is not valid DEFLATE data")]
    NotDeflate,
    /// Another violation of RFC 6455.
    #[error("{0}")]
    Protocol(&'static str),
}

impl FrameError {
    /// The close code of the violation.
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooBig(_) => 1009,
            Self::NotUtf8 | Self::NotDeflate => 1007,
            Self::Protocol(_) => 1002,
        }
    }
}

/// The opcodes of RFC 6455, section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// A ping.
    Ping = 9,
    /// A pong.
    Pong = 10,
}

impl Opcode {
    pub(super) fn parse(bits: u8) -> Result<Self, FrameError> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(FrameError::Protocol("the opcode is reserved")),
        })
    }

    pub(super) fn is_control(self) -> bool {
        self as u8 >= 8
    }
}
