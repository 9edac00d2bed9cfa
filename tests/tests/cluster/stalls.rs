//! Servers that stall, and clients that come back with nothing new.

use serde_json::{Value, json};
use tidewire_tests::{Client, RedisServer, Token, Transport, eventually};

use crate::servers::{pair, server};

/// Bytes of a document: many of them are more than the sockets of this machine hold.
const DOCUMENT: usize = 30_000;

/// Documents at most.
const MOST: u64 = 4_000;

/// How many connections with subscriptions Redis has.
async fn subscribed(redis: &RedisServer) -> usize {
    let list = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    list.matches("id=").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_redis_dropped_fills_from_the_history() {
    let redis = RedisServer::start().await;
    let limit = [
        "CONFIG",
        "SET",
        "client-output-buffer-limit",
        "pubsub 1mb 0 0",
    ];
    redis.command(&limit).await;
    let with_orders = || server(&redis).namespace("orders", "history_size = 10000");
    let (a, b) = tokio::join!(with_orders().start(), with_orders().start());
    let mut client = Client::connect(Transport::WebSocketJson, &b).await;
    client.subscribe("orders:1").await;
    let token = Token::service();
    let publish = async |number: u64| {
        let data = json!({"number": number, "text": "x".repeat(DOCUMENT)});
        let body = json!({"channel": "orders:1", "data": data});
        let published = a.call("StreamService/Publish", Some(&token), &body).await;
        assert_eq!(published.status, 200, "{}", published.body);
    };
    publish(1).await;
    assert_eq!(client.next_on("orders:1").await.seq, Some(1));
    let connections = subscribed(&redis).await;
    b.pause();
    let mut last = 1;
    while subscribed(&redis).await == connections {
        assert!(
            last < MOST,
            "Redis keeps {last} documents for a server that stalls"
        );
        last += 1;
        publish(last).await;
    }
    b.resume();
    last += 1;
    publish(last).await;
    for expected in 2..=last {
        let message = client.next_on("orders:1").await;
        let number = message.data["number"].as_u64();
        assert_eq!(
            (message.kind.as_str(), message.seq, number),
            ("message", Some(expected), Some(expected))
        );
    }
    eventually("the server is ready", async || {
        (b.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    // The history that it caught up with did not cost it the connection again.
    assert_eq!(subscribed(&redis).await, connections);
}

#[tokio::test]
async fn a_recovery_with_nothing_new_replays_nothing() {
    let redis = RedisServer::start().await;
    let (a, b) = pair(&redis).await;
    let mut client = Client::connect(Transport::WebSocketJson, &a).await;
    client.subscribe("demo:a").await;
    let mut position = Value::Null;
    for number in 1..=5 {
        position = a.publish("demo:a", json!(number)).await;
    }
    let epoch = position["epoch"].as_str().expect("an epoch");
    assert_eq!(client.take("demo:a", 5).await.len(), 5);
    drop(client);
    for server in [&b, &a, &b] {
        let mut client = Client::connect(Transport::WebSocketJson, server).await;
        let resumed = client.resume("demo:a", epoch, 5).await;
        assert_eq!(
            (&resumed["recovered"], &resumed["seq"]),
            (&json!(true), &json!(5))
        );
        client.settle().await;
        let unread = client.unread();
        assert!(unread.iter().all(|one| one.kind != "message"), "{unread:?}");
    }
    let mut client = Client::connect(Transport::WebSocketJson, &a).await;
    client.resume("demo:a", epoch, 5).await;
    b.publish("demo:a", json!(6)).await;
    assert_eq!(client.take("demo:a", 1).await, [(6, json!(6))]);
}
