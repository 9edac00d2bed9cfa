//! Recovery: missed publications arrive once and in order, or the reply refuses.

use serde_json::json;
use tidewire_tests::{Client, Server, Transport, within};
use tokio::sync::watch;

on_every_transport_and_tls!(
    missed_publications_are_replayed,
    recovery_without_missed_publications_succeeds,
    subscribing_without_a_position_replays_nothing,
    a_history_that_is_too_short_is_refused,
    an_unknown_position_is_refused,
    recovery_can_exceed_the_outbox,
    a_gap_is_sent_when_recovery_is_impossible,
    reconnecting_under_load_loses_nothing,
);

/// Returns the epoch of a channel.
async fn epoch(server: &Server, channel: &str) -> String {
    let answer = server
        .call(
            "StreamService/GetHistory",
            None,
            &json!({"channel": channel}),
        )
        .await;
    answer.json()["epoch"].as_str().unwrap().to_owned()
}

async fn publish(server: &Server, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let position = server.publish(channel, json!(number)).await;
        assert_eq!(position["seq"], number);
    }
}

async fn missed_publications_are_replayed(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let subscribed = client.subscribe("demo:a").await;
    publish(&server, "demo:a", 1..=2).await;
    client.take("demo:a", 2).await;
    drop(client);
    publish(&server, "demo:a", 3..=60).await;

    let mut client = Client::connect(transport, &server).await;
    let epoch = subscribed["epoch"].as_str().unwrap();
    let resumed = client.resume("demo:a", epoch, 2).await;
    assert_eq!(
        (&resumed["recovered"], &resumed["seq"]),
        (&json!(true), &json!(60))
    );
    assert_eq!(resumed["epoch"], epoch);
    publish(&server, "demo:a", 61..=62).await;
    let expected: Vec<_> = (3..=62).map(|number| (number, json!(number))).collect();
    assert_eq!(client.take("demo:a", 60).await, expected);
    client.settle().await;
    assert!(client.unread().is_empty());
}

async fn recovery_without_missed_publications_succeeds(transport: Transport) {
    let server = Server::start().await;
    publish(&server, "demo:a", 1..=3).await;
    let epoch = epoch(&server, "demo:a").await;
    let mut client = Client::connect(transport, &server).await;
    let resumed = client.resume("demo:a", &epoch, 3).await;
    assert_eq!(
        (&resumed["recovered"], &resumed["seq"]),
        (&json!(true), &json!(3))
    );
    publish(&server, "demo:a", 4..=4).await;
    assert_eq!(client.next().await.seq, Some(4));
}

async fn subscribing_without_a_position_replays_nothing(transport: Transport) {
    let server = Server::start().await;
    publish(&server, "demo:a", 1..=3).await;
    let mut client = Client::connect(transport, &server).await;
    let subscribed = client.subscribe("demo:a").await;
    assert_eq!(
        (&subscribed["recovered"], &subscribed["seq"]),
        (&json!(false), &json!(3))
    );
    publish(&server, "demo:a", 4..=4).await;
    assert_eq!(client.next().await.seq, Some(4));
}

async fn a_history_that_is_too_short_is_refused(transport: Transport) {
    let server = Server::builder()
        .namespace("short", "history_size = 3\npublish = \"public\"")
        .start()
        .await;
    publish(&server, "short:a", 1..=10).await;
    let epoch = epoch(&server, "short:a").await;
    // The history holds 8, 9 and 10, so 7 is the oldest recoverable position.
    let mut client = Client::connect(transport, &server).await;
    let resumed = client.resume("short:a", &epoch, 6).await;
    assert_eq!(
        (&resumed["recovered"], &resumed["seq"]),
        (&json!(false), &json!(10))
    );
    publish(&server, "short:a", 11..=11).await;
    assert_eq!(client.next().await.seq, Some(11));
    // The history holds 9, 10 and 11 by now.
    let mut client = Client::connect(transport, &server).await;
    let resumed = client.resume("short:a", &epoch, 8).await;
    assert_eq!(resumed["recovered"], true);
    let expected = [9, 10, 11].map(|number| (number, json!(number)));
    assert_eq!(client.take("short:a", 3).await, expected);
}

