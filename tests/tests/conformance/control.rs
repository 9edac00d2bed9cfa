//! Control frames: pings and pongs.

use serde_json::json;
use tidewire_tests::Server;

use crate::raw_client::{FIN, PING, PONG, RawClient, TEXT, frame};

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    let longest: Vec<u8> = (0..125).map(|byte| byte * 2).collect();
    for payload in [
        &b""[..],
        b"Hello, world!",
        &[0x00, 0xff, 0xfe, 0xfd],
        &longest,
    ] {
        client.send(&frame(FIN | PING, payload)).await;
        assert_eq!(client.expect(PONG).await, payload);
        client.send_slowly(&frame(FIN | PING, payload)).await;
        assert_eq!(client.expect(PONG).await, payload);
    }
}

#[tokio::test]
async fn a_ping_above_125_bytes_closes_the_connection() {
    let server = Server::start().await;
    for opcode in [PING, PONG] {
        let mut client = RawClient::open(&server).await;
        client.send(&frame(FIN | opcode, &[0xfe; 126])).await;
        client.expect_end(1002, &format!("opcode {opcode}")).await;
    }
}

#[tokio::test]
async fn unsolicited_pongs_are_ignored() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    for payload in [&b""[..], b"unsolicited", &[0xff; 125]] {
        client.send(&frame(FIN | PONG, payload)).await;
    }
    // An answer to them would be read here.
    client.send(&frame(FIN | PING, b"asked")).await;
    assert_eq!(client.expect(PONG).await, b"asked");
    client.expect_echo(&json!("on")).await;
}

#[tokio::test]
async fn many_pings_are_answered_in_order() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    let payloads: Vec<_> = (0..100).map(|at| format!("ping {at}")).collect();
    let pings: Vec<_> = payloads
        .iter()
        .map(|payload| frame(FIN | PING, payload.as_bytes()))
        .collect();
    client.send(&pings.concat()).await;
    for payload in &payloads {
        assert_eq!(client.expect(PONG).await, payload.as_bytes());
    }
    for payload in &payloads[..10] {
        client
            .send_slowly(&frame(FIN | PING, payload.as_bytes()))
            .await;
    }
    for payload in &payloads[..10] {
        assert_eq!(client.expect(PONG).await, payload.as_bytes());
    }
}

#[tokio::test]
async fn a_client_whose_heartbeat_stops_is_closed_with_4002() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    client
        .send(&frame(FIN | TEXT, b"{\"type\":\"ping\"}"))
        .await;
    assert_eq!(client.message().await["type"], "pong");
    // The kernel still accepts bytes, but the client does not answer.
    client.expect_end(4002, "silence").await;
    assert!(server.metric("tidewire_missed_beats_total", "").await >= 1.0);
}

#[tokio::test]
async fn the_round_trip_is_measured_with_a_heartbeat() {
    let server = Server::start().await;
    let mut client = RawClient::open(&server).await;
    let beat = frame(FIN | TEXT, b"{\"type\":\"ping\"}");
    client.send(&beat).await;
    let first = client.message().await;
    assert_eq!(first["data"]["rttMs"], json!(null));
    let payload = client.expect(PING).await;
    client.send(&frame(FIN | PONG, &payload)).await;
    client.send(&beat).await;
    let second = client.message().await;
    assert!(second["data"]["rttMs"].as_f64().unwrap() > 0.0, "{second}");
    assert_eq!(
        second["data"]["jitterMs"],
        json!(null),
        "jitter needs two round trips"
    );
    let measured = server.metric("tidewire_round_trip_seconds_count", "").await;
    assert!(measured >= 1.0);
    let received = server
        .metric("tidewire_received_bytes_total", "websocket")
        .await;
    assert!(received >= (2 * beat.len()) as f64, "{received}");
}
