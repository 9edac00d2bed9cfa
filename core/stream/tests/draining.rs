//! Sending thousands away: each is told once, at a time of its own, and has got by
//! then what was published before.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use tidewire_proto::v1::{ChannelSubscription, SubscribeRequest, server_message::Data};
use tidewire_stream::{
    CloseReason, Connection, Identity, OutgoingMessage, ShardId, StreamCore, StreamOptions,
};
use tokio::time::Instant;

use support::{arrival, core_with, open_history};

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
    let connection = stream.connect(arrival(shard)).await;
    let channels = vec![ChannelSubscription {
        channel: CHANNEL.into(),
        ..ChannelSubscription::default()
    }];
    let subscribed = connection.subscribe(SubscribeRequest { channels }).await;
    assert_eq!(subscribed.unwrap().channels[0].error, None);
    connection.release_held();
    connection
}

/// A client, until it is sent away.
struct Client {
    connection: Option<Connection>,
    /// Publications that it got.
    seen: u64,
    /// When it was told to come back, and after how many milliseconds.
    told: Option<(Instant, u32)>,
}

impl Client {
    /// Reads all there is. The end of the session is the end of the connection.
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
                    assert!(self.told.is_some() || !out.is_empty());
                    break true;
                }
                None => break false,
            }
        };
        for message in out {
            match message {
                OutgoingMessage::Publication(publication) => {
                    self.seen += 1;
                    assert_eq!(publication.seq(), self.seen, "each once, in order");
                }
                OutgoingMessage::Direct(message) => {
                    if let Some(Data::Reconnect(reconnect)) = &message.data {
                        assert_eq!(self.told, None, "it is told once");
                        self.told = Some((Instant::now(), reconnect.after_ms));
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
async fn thousands_are_sent_away_one_by_one() {
    let stream = stream(0);
    let mut clients = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        clients.push(Client {
            connection: Some(connect(&stream, ShardId::CALLER).await),
            seen: 0,
            told: None,
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
        // The drain takes its step, and then something is published.
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
            let was_told = client.told.is_some();
            client.read();
            // Whoever is not on its way has it.
            if client.told.is_none() || !was_told {
                assert!(client.told.is_some() || client.seen == top);
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
        "{most_at_once} left in one moment"
    );
    assert!(before_last > 20, "there was something to lose");

    let mut by_tenth = [0; 10];
    for client in &clients {
        let (_, after_ms) = client.told.expect("everyone is told");
        by_tenth[after_ms as usize / 1_000] += 1;
    }
    // 500 are expected in each tenth, ± 21: no chance comes this far from it.
    for count in by_tenth {
        assert!((300..700).contains(&count), "{by_tenth:?}");
    }
    assert_eq!(stream.stats().connections(), 0);
    assert_eq!(stream.hub().channel_count(), 0, "nobody is left behind");
}

#[tokio::test(start_paused = true)]
async fn whoever_still_comes_is_sent_away_at_once() {
    let stream = stream(0);
    stream.drain(WINDOW).await;
    let mut late = Client {
        connection: Some(connect(&stream, ShardId::CALLER).await),
        seen: 0,
        told: None,
    };
    late.read();
    let (_, after_ms) = late.told.expect("it is told");
    assert!(u128::from(after_ms) < WINDOW.as_millis());
    assert!(late.connection.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_word_overtakes_nothing_on_a_shard() {
    let stream = stream(1);
    let home = stream.hub().shards().next().unwrap();
    let mut client = Client {
        connection: Some(connect(&stream, home).await),
        seen: 0,
        told: None,
    };
    client.read();
    // The shard has not had its turn when the drain begins.
    let top = publish(&stream).await;
    stream.drain(WINDOW).await;
    client.read();
    assert_eq!((client.seen, client.told), (0, None));
    let shard = stream.hub().shard(home).clone();
    tokio::spawn(async move { shard.run(Duration::from_millis(15)).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    client.read();
    assert_eq!(client.seen, top);
    assert!(client.told.is_some() && client.connection.is_none());
}
