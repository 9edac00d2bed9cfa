//! permessage-deflate: frames of all kinds in any order with flipped bits, DEFLATE data,
//! and the extension header. Results are compared with tungstenite's codec.

use std::io::Cursor;

use bolero::TypeGenerator;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};
use tidewire_adapters::websocket::{
    deflate::{Agreement, InflateError, inflate, negotiate},
    frame::{FrameError, FrameDecoder, ClientFrame},
};
use tokio_tungstenite::tungstenite::protocol::frame::FrameSocket;

use super::{
    frames::{masked, masked_frame},
    iterations,
};

/// Longest accepted message, in bytes.
const LIMIT: usize = 300;

/// Frames and the bits flipped in their bytes.
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

/// First bytes of frames. Valid ones appear more often than invalid ones.
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

/// Returns everything that a reader parses when bytes arrive in pieces of this length.
fn read(bytes: &[u8], piece: usize) -> (Vec<ClientFrame>, Option<FrameError>) {
    let mut reader = FrameDecoder::new(LIMIT).with_deflate(agreement("permessage-deflate"));
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

/// Parses the first `count` messages with tungstenite's codec and a plain inflater.
fn read_with_tungstenite(bytes: &[u8], count: usize) -> Vec<ClientFrame> {
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
                all.push(ClientFrame::Close(code.map(|code| u16::from_be_bytes(*code))));
                continue;
            }
            9 => {
                all.push(ClientFrame::Ping(payload.into()));
                continue;
            }
            10 => {
                all.push(ClientFrame::Pong(payload.into()));
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
                1 => ClientFrame::Text(payload.into()),
                _ => ClientFrame::Binary(payload.into()),
            });
        }
    }
    all
}

/// Inflates with flate2 alone. Returns `None` on failure or if the result exceeds `limit`.
fn plain_inflate(payload: &[u8], limit: usize) -> Option<Vec<u8>> {
    let whole = [payload, &[0x00, 0x00, 0xff, 0xff]].concat();
    let mut out = Vec::with_capacity(limit + 1_000);
    let mut at = 0;
    // After a block marked final, another stream follows.
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
            // The result does not depend on how the bytes are split.
            assert_eq!(read(&bytes, 1), (messages.clone(), error));
            assert_eq!(read(&bytes, 7), (messages.clone(), error));
            assert_eq!(read_with_tungstenite(&bytes, messages.len()), messages);
            for message in messages {
                match message {
                    ClientFrame::Text(text) => {
                        assert!(text.len() <= LIMIT);
                        std::str::from_utf8(&text).unwrap();
                    }
                    ClientFrame::Binary(bytes) => assert!(bytes.len() <= LIMIT),
                    ClientFrame::Ping(bytes) | ClientFrame::Pong(bytes) => assert!(bytes.len() <= 125),
                    ClientFrame::Close(_) => {}
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
                // Other inflaters may accept data that ends within a block.
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
            // Offering the agreed parameters again yields the same agreement.
            let response = agreed.response();
            assert_eq!(agreement(response.to_str().unwrap()), Some(agreed));
        });
}
