//! WebSocket frames (RFC 6455): the server's own reader and writer.
//!
//! The reader takes masked frames from a client, joins fragments, inflates what was
//! compressed and checks what the protocol demands. The writer, in `writer`, puts a
//! header before bytes that many clients share. What the client and the server agree
//! on about compression, and the compression itself, live in [`super::deflate`];
//! connections and their commands in `connection`.

#[cfg(test)]
mod tests;
mod writer;

use bytes::{Buf as _, Bytes, BytesMut};

use super::deflate::{Agreement, InflateError, inflate};

pub use writer::{
    close_frame, deflated_frame, frame, put_close, put_deflated_head, put_frame, put_head,
};

/// A message or control frame of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A text message: valid UTF-8.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping, to be answered with the same payload.
    Ping(Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// The client closes, with this code if it gave one.
    Close(Option<u16>),
}

impl Incoming {
    /// How many bytes it brought.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => {
                bytes.len()
            }
            Self::Close(_) => 0,
        }
    }
}

/// What a client did wrong. Each ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message is longer than allowed.
    #[error("the message is longer than {0} bytes")]
    TooBig(usize),
    /// A text message, or the reason of a close frame, is not UTF-8.
    #[error("a text message is not UTF-8")]
    NotUtf8,
    /// A compressed message is not DEFLATE data, or ends within a block.
    #[error("a compressed message is not valid DEFLATE data")]
    NotDeflate,
    /// Something else that RFC 6455 forbids.
    #[error("{0}")]
    Protocol(&'static str),
}

impl FrameError {
    /// The close code for it.
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
    /// More of a message.
    Continuation = 0,
    /// A text message, or its first part.
    Text = 1,
    /// A binary message, or its first part.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// A question for a sign of life.
    Ping = 9,
    /// Its answer.
    Pong = 10,
}

impl Opcode {
    fn parse(bits: u8) -> Result<Self, FrameError> {
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

    fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// Reads the frames of one client.
///
/// It holds what came and is not used up yet, and nothing else: after
/// [`FrameReader::release`] an idle client's reader has no memory on the heap.
/// Memory follows what was received, never what a header announces.
///
/// ```
/// use tidewire_adapters::websocket::frame::{FrameReader, Incoming};
///
/// let mut reader = FrameReader::new(1_000);
/// // A masked ping without a payload.
/// reader.feed(&[0x89, 0x80, 1, 2, 3, 4]);
/// assert_eq!(reader.next_message(), Ok(Some(Incoming::Ping(Default::default()))));
/// assert_eq!(reader.next_message(), Ok(None));
/// reader.release();
/// ```
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    message: Option<Partial>,
    limit: usize,
    compression: Compression,
}

/// What the handshake said about compressed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Refused,
    Agreed,
}

struct Head {
    is_final: bool,
    /// RSV1: the message is compressed.
    is_deflated: bool,
    opcode: Opcode,
    mask: [u8; 4],
    length: usize,
    head_length: usize,
}

