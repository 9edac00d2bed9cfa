//! Message limit: messages at the limit and one byte above it, whole and in fragments.

use serde_json::{Value, json};
use tidewire_tests::Server;

use crate::{
    framing::roomy,
    raw_client::{CONTINUATION, FIN, RawClient, TEXT, fragments, frame},
};

/// The lowest limit that can be configured.
const LIMIT: usize = 1_024;

async fn server_with_limit() -> Server {
    let builder = Server::builder().set("limits", &format!("frame_bytes = {LIMIT}"));
    builder.start().await
}

/// A command of exactly `length` bytes.
fn padded(client: &mut RawClient, data: &Value, length: usize) -> String {
    let text = client.publish(data);
    let space = length.checked_sub(text.len()).unwrap();
    format!("{text}{}", " ".repeat(space))
}

#[tokio::test]
async fn a_message_at_the_limit_is_accepted() {
    let server = server_with_limit().await;
    let mut client = RawClient::open(&server).await;
    let text = padded(&mut client, &json!("x"), LIMIT);
    client.send(&frame(FIN | TEXT, text.as_bytes())).await;
    assert_eq!(client.echo().await, "x");
    for length in [1, 100, LIMIT - 1] {
        let text = padded(&mut client, &json!("x"), LIMIT);
        client
            .send(&fragments(TEXT, text.as_bytes(), length).concat())
            .await;
        assert_eq!(client.echo().await, "x", "in fragments of {length}");
    }
}

#[tokio::test]
async fn a_message_above_the_limit_closes_the_connection() {
    let server = server_with_limit().await;
    let mut client = RawClient::open(&server).await;
    client
        .try_send(&frame(FIN | TEXT, &[b' '; LIMIT + 1]))
        .await;
    client.expect_end(1009, "one byte over").await;
    for length in [1, 100, LIMIT] {
        let mut client = RawClient::open(&server).await;
        let frames = fragments(TEXT, &[b' '; LIMIT + 1], length);
        client.try_send(&frames.concat()).await;
        client
            .expect_end(1009, &format!("one byte over, in fragments of {length}"))
            .await;
    }
}

#[tokio::test]
async fn a_header_that_announces_too_much_closes_the_connection() {
    let server = server_with_limit().await;
    for (first, announced) in [
        (FIN | TEXT, LIMIT as u64 + 1),
        (TEXT, 1 << 32),
        (FIN | TEXT, u64::MAX >> 1),
    ] {
        let mut client = RawClient::open(&server).await;
        let mut head = vec![first, 0x80 | 127];
        head.extend(announced.to_be_bytes());
        head.extend([1, 2, 3, 4]);
        // The header alone, without payload.
        client.send(&head).await;
        client.expect_end(1009, &announced.to_string()).await;
    }
    // A continuation, together with the first fragment.
    let mut client = RawClient::open(&server).await;
    client.send(&frame(TEXT, &[b' '; LIMIT / 2])).await;
    let whole = frame(FIN | CONTINUATION, &[b' '; LIMIT / 2 + 1]);
    client.send(&whole[..8]).await;
    client.expect_end(1009, "the last fragment's header").await;
}

#[tokio::test]
async fn long_messages_are_echoed() {
    let server = roomy().start().await;
    let mut client = RawClient::open(&server).await;
    for length in [64 << 10, 256 << 10, 1_000_000] {
        let data = json!("*".repeat(length));
        client.expect_echo(&data).await;
        for part in [1_300, 64 << 10] {
            let text = client.publish(&data);
            client
                .send(&fragments(TEXT, text.as_bytes(), part).concat())
                .await;
            assert_eq!(client.echo().await, data, "{length} in fragments of {part}");
        }
    }
    // Many small fragments.
    let data = json!("*".repeat(64 << 10));
    let text = client.publish(&data);
    client
        .send(&fragments(TEXT, text.as_bytes(), 8).concat())
        .await;
    assert_eq!(client.echo().await, data);
}

#[tokio::test]
async fn many_messages_are_echoed_in_order() {
    let server = roomy().start().await;
    let mut client = RawClient::open(&server).await;
    for round in 0..300 {
        client
            .expect_echo(&json!({"round": round, "filler": "x".repeat(round)}))
            .await;
    }
}
