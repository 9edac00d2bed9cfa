//! Compression: the negotiation of permessage-deflate, and compressed messages.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, FlushCompress};
use serde_json::json;
use tidewire_tests::{Server, VenueKind, VenueStandIn, venue::Trade};

use crate::{
    framing::roomy,
    handshake::upgrade,
    raw_client::{
        BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, RawClient, TEXT, fragments, frame,
    },
};

const OFFER: &str = "permessage-deflate";

/// Valid offers. A server may decline any of them.
const OFFERS: [&str; 12] = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; client_no_context_takeover",
    "permessage-deflate; server_no_context_takeover",
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; client_max_window_bits=9",
    "permessage-deflate; client_max_window_bits=\"15\"",
    "permessage-deflate; server_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
    "permessage-deflate; server_max_window_bits=15; client_max_window_bits",
    "permessage-deflate; server_max_window_bits=8, permessage-deflate",
    "x-other; a=1, permessage-deflate; unknown, permessage-deflate",
];

/// Offers that no server may accept.
const WRONG_OFFERS: [&str; 8] = [
    "permessage-deflate; unknown",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; client_max_window_bits=010",
    "permessage-deflate; client_no_context_takeover=1",
    "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
    "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
];

/// Checks a response against the offers (RFC 7692, section 7.1).
fn check_response(response: &str, offers: &str) {
    let mut parameters = response.split(';').map(str::trim);
    assert_eq!(parameters.next(), Some(OFFER), "{response}");
    let mut names = Vec::new();
    for parameter in parameters {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (parameter, None),
        };
        assert!(!names.contains(&name), "{name} occurs once: {response}");
        names.push(name);
        let bits = || {
            let bits: u8 = value.expect(name).parse().expect(name);
            assert!((8..=15).contains(&bits), "{response}");
            bits
        };
        match name {
            "server_no_context_takeover" | "client_no_context_takeover" => {
                assert_eq!(value, None, "{response}");
            }
            "server_max_window_bits" => drop(bits()),
            "client_max_window_bits" => {
                let _ = bits();
                assert!(offers.contains(name), "{name} was not offered: {response}");
            }
            other => panic!("{other} in {response}"),
        }
    }
    // The server keeps no context between messages, and declares it.
    assert!(names.contains(&"server_no_context_takeover"), "{response}");
    assert!(names.contains(&"client_no_context_takeover"), "{response}");
}

