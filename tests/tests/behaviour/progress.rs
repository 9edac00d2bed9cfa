//! Progress: publications of any size reach a client that reads, and a stop always ends.

use serde_json::{Value, json};
use tidewire_tests::{Client, Server, Transport};

on_every_transport!(large_publications_reach_every_follower);

/// Outbox of a client, in bytes. Publications may be twice as large.
const OUTBOX: usize = 32 << 10;

/// Pairs of publications around the bounds of an outbox: the second one does not fit beside
/// the first, or only just.
const PAIRS: [[usize; 2]; 7] = [
    [10_000, 30_000],
    [OUTBOX / 2, OUTBOX / 2],
    [OUTBOX / 2 - 200, OUTBOX / 2 - 200],
    [100, OUTBOX],
    [OUTBOX, 100],
    [50_000, 50_000],
    [100, 60_000],
];

async fn large_publications_reach_every_follower(transport: Transport) {
    let mut server = Server::builder()
        .set("server", "threads = 1")
        .set("limits", &format!("outbox_bytes = {OUTBOX}"))
        .set("limits", "frame_bytes = 262144")
        .start()
        .await;
    let mut client = Client::connect(transport, &server).await;
    client.subscribe("demo:a").await;
    let mut seq = 0;
    for pair in PAIRS {
        // In one tick, so that both wait in the outbox.
        let publication = |size| json!({"channel": "demo:a", "data": "x".repeat(size)});
        let body = json!({"publications": pair.map(publication)});
        let call = server.call("StreamService/PublishBatch", None, &body);
        let results = call.await.json();
        assert_eq!(results["results"].as_array().unwrap().len(), 2, "{results}");
        for (got, size) in client.take("demo:a", 2).await.into_iter().zip(pair) {
            seq += 1;
            assert_eq!(got, (seq, Value::from("x".repeat(size))));
        }
    }
    assert_eq!(server.metric("tidewire_shard_late", "shard-1").await, 0.0);
    server.terminate();
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
}
