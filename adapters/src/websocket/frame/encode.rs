//! Frame encoder: writes the WebSocket frames of the server, unmasked and unfragmented.
//!
//! [`encode_frame`] and [`encode_deflated_frame`] make a frame once, which many clients
//! share. [`write_frame`] appends a frame for one client to a buffer. [`write_header`]
//! appends the header alone, for a payload of shared parts.

use bytes::{BufMut, Bytes, BytesMut};

use super::Opcode;
use crate::{CompressionOptions, websocket::deflate::deflate};

/// FIN: the last frame of a message. Every message has one frame.
const FINAL: u8 = 0x80;

/// RSV1: the message is compressed (RFC 7692, section 6).
const DEFLATED: u8 = 0x40;

/// The longest header, in bytes.
const MAX_HEAD: usize = 10;

/// The longest payload of a control frame, in bytes.
const MAX_CONTROL: usize = 125;

/// Encodes a frame that clients can share.
#[must_use]
pub fn encode_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + MAX_HEAD);
    write_frame(&mut out, opcode, payload);
    out.freeze()
}

/// Encodes a compressed frame that clients with permessage-deflate can share. `None` for a
/// control frame, for a payload below the threshold, and for one that would not get
/// shorter: then every client gets the plain frame.
///
/// Clients can share the frame because compression has no context from earlier messages.
#[must_use]
pub fn encode_deflated_frame(
    opcode: Opcode,
    payload: &[u8],
    options: CompressionOptions,
) -> Option<Bytes> {
    if opcode.is_control() {
        return None;
    }
    let deflated = deflate(payload, options)?;
    let mut out = BytesMut::with_capacity(deflated.len() + MAX_HEAD);
    write_deflated_header(&mut out, opcode, deflated.len());
    out.put_slice(&deflated);
    Some(out.freeze())
}

/// Appends a frame.
pub fn write_frame(out: &mut impl BufMut, opcode: Opcode, payload: &[u8]) {
    write_header(out, opcode, payload.len());
    out.put_slice(payload);
}

/// Appends the header of a frame. The caller appends exactly `length` bytes of payload.
pub fn write_header(out: &mut impl BufMut, opcode: Opcode, length: usize) {
    debug_assert!(!opcode.is_control() || length <= MAX_CONTROL);
    write_first_bytes(out, FINAL | opcode as u8, length);
}

/// Appends the header of a compressed frame. The caller appends exactly `length` bytes of
/// payload.
pub fn write_deflated_header(out: &mut impl BufMut, opcode: Opcode, length: usize) {
    debug_assert!(!opcode.is_control());
    write_first_bytes(out, FINAL | DEFLATED | opcode as u8, length);
}

fn write_first_bytes(out: &mut impl BufMut, first: u8, length: usize) {
    out.put_u8(first);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ 0..=125), _) => out.put_u8(length),
        (_, Ok(length)) => {
            out.put_u8(126);
            out.put_u16(length);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

/// Encodes a close frame.
#[must_use]
pub fn encode_close_frame(code: u16, reason: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(reason.len() + 4);
    write_close(&mut out, code, reason);
    out.freeze()
}

/// Appends a close frame. A reason above 123 bytes is truncated.
pub fn write_close(out: &mut impl BufMut, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL - 2)];
    write_header(out, Opcode::Close, reason.len() + 2);
    out.put_u16(code);
    out.put_slice(reason.as_bytes());
}
