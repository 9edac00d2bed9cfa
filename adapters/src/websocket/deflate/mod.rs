//! Message compression: permessage-deflate (RFC 7692).
//!
//! This module has the DEFLATE codec. `negotiation` agrees on the extension, and `concat`
//! makes one message of parts that were compressed before. The server always negotiates "no
//! context takeover" in both directions. One compressed frame therefore serves all
//! subscribers, and a connection holds no compression state. The codec state belongs to the
//! thread and is reused.
//!
//! [`frame`](super::frame) sets the bit that marks a compressed frame.

mod concat;
mod negotiation;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

pub use concat::{DeflatedPart, concat_len, write_concat};
pub use negotiation::{Agreement, MalformedExtensions, WindowBits, negotiate};

use crate::compression::{CompressionLevel, CompressionOptions};

/// The end of every flushed stream, which the sender removes (RFC 7692, section 7.2.1).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The removed tail and an empty last block, which the receiver appends. The stream ends
/// exactly there, unless the message was truncated.
const END: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// The reason why a message cannot be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// The inflated message exceeds the limit.
    #[error("the inflated message is longer than {0} bytes")]
    TooBig(usize),
    /// The payload is not DEFLATE data, or ends within a block.
    #[error("the message is not valid DEFLATE data")]
    Invalid,
}

thread_local! {
    /// About 300 KiB, allocated when a thread first compresses.
    static DEFLATER: RefCell<Option<(CompressionLevel, Compress)>> = const { RefCell::new(None) };
    /// About 40 KiB, allocated when a thread first inflates.
    static INFLATER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

/// Compresses the payload of a message. `None` if it is below the threshold, or would not
/// get shorter.
#[must_use]
pub fn deflate(payload: &[u8], options: CompressionOptions) -> Option<Vec<u8>> {
    if payload.len() < options.threshold {
        return None;
    }
    compress(payload, options.level)
}

/// Compresses a payload up to a byte boundary, without the flush tail. `None` if it would
/// not get shorter.
fn compress(payload: &[u8], level: CompressionLevel) -> Option<Vec<u8>> {
    if payload.is_empty() {
        return None;
    }
    DEFLATER.with_borrow_mut(|deflater| {
        let deflater = match deflater {
            Some((own, deflater)) if *own == level => {
                deflater.reset();
                deflater
            }
            other => {
                let compression = Compression::new(level.get());
                &mut other.insert((level, Compress::new(compression, false))).1
            }
        };
        // If the flush does not fit, the result is not shorter.
        let mut out = Vec::with_capacity(payload.len() + FLUSH_TAIL.len());
        let status = deflater.compress_vec(payload, &mut out, FlushCompress::Sync);
        let is_whole = matches!(status, Ok(Status::Ok))
            && deflater.total_in() == payload.len() as u64
            && out.len() < out.capacity();
        if !is_whole || !out.ends_with(&FLUSH_TAIL) {
            return None;
        }
        out.truncate(out.len() - FLUSH_TAIL.len());
        (out.len() < payload.len()).then_some(out)
    })
}

/// Inflates the payload of a compressed message, up to `limit` bytes.
///
/// Memory grows with the output and stops at the limit. A small message that would inflate
/// to a huge one costs no more than the limit.
///
/// # Errors
/// The message is too long, or is not DEFLATE data.
pub fn inflate(payload: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
    INFLATER.with_borrow_mut(|inflater| {
        let inflater = inflater.get_or_insert_with(|| Decompress::new(false));
        inflater.reset(false);
        let expected = payload.len().saturating_mul(3).clamp(64, limit.max(64));
        let mut out = Vec::with_capacity(expected);
        inflate_part(inflater, payload, limit, &mut out)?;
        match inflate_part(inflater, &END, limit, &mut out)? {
            BlockState::Ended => Ok(out),
            BlockState::Open => Err(InflateError::Invalid),
        }
    })
}

/// The state of a DEFLATE stream after a part of it.
#[derive(PartialEq, Eq)]
enum BlockState {
    /// The last block has ended.
    Ended,
    /// More blocks can follow.
    Open,
}

fn inflate_part(
    inflater: &mut Decompress,
    mut input: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<BlockState, InflateError> {
    loop {
        if out.len() > limit {
            return Err(InflateError::TooBig(limit));
        }
        if out.len() == out.capacity() {
            // One byte above the limit shows that the message exceeds it.
            out.reserve_exact(
                out.len()
                    .clamp(64, (limit.saturating_add(1) - out.len()).max(64)),
            );
        }
        let (consumed, written) = (inflater.total_in(), out.len());
        let status = inflater
            .decompress_vec(input, out, FlushDecompress::None)
            .map_err(|_| InflateError::Invalid)?;
        // The difference is at most the input, so it fits.
        let consumed = usize::try_from(inflater.total_in() - consumed).unwrap_or(input.len());
        input = input.get(consumed..).unwrap_or_default();
        if status == Status::StreamEnd {
            // A sender may mark a block as the last one and add another
            // (RFC 7692, section 7.2.3.4).
            inflater.reset(false);
            if input.is_empty() {
                return check_length(out, limit, BlockState::Ended);
            }
        } else if input.is_empty() && out.len() < out.capacity() {
            return check_length(out, limit, BlockState::Open);
        } else if consumed == 0 && out.len() == written && out.len() < out.capacity() {
            return Err(InflateError::Invalid);
        }
    }
}

fn check_length(out: &[u8], limit: usize, state: BlockState) -> Result<BlockState, InflateError> {
    if out.len() > limit {
        return Err(InflateError::TooBig(limit));
    }
    Ok(state)
}
