//! Frames of all lengths, reserved bits, opcodes and fragments.

use serde_json::{Value, json};
use tidewire_proto::{
    json as contract,
    prost::Message as _,
    v1::{ServerMessage, server_message::Data},
};
use tidewire_tests::{Server, ServerBuilder};

use crate::peer::{BINARY, CONTINUATION, FIN, PING, PONG, Peer, TEXT, fragments, frame};

/// A server that takes long messages and counts none.
pub(crate) fn roomy() -> ServerBuilder {
    Server::builder()
        .set("limits", "frame_bytes = 1048576")
        .set("limits", "outbox_bytes = 4194304")
        .set("limits", "bytes_per_second = 0")
}

/// The lengths at which the header changes its form, and those around them.
const LENGTHS: [usize; 12] = [
    0, 1, 16, 124, 125, 126, 127, 128, 65_535, 65_536, 65_537, 200_000,
];

/// A `ping` of the contract that is so long, if it can be.
fn padded_ping(length: usize) -> Option<String> {
    let ping = r#"{"type":"ping","id":"p"}"#;
    let space = length.checked_sub(ping.len())?;
    Some(format!("{ping}{}", " ".repeat(space)))
}

#[tokio::test]
async fn text_messages_of_all_lengths_are_read() {
    let server = roomy().start().await;
    let mut peer = Peer::open(&server).await;
    for length in LENGTHS {
        let ping = padded_ping(length);
        let text = ping.clone().unwrap_or_else(|| "x".repeat(length));
        peer.send(&frame(FIN | TEXT, text.as_bytes())).await;
        // What is too short for a command is answered all the same.
        let expected = if ping.is_some() { "pong" } else { "error" };
        assert_eq!(peer.message().await["type"], expected, "{length}");
    }
    peer.send(&frame(FIN | BINARY, b"")).await;
    peer.expect_end(1003, "a binary message where text was agreed on")
        .await;
}

#[tokio::test]
async fn binary_messages_of_all_lengths_are_read() {
    let server = roomy().start().await;
    let protocol = [("Sec-WebSocket-Protocol", "tidewire.v1.proto")];
    let mut peer = Peer::connect(&server, &protocol).await;
    let welcome = ServerMessage::decode(&peer.expect(BINARY).await[..]).unwrap();
    assert!(matches!(welcome.data, Some(Data::Welcome(_))));
    let ping = contract::parse_client(br#"{"type":"ping","id":"p"}"#).unwrap();
    for length in LENGTHS {
        // Field 2047, which no version of the contract has, fills the message up.
        let mut message = ping.encode_to_vec();
        if let Some(space) = length.checked_sub(message.len() + 6) {
            message.extend([0xfa, 0x7f]);
            let filler = u32::try_from(space).unwrap();
            message.extend([
                filler as u8 & 0x7f | 0x80,
                (filler >> 7) as u8 & 0x7f | 0x80,
                (filler >> 14) as u8 & 0x7f | 0x80,
                (filler >> 21) as u8 & 0x7f,
            ]);
            message.extend(vec![0xff; space]);
            assert_eq!(message.len(), length);
        }
        peer.send(&frame(FIN | BINARY, &message)).await;
        let reply = ServerMessage::decode(&peer.expect(BINARY).await[..]).unwrap();
        assert_eq!(reply.id.as_deref(), Some("p"), "{length}: {reply:?}");
    }
    peer.send(&frame(FIN | TEXT, b"")).await;
    peer.expect_end(1003, "a text message where binary was agreed on")
        .await;
}

#[tokio::test]
async fn frames_of_all_lengths_are_sent() {
    let server = roomy().start().await;
    let mut peer = Peer::open(&server).await;
    for length in (0..130).chain(65_300..65_310).chain(65_400..65_545) {
        peer.expect_echo(&json!("x".repeat(length))).await;
    }
    peer.expect_echo(&json!("x".repeat(1_000_000))).await;
}

#[tokio::test]
async fn bytes_may_come_one_by_one() {
    let server = roomy().start().await;
    let mut peer = Peer::open(&server).await;
    let data = json!("slow, and then 200 bytes: ".repeat(8));
    let text = peer.publish(&data);
    peer.send_slowly(&frame(FIN | TEXT, text.as_bytes())).await;
    assert_eq!(peer.echo().await, data);
    // Two messages in one packet.
    let two = [
        frame(FIN | TEXT, padded_ping(30).unwrap().as_bytes()),
        frame(FIN | TEXT, padded_ping(300).unwrap().as_bytes()),
    ];
    peer.send(&two.concat()).await;
    assert_eq!(peer.message().await["type"], "pong");
    assert_eq!(peer.message().await["type"], "pong");
}

#[tokio::test]
async fn reserved_bits_end_the_connection() {
    let server = Server::start().await;
    for bits in 1..=7_u8 {
        for opcode in [TEXT, BINARY, PING, PONG, crate::peer::CLOSE] {
            let mut peer = Peer::open(&server).await;
            peer.expect_echo(&json!("before")).await;
            peer.send(&frame(FIN | bits << 4 | opcode, b"")).await;
            peer.expect_end(1002, &format!("bits {bits}, opcode {opcode}"))
                .await;
        }
    }
}

#[tokio::test]
async fn reserved_opcodes_end_the_connection() {
    let server = Server::start().await;
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        for payload in [&b""[..], b"reserved opcode payload"] {
            let mut peer = Peer::open(&server).await;
            peer.expect_echo(&json!("before")).await;
            peer.send(&frame(FIN | opcode, payload)).await;
            peer.expect_end(1002, &format!("opcode {opcode}")).await;
        }
    }
}