/// Compresses a message like a client without context takeover.
fn deflated(payload: &[u8], level: u32) -> Vec<u8> {
    let mut stream = Compress::new(Compression::new(level), false);
    let mut out = Vec::with_capacity(payload.len() + payload.len() / 100 + 100);
    stream
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .unwrap();
    assert_eq!(stream.total_in(), payload.len() as u64);
    assert!(out.ends_with(&[0x00, 0x00, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

/// A client with negotiated compression.
async fn deflate_client(server: &Server) -> RawClient {
    let client = RawClient::offering(server, &[OFFER]).await;
    assert!(
        client.extensions().is_some(),
        "the server accepts the offer"
    );
    client
}

#[tokio::test]
async fn responses_stay_within_the_offers() {
    let server = Server::start().await;
    for offer in OFFERS {
        let mut client = RawClient::offering(&server, &[offer]).await;
        let response = client.extensions().expect(offer);
        check_response(response, offer);
        if offer.starts_with("permessage-deflate; server_max_window_bits=9") {
            assert!(response.contains("server_max_window_bits=9"), "{response}");
        }
        let text = client.publish(&json!("in short"));
        let message = deflated(text.as_bytes(), 6);
        client.send(&frame(FIN | RSV1 | TEXT, &message)).await;
        assert_eq!(client.echo().await, "in short", "{offer}");
        client
            .expect_echo(&json!("the same again and again, ".repeat(400)))
            .await;
    }
    // Two header lines form one list.
    let client = RawClient::offering(&server, &["x-other", OFFER]).await;
    check_response(client.extensions().expect(OFFER), OFFER);
}

#[tokio::test]
async fn wrong_offers_are_declined() {
    let server = Server::start().await;
    for offer in WRONG_OFFERS {
        let mut client = RawClient::offering(&server, &[offer]).await;
        assert_eq!(client.extensions(), None, "{offer}");
        client.expect_echo(&json!("plain ".repeat(1_000))).await;
    }
}

#[tokio::test]
async fn a_malformed_header_is_refused() {
    let server = Server::start().await;
    for line in ["permessage-deflate;", "permessage-deflate; =", "\"", "a b"] {
        let (_stream, answer) = upgrade(&server, &[("Sec-WebSocket-Extensions", line)]).await;
        assert_eq!(answer.status, 400, "{line}");
    }
}

#[tokio::test]
async fn compressed_messages_of_all_lengths_are_read() {
    let server = roomy().start().await;
    let mut client = deflate_client(&server).await;
    for length in [
        0, 16, 64, 256, 1_024, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 1_000_000,
    ] {
        for (level, what) in [(0, "x"), (1, "{price: 1.25}, "), (9, "random or not? ")] {
            let data = json!(what.repeat(length / what.len()));
            let text = client.publish(&data);
            let message = deflated(text.as_bytes(), level);
            client.send(&frame(FIN | RSV1 | TEXT, &message)).await;
            assert_eq!(client.echo().await, data, "{length} bytes at level {level}");
        }
    }
}

#[tokio::test]
async fn compressed_messages_may_be_fragmented() {
    let server = roomy().start().await;
    let mut client = deflate_client(&server).await;
    let data = json!("fragments of what is compressed as a whole: ∀x ".repeat(100));
    for length in [1, 7, 50, 126] {
        let text = client.publish(&data);
        let message = deflated(text.as_bytes(), 6);
        let frames = fragments(RSV1 | TEXT, &message, length);
        assert!(frames.len() > 1);
        for part in &frames[..frames.len() - 1] {
            client.send(part).await;
        }
        // A control frame between fragments is never compressed.
        client.send(&frame(FIN | PING, b"between")).await;
        assert_eq!(client.expect(PONG).await, b"between");
        client.send(&frames[frames.len() - 1]).await;
        assert_eq!(client.echo().await, data, "in fragments of {length}");
    }
    // An empty last fragment.
    let text = client.publish(&data);
    let message = deflated(text.as_bytes(), 6);
    client.send(&frame(RSV1 | TEXT, &message)).await;
    client.send(&frame(FIN | CONTINUATION, b"")).await;
    assert_eq!(client.echo().await, data);
    // The client chooses compression for each message.
    client.expect_echo(&json!("plain")).await;
}

#[tokio::test]
async fn blocks_of_every_type_are_read() {
    let server = Server::start().await;
    let mut client = deflate_client(&server).await;
    let ping = br#"{"type":"ping","id":"p"}"#;
    let length = u16::try_from(ping.len()).unwrap();
    // A stored block, and the flush after it.
    let stored = |first: u8| {
        let lengths = [length.to_le_bytes(), (!length).to_le_bytes()].concat();
        [&[first][..], &lengths, ping, &[0x00]].concat()
    };
    // The second is marked as the last block, which is allowed.
    for message in [stored(0), stored(1)] {
        client.send(&frame(FIN | RSV1 | TEXT, &message)).await;
        assert_eq!(client.message().await["type"], "pong");
    }
    // An empty message.
    client.send(&frame(FIN | RSV1 | TEXT, &[0x00])).await;
    assert_eq!(client.message().await["type"], "error");
}

#[tokio::test]
async fn wrong_compressed_frames_close_the_connection() {
    let server = Server::start().await;
    let text = deflated(b"{\"type\":\"ping\"}", 6);
    let (first, last) = text.split_at(4);
    let bits = |second: u8| [frame(RSV1 | TEXT, first), frame(second, last)].concat();
    let cases = [
        (
            bits(FIN | RSV1 | CONTINUATION),
            1002,
            "RSV1 on a continuation",
        ),
        (frame(FIN | RSV1 | PING, b""), 1002, "RSV1 on a ping"),
        (frame(FIN | RSV1 | PONG, b""), 1002, "RSV1 on a pong"),
        (
            frame(FIN | RSV1 | CLOSE, b""),
            1002,
            "RSV1 on a close frame",
        ),
        (frame(FIN | 0x20 | TEXT, b""), 1002, "RSV2"),
        (frame(FIN | 0x10 | TEXT, b""), 1002, "RSV3"),
        (
            frame(FIN | RSV1 | TEXT, &[0xff; 9]),
            1007,
            "not DEFLATE data",
        ),
        (frame(FIN | RSV1 | TEXT, first), 1007, "half of a message"),
        (
            frame(FIN | RSV1 | TEXT, &deflated(b"\xff\xfe", 6)),
            1007,
            "not UTF-8",
        ),
        (frame(FIN | RSV1 | BINARY, &text), 1003, "binary"),
    ];
    for (bytes, code, why) in cases {
        let mut client = deflate_client(&server).await;
        client.send(&bytes).await;
        client.expect_end(code, why).await;
    }
}

#[tokio::test]
async fn a_compressed_frame_without_an_agreement_closes_the_connection() {
    let server = Server::start().await;
    for offer in [None, Some("permessage-deflate; unknown")] {
        let mut client = match offer {
            Some(offer) => RawClient::offering(&server, &[offer]).await,
            None => RawClient::open(&server).await,
        };
        client
            .send(&frame(FIN | RSV1 | TEXT, &deflated(b"{}", 6)))
            .await;
        client.expect_end(1002, &format!("{offer:?}")).await;
    }
}

#[tokio::test]
async fn the_limit_applies_to_the_inflated_message() {
    let server = Server::builder()
        .set("limits", "frame_bytes = 10000")
        .start()
        .await;
    let mut client = deflate_client(&server).await;
    let padded = |text: String, length| format!("{text}{}", " ".repeat(length - text.len()));
    let text = padded(client.publish(&json!(1)), 10_000);
    client
        .send(&frame(FIN | RSV1 | TEXT, &deflated(text.as_bytes(), 6)))
        .await;
    assert_eq!(client.echo().await, 1);
    let over = padded(client.publish(&json!(2)), 10_001);
    client
        .send(&frame(FIN | RSV1 | TEXT, &deflated(over.as_bytes(), 6)))
        .await;
    client.expect_end(1009, "one byte over").await;
}

#[tokio::test]
async fn a_decompression_bomb_is_refused() {
    let server = Server::start().await;
    // 32 MiB in 32 KiB.
    let bomb = deflated(&vec![b' '; 32 << 20], 9);
    assert!(bomb.len() < 64 << 10, "{}", bomb.len());
    for length in [usize::MAX, 1_000] {
        let mut client = deflate_client(&server).await;
        let frames = fragments(RSV1 | TEXT, &bomb, length.min(bomb.len()));
        client.try_send(&frames.concat()).await;
        client.expect_end(1009, "a bomb").await;
    }
    // Other clients are still served.
    RawClient::open(&server)
        .await
        .expect_echo(&json!("still here"))
        .await;
}

#[tokio::test]
async fn many_compressed_messages_need_no_context() {
    let server = roomy().start().await;
    let mut client = deflate_client(&server).await;
    for round in 0..300 {
        let data = json!({"round": round, "filler": "over and over ".repeat(round)});
        let text = client.publish(&data);
        let message = deflated(text.as_bytes(), 6);
        client.send(&frame(FIN | RSV1 | TEXT, &message)).await;
        assert_eq!(client.echo().await, data);
    }
}

/// Each client gets its own batch, concatenated from updates that were compressed once.
#[tokio::test]
async fn price_batches_are_compressed() {
    const SYMBOLS: [&str; 3] = ["BTC-USD", "ETH-USD", "SOL-USD"];
    let venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let server = Server::builder()
        .set("prices", &format!("symbols = {SYMBOLS:?}"))
        .set("stream", "batch_interval_ms = 200")
        .source("coinbase", "coinbase", &venue.url())
        .start()
        .await;
    let mut client = deflate_client(&server).await;
    let channels = SYMBOLS.map(|symbol| format!("prices:{symbol}"));
    let subscribe = json!({"type": "subscribe", "id": "p", "data": {"channels": channels}});
    client
        .send(&frame(FIN | TEXT, subscribe.to_string().as_bytes()))
        .await;
    venue.wait_subscribed(1).await;
    for id in 1..=20 {
        for symbol in SYMBOLS {
            let price = format!("{id}.5");
            let price = &price;
            venue.trade(&Trade { symbol, id, price });
        }
    }
    let (mut last, mut batches) = (BTreeMap::new(), 0);
    while last.len() < SYMBOLS.len() || last.values().any(|price| *price != 20.5) {
        let frame = client.next_frame().await;
        if frame.opcode == PING {
            continue;
        }
        let message = client.json(&frame);
        let updates = match message["type"].as_str() {
            Some("price_batch") => {
                assert!(frame.is_deflated, "{message}");
                assert_eq!(message["timestamp"], message["data"]["timestamp"]);
                batches += 1;
                message["data"]["updates"].as_array().unwrap().clone()
            }
            Some("price") => vec![message["data"].clone()],
            _ => continue,
        };
        for update in updates {
            let symbol = update["symbol"].as_str().unwrap().to_owned();
            last.insert(symbol, update["price"].as_f64().unwrap());
        }
    }
    assert!(batches > 0);
}

#[tokio::test]
async fn long_messages_are_compressed_and_short_ones_are_not() {
    let server = Server::start().await;
    let mut client = deflate_client(&server).await;
    let long = json!("the same again and again, ".repeat(40));
    for (data, is_long) in [(json!("in short"), false), (long, true)] {
        let text = client.publish(&data);
        client.send(&frame(FIN | TEXT, text.as_bytes())).await;
        let frames = [client.next_frame().await, client.next_frame().await];
        let deflated = frames.iter().filter(|frame| frame.is_deflated).count();
        // The reply to the command is short in any case.
        assert_eq!(deflated, usize::from(is_long), "{data}");
    }
    // A client with a window of 512 bytes gets longer messages uncompressed.
    let mut client =
        RawClient::offering(&server, &["permessage-deflate; server_max_window_bits=9"]).await;
    for (length, is_deflated) in [(300, true), (2_000, false)] {
        let text = client.publish(&json!("x".repeat(length)));
        client.send(&frame(FIN | TEXT, text.as_bytes())).await;
        let frames = [client.next_frame().await, client.next_frame().await];
        assert_eq!(
            frames.iter().any(|frame| frame.is_deflated),
            is_deflated,
            "{length} bytes"
        );
    }
}
