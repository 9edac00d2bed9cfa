//! Frame decoder: parses masked client frames, joins fragments and inflates messages.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{ClientFrame, FrameError, Opcode};
use crate::websocket::deflate::{Agreement, InflateError, inflate};

/// The least capacity that is reserved for the rest of a frame, in bytes.
pub(super) const MIN_READ: usize = 4 << 10;

/// Fragments without a byte that a message may have. The others are bounded by the length of the
/// message, and these by nothing else.
const MAX_EMPTY_FRAGMENTS: u8 = 64;

/// Decodes the frames of one client.
///
/// The decoder holds received bytes that are not decoded yet. After
/// [`FrameDecoder::release`] the decoder of an idle client uses no heap memory. Memory
/// grows with received bytes, never with the length that a header announces.
///
/// ```
/// use tidewire_adapters::websocket::frame::{FrameDecoder, ClientFrame};
///
/// let mut decoder = FrameDecoder::new(1_000);
/// // A masked ping without a payload.
/// decoder.feed(&[0x89, 0x80, 1, 2, 3, 4]);
/// assert_eq!(decoder.next_message(), Ok(Some(ClientFrame::Ping(Default::default()))));
/// assert_eq!(decoder.next_message(), Ok(None));
/// decoder.release();
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    message: Option<PartialMessage>,
    limit: usize,
    compression: DeflateSupport,
}

/// Whether compression was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeflateSupport {
    Declined,
    Agreed,
}

struct FrameHeader {
    is_final: bool,
    /// RSV1: the message is compressed.
    is_deflated: bool,
    opcode: Opcode,
    mask: [u8; 4],
    length: usize,
    header_length: usize,
}

