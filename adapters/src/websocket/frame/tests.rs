use std::io::Cursor;

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::{
    Frame, FrameHeader, FrameSocket,
    coding::{Control, Data, OpCode},
};

use super::decode::MIN_READ;
use super::*;
use crate::{
    CompressionLevel, CompressionOptions,
    websocket::deflate::{Agreement, deflate, inflate, negotiate},
};

const MASK: [u8; 4] = [1, 2, 3, 4];

/// Compresses everything that gets shorter.
fn options() -> CompressionOptions {
    CompressionOptions {
        level: CompressionLevel::new(6).unwrap(),
        threshold: 0,
    }
}

fn agreement() -> Option<Agreement> {
    let mut headers = http::HeaderMap::new();
    headers.insert(
        "sec-websocket-extensions",
        "permessage-deflate".parse().unwrap(),
    );
    negotiate(&headers).unwrap()
}

/// A masked frame, built by hand.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
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
    out.extend(MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

fn read_with(mut reader: FrameDecoder, bytes: &[u8]) -> Result<Vec<ClientFrame>, FrameError> {
    reader.feed(bytes);
    let mut all = Vec::new();
    while let Some(incoming) = reader.next_message()? {
        all.push(incoming);
    }
    Ok(all)
}

fn read(bytes: &[u8]) -> Result<Vec<ClientFrame>, FrameError> {
    read_with(FrameDecoder::new(100_000), bytes)
}

fn read_deflated(bytes: &[u8]) -> Result<Vec<ClientFrame>, FrameError> {
    read_with(FrameDecoder::new(100_000).with_deflate(agreement()), bytes)
}

fn text(text: &'static str) -> ClientFrame {
    ClientFrame::Text(Bytes::from_static(text.as_bytes()))
}

#[test]
fn messages_of_all_lengths_are_read() {
    for length in [0, 1, 7, 8, 125, 126, 65_535, 65_536] {
        let payload = vec![b'x'; length];
        let frame = masked(0x81, &payload);
        assert_eq!(read(&frame).unwrap(), [ClientFrame::Text(payload.into())]);
    }
}

#[test]
fn fragments_are_joined_around_control_frames() {
    let bytes = [
        masked(0x01, b"ab"),
        masked(0x89, b"?"),
        masked(0x00, b"c"),
        masked(0x00, b""),
        masked(0x80, b"d"),
    ]
    .concat();
    assert_eq!(
        read(&bytes).unwrap(),
        [ClientFrame::Ping(Bytes::from_static(b"?")), text("abcd")]
    );
}

fn is_protocol_error(read: &Result<Vec<ClientFrame>, FrameError>) -> bool {
    matches!(read, Err(error @ FrameError::Protocol(_)) if error.close_code() == 1002)
}

#[test]
fn protocol_violations_are_refused() {
    let protocol = |bytes: &[u8]| assert!(is_protocol_error(&read(bytes)), "{bytes:?}");
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
        [ClientFrame::Close(Some(4003))]
    );
}

#[test]
fn a_wrong_frame_is_refused_before_its_payload_arrives() {
    // Two bytes of each: the opcode, and a length of 100 bytes.
    for first in [0x83, 0x80, 0x91, 0xa1, 0xc1] {
        assert!(is_protocol_error(&read(&[first, 0x80 | 100])), "{first:x}");
    }
    // The header alone shows that the message is too long.
    let head = &masked(0x82, &[0; 100_001])[..10];
    assert_eq!(read(head), Err(FrameError::TooBig(100_000)));
}

#[test]
fn text_is_refused_at_the_first_invalid_fragment() {
    // A character in three fragments, a control frame between them.
    let whole = [
        masked(0x01, b"\xe2"),
        masked(0x89, b""),
        masked(0x00, b"\x82"),
        masked(0x80, b"\xac"),
    ]
    .concat();
    assert_eq!(read(&whole).unwrap()[1], text("€"));
    // The second byte is invalid, so that the rest does not matter.
    let invalid = [masked(0x01, b"fine \xe2"), masked(0x00, b"\xff")].concat();
    assert_eq!(read(&invalid), Err(FrameError::NotUtf8));
    // A surrogate is refused with its second byte.
    assert_eq!(read(&masked(0x01, b"\xed\xa0")), Err(FrameError::NotUtf8));
    // The message ends within a character.
    let cut = [masked(0x01, b"\xe2"), masked(0x80, b"\x82")].concat();
    assert_eq!(read(&cut), Err(FrameError::NotUtf8));
    // Binary messages may have any bytes.
    assert!(read(&masked(0x82, b"\xff")).is_ok());
}

