//! Memory: the resident size of the server stays within its budgets, whatever clients send,
//! and whatever they do not read.

use serde_json::json;
use tidewire_tests::{
    Client, Server, Transport,
    raw_socket::{send, silent_socket},
};

on_every_transport!(a_subscribe_with_thousands_of_names_is_refused);

const MIB: usize = 1 << 20;

/// Memory that a server may take beside its budgets: buffers, threads, and pages that the
/// allocator has not given back.
const SLACK: usize = 24 * MIB;

async fn a_subscribe_with_thousands_of_names_is_refused(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let names = vec!["q:"; 10_000];
    let reply = client.request("subscribe", json!({"channels": names}));
    let reply = reply.await;
    assert_eq!(reply.kind, "error", "{reply:?}");
    assert_eq!(reply.data["code"], "invalid_argument");
    let message = reply.data["message"].as_str().unwrap();
    assert!(
        message.contains("subscribe in several messages"),
        "{message}"
    );
    client.subscribe("demo:a").await;
}

/// Clients that do not read.
const SILENT: usize = 100;

#[tokio::test]
async fn unread_replies_are_counted_and_bounded() {
    const OUTBOX: usize = 256 << 10;
    let server = Server::start().await;
    for _ in 0..20 {
        server.publish("demo:h", json!("x".repeat(60_000))).await;
    }
    let before = server.resident_bytes();
    let mut sockets = Vec::new();
    for _ in 0..SILENT {
        let mut socket = silent_socket(&server, None).await;
        for id in 0..8 {
            let data = json!({"channel": "demo:h", "limit": 10_000});
            let message = json!({"type": "history", "id": id.to_string(), "data": data});
            send(&mut socket, &message.to_string()).await.unwrap();
        }
        sockets.push(socket);
    }
    let waiting = server
        .metric_until("tidewire_outbox_bytes", "", |waiting| {
            waiting > (SILENT * OUTBOX / 4) as f64
        })
        .await;
    // An outbox, and the write that the socket did not accept.
    assert!(waiting <= (SILENT * 2 * OUTBOX) as f64, "{waiting}");
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown <= SILENT * 2 * OUTBOX + SLACK, "{} MiB", grown / MIB);
    drop(sockets);
}

/// Budget of histories, in bytes. Five times as much is published.
const HISTORIES: usize = 32 * MIB;

#[tokio::test]
async fn histories_take_their_budget_with_every_encoding() {
    const LENGTH: usize = 20_000;
    const BATCH: usize = 40;
    let server = Server::builder()
        .set("limits", &format!("history_bytes = {HISTORIES}"))
        .set("limits", "frame_bytes = 1048576")
        .set("limits", "outbox_bytes = 1048576")
        .start()
        .await;
    let channels: Vec<String> = (0..20).map(|index| format!("demo:{index}")).collect();
    let mut readers = tokio::task::JoinSet::new();
    for transport in Transport::ALL {
        let mut client = Client::connect(transport, &server).await;
        for channel in &channels {
            client.subscribe(channel).await;
        }
        // Reads until the test ends, so that each form of a publication is made.
        readers.spawn(async move {
            loop {
                client.next().await;
            }
        });
    }
    let before = server.resident_bytes();
    let calls = 5 * HISTORIES / (BATCH * LENGTH);
    for number in 0..calls {
        let publications = (0..BATCH).map(|index| {
            let channel = &channels[(number * BATCH + index) % channels.len()];
            json!({"channel": channel, "data": "x".repeat(LENGTH)})
        });
        let body = json!({"publications": publications.collect::<Vec<_>>()});
        let call = server.call("StreamService/PublishBatch", None, &body);
        assert_eq!(call.await.status, 200);
    }
    let counted = server
        .metric_until("tidewire_history_bytes", "", |counted| {
            counted <= HISTORIES as f64
        })
        .await;
    assert!(
        counted > HISTORIES as f64 / 2.0,
        "the histories are full: {counted}"
    );
    let grown = server.resident_bytes().saturating_sub(before);
    let most = HISTORIES + HISTORIES / 4 + SLACK;
    assert!(grown <= most, "{} MiB", grown / MIB);
    readers.abort_all();
}
