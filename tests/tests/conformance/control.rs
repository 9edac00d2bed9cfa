//! Pings and pongs.

use serde_json::json;
use tidewire_tests::Server;

use crate::peer::{FIN, PING, PONG, Peer, TEXT, frame};

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    let longest: Vec<u8> = (0..125).map(|byte| byte * 2).collect();
    for payload in [
        &b""[..],
        b"Hello, world!",
        &[0x00, 0xff, 0xfe, 0xfd],
        &longest,
    ] {
        peer.send(&frame(FIN | PING, payload)).await;
        assert_eq!(peer.expect(PONG).await, payload);
        peer.send_slowly(&frame(FIN | PING, payload)).await;
        assert_eq!(peer.expect(PONG).await, payload);
    }
}

#[tokio::test]
async fn a_ping_over_125_bytes_ends_the_connection() {
    let server = Server::start().await;
    for opcode in [PING, PONG] {
        let mut peer = Peer::open(&server).await;
        peer.send(&frame(FIN | opcode, &[0xfe; 126])).await;
        peer.expect_end(1002, &format!("opcode {opcode}")).await;
    }
}

#[tokio::test]
async fn pongs_that_nobody_asked_for_are_ignored() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    for payload in [&b""[..], b"unsolicited", &[0xff; 125]] {
        peer.send(&frame(FIN | PONG, payload)).await;
    }
    // Had they been answered, it would be seen here.
    peer.send(&frame(FIN | PING, b"asked")).await;
    assert_eq!(peer.expect(PONG).await, b"asked");
    peer.expect_echo(&json!("on")).await;
}

#[tokio::test]
async fn many_pings_are_answered_in_order() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    let payloads: Vec<_> = (0..100).map(|at| format!("ping {at}")).collect();
    let pings: Vec<_> = payloads
        .iter()
        .map(|payload| frame(FIN | PING, payload.as_bytes()))
        .collect();
    peer.send(&pings.concat()).await;
    for payload in &payloads {
        assert_eq!(peer.expect(PONG).await, payload.as_bytes());
    }
    for payload in &payloads[..10] {
        peer.send_slowly(&frame(FIN | PING, payload.as_bytes()))
            .await;
    }
    for payload in &payloads[..10] {
        assert_eq!(peer.expect(PONG).await, payload.as_bytes());
    }
}

#[tokio::test]
async fn whoever_beats_and_falls_silent_is_closed_with_4002() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    peer.send(&frame(FIN | TEXT, b"{\"type\":\"ping\"}")).await;
    assert_eq!(peer.message().await["type"], "pong");
    // The kernel still takes what is sent, and nobody answers.
    peer.expect_end(4002, "silence").await;
    assert!(server.metric("tidewire_missed_beats_total", "").await >= 1.0);
}

#[tokio::test]
async fn the_round_trip_is_measured_along_with_a_beat() {
    let server = Server::start().await;
    let mut peer = Peer::open(&server).await;
    let beat = frame(FIN | TEXT, b"{\"type\":\"ping\"}");
    peer.send(&beat).await;
    let first = peer.message().await;
    assert_eq!(first["data"]["rttMs"], json!(null));
    let payload = peer.expect(PING).await;
    peer.send(&frame(FIN | PONG, &payload)).await;
    peer.send(&beat).await;
    let second = peer.message().await;
    assert!(second["data"]["rttMs"].as_f64().unwrap() > 0.0, "{second}");
    assert_eq!(second["data"]["jitterMs"], json!(null), "it takes two");
    let measured = server.metric("tidewire_round_trip_seconds_count", "").await;
    assert!(measured >= 1.0);
    let received = server
        .metric("tidewire_received_bytes_total", "websocket")
        .await;
    assert!(received >= (2 * beat.len()) as f64, "{received}");
}
