//! Uncompressed WebSocket frames with edits.

use tidewire_adapters::websocket::frame::{ClientFrame, FrameDecoder, FrameError};

use super::edits::{Verdict, fuzz};

/// Longest accepted message, in bytes.
const LIMIT: usize = 200;

/// Returns everything that a reader parses when bytes arrive in pieces of this length.
fn read_frames(bytes: &[u8], piece: usize) -> (Vec<ClientFrame>, Option<FrameError>) {
    let mut reader = FrameDecoder::new(LIMIT);
    let mut read = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.next_message() {
                Ok(Some(incoming)) => read.push(incoming),
                Ok(None) => break,
                Err(error) => return (read, Some(error)),
            }
        }
    }
    (read, None)
}

#[test]
fn websocket_frames() {
    let text = masked_frame(0x81, b"{\"type\":\"ping\"}");
    let parts = [
        masked_frame(0x01, b"{\"ty"),
        masked_frame(0x89, b"are you there"),
        masked_frame(0x80, b"pe\":1}"),
    ]
    .concat();
    let long = masked_frame(0x82, &[0xff; 150]);
    let control = [
        masked_frame(0x8a, b""),
        masked_frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']),
    ]
    .concat();
    let seeds = [
        text.clone(),
        parts,
        long.clone(),
        control,
        [text, long].concat(),
    ];
    fuzz(&seeds, |bytes| {
        let (read, error) = read_frames(bytes, usize::MAX);
        // The result does not depend on how the bytes are split.
        assert_eq!(read_frames(bytes, 1), (read.clone(), error));
        assert_eq!(read_frames(bytes, 7), (read.clone(), error));
        let verdict = match error {
            None => Verdict::Accepted,
            Some(_) => Verdict::Refused,
        };
        for incoming in read {
            match incoming {
                ClientFrame::Text(text) => {
                    assert!(text.len() <= LIMIT);
                    std::str::from_utf8(&text).unwrap();
                }
                ClientFrame::Binary(bytes) => assert!(bytes.len() <= LIMIT),
                ClientFrame::Ping(bytes) | ClientFrame::Pong(bytes) => assert!(bytes.len() <= 125),
                ClientFrame::Close(_) => {}
            }
        }
        verdict
    });
}

/// Builds a masked client frame with this first byte.
/// The payload has at most 65,535 bytes.
pub(super) fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7_u8, 77, 177, 251];
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            let length = u16::try_from(payload.len()).expect("a payload of 65,535 bytes at most");
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(masked(mask, payload));
    frame
}

/// Masks a payload, or removes its mask.
pub(super) fn masked(mask: [u8; 4], payload: &[u8]) -> impl Iterator<Item = u8> {
    let mask = mask.into_iter().cycle();
    payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask)
}
