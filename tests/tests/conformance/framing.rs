//! Framing: lengths, reserved bits, opcodes and fragments.

use serde_json::{Value, json};
use tidewire_proto::{
    json as contract,
    prost::Message as _,
    v1::{ServerMessage, server_message::Data},
};
use tidewire_tests::{Server, ServerBuilder};

use crate::raw_client::{BINARY, CONTINUATION, FIN, PING, PONG, RawClient, TEXT, fragments, frame};

/// A server with high limits, so that long messages pass.
pub(crate) fn roomy() -> ServerBuilder {
    Server::builder()
        .set("limits", "frame_bytes = 1048576")
        .set("limits", "outbox_bytes = 4194304")
        .set("limits", "bytes_per_second = 0")
}

/// The lengths around which the header changes its form.
const LENGTHS: [usize; 12] = [
    0, 1, 16, 124, 125, 126, 127, 128, 65_535, 65_536, 65_537, 200_000,
];

/// A `ping` command padded to `length` bytes, or `None` if it is longer.
fn padded_ping(length: usize) -> Option<String> {
    let ping = r#"{"type":"ping","id":"p"}"#;
    let space = length.checked_sub(ping.len())?;
    Some(format!("{ping}{}", " ".repeat(space)))
}

#[tokio::test]
async fn text_messages_of_all_lengths_are_read() {
    let server = roomy().start().await;
    let mut client = RawClient::open(&server).await;
    for length in LENGTHS {
        let ping = padded_ping(length);
        let text = ping.clone().unwrap_or_else(|| "x".repeat(length));
        client.send(&frame(FIN | TEXT, text.as_bytes())).await;
        // A text that is too short for a command is answered with an error.
        let expected = if ping.is_some() { "pong" } else { "error" };
        assert_eq!(client.message().await["type"], expected, "{length}");
    }
    client.send(&frame(FIN | BINARY, b"")).await;
    client
        .expect_end(1003, "a binary message with a text subprotocol")
        .await;
}

#[tokio::test]
async fn binary_messages_of_all_lengths_are_read() {
    let server = roomy().start().await;
    let protocol = [("Sec-WebSocket-Protocol", "tidewire.v1.proto")];
    let mut client = RawClient::connect(&server, &protocol).await;
    let welcome = ServerMessage::decode(&client.expect(BINARY).await[..]).unwrap();
    assert!(matches!(welcome.data, Some(Data::Welcome(_))));
    let ping = contract::parse_client(br#"{"type":"ping","id":"p"}"#).unwrap();
    for length in LENGTHS {
        // The unknown field 2047 pads the message.
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
        client.send(&frame(FIN | BINARY, &message)).await;
        let reply = ServerMessage::decode(&client.expect(BINARY).await[..]).unwrap();
        assert_eq!(reply.id.as_deref(), Some("p"), "{length}: {reply:?}");
    }
    client.send(&frame(FIN | TEXT, b"")).await;
    client
        .expect_end(1003, "a text message with a binary subprotocol")
        .await;
}

#[tokio::test]
async fn frames_of_all_lengths_are_sent() {
    let server = roomy().start().await;
    let mut client = RawClient::open(&server).await;
    for length in (0..130).chain(65_300..65_310).chain(65_400..65_545) {
        client.expect_echo(&json!("x".repeat(length))).await;
    }
    client.expect_echo(&json!("x".repeat(1_000_000))).await;
}

#[tokio::test]
async fn frames_may_arrive_byte_by_byte() {
    let server = roomy().start().await;
    let mut client = RawClient::open(&server).await;
    let data = json!("slow, and then 200 bytes: ".repeat(8));
    let text = client.publish(&data);
    client
        .send_slowly(&frame(FIN | TEXT, text.as_bytes()))
        .await;
    assert_eq!(client.echo().await, data);
    // Two messages in one packet.
    let two = [
        frame(FIN | TEXT, padded_ping(30).unwrap().as_bytes()),
        frame(FIN | TEXT, padded_ping(300).unwrap().as_bytes()),
    ];
    client.send(&two.concat()).await;
    assert_eq!(client.message().await["type"], "pong");
    assert_eq!(client.message().await["type"], "pong");
}

#[tokio::test]
async fn reserved_bits_close_the_connection() {
    let server = Server::start().await;
    for bits in 1..=7_u8 {
        for opcode in [TEXT, BINARY, PING, PONG, crate::raw_client::CLOSE] {
            let mut client = RawClient::open(&server).await;
            client.expect_echo(&json!("before")).await;
            client.send(&frame(FIN | bits << 4 | opcode, b"")).await;
            client
                .expect_end(1002, &format!("bits {bits}, opcode {opcode}"))
                .await;
        }
    }
}

#[tokio::test]
async fn reserved_opcodes_close_the_connection() {
    let server = Server::start().await;
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        for payload in [&b""[..], b"reserved opcode payload"] {
            let mut client = RawClient::open(&server).await;
            client.expect_echo(&json!("before")).await;
            client.send(&frame(FIN | opcode, payload)).await;
            client.expect_end(1002, &format!("opcode {opcode}")).await;
        }
    }
}

