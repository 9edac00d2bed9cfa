//! WebSocket frames (RFC 6455): the server's own reader and writer.
//!
//! The reader takes masked frames from a client, joins fragments and checks what
//! the protocol demands. The writer puts a header before bytes that many clients
//! share. Connections and their commands live in `connection`.

use bytes::{Buf as _, Bytes, BytesMut};

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

/// What a client did wrong. Each ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message is longer than allowed.
    #[error("the message is longer than {0} bytes")]
    TooBig(usize),
    /// A text message is not UTF-8.
    #[error("a text message is not UTF-8")]
    NotUtf8,
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
            Self::NotUtf8 => 1007,
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
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    /// The parts of a message so far.
    message: Option<(Opcode, BytesMut)>,
    limit: usize,
}

struct Head {
    is_final: bool,
    opcode: Opcode,
    mask: [u8; 4],
    length: usize,
    head_length: usize,
}

impl FrameReader {
    /// A reader of messages up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            message: None,
            limit,
        }
    }

    /// Where bytes from the socket are to be appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
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
            if self.buffer.len() < head.head_length + head.length {
                // At most the limit, which the head was held against.
                self.buffer
                    .reserve(head.head_length + head.length - self.buffer.len());
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
        if first & 0x70 != 0 {
            return Err(FrameError::Protocol(
                "a reserved bit is set, and no extension was agreed on",
            ));
        }
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
        let so_far = self.message.as_ref().map_or(0, |(_, parts)| parts.len());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !opcode.is_control() && length.saturating_add(so_far) > self.limit {
            return Err(FrameError::TooBig(self.limit));
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
            opcode,
            mask: *mask,
            length,
            head_length,
        }))
    }

    fn take(&mut self, head: &Head, payload: BytesMut) -> Result<Option<Incoming>, FrameError> {
        match head.opcode {
            Opcode::Ping => Ok(Some(Incoming::Ping(payload.freeze()))),
            Opcode::Pong => Ok(Some(Incoming::Pong(payload.freeze()))),
            Opcode::Close => close_code(&payload).map(|code| Some(Incoming::Close(code))),
            Opcode::Continuation => {
                let Some((opcode, mut parts)) = self.message.take() else {
                    return Err(FrameError::Protocol(
                        "a continuation has nothing to continue",
                    ));
                };
                parts.extend_from_slice(&payload);
                self.part(head.is_final, opcode, parts)
            }
            Opcode::Text | Opcode::Binary if self.message.is_some() => Err(FrameError::Protocol(
                "a message begins before the last one ended",
            )),
            Opcode::Text | Opcode::Binary => self.part(head.is_final, head.opcode, payload),
        }
    }

    fn part(
        &mut self,
        is_final: bool,
        opcode: Opcode,
        parts: BytesMut,
    ) -> Result<Option<Incoming>, FrameError> {
        if !is_final {
            self.message = Some((opcode, parts));
            return Ok(None);
        }
        if opcode == Opcode::Binary {
            return Ok(Some(Incoming::Binary(parts.freeze())));
        }
        if std::str::from_utf8(&parts).is_err() {
            return Err(FrameError::NotUtf8);
        }
        Ok(Some(Incoming::Text(parts.freeze())))
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

/// A whole, unmasked frame.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    put_frame(&mut out, opcode, payload);
    out.into()
}

/// Appends a whole, unmasked frame.
pub fn put_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.push(0x80 | opcode as u8);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => out.push(length),
        (_, Ok(length)) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// A close frame.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut payload = Vec::with_capacity(reason.len() + 2);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    // A control frame holds 125 bytes at most; reasons are short and ASCII.
    payload.truncate(125);
    frame(Opcode::Close, &payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match payload.len() {
            short @ 0..=125 => out.push(0x80 | short as u8),
            medium @ 126..=65535 => {
                out.push(0x80 | 126);
                out.extend((medium as u16).to_be_bytes());
            }
            long => {
                out.push(0x80 | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        out
    }

    fn read(bytes: &[u8]) -> Result<Vec<Incoming>, FrameError> {
        let mut reader = FrameReader::new(100_000);
        reader.buffer().extend_from_slice(bytes);
        let mut all = Vec::new();
        while let Some(incoming) = reader.next_message()? {
            all.push(incoming);
        }
        Ok(all)
    }

    #[test]
    fn messages_of_all_lengths_are_read() {
        for length in [0, 1, 7, 8, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let frame = masked(0x81, &payload);
            assert_eq!(read(&frame).unwrap(), [Incoming::Text(payload.into())]);
        }
    }

    #[test]
    fn fragments_are_joined_around_control_frames() {
        let bytes = [
            masked(0x01, b"ab"),
            masked(0x89, b"?"),
            masked(0x00, b"c"),
            masked(0x80, b"d"),
        ]
        .concat();
        assert_eq!(
            read(&bytes).unwrap(),
            [
                Incoming::Ping(Bytes::from_static(b"?")),
                Incoming::Text(Bytes::from_static(b"abcd"))
            ]
        );
    }

    #[test]
    fn what_the_protocol_forbids_is_refused() {
        let protocol = |bytes: &[u8]| {
            assert!(
                matches!(read(bytes), Err(FrameError::Protocol(_))),
                "{bytes:?}"
            )
        };
        protocol(&masked(0xc1, b"rsv"));
        protocol(&masked(0x83, b"reserved opcode"));
        protocol(&[0x81, 0x01, b'x']);
        protocol(&masked(0x09, b"fragmented ping"));
        protocol(&masked(0x89, &[0; 126]));
        protocol(&masked(0x80, b"nothing to continue"));
        protocol(&[masked(0x01, b"a"), masked(0x81, b"b")].concat());
        protocol(&masked(0x88, &[3]));
        protocol(&masked(0x88, &1005_u16.to_be_bytes()));
        assert_eq!(read(&masked(0x81, &[0xff])), Err(FrameError::NotUtf8));
        assert_eq!(
            read(&masked(0x81, &[b'x'; 100_001])),
            Err(FrameError::TooBig(100_000))
        );
        let parts = [masked(0x01, &[b'x'; 60_000]), masked(0x80, &[b'x'; 60_000])].concat();
        assert_eq!(read(&parts), Err(FrameError::TooBig(100_000)));
        assert_eq!(
            read(&masked(0x88, &4003_u16.to_be_bytes())).unwrap(),
            [Incoming::Close(Some(4003))]
        );
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_reads_the_same(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
            cut in 1_usize..50,
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| masked(0x82, payload)).collect();
            let mut reader = FrameReader::new(1_000);
            let mut all = Vec::new();
            for part in bytes.chunks(cut) {
                reader.buffer().extend_from_slice(part);
                while let Some(incoming) = reader.next_message().unwrap() {
                    all.push(incoming);
                }
            }
            let expected: Vec<_> = payloads.into_iter().map(|payload| Incoming::Binary(payload.into())).collect();
            prop_assert_eq!(all, expected);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }
    }
}