#[test]
fn compressed_messages_are_read() {
    let long = "a word, ".repeat(1_000);
    let deflated = deflate(long.as_bytes(), options()).unwrap();
    let single = masked(0xc1, &deflated);
    assert_eq!(
        read_deflated(&single).unwrap(),
        [ClientFrame::Text(long.clone().into())]
    );
    // In fragments, with a control frame between them. Only the first has the bit.
    let (head, rest) = deflated.split_at(deflated.len() / 3);
    let (middle, tail) = rest.split_at(rest.len() / 2);
    let parts = [
        masked(0x42, head),
        masked(0x8a, b"pong"),
        masked(0x00, middle),
        masked(0x00, b""),
        masked(0x80, tail),
        // A plain message after it, because the client chooses for each message.
        masked(0x81, b"plain"),
    ]
    .concat();
    assert_eq!(
        read_deflated(&parts).unwrap(),
        [
            ClientFrame::Pong(Bytes::from_static(b"pong")),
            ClientFrame::Binary(long.into()),
            text("plain")
        ]
    );
}

#[test]
fn a_wrong_compressed_message_is_refused() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(
        read_deflated(&masked(0xc1, &hello)).unwrap(),
        [text("Hello")]
    );
    // Without an agreement.
    assert!(is_protocol_error(&read(&masked(0xc1, &hello))));
    let declined = FrameDecoder::new(100).with_deflate(None);
    assert!(is_protocol_error(&read_with(
        declined,
        &masked(0xc1, &hello)
    )));
    let protocol = |bytes: &[u8]| assert!(is_protocol_error(&read_deflated(bytes)), "{bytes:?}");
    // The bit on a continuation and on control frames, and the other reserved bits.
    protocol(&[masked(0x41, &hello[..2]), masked(0xc0, &hello[2..])].concat());
    protocol(&[masked(0x01, b"plain"), masked(0xc0, &hello)].concat());
    protocol(&masked(0xc9, b""));
    protocol(&masked(0xca, b""));
    protocol(&masked(0xc8, b""));
    protocol(&masked(0xa1, b""));
    protocol(&masked(0xd1, b""));
    // Not DEFLATE data, and not text.
    let invalid = read_deflated(&masked(0xc1, b"\xff\xff\xff"));
    assert_eq!(invalid, Err(FrameError::NotDeflate));
    assert_eq!(FrameError::NotDeflate.close_code(), 1007);
    let bytes = deflate(&[0xff; 100], options()).unwrap();
    assert_eq!(
        read_deflated(&masked(0xc1, &bytes)),
        Err(FrameError::NotUtf8)
    );
    assert!(read_deflated(&masked(0xc2, &bytes)).is_ok());
}

#[test]
fn the_limit_applies_to_the_inflated_message() {
    let limited = || FrameDecoder::new(10_000).with_deflate(agreement());
    let deflated = |length| masked(0xc2, &deflate(&vec![0; length], options()).unwrap());
    assert!(read_with(limited(), &deflated(10_000)).is_ok());
    for length in [10_001, 100_000_000] {
        let refused = read_with(limited(), &deflated(length));
        assert_eq!(refused, Err(FrameError::TooBig(10_000)), "{length}");
        assert_eq!(FrameError::TooBig(10_000).close_code(), 1009);
    }
    // The compressed form may be slightly longer, because some data does not shrink.
    let stored = |length: u16| {
        let mut block = vec![0];
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        block.extend(vec![7; usize::from(length)]);
        block.push(0);
        masked(0xc2, &block)
    };
    assert!(read_with(limited(), &stored(10_000)).is_ok());
    let refused = read_with(limited(), &stored(10_001));
    assert_eq!(refused, Err(FrameError::TooBig(10_000)));
    // Empty blocks count towards the limit.
    let empty = [0x00, 0x00, 0x00, 0xff, 0xff].repeat(10_000);
    let refused = read_with(limited(), &masked(0xc2, &empty));
    assert_eq!(refused, Err(FrameError::TooBig(10_000)));
}

#[test]
fn an_idle_decoder_holds_no_memory() {
    let mut reader = FrameDecoder::new(100_000).with_deflate(agreement());
    reader.feed(&masked(0x82, &[7; 50_000]));
    assert!(reader.next_message().unwrap().is_some());
    assert_eq!(reader.next_message(), Ok(None));
    reader.release();
    assert_eq!(reader.buffer().capacity(), 0);
    // The start of a frame stays buffered, without memory for the announced rest.
    let frame = masked(0x82, &[7; 50_000]);
    reader.buffer().reserve(64 << 10);
    reader.feed(&frame[..100]);
    assert_eq!(reader.next_message(), Ok(None));
    reader.release();
    assert!(reader.buffer().capacity() < 1_000);
    reader.feed(&frame[100..]);
    assert!(reader.next_message().unwrap().is_some());
}

#[test]
fn a_header_alone_reserves_little_memory() {
    let mut reader = FrameDecoder::new(100_000_000);
    reader.feed(&masked(0x82, &[7; 50_000_000])[..20]);
    assert_eq!(reader.next_message(), Ok(None));
    assert!(reader.buffer().capacity() <= 2 * MIN_READ);
}

