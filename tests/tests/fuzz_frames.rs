//! Fuzz targets for WebSocket frames with compression: frames of all kinds in any
//! order, some of their bytes flipped, read here and by tungstenite's codec; DEFLATE
//! data and `Sec-WebSocket-Extensions` with edits.
//!
//! Each target runs `TIDEWIRE_FUZZ_ITERATIONS` times, 2,000 if not set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::io::Cursor;

use bolero::TypeGenerator;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};
use tidewire_adapters::websocket::{
    deflate::{Agreement, InflateError, inflate, negotiate},
    frame::{FrameError, FrameReader, Incoming},
};
use tidewire_tests::fuzz::{iterations, masked, masked_frame};
use tokio_tungstenite::tungstenite::protocol::frame::FrameSocket;

/// The longest message.
const LIMIT: usize = 300;

/// Frames, and what is done to their bytes.
#[derive(Debug, Clone, TypeGenerator)]
struct Case {
    frames: Vec<Part>,
    flips: Vec<Flip>,
}

#[derive(Debug, Clone, TypeGenerator)]
struct Part {
    kind: u8,
    payload: Payload,
}

#[derive(Debug, Clone, TypeGenerator)]
enum Payload {
    Bytes(Vec<u8>),
    Text(String),
    Run { byte: u8, length: u16 },
    Deflated { bytes: Vec<u8>, level: u8 },
    DeflatedRun { byte: u8, length: u16 },
    Close { code: u16, reason: String },
}

#[derive(Debug, Clone, TypeGenerator)]
struct Flip {
    at: u16,
    bits: u8,
}

/// The first bytes of frames, those that are allowed more often than others.
const KINDS: [u8; 20] = [
    0x81, 0x82, 0xc1, 0xc2, 0x01, 0x02, 0x41, 0x42, 0x00, 0x00, 0x80, 0x80, 0x88, 0x89, 0x8a, 0xc1,
    0xc2, 0xc0, 0xc9, 0x83,
];

impl Payload {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Text(text) => text.clone().into_bytes(),
            Self::Run { byte, length } => vec![*byte; usize::from(*length) % (2 * LIMIT)],
            Self::Deflated { bytes, level } => deflated(bytes, u32::from(level % 10)),
            Self::DeflatedRun { byte, length } => deflated(&vec![*byte; usize::from(*length)], 6),
            Self::Close { code, reason } => [&code.to_be_bytes()[..], reason.as_bytes()].concat(),
        }
    }
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let frames = self.frames.iter().take(12);
        let mut bytes: Vec<u8> = frames
            .flat_map(|part| {
                let kind = KINDS[usize::from(part.kind) % KINDS.len()];
                masked_frame(kind, &part.payload.bytes())
            })
            .collect();
        flip(&mut bytes, &self.flips);
        bytes
    }
}

fn flip(bytes: &mut [u8], flips: &[Flip]) {
    for flip in flips.iter().take(3) {
        let at = usize::from(flip.at) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= flip.bits;
        }
    }
}

fn deflated(payload: &[u8], level: u32) -> Vec<u8> {
    let mut stream = Compress::new(Compression::new(level), false);
    let mut out = Vec::with_capacity(payload.len() * 2 + 100);
    stream
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .unwrap();
    out.truncate(out.len() - 4);
    out
}

fn agreement(offer: &str) -> Option<Agreement> {
    let mut headers = HeaderMap::new();
    headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(offer).ok()?);
    negotiate(&headers).ok()?
}

/// All that a reader makes of bytes that come in pieces of this length.
fn read(bytes: &[u8], piece: usize) -> (Vec<Incoming>, Option<FrameError>) {
    let mut reader = FrameReader::new(LIMIT).with_deflate(agreement("permessage-deflate"));
    let mut read = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.feed(piece);
        loop {
            match reader.next_message() {
                Ok(Some(incoming)) => read.push(incoming),
                Ok(None) => break,
                Err(error) => return (read, Some(error)),
            }
        }
        reader.release();
        assert!(reader.buffer().capacity() <= 2 * bytes.len() + 64);
    }
    (read, None)
}

