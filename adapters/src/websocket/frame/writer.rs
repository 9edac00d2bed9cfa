//! The frames of the server: unmasked, never fragmented.
//!
//! A frame that many clients get is made once, by [`frame`] or [`deflated_frame`],
//! and shared. What one client gets is appended to a scratch buffer, by [`put_frame`]
//! or, where the payload is joined from shared parts, by [`put_head`].

use bytes::{BufMut, Bytes, BytesMut};

use super::Opcode;
use crate::websocket::deflate::{Compressor, deflate};

/// FIN: the last frame of a message, and here always the first.
const FINAL: u8 = 0x80;

/// RSV1: the message is compressed (RFC 7692, section 6).
const DEFLATED: u8 = 0x40;

/// The longest header.
const MAX_HEAD: usize = 10;

/// The longest payload of a control frame.
const MAX_CONTROL: usize = 125;

/// A whole frame, to be shared.
#[must_use]
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + MAX_HEAD);
    put_frame(&mut out, opcode, payload);
    out.freeze()
}

/// A whole compressed frame, to be shared by all clients that agreed to it; nothing
/// if the compressor leaves such a payload alone, or it does not get shorter. Then
/// the plain [`frame`] goes to everyone.
///
/// Nothing is remembered between messages, which is what makes the frame the same
/// for everyone. Control frames are never compressed.
#[must_use]
pub fn deflated_frame(opcode: Opcode, payload: &[u8], compressor: Compressor) -> Option<Bytes> {
    if opcode.is_control() {
        return None;
    }
    let deflated = deflate(payload, compressor)?;
    let mut out = BytesMut::with_capacity(deflated.len() + MAX_HEAD);
    put_deflated_head(&mut out, opcode, deflated.len());
    out.put_slice(&deflated);
    Some(out.freeze())
}

/// Appends a whole frame.
pub fn put_frame(out: &mut impl BufMut, opcode: Opcode, payload: &[u8]) {
    put_head(out, opcode, payload.len());
    out.put_slice(payload);
}

/// Appends the header of a frame; its payload of exactly `length` bytes is to follow.
pub fn put_head(out: &mut impl BufMut, opcode: Opcode, length: usize) {
    debug_assert!(!opcode.is_control() || length <= MAX_CONTROL);
    put_bits(out, FINAL | opcode as u8, length);
}

/// Appends the header of a compressed frame; its payload of exactly `length` bytes is to
/// follow.
pub fn put_deflated_head(out: &mut impl BufMut, opcode: Opcode, length: usize) {
    debug_assert!(!opcode.is_control());
    put_bits(out, FINAL | DEFLATED | opcode as u8, length);
}

fn put_bits(out: &mut impl BufMut, first: u8, length: usize) {
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

/// A close frame.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(reason.len() + 4);
    put_close(&mut out, code, reason);
    out.freeze()
}

/// Appends a close frame. A reason that is too long for it is cut.
pub fn put_close(out: &mut impl BufMut, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL - 2)];
    put_head(out, Opcode::Close, reason.len() + 2);
    out.put_u16(code);
    out.put_slice(reason.as_bytes());
}
