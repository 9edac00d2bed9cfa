//! Compressed messages: permessage-deflate (RFC 7692).
//!
//! `negotiation` says what a client and the server agree on, `joined` makes one message of
//! parts that were compressed before; here is the DEFLATE codec. The server always asks
//! for no context takeover in both directions: nothing is remembered between messages, so
//! one compression serves all subscribers of a channel, and a connection holds no
//! compression state. The state to work with belongs to the thread and is used again and
//! again.
//!
//! Frames, and the bit that marks a compressed one, live in [`super::frame`].

mod joined;
mod negotiation;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, fmt};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

pub use joined::{Part, joined_len, put_joined};
pub use negotiation::{Agreement, MalformedExtensions, WindowBits, negotiate};

/// What a sender takes off the end of a message, which is the end of every flushed
/// stream (RFC 7692, section 7.2.1).
const FLUSHED: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// What is put back, and an empty last block: the stream ends exactly there, or the
/// message was cut short.
const END: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// How messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressor {
    /// How hard to try.
    pub level: Level,
    /// Payloads shorter than so many bytes are left alone.
    pub threshold: usize,
}

impl Default for Compressor {
    fn default() -> Self {
        Self {
            level: Level(1),
            threshold: 256,
        }
    }
}

/// A compression level: 1 is the fastest, 9 the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(u8);

impl Level {
    /// Checks a level.
    ///
    /// # Errors
    /// It is none.
    pub fn new(level: u8) -> Result<Self, InvalidLevel> {
        match level {
            1..=9 => Ok(Self(level)),
            _ => Err(InvalidLevel(level)),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// No compression level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the compression level is {0}, expected 1 to 9")]
pub struct InvalidLevel(u8);

/// Why a message cannot be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// It is longer than allowed.
    #[error("the inflated message is longer than {0} bytes")]
    TooBig(usize),
    /// It is not DEFLATE data, or ends within a block.
    #[error("the message is not valid DEFLATE data")]
    Invalid,
}

thread_local! {
    /// About 300 KiB, made by the first message that a thread compresses.
    static DEFLATER: RefCell<Option<(Level, Compress)>> = const { RefCell::new(None) };
    /// About 40 KiB, made by the first message that a thread inflates.
    static INFLATER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

/// The payload of a compressed message; nothing if it is below the threshold or would
/// not be shorter.
#[must_use]
pub fn deflate(payload: &[u8], compressor: Compressor) -> Option<Vec<u8>> {
    if payload.len() < compressor.threshold {
        return None;
    }
    compress(payload, compressor.level)
}

/// A payload compressed to a byte's edge, without the end of a flushed stream; nothing if
/// it would not be shorter.
fn compress(payload: &[u8], level: Level) -> Option<Vec<u8>> {
    if payload.is_empty() {
        return None;
    }
    DEFLATER.with_borrow_mut(|deflater| {
        let deflater = match deflater {
            Some((of, deflater)) if *of == level => {
                deflater.reset();
                deflater
            }
            other => {
                let compression = Compression::new(u32::from(level.0));
                &mut other.insert((level, Compress::new(compression, false))).1
            }
        };
        // What ends here without the flush having found room is not shorter.
        let mut out = Vec::with_capacity(payload.len() + FLUSHED.len());
        let status = deflater.compress_vec(payload, &mut out, FlushCompress::Sync);
        let is_whole = matches!(status, Ok(Status::Ok))
            && deflater.total_in() == payload.len() as u64
            && out.len() < out.capacity();
        if !is_whole || !out.ends_with(&FLUSHED) {
            return None;
        }
        out.truncate(out.len() - FLUSHED.len());
        (out.len() < payload.len()).then_some(out)
    })
}

/// Inflates the payload of a compressed message, up to `limit` bytes.
///
/// Memory grows with what comes out, a step ahead of it at most, and stops at the
/// limit: a small message that would inflate to a huge one is refused for no more
/// than that.
///
/// # Errors
/// The message is too long or not DEFLATE data.
pub fn inflate(payload: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
    INFLATER.with_borrow_mut(|inflater| {
        let inflater = inflater.get_or_insert_with(|| Decompress::new(false));
        inflater.reset(false);
        let expected = payload.len().saturating_mul(3).clamp(64, limit.max(64));
        let mut out = Vec::with_capacity(expected);
        inflate_part(inflater, payload, limit, &mut out)?;
        match inflate_part(inflater, &END, limit, &mut out)? {
            State::Ended => Ok(out),
            State::Open => Err(InflateError::Invalid),
        }
    })
}

/// Where a stream is after a part of it.
#[derive(PartialEq, Eq)]
enum State {
    /// Its last block ended with the part.
    Ended,
    /// More can follow.
    Open,
}

fn inflate_part(
    inflater: &mut Decompress,
    mut input: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<State, InflateError> {
    loop {
        if out.len() > limit {
            return Err(InflateError::TooBig(limit));
        }
        if out.len() == out.capacity() {
            // One byte over the limit tells what is at it from what is over it.
            out.reserve_exact(
                out.len()
                    .clamp(64, (limit.saturating_add(1) - out.len()).max(64)),
            );
        }
        let (taken, written) = (inflater.total_in(), out.len());
        let status = inflater
            .decompress_vec(input, out, FlushDecompress::None)
            .map_err(|_| InflateError::Invalid)?;
        // Both count the input, which is in memory.
        let taken = usize::try_from(inflater.total_in() - taken).unwrap_or(input.len());
        input = input.get(taken..).unwrap_or_default();
        if status == Status::StreamEnd {
            // A sender may end a block as the last one, and add another
            // (RFC 7692, section 7.2.3.4).
            inflater.reset(false);
            if input.is_empty() {
                return check(out, limit, State::Ended);
            }
        } else if input.is_empty() && out.len() < out.capacity() {
            return check(out, limit, State::Open);
        } else if taken == 0 && out.len() == written && out.len() < out.capacity() {
            return Err(InflateError::Invalid);
        }
    }
}

fn check(out: &[u8], limit: usize, state: State) -> Result<State, InflateError> {
    if out.len() > limit {
        return Err(InflateError::TooBig(limit));
    }
    Ok(state)
}
