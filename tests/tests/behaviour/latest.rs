//! Latest channels: only the newest value counts, and it is never lost.

use serde_json::json;
use tidewire_tests::{Client, Server, Transport};

on_every_transport!(
    a_latest_channel_sends_its_value_on_subscribe,
    the_last_value_is_never_lost,
    a_minimum_interval_delivers_the_last_value,
);

async fn server() -> Server {
    Server::builder()
        .namespace("state", "class = \"latest\"\npublish = \"public\"")
        .start()
        .await
}

async fn a_latest_channel_sends_its_value_on_subscribe(transport: Transport) {
    let server = server().await;
    for number in 1..=3 {
        server.publish("state:a", json!(number)).await;
    }
    let mut client = Client::connect(transport, &server).await;
    let subscribed = client.subscribe("state:a").await;
    assert_eq!(
        (&subscribed["seq"], &subscribed["recovered"]),
        (&json!(3), &json!(false))
    );
    let newest = client.next().await;
    assert_eq!((newest.seq, &newest.data), (Some(3), &json!(3)));
    client.settle().await;
    assert!(client.unread().is_empty());
}

async fn the_last_value_is_never_lost(transport: Transport) {
    let server = server().await;
    let mut client = Client::connect(transport, &server).await;
    client.subscribe("state:a").await;
    for number in 1..=100 {
        server.publish("state:a", json!(number)).await;
    }
    follow(&mut client, 100).await;
}

async fn a_minimum_interval_delivers_the_last_value(transport: Transport) {
    let server = server().await;
    let mut client = Client::connect(transport, &server).await;
    let wanted = json!({"channel": "state:a", "minIntervalMs": 40});
    assert_eq!(client.subscribe_with(wanted).await["error"], json!(null));
    for number in 1..=100 {
        server.publish("state:a", json!(number)).await;
    }
    follow(&mut client, 100).await;
}

/// Reads up to the last value. No value may be older than the one before.
async fn follow(client: &mut Client, last: u64) {
    let mut seen = 0;
    while seen < last {
        let message = client.next_on("state:a").await;
        let seq = message.seq.unwrap();
        assert!(seq > seen, "{seq} after {seen}");
        assert_eq!(message.data, seq);
        seen = seq;
    }
}