/// What tungstenite's codec and a plain inflater make of the same bytes, as long as
/// it is one message after the other.
fn second_opinion(bytes: &[u8], count: usize) -> Vec<Incoming> {
    let mut socket = FrameSocket::new(Cursor::new(bytes.to_vec()));
    let mut all = Vec::new();
    let mut message = (0, false, Vec::new());
    while all.len() < count {
        let frame = socket.read(None).unwrap().unwrap();
        let header = frame.header().clone();
        let payload: Vec<u8> = masked(header.mask.unwrap(), frame.payload()).collect();
        let opcode = u8::from(header.opcode);
        match opcode {
            8 => {
                let code = payload.first_chunk::<2>();
                all.push(Incoming::Close(code.map(|code| u16::from_be_bytes(*code))));
                continue;
            }
            9 => {
                all.push(Incoming::Ping(payload.into()));
                continue;
            }
            10 => {
                all.push(Incoming::Pong(payload.into()));
                continue;
            }
            0 => {}
            opcode => message = (opcode, header.rsv1, Vec::new()),
        }
        message.2.extend(payload);
        if header.is_final {
            let (opcode, is_deflated, payload) = std::mem::take(&mut message);
            let payload = if is_deflated {
                plain_inflate(&payload, LIMIT).unwrap()
            } else {
                payload
            };
            all.push(match opcode {
                1 => Incoming::Text(payload.into()),
                _ => Incoming::Binary(payload.into()),
            });
        }
    }
    all
}

/// Inflates with nothing but flate2; none if that fails or the result is too long.
fn plain_inflate(payload: &[u8], limit: usize) -> Option<Vec<u8>> {
    let whole = [payload, &[0x00, 0x00, 0xff, 0xff]].concat();
    let mut out = Vec::with_capacity(limit + 1_000);
    let mut at = 0;
    // A last block is followed by another stream.
    while at < whole.len() {
        let mut stream = Decompress::new(false);
        let status = stream
            .decompress_vec(&whole[at..], &mut out, FlushDecompress::Sync)
            .ok()?;
        at += usize::try_from(stream.total_in()).unwrap();
        if status != Status::StreamEnd && at < whole.len() {
            return None;
        }
    }
    (out.len() <= limit).then_some(out)
}

#[test]
fn compressed_frames() {
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<Case>()
        .for_each(|case| {
            let bytes = case.bytes();
            let (messages, error) = read(&bytes, usize::MAX);
            // How the bytes are cut into pieces changes nothing.
            assert_eq!(read(&bytes, 1), (messages.clone(), error));
            assert_eq!(read(&bytes, 7), (messages.clone(), error));
            assert_eq!(second_opinion(&bytes, messages.len()), messages);
            for message in messages {
                match message {
                    Incoming::Text(text) => {
                        assert!(text.len() <= LIMIT);
                        std::str::from_utf8(&text).unwrap();
                    }
                    Incoming::Binary(bytes) => assert!(bytes.len() <= LIMIT),
                    Incoming::Ping(bytes) | Incoming::Pong(bytes) => assert!(bytes.len() <= 125),
                    Incoming::Close(_) => {}
                }
            }
        });
}

#[test]
fn deflate_data() {
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<(Payload, Vec<Flip>, u16)>()
        .for_each(|(payload, flips, limit)| {
            let mut bytes = payload.bytes();
            flip(&mut bytes, flips);
            let limit = usize::from(*limit);
            match inflate(&bytes, limit) {
                Ok(inflated) => assert_eq!(plain_inflate(&bytes, limit), Some(inflated)),
                Err(InflateError::TooBig(of)) => assert_eq!(of, limit),
                // What is refused here may be what others take: an end within a block.
                Err(InflateError::Invalid) => {}
            }
        });
}

#[test]
fn extension_headers() {
    const WORDS: [&str; 16] = [
        "permessage-deflate",
        "permessage-deflate",
        "client_max_window_bits",
        "server_max_window_bits",
        "client_no_context_takeover",
        "server_no_context_takeover",
        ";",
        ";",
        ",",
        "=",
        "\"",
        "\\",
        " ",
        "8",
        "12",
        "15",
    ];
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<(Vec<u8>, Vec<Flip>)>()
        .for_each(|(words, flips)| {
            let words = words.iter().map(|at| WORDS[usize::from(*at) % WORDS.len()]);
            let mut bytes = words.collect::<String>().into_bytes();
            flip(&mut bytes, flips);
            let text = String::from_utf8_lossy(&bytes);
            let Some(agreed) = agreement(&text) else {
                return;
            };
            // What is agreed on is an offer that is agreed on again.
            let response = agreed.response();
            assert_eq!(agreement(response.to_str().unwrap()), Some(agreed));
        });
}
