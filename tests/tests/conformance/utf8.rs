//! UTF-8: text messages are checked, and the first invalid fragment closes the connection.

use serde_json::json;
use tidewire_tests::Server;

use crate::raw_client::{CONTINUATION, FIN, PING, PONG, RawClient, TEXT, fragments, frame};

/// The first and last characters of each sequence length, and valid characters without an
/// assignment.
const VALID: [&str; 14] = [
    "Hello-µ@ßöäüàá-UTF-8!!",
    "κόσμε",
    "\u{7f}",
    "\u{80}",
    "\u{7ff}",
    "\u{800}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{fffd}",
    "\u{fffe}",
    "\u{ffff}",
    "\u{10000}",
    "\u{1fffe}\u{2ffff}\u{10fffe}",
    "\u{10ffff}",
];

/// Invalid sequences.
const INVALID: [&[u8]; 32] = [
    // Continuation bytes without a start.
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80\xbf\x80\xbf",
    // Truncated sequences before a space.
    b"\xc0 ",
    b"\xdf ",
    b"\xe0 ",
    b"\xef ",
    b"\xf0 ",
    b"\xf7 ",
    b"\xe2\x82 ",
    b"\xf0\x9f\x98 ",
    // Overlong sequences.
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf",
    b"\xf0\x80\x80\xaf",
    b"\xf0\x8f\xbf\xbf",
    b"\xf8\x80\x80\x80\xaf",
    b"\xfc\x80\x80\x80\x80\xaf",
    // Above U+10FFFF.
    b"\xf4\x90\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"\xfb\xbf\xbf\xbf\xbf",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfd\xbf\xbf\xbf\xbf\xbf",
    // UTF-16 surrogates.
    b"\xed\xa0\x80",
    b"\xed\xad\xbf",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    // Bytes that never occur in UTF-8.
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
];

#[tokio::test]
async fn all_characters_are_echoed() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    for text in VALID {
        let data = json!(text);
        client.expect_echo(&data).await;
        // Split within characters, and byte by byte.
        for length in [1, 2, 3] {
            let command = client.publish(&data);
            client
                .send(&fragments(TEXT, command.as_bytes(), length).concat())
                .await;
            assert_eq!(
                client.echo().await,
                data,
                "{text:?} in fragments of {length}"
            );
        }
        let command = client.publish(&data);
        client
            .send_slowly(&frame(FIN | TEXT, command.as_bytes()))
            .await;
        assert_eq!(client.echo().await, data);
    }
}

#[tokio::test]
async fn invalid_utf8_closes_the_connection() {
    let server = Server::start().await;
    for sequence in INVALID {
        let mut client = RawClient::open(&server).await;
        client.expect_echo(&json!("before")).await;
        let text = [b"\"fine until ", sequence, b" here\""].concat();
        client.send(&frame(FIN | TEXT, &text)).await;
        client.expect_end(1007, &format!("{sequence:x?}")).await;
    }
}

#[tokio::test]
async fn an_invalid_fragment_closes_the_connection_at_once() {
    let server = Server::start().await;
    for sequence in INVALID {
        let mut client = RawClient::open(&server).await;
        let mut text = [b"fine until ", sequence].concat();
        text.push(b' ');
        // No fragment has FIN, and nothing follows.
        let mut frames = fragments(TEXT, &text, 3);
        let last = text.chunks(3).next_back().unwrap();
        *frames.last_mut().unwrap() = frame(CONTINUATION, last);
        client.try_send(&frames.concat()).await;
        client.expect_end(1007, &format!("{sequence:x?}")).await;
    }
}

#[tokio::test]
async fn a_text_that_ends_within_a_character_is_refused() {
    let server = Server::start().await;
    for cut in [&b"\xce"[..], b"\xe2\x82", b"\xf0\x9f\x98"] {
        let mut client = RawClient::open(&server).await;
        client.send(&frame(FIN | TEXT, cut)).await;
        client.expect_end(1007, &format!("{cut:x?}")).await;
        let mut client = RawClient::open(&server).await;
        // In a fragment it is valid until the message ends.
        client.send(&frame(TEXT, cut)).await;
        client.send(&frame(FIN | PING, b"and?")).await;
        assert_eq!(client.expect(PONG).await, b"and?");
        client.send(&frame(FIN | CONTINUATION, b"")).await;
        client
            .expect_end(1007, &format!("{cut:x?} in fragments"))
            .await;
    }
}