#[test]
fn a_long_close_reason_is_truncated_between_characters() {
    let close = encode_close_frame(4001, &"é".repeat(100));
    assert_eq!(close[1], 2 + 122);
    std::str::from_utf8(&close[4..]).unwrap();
    let mut put = Vec::new();
    write_close(&mut put, 4001, &"é".repeat(100));
    assert_eq!(put, close);
}

#[test]
fn payloads_that_do_not_shrink_have_no_compressed_frame() {
    assert_eq!(encode_deflated_frame(Opcode::Text, b"abc", options()), None);
    assert_eq!(
        encode_deflated_frame(Opcode::Ping, &[b'x'; 100], options()),
        None
    );
    let spare = CompressionOptions {
        threshold: 101,
        ..options()
    };
    assert_eq!(
        encode_deflated_frame(Opcode::Text, &[b'x'; 100], spare),
        None
    );
    let frame = encode_deflated_frame(Opcode::Text, &[b'x'; 101], spare).unwrap();
    assert_eq!(frame[0], 0xc1);
    assert!(frame.len() < 20);
}

/// The only frame that tungstenite reads from these bytes.
fn read_by_tungstenite(bytes: &[u8]) -> Frame {
    let mut socket = FrameSocket::new(Cursor::new(bytes.to_vec()));
    let frame = socket.read(None).unwrap().unwrap();
    assert_eq!(socket.read(None).unwrap(), None);
    frame
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), 0_usize..70_000).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

#[test]
fn a_message_has_few_fragments_without_a_byte() {
    let mut bytes = masked(0x01, b"\"a");
    for _ in 0..64 {
        bytes.extend(masked(0x00, b""));
    }
    let mut whole = bytes.clone();
    whole.extend(masked(0x80, b"\""));
    assert_eq!(
        read(&whole).unwrap(),
        [ClientFrame::Text(Bytes::from_static(b"\"a\""))]
    );
    bytes.extend(masked(0x00, b""));
    assert_eq!(read(&bytes).unwrap_err().close_code(), 1002);
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_decodes_the_same(
        payloads in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..300), any::<bool>()),
            1..6,
        ),
        cut in 1_usize..50,
        releases in any::<bool>(),
    ) {
        let frame = |(payload, deflated): &(Vec<u8>, bool)| {
            match deflate(payload, options()).filter(|_| *deflated) {
                Some(deflated) => masked(0xc2, &deflated),
                None => masked(0x82, payload),
            }
        };
        let bytes: Vec<u8> = payloads.iter().flat_map(frame).collect();
        let mut reader = FrameDecoder::new(1_000).with_deflate(agreement());
        let mut all = Vec::new();
        for part in bytes.chunks(cut) {
            reader.feed(part);
            while let Some(incoming) = reader.next_message().unwrap() {
                all.push(incoming);
            }
            if releases {
                reader.release();
            }
        }
        let expected: Vec<_> = payloads
            .into_iter()
            .map(|(payload, _)| ClientFrame::Binary(payload.into()))
            .collect();
        prop_assert_eq!(all, expected);
    }

    #[test]
    fn frames_of_tungstenite_are_decoded(payload in payload(), mask in any::<[u8; 4]>()) {
        let mut frame = Frame::message(payload.clone(), OpCode::Data(Data::Binary), true);
        *frame.header_mut() = FrameHeader { mask: Some(mask), ..frame.header().clone() };
        let mut bytes = Vec::new();
        frame.format(&mut bytes).unwrap();
        prop_assert_eq!(read(&bytes).unwrap(), [ClientFrame::Binary(payload.into())]);
    }

    #[test]
    fn tungstenite_decodes_our_frames(payload in payload()) {
        let bytes = encode_frame(Opcode::Binary, &payload);
        let mut put = Vec::new();
        write_frame(&mut put, Opcode::Binary, &payload);
        prop_assert_eq!(&put, &bytes);
        let read = read_by_tungstenite(&bytes);
        prop_assert_eq!(read.payload(), &payload[..]);
        prop_assert!(read.header().is_final && !read.header().rsv1);
        prop_assert_eq!(read.header().opcode, OpCode::Data(Data::Binary));
        prop_assert_eq!(read.header().mask, None);
        if let Some(deflated) = encode_deflated_frame(Opcode::Text, &payload, options()) {
            prop_assert!(deflated.len() < bytes.len());
            let read = read_by_tungstenite(&deflated);
            prop_assert!(read.header().is_final && read.header().rsv1);
            prop_assert_eq!(read.header().opcode, OpCode::Data(Data::Text));
            prop_assert_eq!(inflate(read.payload(), payload.len()), Ok(payload));
        }
    }

    #[test]
    fn tungstenite_decodes_our_close_frames(code in any::<u16>(), reason in ".{0,200}") {
        let read = read_by_tungstenite(&encode_close_frame(code, &reason));
        prop_assert_eq!(read.header().opcode, OpCode::Control(Control::Close));
        prop_assert_eq!(&read.payload()[..2], code.to_be_bytes());
        prop_assert!(reason.as_bytes().starts_with(&read.payload()[2..]));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        let _ = read_deflated(&bytes);
    }
}