#[tokio::test]
async fn an_unmasked_frame_ends_the_connection() {
    let server = Server::start().await;
    for bytes in [&[FIN | TEXT, 1, b'x'][..], &[FIN | PING, 0]] {
        let mut peer = Peer::open(&server).await;
        peer.send(bytes).await;
        peer.expect_end(1002, "no mask").await;
    }
}

#[tokio::test]
async fn fragments_are_joined() {
    let server = roomy().start().await;
    let mut peer = Peer::open(&server).await;
    let data = json!("the quick brown fox, and ∀ the others: ".repeat(10));
    for length in [1, 2, 7, 64, 125, 126, 200] {
        let text = peer.publish(&data);
        let frames = fragments(TEXT, text.as_bytes(), length);
        assert!(frames.len() > 1);
        peer.send(&frames.concat()).await;
        assert_eq!(peer.echo().await, data, "in fragments of {length}");
        // The same, each fragment in a packet of its own.
        let text = peer.publish(&data);
        for frame in fragments(TEXT, text.as_bytes(), length.max(7)) {
            peer.send(&frame).await;
        }
        assert_eq!(peer.echo().await, data, "in fragments of {length}, slowly");
    }
}

#[tokio::test]
async fn fragments_may_be_empty() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    let text = peer.publish(&json!("x"));
    let (first, last) = text.split_at(9);
    let frames = [
        frame(TEXT, b""),
        frame(CONTINUATION, first.as_bytes()),
        frame(CONTINUATION, b""),
        frame(CONTINUATION, last.as_bytes()),
        frame(FIN | CONTINUATION, b""),
    ];
    peer.send(&frames.concat()).await;
    assert_eq!(peer.echo().await, "x");
    // A message that is nothing but that.
    let empty = [frame(TEXT, b""), frame(CONTINUATION, b""), frame(FIN, b"")];
    peer.send(&empty.concat()).await;
    assert_eq!(peer.message().await["type"], "error");
}

#[tokio::test]
async fn control_frames_come_between_fragments() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    let data = json!("between the lines");
    let text = peer.publish(&data);
    let frames = fragments(TEXT, text.as_bytes(), 10);
    for (at, part) in frames.iter().enumerate() {
        peer.send(part).await;
        if at + 1 < frames.len() {
            let payload = format!("ping {at}");
            peer.send(&frame(FIN | PING, payload.as_bytes())).await;
            // Answered at once, not when the message is whole.
            assert_eq!(peer.expect(PONG).await, payload.as_bytes());
            peer.send(&frame(FIN | PONG, b"unasked")).await;
        }
    }
    assert_eq!(peer.echo().await, data);
}

#[tokio::test]
async fn a_fragmented_control_frame_ends_the_connection() {
    let server = Server::start().await;
    for opcode in [PING, PONG, crate::peer::CLOSE] {
        let mut peer = Peer::open(&server).await;
        peer.send(&frame(opcode, b"frag")).await;
        peer.try_send(&frame(FIN | CONTINUATION, b"ment")).await;
        peer.expect_end(1002, &format!("opcode {opcode}")).await;
    }
}

#[tokio::test]
async fn a_continuation_of_nothing_ends_the_connection() {
    let server = Server::start().await;
    let complete = frame(FIN | TEXT, padded_ping(30).unwrap().as_bytes());
    for before in [Vec::new(), complete] {
        for first in [CONTINUATION, FIN | CONTINUATION] {
            let mut peer = Peer::open(&server).await;
            let has_before = !before.is_empty();
            peer.send(&before).await;
            if has_before {
                assert_eq!(peer.message().await["type"], "pong");
            }
            peer.send(&frame(first, b"more of what?")).await;
            peer.expect_end(1002, &format!("{first:x}, {has_before}"))
                .await;
        }
    }
}

#[tokio::test]
async fn a_message_within_a_message_ends_the_connection() {
    let server = Server::start().await;
    for second in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
        let mut peer = Peer::open(&server).await;
        peer.send(&frame(TEXT, b"{")).await;
        peer.send(&frame(second, b"}")).await;
        peer.expect_end(1002, &format!("{second:x}")).await;
    }
}

#[tokio::test]
async fn what_came_before_the_mistake_is_answered() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    let text = peer.publish(&json!(1));
    peer.send(&frame(FIN | TEXT, text.as_bytes())).await;
    let _: Value = peer.echo().await;
    peer.send(&[frame(FIN | PING, b"1"), frame(FIN | 3, b"")].concat())
        .await;
    assert_eq!(peer.expect(PONG).await, b"1");
    peer.expect_end(1002, "a reserved opcode").await;
}
