//! Long messages, whole and in fragments, up to the limit and one byte over it.

use serde_json::{Value, json};
use tidewire_tests::Server;

use crate::{
    framing::roomy,
    peer::{CONTINUATION, FIN, Peer, TEXT, fragments, frame},
};

/// The least limit that can be configured.
const LIMIT: usize = 1_024;

async fn narrow() -> Server {
    let builder = Server::builder().set("limits", &format!("frame_bytes = {LIMIT}"));
    builder.start().await
}

/// A command of exactly this length.
fn padded(peer: &mut Peer, data: &Value, length: usize) -> String {
    let text = peer.publish(data);
    let space = length.checked_sub(text.len()).unwrap();
    format!("{text}{}", " ".repeat(space))
}

#[tokio::test]
async fn a_message_at_the_limit_is_taken() {
    let server = narrow().await;
    let mut peer = Peer::open(&server).await;
    let text = padded(&mut peer, &json!("x"), LIMIT);
    peer.send(&frame(FIN | TEXT, text.as_bytes())).await;
    assert_eq!(peer.echo().await, "x");
    for length in [1, 100, LIMIT - 1] {
        let text = padded(&mut peer, &json!("x"), LIMIT);
        peer.send(&fragments(TEXT, text.as_bytes(), length).concat())
            .await;
        assert_eq!(peer.echo().await, "x", "in fragments of {length}");
    }
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection() {
    let server = narrow().await;
    let mut peer = Peer::open(&server).await;
    peer.try_send(&frame(FIN | TEXT, &[b' '; LIMIT + 1])).await;
    peer.expect_end(1009, "one byte over").await;
    for length in [1, 100, LIMIT] {
        let mut peer = Peer::open(&server).await;
        let frames = fragments(TEXT, &[b' '; LIMIT + 1], length);
        peer.try_send(&frames.concat()).await;
        peer.expect_end(1009, &format!("one byte over, in fragments of {length}"))
            .await;
    }
}

#[tokio::test]
async fn a_header_that_announces_too_much_ends_the_connection() {
    let server = narrow().await;
    for (first, announced) in [
        (FIN | TEXT, LIMIT as u64 + 1),
        (TEXT, 1 << 32),
        (FIN | TEXT, u64::MAX >> 1),
    ] {
        let mut peer = Peer::open(&server).await;
        let mut head = vec![first, 0x80 | 127];
        head.extend(announced.to_be_bytes());
        head.extend([1, 2, 3, 4]);
        // Not a byte of the payload.
        peer.send(&head).await;
        peer.expect_end(1009, &announced.to_string()).await;
    }
    // As a continuation, with what came before it.
    let mut peer = Peer::open(&server).await;
    peer.send(&frame(TEXT, &[b' '; LIMIT / 2])).await;
    let whole = frame(FIN | CONTINUATION, &[b' '; LIMIT / 2 + 1]);
    peer.send(&whole[..8]).await;
    peer.expect_end(1009, "the last fragment's header").await;
}

#[tokio::test]
async fn long_messages_come_back() {
    let server = roomy().start().await;
    let mut peer = Peer::open(&server).await;
    for length in [64 << 10, 256 << 10, 1_000_000] {
        let data = json!("*".repeat(length));
        peer.expect_echo(&data).await;
        for part in [1_300, 64 << 10] {
            let text = peer.publish(&data);
            peer.send(&fragments(TEXT, text.as_bytes(), part).concat())
                .await;
            assert_eq!(peer.echo().await, data, "{length} in fragments of {part}");
        }
    }
    // Many small fragments.
    let data = json!("*".repeat(64 << 10));
    let text = peer.publish(&data);
    peer.send(&fragments(TEXT, text.as_bytes(), 8).concat())
        .await;
    assert_eq!(peer.echo().await, data);
}

#[tokio::test]
async fn many_messages_come_back_in_order() {
    let server = roomy().start().await;
    let mut peer = Peer::open(&server).await;
    for round in 0..300 {
        peer.expect_echo(&json!({"round": round, "filler": "x".repeat(round)}))
            .await;
    }
}
