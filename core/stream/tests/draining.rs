//! Draining: each of thousands of sessions is sent `reconnect` once, with a random time, and
//! gets all earlier publications before it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use tidewire_proto::v1::server_message::Data;
use tidewire_stream::{
    CloseReason, Connection, Identity, OutgoingMessage, ShardId, StreamCore, StreamOptions,
};
use tokio::time::Instant;

use support::{client_on, core_with, open_history, run_shard, run_ticks, subscription};

const SESSIONS: usize = 5_000;
const WINDOW: Duration = Duration::from_secs(10);
const CHANNEL: &str = "orders:1";

fn stream(shards: usize) -> Arc<StreamCore> {
    let options = StreamOptions {
        shards,
        ..StreamOptions::default()
    };
    core_with([open_history("orders")], options).0
}

async fn connect(stream: &Arc<StreamCore>, shard: ShardId) -> Connection {
    let connection = stream.connect(client_on(shard)).await;
    let command = connection.begin_command();
    let subscribed = command.subscribe(subscription(CHANNEL)).await;
    drop(command);
    assert_eq!(subscribed.unwrap().channels[0].error, None);
    connection
}

/// A client, until its session ends.
struct Client {
    connection: Option<Connection>,
    /// Sequence number of its last publication.
    seq: u64,
    /// Time of its `reconnect`, and `afterMs` in it.
    reconnect: Option<(Instant, u32)>,
}

impl Client {
    /// Reads all there is. When the session ends, the connection is dropped.
    fn read(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let mut out = Vec::new();
        let is_over = loop {
            match connection.next(usize::MAX, &mut out).now_or_never() {
                Some(Ok(())) => {}
                Some(Err(reason)) => {
                    assert_eq!(reason, CloseReason::Draining);
                    assert!(self.reconnect.is_some() || !out.is_empty());
                    break true;
                }
                None => break false,
            }
        };
        for message in out {
            match message {
                OutgoingMessage::Publication(publication) => {
                    self.seq += 1;
                    assert_eq!(publication.seq(), self.seq, "each once, in order");
                }
                OutgoingMessage::Direct(message) => {
                    if let Some(Data::Reconnect(reconnect)) = &message.to_message().data {
                        assert_eq!(self.reconnect, None, "one `reconnect`");
                        self.reconnect = Some((Instant::now(), reconnect.after_ms));
                    }
                }
                OutgoingMessage::PriceBatch(_) => unreachable!("there are no prices"),
            }
        }
        if is_over {
            self.connection = None;
        }
    }
}

async fn publish(stream: &StreamCore) -> u64 {
    let data = Bytes::from_static(b"1");
    let published = stream.publish_as(&Identity::Anonymous, CHANNEL, data, None);
    published.await.unwrap().1.seq
}

#[tokio::test(start_paused = true)]
async fn a_drain_spreads_thousands_of_sessions_over_its_window() {
    let stream = stream(0);
    let mut clients = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        clients.push(Client {
            connection: Some(connect(&stream, ShardId::CALLER).await),
            seq: 0,
            reconnect: None,
        });
    }
    let start = Instant::now();
    let mut draining = {
        let stream = stream.clone();
        tokio::spawn(async move { stream.drain(WINDOW).await })
    };
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let mut most_at_once = 0;
    let mut before_last = 0;
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => {}
            ended = &mut draining => break ended.unwrap(),
        }
        // The drain runs a step, and then something is published.
        tokio::task::yield_now().await;
        let connected = |clients: &[Client]| {
            clients
                .iter()
                .filter(|client| client.connection.is_some())
                .count()
        };
        let before = connected(&clients);
        let top = publish(&stream).await;
        for client in &mut clients {
            let had_reconnect = client.reconnect.is_some();
            client.read();
            // A client without `reconnect` has it.
            if client.reconnect.is_none() || !had_reconnect {
                assert!(client.reconnect.is_some() || client.seq == top);
            }
        }
        most_at_once = most_at_once.max(before - connected(&clients));
        before_last = before_last.max(top);
    }
    for client in &mut clients {
        client.read();
    }
    assert!(start.elapsed() <= WINDOW, "{:?}", start.elapsed());
    assert!(
        most_at_once <= SESSIONS / 10,
        "{most_at_once} ended at once"
    );
    assert!(before_last > 20, "publications could have been lost");

    // Proxies learn of the drain before the first client comes back, and the last one is told in time.
    let told = || clients.iter().filter_map(|client| client.reconnect);
    let (first, last) = (told().min().unwrap().0, told().max().unwrap().0);
    assert!((2_000..2_100).contains(&(first - start).as_millis()));
    assert!((6_700..6_850).contains(&(last - start).as_millis()));

    let mut by_tenth = [0; 10];
    for client in &clients {
        let (_, after_ms) = client.reconnect.expect("every client got `reconnect`");
        by_tenth[after_ms as usize / 1_000] += 1;
    }
    // 500 are expected in each tenth, ± 21: chance does not explain these bounds.
    for count in by_tenth {
        assert!((300..700).contains(&count), "{by_tenth:?}");
    }
    assert_eq!(stream.stats().connections(), 0);
    assert_eq!(stream.hub().channel_count(), 0, "no subscription is left");
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_sessions_ends_at_once() {
    let (stream, start) = (stream(0), Instant::now());
    stream.drain(WINDOW).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_opens_during_a_drain_ends_at_once() {
    let stream = stream(0);
    stream.drain(WINDOW).await;
    let mut late = Client {
        connection: Some(connect(&stream, ShardId::CALLER).await),
        seq: 0,
        reconnect: None,
    };
    late.read();
    let (_, after_ms) = late.reconnect.expect("it got `reconnect`");
    assert!(u128::from(after_ms) < WINDOW.as_millis());
    assert!(late.connection.is_none());
}

#[tokio::test(start_paused = true)]
async fn reconnect_overtakes_no_publication_on_a_shard() {
    let stream = stream(1);
    let home = stream.hub().shards().next().unwrap();
    let mut client = Client {
        connection: Some(connect(&stream, home).await),
        seq: 0,
        reconnect: None,
    };
    client.read();
    // The shard has not run a tick when the drain begins.
    let top = publish(&stream).await;
    stream.drain(WINDOW).await;
    client.read();
    assert_eq!((client.seq, client.reconnect), (0, None));
    run_shard(&stream, home);
    run_ticks().await;
    client.read();
    assert_eq!(client.seq, top);
    assert!(client.reconnect.is_some() && client.connection.is_none());
}
