//! Text is UTF-8, and the first fragment that spoils it ends the connection.

use serde_json::json;
use tidewire_tests::Server;

use crate::peer::{CONTINUATION, FIN, PING, PONG, Peer, TEXT, fragments, frame};

/// Characters at the edges of what each length of a sequence can say, and ones that
/// are assigned to nothing but valid.
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

/// Sequences that are no characters.
const INVALID: [&[u8]; 32] = [
    // Continuations of nothing.
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80\xbf\x80\xbf",
    // Sequences without their end, before a space.
    b"\xc0 ",
    b"\xdf ",
    b"\xe0 ",
    b"\xef ",
    b"\xf0 ",
    b"\xf7 ",
    b"\xe2\x82 ",
    b"\xf0\x9f\x98 ",
    // Longer than need be.
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
    // Halves of UTF-16.
    b"\xed\xa0\x80",
    b"\xed\xad\xbf",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    // Bytes that never occur.
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
];

#[tokio::test]
async fn all_characters_come_back() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    for text in VALID {
        let data = json!(text);
        peer.expect_echo(&data).await;
        // Cut within characters, and byte by byte.
        for length in [1, 2, 3] {
            let command = peer.publish(&data);
            peer.send(&fragments(TEXT, command.as_bytes(), length).concat())
                .await;
            assert_eq!(peer.echo().await, data, "{text:?} in fragments of {length}");
        }
        let command = peer.publish(&data);
        peer.send_slowly(&frame(FIN | TEXT, command.as_bytes()))
            .await;
        assert_eq!(peer.echo().await, data);
    }
}

#[tokio::test]
async fn what_is_not_utf8_ends_the_connection() {
    let server = Server::start().await;
    for sequence in INVALID {
        let mut peer = Peer::open(&server).await;
        peer.expect_echo(&json!("before")).await;
        let text = [b"\"fine until ", sequence, b" here\""].concat();
        peer.send(&frame(FIN | TEXT, &text)).await;
        peer.expect_end(1007, &format!("{sequence:x?}")).await;
    }
}

#[tokio::test]
async fn a_fragment_that_spoils_a_text_ends_the_connection_at_once() {
    let server = Server::start().await;
    for sequence in INVALID {
        let mut peer = Peer::open(&server).await;
        let mut text = [b"fine until ", sequence].concat();
        text.push(b' ');
        // No fragment is the last one, and nothing more is sent.
        let mut frames = fragments(TEXT, &text, 3);
        let last = text.chunks(3).next_back().unwrap();
        *frames.last_mut().unwrap() = frame(CONTINUATION, last);
        peer.try_send(&frames.concat()).await;
        peer.expect_end(1007, &format!("{sequence:x?}")).await;
    }
}

#[tokio::test]
async fn a_text_may_not_end_within_a_character() {
    let server = Server::start().await;
    for cut in [&b"\xce"[..], b"\xe2\x82", b"\xf0\x9f\x98"] {
        let mut peer = Peer::open(&server).await;
        peer.send(&frame(FIN | TEXT, cut)).await;
        peer.expect_end(1007, &format!("{cut:x?}")).await;
        let mut peer = Peer::open(&server).await;
        // As a fragment it is fine until the message ends.
        peer.send(&frame(TEXT, cut)).await;
        peer.send(&frame(FIN | PING, b"and?")).await;
        assert_eq!(peer.expect(PONG).await, b"and?");
        peer.send(&frame(FIN | CONTINUATION, b"")).await;
        peer.expect_end(1007, &format!("{cut:x?} in fragments"))
            .await;
    }
}
