//! WebSocket frames.

use std::io::Read as _;

/// Frame opcodes.
pub(crate) mod opcode {
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const BINARY: u8 = 2;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

const MASK: [u8; 4] = [0x9d, 0x21, 0x5c, 0xe6];

/// A frame head at the start of a buffer. The payload may be incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    /// Whether an extension transformed the payload (RSV1).
    pub(crate) is_changed: bool,
    /// Masking key of a client frame.
    pub(crate) mask: Option<[u8; 4]>,
    /// Offsets of the payload and of the frame's end.
    pub(crate) payload: usize,
    pub(crate) end: usize,
}

/// Parses a frame head, once it is complete.
pub(crate) fn frame(bytes: &[u8]) -> Option<Frame> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, mut payload) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*bytes[2..].first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes[2..].first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let mut mask = None;
    if second & 0x80 != 0 {
        mask = Some(*bytes.get(payload..)?.first_chunk()?);
        payload += 4;
    }
    Some(Frame {
        opcode: first & 0x0f,
        is_changed: first & 0x40 != 0,
        mask,
        payload,
        end: payload.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)),
    })
}

/// Appends a client frame.
pub(crate) fn client(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    head(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], MASK);
}

/// Appends a server frame.
pub(crate) fn server(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    head(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// Inflates the payload of a frame compressed without context takeover (RFC 7692, section
/// 7.2.2).
///
/// # Errors
/// The payload is not valid DEFLATE data.
pub(crate) fn inflated(payload: &[u8]) -> std::io::Result<Vec<u8>> {
    const END: &[u8] = &[0, 0, 0xff, 0xff];
    let mut out = Vec::new();
    // The stream has no end marker, so reading stops at the last byte.
    let mut reader = flate2::read::DeflateDecoder::new(payload.chain(END));
    match reader.read_to_end(&mut out) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(out),
        result => result.map(|_| out),
    }
}

/// Applies or removes a mask.
pub(crate) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

fn head(out: &mut Vec<u8>, opcode: u8, length: usize, masked: u8) {
    out.push(0x80 | opcode);
    match length {
        // The matches prove that the lengths fit.
        0..=125 => out.push(masked | length as u8),
        126..=0xffff => {
            out.push(masked | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_payload_is_read() {
        // The example of RFC 7692, section 7.2.3.1.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflated(&hello).unwrap(), b"Hello");
        assert!(inflated(&[0xff; 8]).is_err());
    }

    #[test]
    fn frames_come_back() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![7; length];
            let mut out = Vec::new();
            client(&mut out, opcode::BINARY, &payload);
            let read = frame(&out).unwrap();
            assert_eq!((read.opcode, read.end), (opcode::BINARY, out.len()));
            unmask(&mut out[read.payload..], read.mask.unwrap());
            assert_eq!(out[read.payload..], payload);

            out.clear();
            server(&mut out, opcode::TEXT, &payload);
            let read = frame(&out).unwrap();
            assert_eq!((read.mask, read.end), (None, out.len()));
            let head = read.payload;
            assert!((0..head).all(|part| frame(&out[..part]).is_none()));
        }
    }
}
