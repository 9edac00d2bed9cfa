//! Connection limits: count, rate and idle time.

use serde_json::json;
use tidewire_tests::{Refusal, Server, client::SseStream, eventually, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Opens a TCP connection.
async fn dial(server: &Server) -> TcpStream {
    within("a connection", TcpStream::connect(server.address()))
        .await
        .unwrap()
}

/// Sends a request, and returns the response up to `end` or to the server's close.
async fn exchange(stream: &mut TcpStream, request: &str, end: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", async {
        let mut part = [0; 4_096];
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            answer.push_str(&String::from_utf8_lossy(&part[..count]));
            if answer.contains(end) {
                break;
            }
        }
    })
    .await;
    answer
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Waits for the end of a connection, by close or by reset.
async fn ended(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = within("the end of a connection", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn connections_without_a_request_are_closed() {
    let server = Server::builder()
        .set("limits", "handshake_timeout = \"300ms\"")
        .set("limits", "idle_timeout = \"300ms\"")
        .start()
        .await;
    // Nothing at all, half a head, half an HTTP/2 preface, and a whole preface without any
    // request.
    for beginning in [
        "",
        "G",
        "GET /healthz HTTP/1.1\r\nhost: local",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = dial(&server).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        ended(&mut stream).await;
    }
    // A connection that had its response and sends no further request.
    let mut stream = dial(&server).await;
    let answer = exchange(&mut stream, HEALTH, "ok\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    ended(&mut stream).await;
    // A streaming response is not idle: it outlives many idle connections.
    let mut stream = SseStream::open(&server, "?channels=demo:a", &[])
        .await
        .unwrap();
    let _ = stream.next_of("subscribed").await;
    for _ in 0..3 {
        ended(&mut dial(&server).await).await;
    }
    server.publish("demo:a", json!(1)).await;
    assert_eq!(stream.next_of("message").await.message().data, 1);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_ends_its_request() {
    let server = Server::builder()
        .set("limits", "body_timeout = \"300ms\"")
        .start()
        .await;
    for (path, kind) in [
        ("/v1/rpc/StreamService/Publish", "application/json"),
        (
            "/tidewire.v1.StreamService/Publish",
            "application/grpc-web+proto",
        ),
    ] {
        let mut stream = dial(&server).await;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n\
             content-length: 1000\r\n\r\n{{"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        ended(&mut stream).await;
    }
    // A body in time is served.
    assert_eq!(server.publish("demo:a", json!(1)).await["seq"], 1);
}

#[tokio::test]
async fn a_refused_upgrade_leaves_its_connection_usable() {
    let server = Server::start().await;
    let mut stream = dial(&server).await;
    let upgrade = "GET /v1/ws HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n\
        connection: upgrade\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer nonsense\r\n\r\n";
    let answer = exchange(&mut stream, upgrade, "}").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("\"code\":\"unauthenticated\""), "{answer}");
    let answer = exchange(&mut stream, HEALTH, "ok\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn connections_per_address_are_limited() {
    let server = Server::builder()
        .set("limits", "connections_per_ip = 2")
        .without_readiness_check()
        .start()
        .await;
    let mut first = dial(&server).await;
    exchange(&mut first, HEALTH, "ok\n").await;
    let second = SseStream::open(&server, "", &[]).await.unwrap();
    let mut third = dial(&server).await;
    let answer = exchange(&mut third, HEALTH, "never").await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
    assert!(
        answer.contains("\"code\":\"resource_exhausted\""),
        "{answer}"
    );
    assert!(answer.contains("127.0.0.1 has 2 connections"), "{answer}");
    let refused = SseStream::open(&server, "", &[]).await.unwrap_err();
    assert!(matches!(refused, Refusal::Http(429, _)), "{refused:?}");
    let channel = tonic::transport::Endpoint::from_shared(server.url("")).unwrap();
    let mut client =
        tidewire_proto::v1::stream_service_client::StreamServiceClient::new(channel.connect_lazy());
    let status = within(
        "a status",
        client.publish(tidewire_proto::v1::PublishRequest::default()),
    )
    .await
    .unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    // A closed connection frees its slot.
    drop(second);
    eventually("room", async || {
        let answer = exchange(&mut dial(&server).await, HEALTH, "\r\n\r\n").await;
        answer.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_connection_rate_per_address_is_limited() {
    let server = Server::builder()
        .set("limits", "handshakes_per_second = 3")
        .without_readiness_check()
        .start()
        .await;
    let mut statuses = Vec::new();
    // More attempts than the rate allows within the time of this test, even on a slow machine.
    for _ in 0..50 {
        let answer = exchange(&mut dial(&server).await, HEALTH, "\r\n\r\n").await;
        let is_refused = answer.starts_with("HTTP/1.1 429");
        assert!(is_refused || answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            !is_refused || answer.contains("\r\nretry-after: 1\r\n"),
            "{answer}"
        );
        statuses.push(is_refused);
    }
    assert!(!statuses[0] && !statuses[1] && !statuses[2]);
    assert!(statuses.contains(&true));
}

#[tokio::test]
async fn handshakes_at_once_are_bounded() {
    let server = Server::builder()
        .set("limits", "concurrent_handshakes = 2")
        .without_readiness_check()
        .start()
        .await;
    // Each waiting connection holds a slot. The server accepts in its own order, so
    // connections are added until all slots are in use.
    let mut waiting = vec![dial(&server).await];
    let answer = within("a refusal", async {
        loop {
            waiting.push(dial(&server).await);
            let answer = exchange(&mut dial(&server).await, HEALTH, "ok\n").await;
            if !answer.starts_with("HTTP/1.1 200") {
                break answer;
            }
        }
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    // A handshake ends with the first request.
    let mut served = 0;
    for stream in &mut waiting {
        let answer = exchange(stream, HEALTH, "ok\n").await;
        served += usize::from(answer.starts_with("HTTP/1.1 200"));
    }
    assert!(served >= 2, "{served}");
    let answer = exchange(&mut dial(&server).await, HEALTH, "ok\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn messages_are_counted_by_type_and_code() {
    let server = Server::start().await;
    let mut client =
        tidewire_tests::Client::connect(tidewire_tests::Transport::WebSocketJson, &server).await;
    client.settle().await;
    for channel in ["demo:a", "orders:1"] {
        client
            .request("publish", json!({"channel": channel, "data": 1}))
            .await;
    }
    let _ = client.request("alerts", json!({})).await;
    for (labels, count) in [
        ("code=\"ok\",type=\"ping\"", 1.0),
        ("code=\"ok\",type=\"publish\"", 1.0),
        ("code=\"not_found\",type=\"publish\"", 1.0),
        ("code=\"permission_denied\",type=\"alerts\"", 1.0),
    ] {
        let metrics = server.get("/metrics").await.body;
        let line = metrics.lines().find(|line| {
            let mut parts: Vec<_> = line
                .trim_start_matches("tidewire_messages_total{")
                .split('}')
                .next()
                .unwrap_or_default()
                .split(',')
                .collect();
            parts.sort_unstable();
            line.starts_with("tidewire_messages_total{") && parts.join(",") == labels
        });
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        assert_eq!(value, Some(count), "{labels}\n{metrics}");
    }
}