#[tokio::test]
async fn an_unmasked_frame_closes_the_connection() {
    let server = Server::start().await;
    for bytes in [&[FIN | TEXT, 1, b'x'][..], &[FIN | PING, 0]] {
        let mut client = RawClient::open(&server).await;
        client.send(bytes).await;
        client.expect_end(1002, "no mask").await;
    }
}

#[tokio::test]
async fn fragments_are_joined() {
    let server = roomy().start().await;
    let mut client = RawClient::open(&server).await;
    let data = json!("the quick brown fox, and ∀ the others: ".repeat(10));
    for length in [1, 2, 7, 64, 125, 126, 200] {
        let text = client.publish(&data);
        let frames = fragments(TEXT, text.as_bytes(), length);
        assert!(frames.len() > 1);
        client.send(&frames.concat()).await;
        assert_eq!(client.echo().await, data, "in fragments of {length}");
        // The same with each fragment in a packet of its own.
        let text = client.publish(&data);
        for frame in fragments(TEXT, text.as_bytes(), length.max(7)) {
            client.send(&frame).await;
        }
        assert_eq!(
            client.echo().await,
            data,
            "in fragments of {length}, slowly"
        );
    }
}

#[tokio::test]
async fn fragments_may_be_empty() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    let text = client.publish(&json!("x"));
    let (first, last) = text.split_at(9);
    let frames = [
        frame(TEXT, b""),
        frame(CONTINUATION, first.as_bytes()),
        frame(CONTINUATION, b""),
        frame(CONTINUATION, last.as_bytes()),
        frame(FIN | CONTINUATION, b""),
    ];
    client.send(&frames.concat()).await;
    assert_eq!(client.echo().await, "x");
    // A message of empty fragments only.
    let empty = [frame(TEXT, b""), frame(CONTINUATION, b""), frame(FIN, b"")];
    client.send(&empty.concat()).await;
    assert_eq!(client.message().await["type"], "error");
}

#[tokio::test]
async fn control_frames_may_come_between_fragments() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    let data = json!("between the lines");
    let text = client.publish(&data);
    let frames = fragments(TEXT, text.as_bytes(), 10);
    for (at, part) in frames.iter().enumerate() {
        client.send(part).await;
        if at + 1 < frames.len() {
            let payload = format!("ping {at}");
            client.send(&frame(FIN | PING, payload.as_bytes())).await;
            // The answer does not wait for the end of the message.
            assert_eq!(client.expect(PONG).await, payload.as_bytes());
            client.send(&frame(FIN | PONG, b"unasked")).await;
        }
    }
    assert_eq!(client.echo().await, data);
}

#[tokio::test]
async fn a_fragmented_control_frame_closes_the_connection() {
    let server = Server::start().await;
    for opcode in [PING, PONG, crate::raw_client::CLOSE] {
        let mut client = RawClient::open(&server).await;
        client.send(&frame(opcode, b"frag")).await;
        client.try_send(&frame(FIN | CONTINUATION, b"ment")).await;
        client.expect_end(1002, &format!("opcode {opcode}")).await;
    }
}

#[tokio::test]
async fn a_continuation_without_a_message_closes_the_connection() {
    let server = Server::start().await;
    let complete = frame(FIN | TEXT, padded_ping(30).unwrap().as_bytes());
    for before in [Vec::new(), complete] {
        for first in [CONTINUATION, FIN | CONTINUATION] {
            let mut client = RawClient::open(&server).await;
            let has_before = !before.is_empty();
            client.send(&before).await;
            if has_before {
                assert_eq!(client.message().await["type"], "pong");
            }
            client.send(&frame(first, b"more of what?")).await;
            client
                .expect_end(1002, &format!("{first:x}, {has_before}"))
                .await;
        }
    }
}

#[tokio::test]
async fn a_message_within_a_message_closes_the_connection() {
    let server = Server::start().await;
    for second in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
        let mut client = RawClient::open(&server).await;
        client.send(&frame(TEXT, b"{")).await;
        client.send(&frame(second, b"}")).await;
        client.expect_end(1002, &format!("{second:x}")).await;
    }
}

#[tokio::test]
async fn frames_before_a_violation_are_answered() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    let text = client.publish(&json!(1));
    client.send(&frame(FIN | TEXT, text.as_bytes())).await;
    let _: Value = client.echo().await;
    client
        .send(&[frame(FIN | PING, b"1"), frame(FIN | 3, b"")].concat())
        .await;
    assert_eq!(client.expect(PONG).await, b"1");
    client.expect_end(1002, "a reserved opcode").await;
}
