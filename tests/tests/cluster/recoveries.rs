//! Many clients that come to a node at once, and recover long histories there.
//!
//! `TIDEWIRE_RECOVERING_CLIENTS` says how many there are. Most of them read nothing: each of them keeps as
//! much of its recovery in the node as it may.

use futures::future::join_all;
use serde_json::{Value, json};
use tidewire_tests::{
    Client, RedisServer, Server, Token, Transport,
    raw_socket::{send, silent_socket},
};

const MIB: usize = 1 << 20;

const CHANNELS: usize = 4;

/// Publications of each channel.
const HISTORY: usize = 1_000;

/// Bytes of a publication.
const LENGTH: usize = 16 << 10;

/// Publications of a request.
const BATCH: usize = 40;

/// Clients that read all of it.
const READERS: usize = 20;

/// Bound of the memory of all histories of a node: less than the histories have.
const HISTORIES: usize = 16 * MIB;

/// Bound of what waits for a client: the default.
const OUTBOX: usize = 256 << 10;

/// Memory that a node may take beside its bounds: pages that it reads, tasks, and what the allocator has
/// not given back.
const SLACK: usize = 32 * MIB;

fn clients() -> usize {
    let count = std::env::var("TIDEWIRE_RECOVERING_CLIENTS");
    count.map_or(250, |count| count.parse().unwrap())
}

fn channel(number: usize) -> String {
    format!("orders:{}", number % CHANNELS)
}

/// Fills the histories. Returns the epoch of each channel.
async fn publish(server: &Server) -> Vec<Value> {
    let mut epochs = Vec::new();
    for number in 0..CHANNELS {
        let name = channel(number);
        for batch in 0..HISTORY / BATCH {
            let all = (0..BATCH).map(|index| {
                let data = json!([batch * BATCH + index + 1, "x".repeat(LENGTH)]);
                json!({"channel": name, "data": data})
            });
            let body = json!({"publications": all.collect::<Vec<_>>()});
            let method = "StreamService/PublishBatch";
            let published = server.call(method, Some(&Token::service()), &body).await;
            assert_eq!(published.status, 200, "{}", published.body);
        }
        let mut client = Client::connect(Transport::WebSocketJson, server).await;
        epochs.push(client.subscribe(&name).await["epoch"].clone());
    }
    epochs
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_recover_at_once_take_bounded_memory() {
    let (clients, redis) = (clients(), RedisServer::start().await);
    let builder = || {
        Server::builder()
            .set("broker", "kind = \"redis\"")
            .set("broker", &format!("url = {:?}", redis.url()))
            // On a slow machine, none is refused because it waits.
            .set("broker", "timeout = \"60s\"")
            .namespace("orders", &format!("history_size = {HISTORY}"))
            .set("limits", "frame_bytes = 1048576")
            .set("limits", &format!("history_bytes = {HISTORIES}"))
            .set("limits", &format!("connections_per_ip = {}", 2 * clients))
    };
    let mut killed = builder().start().await;
    let epochs = publish(&killed).await;
    killed.kill().await;
    let node = builder().start().await;
    let mut silent = Vec::new();
    for _ in READERS..clients {
        silent.push(silent_socket(&node, None).await);
    }
    let connected = (0..READERS).map(|_| Client::connect(Transport::WebSocketJson, &node));
    let readers = join_all(connected).await;
    let before = node.resident_bytes();
    node.forget_peak();
    let asked = silent.iter_mut().enumerate().map(async |(number, socket)| {
        let since = json!({"epoch": epochs[number % CHANNELS], "seq": 0});
        let data = json!({"channels": [{"channel": channel(number), "since": since}]});
        let message = json!({"type": "subscribe", "id": "1", "data": data});
        send(socket, &message.to_string()).await.unwrap();
    });
    let read = readers
        .into_iter()
        .enumerate()
        .map(async |(number, mut client)| {
            let epoch = epochs[number % CHANNELS].as_str().expect("an epoch");
            let name = channel(number);
            let resumed = client.resume(&name, epoch, 0).await;
            assert_eq!(resumed["recovered"], true, "{resumed}");
            for expected in 1..=HISTORY as u64 {
                let message = client.next_on(&name).await;
                let found = (&*message.kind, message.seq, message.data[0].as_u64());
                assert_eq!(found, ("message", Some(expected), Some(expected)));
            }
        });
    tokio::join!(join_all(asked), join_all(read));
    // Those that read nothing are sent away later.
    let subscribed = "type=\"subscribe\",code=\"ok\"";
    node.metric_until("tidewire_messages_total", subscribed, |count| {
        count >= clients as f64
    })
    .await;
    let reads = node.metric("tidewire_broker_history_reads_total", "").await;
    let waiting = node.metric("tidewire_outbox_bytes", "").await;
    // An outbox, and the write that the socket did not accept.
    assert!(waiting <= (clients * 2 * OUTBOX) as f64, "{waiting}");
    let grown = node.peak_bytes().saturating_sub(before);
    // An outbox and the buffers of a recovery, whose publications are there as they were read and as they
    // are sent. The histories have many times as much for each.
    let most = clients * 2 * (OUTBOX + OUTBOX / 2) + HISTORIES + SLACK;
    println!(
        "{clients} clients, {reads} reads, {waiting} bytes wait, {} MiB, {} MiB at most",
        grown / MIB,
        most / MIB
    );
    assert!(
        grown <= most,
        "{} MiB, expected {} MiB at most",
        grown / MIB,
        most / MIB
    );
    assert_eq!(node.get("/readyz").await.status, 200);
}