impl FrameReader {
    /// A reader of messages up to `limit` bytes, none of them compressed.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            message: None,
            limit,
            compression: Compression::Refused,
        }
    }

    /// Takes compressed messages too, if that was agreed on. The limit holds for
    /// what they are when inflated.
    #[must_use]
    pub fn with_deflate(mut self, agreement: Option<Agreement>) -> Self {
        self.compression = match agreement {
            Some(_) => Compression::Agreed,
            None => Compression::Refused,
        };
        self
    }

    /// Where bytes from the socket are to be appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Appends bytes that were read into memory of the caller's, which many readers
    /// may share.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Gives back the memory that is not in use: to be called when
    /// [`Self::next_message`] has no more and the socket has nothing to read.
    ///
    /// The start of a frame, and the parts of a message, are kept in a buffer of
    /// about their size.
    pub fn release(&mut self) {
        shrink(&mut self.buffer);
        if let Some(message) = &mut self.message {
            shrink(&mut message.parts);
        }
    }

    /// The next message or control frame, if it is there as a whole.
    ///
    /// # Errors
    /// The client broke the protocol; the reader is of no more use.
    pub fn next_message(&mut self) -> Result<Option<Incoming>, FrameError> {
        loop {
            let Some(head) = self.head()? else {
                return Ok(None);
            };
            let missing = (head.head_length + head.length).saturating_sub(self.buffer.len());
            if missing > 0 {
                // Few reads for a long frame, and still no more than a client paid
                // for with bytes of its own.
                self.buffer
                    .reserve(missing.min(self.buffer.len().max(MIN_READ)));
                return Ok(None);
            }
            self.buffer.advance(head.head_length);
            let mut payload = self.buffer.split_to(head.length);
            unmask(&mut payload, head.mask);
            if let Some(incoming) = self.take(&head, payload)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn head(&self) -> Result<Option<Head>, FrameError> {
        let bytes = &self.buffer[..];
        let [first, second, ..] = *bytes else {
            return Ok(None);
        };
        let opcode = Opcode::parse(first & 0x0f)?;
        let is_final = first & 0x80 != 0;
        let is_deflated = first & 0x40 != 0;
        self.check_bits(first, opcode)?;
        self.check_order(opcode)?;
        if second & 0x80 == 0 {
            return Err(FrameError::Protocol("the frame is not masked"));
        }
        let (length, length_bytes) = match second & 0x7f {
            126 => {
                let Some(&[a, b]) = bytes.get(2..4).and_then(|b| b.first_chunk()) else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes([a, b])), 2)
            }
            127 => {
                let Some(length) = bytes.get(2..10).and_then(|b| b.first_chunk::<8>()) else {
                    return Ok(None);
                };
                (u64::from_be_bytes(*length), 8)
            }
            short => (u64::from(short), 0),
        };
        if opcode.is_control() && (length > 125 || !is_final) {
            return Err(FrameError::Protocol(
                "a control frame is long or fragmented",
            ));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !opcode.is_control() {
            self.check_length(is_deflated, length)?;
        }
        let head_length = 2 + length_bytes + 4;
        let Some(mask) = bytes
            .get(head_length - 4..head_length)
            .and_then(|b| b.first_chunk::<4>())
        else {
            return Ok(None);
        };
        Ok(Some(Head {
            is_final,
            is_deflated,
            opcode,
            mask: *mask,
            length,
            head_length,
        }))
    }

    /// RFC 6455, section 5.2, and RFC 7692, section 6.
    fn check_bits(&self, first: u8, opcode: Opcode) -> Result<(), FrameError> {
        if first & 0x30 != 0 {
            return Err(FrameError::Protocol(
                "a reserved bit is set that no extension uses",
            ));
        }
        if first & 0x40 == 0 {
            return Ok(());
        }
        if self.compression == Compression::Refused {
            return Err(FrameError::Protocol(
                "a reserved bit is set, and no extension was agreed on",
            ));
        }
        if opcode.is_control() {
            return Err(FrameError::Protocol("a control frame is compressed"));
        }
        if opcode == Opcode::Continuation {
            return Err(FrameError::Protocol(
                "a continuation says that it is compressed, which only the first frame may",
            ));
        }
        Ok(())
    }

    /// RFC 6455, section 5.4. Said before the payload is there.
    fn check_order(&self, opcode: Opcode) -> Result<(), FrameError> {
        match opcode {
            Opcode::Continuation if self.message.is_none() => Err(FrameError::Protocol(
                "a continuation has nothing to continue",
            )),
            Opcode::Text | Opcode::Binary if self.message.is_some() => Err(FrameError::Protocol(
                "a message begins before the last one ended",
            )),
            _ => Ok(()),
        }
    }

    /// Holds the message against the limit before any of the frame is kept.
    fn check_length(&self, is_deflated: bool, length: usize) -> Result<(), FrameError> {
        let (so_far, is_deflated) = match &self.message {
            Some(message) => (message.parts.len(), message.is_deflated),
            None => (0, is_deflated),
        };
        let limit = if is_deflated {
            // What does not compress grows a little.
            self.limit.saturating_add(self.limit / 16 + 64)
        } else {
            self.limit
        };
        if length.saturating_add(so_far) > limit {
            return Err(FrameError::TooBig(self.limit));
        }
        Ok(())
    }

    fn take(&mut self, head: &Head, payload: BytesMut) -> Result<Option<Incoming>, FrameError> {
        let mut message = match (head.opcode, self.message.take()) {
            (Opcode::Ping, message) => {
                self.message = message;
                return Ok(Some(Incoming::Ping(payload.freeze())));
            }
            (Opcode::Pong, message) => {
                self.message = message;
                return Ok(Some(Incoming::Pong(payload.freeze())));
            }
            (Opcode::Close, _) => {
                return close_code(&payload).map(|code| Some(Incoming::Close(code)));
            }
            // The order was checked with the head.
            (_, Some(mut message)) => {
                message.parts.extend_from_slice(&payload);
                message
            }
            (opcode, None) => Partial {
                opcode,
                is_deflated: head.is_deflated,
                parts: payload,
                checked: 0,
            },
        };
        message.check_text()?;
        if !head.is_final {
            self.message = Some(message);
            return Ok(None);
        }
        message.finish(self.limit).map(Some)
    }
}

/// The least that is made room for while a frame comes in.
const MIN_READ: usize = 4 << 10;

/// Replaces a buffer that is much larger than what it holds.
fn shrink(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    } else if buffer.capacity() > buffer.len() * 2 + 64 {
        *buffer = BytesMut::from(&buffer[..]);
    }
}

/// The frames of a message so far.
#[derive(Debug)]
struct Partial {
    opcode: Opcode,
    is_deflated: bool,
    parts: BytesMut,
    /// So much of a text message is known to be UTF-8.
    checked: usize,
}

impl Partial {
    /// Refuses a text message with the first frame that makes it invalid; a
    /// character may continue in the next frame. Compressed text is checked at its end.
    fn check_text(&mut self) -> Result<(), FrameError> {
        if self.opcode != Opcode::Text || self.is_deflated {
            return Ok(());
        }
        match std::str::from_utf8(&self.parts[self.checked..]) {
            Ok(_) => self.checked = self.parts.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(FrameError::NotUtf8),
        }
        Ok(())
    }

    fn finish(self, limit: usize) -> Result<Incoming, FrameError> {
        let is_text = self.opcode == Opcode::Text;
        let (message, is_utf8) = if self.is_deflated {
            let message = inflate(&self.parts, limit).map_err(|error| match error {
                InflateError::TooBig(limit) => FrameError::TooBig(limit),
                InflateError::Invalid => FrameError::NotDeflate,
            })?;
            let is_utf8 = is_text && std::str::from_utf8(&message).is_ok();
            (Bytes::from(message), is_utf8)
        } else {
            let is_utf8 = self.checked == self.parts.len();
            (self.parts.freeze(), is_utf8)
        };
        match (is_text, is_utf8) {
            (true, true) => Ok(Incoming::Text(message)),
            (true, false) => Err(FrameError::NotUtf8),
            (false, _) => Ok(Incoming::Binary(message)),
        }
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The code of a close frame (RFC 6455, sections 5.5.1 and 7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        let is_empty = payload.is_empty();
        return if is_empty {
            Ok(None)
        } else {
            Err(FrameError::Protocol("a close frame has half a code"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::Protocol(
            "a close frame has a code that may not be sent",
        ));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(FrameError::NotUtf8);
    }
    Ok(Some(code))
}
