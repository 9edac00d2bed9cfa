//! Many clients that come to a node at once, and recover long histories there.
//!
//! `TIDEWIRE_RECOVERING_CLIENTS` says how many there are. Most of them read nothing: each of them keeps as
//! much of its recovery in the node as it may. With `TIDEWIRE_RECOVERED_PUBLICATIONS`, those that read all have
//! longer histories.

use futures::future::join_all;
use serde_json::{Value, json};
use tidewire_tests::{
    Client, RedisServer, Server, ServerBuilder, Token, Transport,
    raw_socket::{reading_socket, send, silent_socket},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

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

/// Publications of each channel that all clients read: a quarter of the others.
fn publications() -> usize {
    let count = std::env::var("TIDEWIRE_RECOVERED_PUBLICATIONS");
    count.map_or(HISTORY / 4, |count| count.parse().unwrap())
}

fn channel(number: usize) -> String {
    format!("orders:{}", number % CHANNELS)
}

/// Publishes this many on each channel. Returns their epochs.
async fn publish(server: &Server, count: usize) -> Vec<Value> {
    let mut epochs = Vec::new();
    for number in 0..CHANNELS {
        let name = channel(number);
        let numbers: Vec<_> = (1..=count).collect();
        for batch in numbers.chunks(BATCH) {
            let all = batch.iter().map(|number| {
                let data = json!([number, "x".repeat(LENGTH)]);
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

/// Recovers a channel from its beginning on.
async fn subscribe(socket: &mut TcpStream, number: usize, epochs: &[Value]) {
    let since = json!({"epoch": epochs[number % CHANNELS], "seq": 0});
    let data = json!({"channels": [{"channel": channel(number), "since": since}]});
    let message = json!({"type": "subscribe", "id": "1", "data": data});
    send(socket, &message.to_string()).await.unwrap();
}

fn server(redis: &RedisServer) -> ServerBuilder {
    Server::builder()
        .set("broker", "kind = \"redis\"")
        .set("broker", &format!("url = {:?}", redis.url()))
        // On a slow machine, none is refused because it waits.
        .set("broker", "timeout = \"60s\"")
        .namespace("orders", &format!("history_size = {HISTORY}"))
        .set("limits", "frame_bytes = 1048576")
        .set("limits", &format!("connections_per_ip = {}", 2 * clients()))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_recover_at_once_take_bounded_memory() {
    let (clients, redis) = (clients(), RedisServer::start().await);
    let builder = || server(&redis).set("limits", &format!("history_bytes = {HISTORIES}"));
    let mut killed = builder().start().await;
    let epochs = publish(&killed, HISTORY).await;
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
        subscribe(socket, number, &epochs).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_recover_long_histories_at_once_read_each_page_about_once() {
    let (clients, publications) = (clients(), publications());
    let redis = RedisServer::start().await;
    let mut killed = server(&redis).start().await;
    let epochs = publish(&killed, publications).await;
    killed.kill().await;
    let node = server(&redis).start().await;
    let connected = (0..clients).map(|_| reading_socket(&node, None));
    let sockets = join_all(connected).await;
    let before = node.resident_bytes();
    node.forget_peak();
    let read = sockets
        .into_iter()
        .enumerate()
        .map(async |(number, mut socket)| {
            subscribe(&mut socket, number, &epochs).await;
            let (mut read, mut some) = (0, vec![0; 1 << 16]);
            while read < publications * LENGTH {
                let count = socket.read(&mut some).await.unwrap();
                assert!(count > 0, "closed after {read} bytes");
                read += count;
            }
        });
    join_all(read).await;
    let reads = node.metric("tidewire_broker_history_reads_total", "").await;
    // A page has 1 MiB, or a publication less.
    let pages = CHANNELS * (publications * LENGTH).div_ceil(MIB - LENGTH);
    println!(
        "{clients} clients, {reads} reads, {pages} pages, {} MiB",
        node.peak_bytes().saturating_sub(before) / MIB
    );
    assert!(
        reads <= 2.0 * pages as f64,
        "{reads} reads of {pages} pages"
    );
}
