//! Closing: close codes, reasons, and bytes after a close frame.

use serde_json::json;
use tidewire_tests::Server;

use crate::raw_client::{
    CLOSE, CONTINUATION, End, FIN, PING, PONG, RawClient, TEXT, fragments, frame,
};

/// Closes with this payload, and waits for the end of the connection.
async fn close_with(server: &Server, payload: &[u8]) -> End {
    let mut client = RawClient::open(server).await;
    client.expect_echo(&json!("before")).await;
    client.send(&frame(FIN | CLOSE, payload)).await;
    client.end().await
}

fn payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

#[tokio::test]
async fn a_close_frame_is_answered_with_its_code() {
    let server = Server::start().await;
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ] {
        for reason in ["", "Hello World!", "κόσμε", &"*".repeat(123)] {
            let end = close_with(&server, &payload(code, reason)).await;
            assert_eq!(end.code(), Some(code), "{reason}");
            assert_eq!(end.unread, []);
        }
    }
}

#[tokio::test]
async fn a_close_frame_may_be_empty() {
    let server = Server::start().await;
    let end = close_with(&server, b"").await;
    assert!(matches!(end.code(), None | Some(1000)), "{end:?}");
}

#[tokio::test]
async fn a_forbidden_close_code_is_refused() {
    let server = Server::start().await;
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        for reason in ["", "reason"] {
            let end = close_with(&server, &payload(code, reason)).await;
            assert_eq!(end.code(), Some(1002), "{code}");
        }
    }
}

#[tokio::test]
async fn half_a_code_and_a_long_reason_are_refused() {
    let server = Server::start().await;
    assert_eq!(close_with(&server, &[3]).await.code(), Some(1002));
    let long = payload(1000, &"*".repeat(124));
    assert_eq!(close_with(&server, &long).await.code(), Some(1002));
}

#[tokio::test]
async fn a_reason_that_is_not_utf8_is_refused() {
    let server = Server::start().await;
    for reason in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"[..],
        b"\xff",
        b"cut \xe2\x82",
    ] {
        let bytes = [&1000_u16.to_be_bytes()[..], reason].concat();
        assert_eq!(
            close_with(&server, &bytes).await.code(),
            Some(1007),
            "{reason:x?}"
        );
    }
}

#[tokio::test]
async fn bytes_after_a_close_frame_are_ignored() {
    let server = Server::start().await;
    let mut other = RawClient::open(&server).await;
    let text = other.publish(&json!("from beyond"));
    let publish = frame(FIN | TEXT, text.as_bytes());
    let close = frame(FIN | CLOSE, &payload(1000, ""));
    for after in [
        frame(FIN | PING, b"ping"),
        publish,
        close.clone(),
        // A violation after the close frame has no effect.
        frame(FIN | 3, b""),
        vec![0xff; 50],
    ] {
        let mut client = RawClient::open(&server).await;
        client.send(&[close.clone(), after.clone()].concat()).await;
        let end = client.end().await;
        assert_eq!(end.code(), Some(1000), "{after:x?}");
        assert_eq!(end.unread, [], "{after:x?}");
    }
    // The publication after the close frame is not delivered.
    other.send(&frame(FIN | PING, b"now")).await;
    assert_eq!(other.expect(PONG).await, b"now");
}

#[tokio::test]
async fn a_close_frame_ends_an_unfinished_message() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    client.send(&frame(TEXT, b"fragment 1")).await;
    client.send(&frame(FIN | CLOSE, &payload(1000, ""))).await;
    client
        .try_send(&frame(FIN | CONTINUATION, b"fragment 2"))
        .await;
    let end = client.end().await;
    assert_eq!((end.code(), end.unread), (Some(1000), Vec::new()));
}

#[tokio::test]
async fn messages_before_a_close_frame_are_answered() {
    let server = crate::framing::roomy().start().await;
    let mut client = RawClient::open(&server).await;
    let mut commands = Vec::new();
    for data in [json!("x".repeat(200_000)), json!("last")] {
        let text = client.publish(&data);
        commands.extend(fragments(TEXT, text.as_bytes(), 10_000).concat());
    }
    client.send(&commands).await;
    // A reply and a message for each.
    let mut messages = Vec::new();
    for _ in 0..4 {
        messages.push(client.message().await);
    }
    assert!(messages.iter().any(|message| message["data"] == "last"));
    client
        .send(&frame(FIN | CLOSE, &payload(1000, "done")))
        .await;
    let end = client.end().await;
    assert_eq!((end.code(), end.unread), (Some(1000), Vec::new()));
}

#[tokio::test]
async fn an_abrupt_disconnect_does_not_affect_other_clients() {
    let server = Server::start().await;
    let partial = frame(FIN | TEXT, &[b'x'; 100]);
    for bytes in [&b""[..], &partial[..1], &partial[..50]] {
        let mut client = RawClient::open(&server).await;
        client.send(bytes).await;
        drop(client);
    }
    RawClient::open(&server)
        .await
        .expect_echo(&json!("still here"))
        .await;
}

#[tokio::test]
async fn a_client_that_stops_reading_hears_why_it_was_cut() {
    let server = Server::builder()
        .environment("TIDEWIRE_LOG", "debug")
        .start()
        .await;
    let client = RawClient::open(&server).await;
    // More than the socket's buffers and the outbox hold.
    let text = "x".repeat(60_000);
    for _ in 0..200 {
        server.publish(client.channel(), json!(text)).await;
    }
    server.log_line("closing a client that does not read").await;
    client.expect_end(4001, "slow consumer").await;
}
