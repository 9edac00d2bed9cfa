//! Session limits: connections per user and per address behind a proxy, and request rates.

use serde_json::{Value, json};
use tidewire_tests::{Client, Close, Refusal, Server, Token, Transport, client::SseStream, within};

on_every_transport!(
    messages_beyond_the_rate_are_refused_and_a_flood_is_closed,
    bytes_beyond_the_rate_are_refused,
    connections_per_user_are_limited,
    a_closed_connection_frees_its_slot,
);

async fn messages_beyond_the_rate_are_refused_and_a_flood_is_closed(transport: Transport) {
    let server = Server::builder()
        .set("limits", "messages_per_second = 5")
        .start()
        .await;
    let mut client = Client::connect(transport, &server).await;
    let mut other = Client::connect(transport, &server).await;
    let mut refusal = None;
    for _ in 0..20 {
        let reply = client.request("ping", json!({})).await;
        if reply.kind == "error" {
            refusal = Some(reply);
            break;
        }
    }
    let refusal = refusal.expect("20 messages at once are more than 5 a second");
    assert_eq!(refusal.error_code(), "resource_exhausted");
    let wait_ms = refusal.data["retryAfterMs"].as_u64().expect("a time");
    assert!((1..=200).contains(&wait_ms), "{wait_ms}");
    // Each connection has its own rate.
    other.settle().await;
    // A client that waits for the advised time is served.
    tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
    client.settle().await;

    // A flood closes the connection before it ends.
    let mut is_over = false;
    for n in 0..100_000 {
        let ping = json!({"type": "ping", "id": n.to_string()});
        if !client.try_send(&ping).await {
            is_over = true;
            break;
        }
    }
    assert!(is_over, "the flood was not closed");
    match client.closed().await {
        Close::WebSocket { code, .. } => assert_eq!(code, 4004),
        Close::Sse => {}
        Close::Grpc { code, .. } => assert_eq!(code, tonic::Code::ResourceExhausted),
        Close::Broken(reason) => panic!("{reason}"),
    }
    other.settle().await;
}

async fn bytes_beyond_the_rate_are_refused(transport: Transport) {
    let server = Server::builder()
        .set("limits", "bytes_per_second = 1000")
        .start()
        .await;
    let mut client = Client::connect(transport, &server).await;
    let publish = json!({"channel": "demo:a", "data": "x".repeat(900)});
    let mut codes = Vec::new();
    for _ in 0..3 {
        let reply = client.request("publish", publish.clone()).await;
        codes.push(match reply.kind.as_str() {
            "error" => reply.error_code().to_owned(),
            kind => kind.to_owned(),
        });
    }
    assert_eq!(codes[0], "published");
    assert!(
        codes[1..].contains(&"resource_exhausted".to_owned()),
        "{codes:?}"
    );
    // The service scope is exempt.
    let mut service = Client::connect_as(transport, &server, Some(&Token::service())).await;
    for _ in 0..10 {
        let _ = service
            .request("publish", publish.clone())
            .await
            .expect("published");
    }
}

async fn connections_per_user_are_limited(transport: Transport) {
    let server = Server::builder()
        .set("limits", "connections_per_user = 2")
        .start()
        .await;
    let ada = Token::of("ada").sign();
    let first = Client::connect_as(transport, &server, Some(&ada)).await;
    let mut second = Client::connect(transport, &server).await;
    let auth = json!({"token": ada});
    let _ = second
        .request("auth", auth.clone())
        .await
        .expect("authenticated");
    let _ = second
        .request("auth", auth.clone())
        .await
        .expect("authenticated");
    match Client::open(transport, &server, Some(&ada))
        .await
        .unwrap_err()
    {
        Refusal::Http(status, body) => {
            assert_eq!(status, 429, "{body}");
            assert!(body.contains("this user has 2 connections"), "{body}");
        }
        Refusal::Grpc(code, message) => {
            assert_eq!(code, tonic::Code::ResourceExhausted, "{message}");
        }
    }
    let mut third = Client::connect(transport, &server).await;
    let refused = third.request("auth", auth.clone()).await;
    assert_eq!(refused.error_code(), "resource_exhausted");
    // The connection keeps its identity, and others are unaffected.
    third.settle().await;
    let bob = Token::of("bob").sign();
    let _other = Client::connect_as(transport, &server, Some(&bob)).await;
    drop(first);
    within("room for a connection of ada", async {
        while third.request("auth", auth.clone()).await.kind == "error" {}
    })
    .await;
}

/// A connection's slot is freed, however the connection ends.
async fn a_closed_connection_frees_its_slot(transport: Transport) {
    let server = Server::builder()
        .set("limits", "connections_per_user = 1")
        .start()
        .await;
    let open = async |seconds: i64| {
        let token = Token::of("ada").expires_in(seconds).sign();
        within("room", async {
            loop {
                if let Ok(client) = Client::open(transport, &server, Some(&token)).await {
                    return client;
                }
            }
        })
        .await
    };
    // Closed, expired, and closed in the middle of a request.
    drop(open(60).await);
    let mut client = open(2).await;
    client.closed().await;
    let mut client = open(60).await;
    client
        .send(&json!({"type": "history", "data": {"channel": "demo:a"}}))
        .await;
    drop(client);
    drop(open(60).await);
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_have_their_own_limits() {
    let start = async |trusted: &str| {
        Server::builder()
            .set("server", &format!("trusted_proxies = {trusted}"))
            .set("limits", "connections_per_ip = 2")
            .without_readiness_check()
            .start()
            .await
    };
    let open = async |server: &Server, client: &str| {
        SseStream::open(server, "", &[("x-forwarded-for", client)]).await
    };
    let server = start("[\"127.0.0.0/8\"]").await;
    let mut streams = Vec::new();
    for client in [
        "9.9.9.1",
        "9.9.9.1",
        "8.8.8.8, 9.9.9.2",
        "9.9.9.2, 127.0.0.1",
    ] {
        streams.push(open(&server, client).await.unwrap());
    }
    for client in ["9.9.9.1", "1.1.1.1, 9.9.9.2"] {
        match open(&server, client).await.unwrap_err() {
            Refusal::Http(status, body) => {
                let body: Value = serde_json::from_str(&body).unwrap();
                assert_eq!((status, &body["code"]), (429, &json!("resource_exhausted")));
            }
            other => panic!("{other:?}"),
        }
    }
    // A peer that is not a trusted proxy cannot set the address.
    let server = start("[\"10.0.0.0/8\"]").await;
    let _streams = [
        open(&server, "9.9.9.1").await,
        open(&server, "9.9.9.2").await,
    ];
    assert!(open(&server, "9.9.9.3").await.is_err());
}