impl FrameDecoder {
    /// A decoder of uncompressed messages up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            message: None,
            limit,
            compression: DeflateSupport::Declined,
        }
    }

    /// Also accepts compressed messages, if there is an agreement. The limit applies to the
    /// inflated message.
    #[must_use]
    pub fn with_deflate(mut self, agreement: Option<Agreement>) -> Self {
        self.compression = match agreement {
            Some(_) => DeflateSupport::Agreed,
            None => DeflateSupport::Declined,
        };
        self
    }

    /// The buffer to which the caller appends bytes from the socket.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Appends bytes from a buffer of the caller, which many decoders can share.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Frees unused memory. Call it when [`Self::next_message`] returns `None` and the
    /// socket has nothing to read.
    ///
    /// The bytes of an incomplete frame or message stay in a buffer of about their size.
    pub fn release(&mut self) {
        shrink(&mut self.buffer);
        if let Some(message) = &mut self.message {
            shrink(&mut message.parts);
        }
    }

    /// The next message or control frame, or `None` until it is complete.
    ///
    /// # Errors
    /// The client violated the protocol. The decoder cannot continue.
    pub fn next_message(&mut self) -> Result<Option<ClientFrame>, FrameError> {
        loop {
            let Some(header) = self.parse_header()? else {
                return Ok(None);
            };
            let missing = (header.header_length + header.length).saturating_sub(self.buffer.len());
            if missing > 0 {
                // The buffer doubles: few reads for a long frame, but never more memory
                // than the client has sent bytes.
                self.buffer
                    .reserve(missing.min(self.buffer.len().max(MIN_READ)));
                return Ok(None);
            }
            self.buffer.advance(header.header_length);
            let mut payload = self.buffer.split_to(header.length);
            unmask(&mut payload, header.mask);
            if let Some(incoming) = self.accept_frame(&header, payload)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn parse_header(&self) -> Result<Option<FrameHeader>, FrameError> {
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
        let header_length = 2 + length_bytes + 4;
        let Some(mask) = bytes
            .get(header_length - 4..header_length)
            .and_then(|b| b.first_chunk::<4>())
        else {
            return Ok(None);
        };
        Ok(Some(FrameHeader {
            is_final,
            is_deflated,
            opcode,
            mask: *mask,
            length,
            header_length,
        }))
    }

    /// Checks the reserved bits (RFC 6455, section 5.2, and RFC 7692, section 6).
    fn check_bits(&self, first: u8, opcode: Opcode) -> Result<(), FrameError> {
        if first & 0x30 != 0 {
            return Err(FrameError::Protocol(
                "a reserved bit is set that no extension uses",
            ));
        }
        if first & 0x40 == 0 {
            return Ok(());
        }
        if self.compression == DeflateSupport::Declined {
            return Err(FrameError::Protocol(
                "a reserved bit is set, and no extension was agreed on",
            ));
        }
        if opcode.is_control() {
            return Err(FrameError::Protocol("a control frame is compressed"));
        }
        if opcode == Opcode::Continuation {
            return Err(FrameError::Protocol(
                "a continuation sets the compression bit, which only the first frame may",
            ));
        }
        Ok(())
    }

    /// Checks the order of fragments (RFC 6455, section 5.4), before the payload arrives.
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

    /// Checks the length of the message before any of the payload is buffered.
    fn check_length(&self, is_deflated: bool, length: usize) -> Result<(), FrameError> {
        let (so_far, is_deflated) = match &self.message {
            Some(message) => (message.parts.len(), message.is_deflated),
            None => (0, is_deflated),
        };
        let limit = if is_deflated {
            // Incompressible data becomes slightly longer.
            self.limit.saturating_add(self.limit / 16 + 64)
        } else {
            self.limit
        };
        if length.saturating_add(so_far) > limit {
            return Err(FrameError::TooBig(self.limit));
        }
        Ok(())
    }

    fn accept_frame(
        &mut self,
        header: &FrameHeader,
        payload: BytesMut,
    ) -> Result<Option<ClientFrame>, FrameError> {
        let mut message = match (header.opcode, self.message.take()) {
            (Opcode::Ping, message) => {
                self.message = message;
                return Ok(Some(ClientFrame::Ping(payload.freeze())));
            }
            (Opcode::Pong, message) => {
                self.message = message;
                return Ok(Some(ClientFrame::Pong(payload.freeze())));
            }
            (Opcode::Close, _) => {
                return close_code(&payload).map(|code| Some(ClientFrame::Close(code)));
            }
            // The order was checked with the header.
            (_, Some(mut message)) => {
                message.parts.extend_from_slice(&payload);
                message
            }
            (opcode, None) => PartialMessage {
                opcode,
                is_deflated: header.is_deflated,
                parts: payload,
                checked: 0,
                empty_fragments: 0,
            },
        };
        message.check_text()?;
        if header.length == 0 && !header.is_final {
            message.empty_fragments += 1;
            if message.empty_fragments > MAX_EMPTY_FRAGMENTS {
                return Err(FrameError::Protocol(
                    "a message has more than 64 empty fragments",
                ));
            }
        }
        if !header.is_final {
            self.message = Some(message);
            return Ok(None);
        }
        message.finish(self.limit).map(Some)
    }
}

/// Replaces a buffer that is much larger than its content.
fn shrink(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    } else if buffer.capacity() > buffer.len() * 2 + 64 {
        *buffer = BytesMut::from(&buffer[..]);
    }
}

/// The fragments of a message so far.
#[derive(Debug)]
struct PartialMessage {
    opcode: Opcode,
    is_deflated: bool,
    parts: BytesMut,
    /// The bytes of a text message that were checked as UTF-8.
    checked: usize,
    empty_fragments: u8,
}

impl PartialMessage {
    /// Refuses a text message at the first fragment that makes it invalid. A character may
    /// continue in the next fragment. Compressed text is checked at its end.
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

    fn finish(self, limit: usize) -> Result<ClientFrame, FrameError> {
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
            (true, true) => Ok(ClientFrame::Text(message)),
            (true, false) => Err(FrameError::NotUtf8),
            (false, _) => Ok(ClientFrame::Binary(message)),
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
