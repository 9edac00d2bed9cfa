//! Session limits: connections per user and per address behind a proxy, and request rates.

use bytes::Bytes;
use serde_json::{Value, json};
use tidewire_proto::v1::{
    BlocksTarget, PublishRequest, WatchRequest, stream_service_client::StreamServiceClient,
    watch_request::Target, watch_service_client::WatchServiceClient,
};
use tidewire_tests::{
    Client, Close, HttpResponse, Refusal, Server, Token, Transport,
    client::{
        SseStream,
        grpc::{channel, request},
    },
    eventually, within,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

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
        Refusal::Unreachable(reason) => panic!("no answer: {reason}"),
    }
    let mut third = Client::connect(transport, &server).await;
    let refused = third.request("auth", auth.clone()).await;
    assert_eq!(refused.error_code(), "resource_exhausted");
    // The connection keeps its identity, and others are unaffected.
    third.settle().await;
    let bob = Token::of("bob").sign();
    let _other = Client::connect_as(transport, &server, Some(&bob)).await;
    drop(first);
    eventually("room for a connection of ada", async || {
        let reply = third.request("auth", auth.clone()).await;
        (reply.kind != "error").then_some(())
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
        eventually("room", async || {
            Client::open(transport, &server, Some(&token)).await.ok()
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

/// Calls a method with JSON until it is refused, and returns the refusal and the number of calls
/// before it.
async fn call_until_refused(
    server: &Server,
    method: &str,
    token: Option<&str>,
    body: &Value,
) -> (usize, HttpResponse) {
    for count in 0..1_000 {
        let answer = server.call(method, token, body).await;
        if answer.status == 429 {
            return (count, answer);
        }
    }
    panic!("no call of {method} is refused");
}

#[tokio::test]
async fn calls_beyond_the_rate_are_refused() {
    let server = Server::builder()
        .set("limits", "messages_per_second = 5")
        .start()
        .await;
    let publish = "StreamService/Publish";
    let body = json!({"channel": "demo:a", "data": 1});
    let (served, refused) = call_until_refused(&server, publish, None, &body).await;
    assert!(served >= 5, "{served}");
    let refused = refused.json();
    assert_eq!(refused["code"], "resource_exhausted");
    assert!((1..=200).contains(&refused["retryAfterMs"].as_u64().unwrap()));
    // gRPC shares the rate of the address.
    let mut grpc = StreamServiceClient::new(channel(&server).await);
    let publication = || PublishRequest {
        channel: "demo:a".to_owned(),
        data: Bytes::from_static(b"1"),
        idempotency_key: None,
    };
    let refused = within("a refusal", async {
        loop {
            if let Err(status) = grpc.publish(publication()).await {
                break status;
            }
        }
    })
    .await;
    assert_eq!(
        refused.code(),
        tonic::Code::ResourceExhausted,
        "{refused:?}"
    );
    // Each user has rates of its own, over all connections, and trying tokens is limited too.
    let ada = Token::of("ada").sign();
    assert_eq!(server.call(publish, Some(&ada), &body).await.status, 200);
    call_until_refused(&server, publish, Some(&ada), &body).await;
    let bob = request(publication(), Some(&Token::of("bob").sign()));
    grpc.publish(bob).await.unwrap();
    call_until_refused(&server, publish, Some("nonsense"), &body).await;
    // The service scope is exempt.
    for _ in 0..20 {
        server.publish("demo:a", json!(1)).await;
    }
}

#[tokio::test]
async fn bytes_of_calls_are_limited() {
    let server = Server::builder()
        .set("limits", "bytes_per_second = 1000")
        .start()
        .await;
    let body = json!({"channel": "demo:a", "data": "x".repeat(900)});
    let publish = "StreamService/Publish";
    assert_eq!(server.call(publish, None, &body).await.status, 200);
    call_until_refused(&server, publish, None, &body).await;
}

#[tokio::test]
async fn each_publication_of_a_batch_counts() {
    let server = Server::builder()
        .set("limits", "messages_per_second = 10")
        .start()
        .await;
    let publication = json!({"channel": "demo:a", "data": 1});
    let batch = json!({"publications": vec![publication.clone(); 1_000]});
    let answer = server
        .call("StreamService/PublishBatch", None, &batch)
        .await;
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 1_000);
    let refused = server
        .call("StreamService/Publish", None, &publication)
        .await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.json()["retryAfterMs"].as_u64().unwrap() > 60_000);
}

#[tokio::test]
async fn every_stream_of_grpc_counts_as_a_connection() {
    let server = Server::builder()
        .set("limits", "connections_per_user = 1")
        .start()
        .await;
    let ada = Token::of("ada").sign();
    let _first = Client::connect_as(Transport::WebSocketJson, &server, Some(&ada)).await;
    let blocks = || WatchRequest {
        target: Some(Target::Blocks(BlocksTarget { chain: 1 })),
        since: None,
    };
    let mut watches = WatchServiceClient::new(channel(&server).await);
    let refused = watches.watch(request(blocks(), Some(&ada))).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    // This server follows no chain, so that an admitted watch is not found.
    let bob = Token::of("bob").sign();
    let admitted = watches.watch(request(blocks(), Some(&bob))).await;
    assert_eq!(admitted.unwrap_err().code(), tonic::Code::NotFound);
    // A stream without a session counts as long as it is open.
    let mut health = HealthClient::new(channel(&server).await);
    let check = || {
        let service = "tidewire.v1.StreamService".to_owned();
        request(HealthCheckRequest { service }, Some(&bob))
    };
    let open = health.watch(check()).await.unwrap();
    let status = health.watch(check()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    health.check(check()).await.unwrap();
    drop(open);
    eventually("room", async || health.watch(check()).await.ok()).await;
}

/// The position of a channel: its epoch and its newest sequence number.
async fn position(server: &Server, channel: &str) -> (String, u64) {
    let history = server
        .call(
            "StreamService/GetHistory",
            Some(&Token::service()),
            &json!({"channel": channel}),
        )
        .await
        .json();
    let epoch = history["epoch"].as_str().unwrap().to_owned();
    (epoch, history["seq"].as_u64().unwrap())
}

#[tokio::test]
async fn a_client_makes_a_bounded_number_of_channels() {
    let server = Server::builder()
        .set("limits", "channels_per_client = 3")
        .start()
        .await;
    let publish = async |token: Option<&str>, channel: &str| {
        let body = json!({"channel": channel, "data": 1});
        server.call("StreamService/Publish", token, &body).await
    };
    let mut reader = Client::connect(Transport::WebSocketJson, &server).await;
    for channel in ["demo:0", "demo:1", "demo:2", "demo:3", "demo:4"] {
        assert_eq!(publish(None, channel).await.status, 200, "{channel}");
        // The first one has a subscriber, and is not idle.
        if channel == "demo:0" {
            reader.subscribe(channel).await;
        }
    }
    assert_eq!(position(&server, "demo:0").await.1, 1);
    assert_eq!(position(&server, "demo:4").await.1, 1);
    // Which of the others is the oldest, a clock of milliseconds may not tell.
    let mut left = Vec::new();
    for channel in ["demo:1", "demo:2", "demo:3"] {
        if position(&server, channel).await.1 > 0 {
            left.push(channel);
        }
    }
    let [left] = left[..] else {
        panic!("{left:?} are left, expected one");
    };
    for channel in [left, "demo:4"] {
        reader.subscribe(channel).await;
    }
    let refused = publish(None, "demo:5").await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    // The channels in use, other clients and back ends go on.
    assert_eq!(publish(None, "demo:4").await.status, 200);
    let ada = Token::of("ada").sign();
    assert_eq!(publish(Some(&ada), "demo:5").await.status, 200);
    for number in 0..10 {
        server.publish(&format!("demo:s{number}"), json!(1)).await;
    }
    assert_eq!(position(&server, "demo:s0").await.1, 1);
}

#[tokio::test]
async fn a_full_namespace_leaves_the_others_open() {
    let server = Server::builder()
        .namespace("rooms", "max_channels = 2")
        .start()
        .await;
    let mut reader = Client::connect(Transport::WebSocketJson, &server).await;
    let quiet = reader.subscribe("demo:quiet").await;
    for channel in ["rooms:0", "rooms:1", "rooms:2"] {
        server.publish(channel, json!(1)).await;
    }
    // Which of the first two is the older, a clock of milliseconds may not tell.
    let forgotten = position(&server, "rooms:0").await.1 == 0;
    let left = if forgotten { "rooms:1" } else { "rooms:0" };
    let other = if forgotten { "rooms:0" } else { "rooms:1" };
    assert_eq!(position(&server, other).await.1, 0);
    for channel in [left, "rooms:2"] {
        assert_eq!(reader.subscribe(channel).await["seq"], 1, "{channel}");
    }
    let body = json!({"channel": "rooms:3", "data": 1});
    let refused = server
        .call("StreamService/Publish", Some(&Token::service()), &body)
        .await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    // A channel of another namespace starts where its subscriber expects it.
    let published = server.publish("demo:quiet", json!(1)).await;
    assert_eq!(published["epoch"], quiet["epoch"]);
    assert_eq!(reader.next().await.channel.as_deref(), Some("demo:quiet"));
}