async fn an_unknown_position_is_refused(transport: Transport) {
    let server = Server::start().await;
    publish(&server, "demo:a", 1..=3).await;
    let epoch = epoch(&server, "demo:a").await;
    for (epoch, seq) in [("another", 2), (epoch.as_str(), 99)] {
        let mut client = Client::connect(transport, &server).await;
        let resumed = client.resume("demo:a", epoch, seq).await;
        assert_eq!(
            (&resumed["recovered"], &resumed["seq"]),
            (&json!(false), &json!(3))
        );
        client.settle().await;
        assert!(client.unread().is_empty());
    }
}

async fn recovery_can_exceed_the_outbox(transport: Transport) {
    let server = Server::builder()
        .set("limits", "outbox_bytes = 4096")
        .start()
        .await;
    let filler = "x".repeat(300);
    for number in 1..=200 {
        server
            .publish("demo:a", json!({"n": number, "filler": filler}))
            .await;
    }
    let epoch = epoch(&server, "demo:a").await;
    let mut client = Client::connect(transport, &server).await;
    assert_eq!(client.resume("demo:a", &epoch, 0).await["recovered"], true);
    for number in 1..=200 {
        let message = client.next_on("demo:a").await.expect("message");
        assert_eq!(
            (message.seq, &message.data["n"]),
            (Some(number), &json!(number))
        );
    }
}

async fn a_gap_is_sent_when_recovery_is_impossible(transport: Transport) {
    let server = Server::builder()
        .namespace("short", "history_size = 3\npublish = \"public\"")
        .start()
        .await;
    let mut client = Client::connect(transport, &server).await;
    let subscribed = client.subscribe("short:a").await;
    let away = json!({"state": "background"});
    let _ = client
        .request("visibility", away)
        .await
        .expect("visibility");
    publish(&server, "short:a", 1..=10).await;
    let back = json!({"state": "active"});
    let _ = client
        .request("visibility", back)
        .await
        .expect("visibility");
    // The connection fell behind further than the history reaches.
    let gap = client.next().await.expect("gap");
    assert_eq!(gap.channel.as_deref(), Some("short:a"));
    assert_eq!(gap.data["channel"], "short:a");
    assert_eq!(
        (&gap.data["seq"], &gap.data["epoch"]),
        (&json!(10), &subscribed["epoch"])
    );
    publish(&server, "short:a", 11..=11).await;
    assert_eq!(client.next().await.seq, Some(11));
}

async fn reconnecting_under_load_loses_nothing(transport: Transport) {
    const RECONNECTS: u64 = 20;
    let server = Server::builder()
        .namespace("load", "history_size = 1000000\npublish = \"public\"")
        .start()
        .await;
    // Publishes until stopped, and returns the count.
    let (stop, stopped) = watch::channel(false);
    let publish = {
        let request = server
            .http()
            .post(server.url("/v1/rpc/StreamService/Publish"));
        async move {
            let mut number = 0_u64;
            while !*stopped.borrow() {
                number += 1;
                let body = json!({"channel": "load:a", "data": number});
                let sent = request
                    .try_clone()
                    .unwrap()
                    .json(&body)
                    .send()
                    .await
                    .unwrap();
                assert_eq!(sent.status(), 200);
            }
            number
        }
    };
    let publisher = tokio::spawn(publish);

    let epoch = epoch(&server, "load:a").await;
    let mut seen = 0;
    for round in 0..RECONNECTS {
        let mut client = Client::connect(transport, &server).await;
        let resumed = client.resume("load:a", &epoch, seen).await;
        assert_eq!(resumed["recovered"], true, "{resumed}");
        // The target lies beyond the existing history, among concurrent publications.
        let goal = resumed["seq"].as_u64().unwrap() + 1 + round % 3;
        seen = follow(&mut client, seen, goal).await;
    }
    stop.send(true).unwrap();
    let total = within("the publisher", publisher).await.unwrap();
    let mut client = Client::connect(transport, &server).await;
    let resumed = client.resume("load:a", &epoch, seen).await;
    assert_eq!(
        (&resumed["recovered"], &resumed["seq"]),
        (&json!(true), &json!(total))
    );
    assert_eq!(follow(&mut client, seen, total).await, total);
    client.settle().await;
    assert!(client.unread().is_empty());
}

/// Reads up to a sequence number. Each message must directly follow the last.
async fn follow(client: &mut Client, mut seen: u64, goal: u64) -> u64 {
    while seen < goal {
        let message = client.next_on("load:a").await.expect("message");
        assert_eq!(message.seq, Some(seen + 1), "{}", message.text);
        assert_eq!(message.data, seen + 1, "{}", message.text);
        seen += 1;
    }
    seen
}
