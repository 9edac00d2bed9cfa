//! Urgent publications: they overtake other channels, leave in the background and from a full
//! outbox, and break the order of no channel.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use proptest::prelude::*;
use tidewire_proto::v1::{
    ChannelSubscription, Decimal, PriceUpdate, SubscribeRequest, Visibility, server_message::Data,
};
use tidewire_stream::{
    ChannelName, Class, Connection, Event, Namespace, OutgoingMessage, ShardId, StreamCore,
    StreamOptions,
    Urgency::{self, Ordinary, Urgent},
};
use tokio::time::Instant;

use support::{client_on, core_with, open_history, run_shard, run_ticks, take};

const OUTBOX: usize = 8 << 10;

fn stream_with(options: StreamOptions) -> Arc<StreamCore> {
    let state = Namespace {
        class: Class::Latest,
        ..open_history("state")
    };
    core_with([open_history("orders"), state], options).0
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn publish(stream: &StreamCore, name: &str, length: usize, urgency: Urgency) {
    let text = format!("\"{}\"", "x".repeat(length));
    stream.publish_with(&channel(name), Event::Message(Bytes::from(text)), urgency);
}

async fn connect(stream: &Arc<StreamCore>, shard: ShardId, channels: &[&str]) -> Connection {
    let connection = stream.connect(client_on(shard)).await;
    if !channels.is_empty() {
        subscribe(&connection, channels, None).await;
    }
    take(&connection);
    connection
}

async fn subscribe(connection: &Connection, channels: &[&str], min_interval_ms: Option<u32>) {
    let channels = channels.iter().map(|name| ChannelSubscription {
        channel: (*name).to_owned(),
        min_interval_ms,
        ..ChannelSubscription::default()
    });
    let request = SubscribeRequest {
        channels: channels.collect(),
    };
    let subscribed = connection.begin_command().subscribe(request).await.unwrap();
    assert!(subscribed.channels.iter().all(|one| one.error.is_none()));
}

/// Channel and number of each publication. A gap has no number.
fn places(messages: &[OutgoingMessage]) -> Vec<(String, Option<u64>)> {
    let places = messages.iter().filter_map(|message| match message {
        OutgoingMessage::Publication(one) => Some((one.channel().to_string(), Some(one.seq()))),
        OutgoingMessage::Direct(direct) => match direct.to_message() {
            message if matches!(message.data, Some(Data::Gap(_))) => Some((message.channel?, None)),
            _ => None,
        },
        OutgoingMessage::PriceBatch(batch) => {
            let newest = batch.updates.last()?;
            Some((newest.channel().to_string(), Some(newest.seq())))
        }
    });
    places.collect()
}

fn received(connection: &Connection) -> Vec<(String, Option<u64>)> {
    places(&take(connection))
}

fn expected(places: &[(&str, u64)]) -> Vec<(String, Option<u64>)> {
    let places = places.iter();
    places
        .map(|(name, seq)| ((*name).to_owned(), Some(*seq)))
        .collect()
}

#[tokio::test]
async fn an_urgent_publication_overtakes_other_channels_and_not_its_own() {
    let stream = stream_with(StreamOptions::default());
    let client = connect(
        &stream,
        ShardId::CALLER,
        &["orders:a", "orders:b", "state:c"],
    )
    .await;
    publish(&stream, "orders:b", 1, Ordinary);
    publish(&stream, "orders:a", 1, Ordinary);
    publish(&stream, "state:c", 1, Ordinary);
    publish(&stream, "orders:a", 1, Ordinary);
    publish(&stream, "orders:b", 1, Ordinary);
    publish(&stream, "orders:a", 1, Urgent);
    publish(&stream, "orders:a", 1, Ordinary);
    let order = [
        ("orders:a", 1),
        ("orders:a", 2),
        ("orders:a", 3),
        ("orders:b", 1),
        ("state:c", 1),
        ("orders:b", 2),
        ("orders:a", 4),
    ];
    assert_eq!(received(&client), expected(&order));
    assert_eq!(client.queued_bytes(), 0);
}

#[tokio::test]
async fn a_paused_channel_pauses_again_after_an_urgent_publication() {
    let stream = stream_with(StreamOptions::default());
    let client = connect(&stream, ShardId::CALLER, &["orders:a", "orders:b"]).await;
    client.set_visibility(Visibility::Background).unwrap();
    publish(&stream, "orders:a", 1, Ordinary);
    publish(&stream, "orders:b", 1, Ordinary);
    assert_eq!(received(&client), []);
    publish(&stream, "orders:a", 1, Urgent);
    let order = [("orders:a", 1), ("orders:a", 2)];
    assert_eq!(received(&client), expected(&order));
    publish(&stream, "orders:a", 1, Ordinary);
    assert_eq!(received(&client), [], "it waits for the foreground again");
    client.set_visibility(Visibility::Active).unwrap();
    let mut rest = received(&client);
    rest.sort();
    assert_eq!(rest, expected(&[("orders:a", 3), ("orders:b", 1)]));
}

#[tokio::test(start_paused = true)]
async fn an_urgent_value_waits_for_no_interval_and_no_foreground() {
    let stream = stream_with(StreamOptions::default());
    let client = connect(&stream, ShardId::CALLER, &[]).await;
    subscribe(&client, &["state:c"], Some(60_000)).await;
    take(&client);
    publish(&stream, "state:c", 1, Ordinary);
    publish(&stream, "state:c", 1, Ordinary);
    assert_eq!(received(&client), expected(&[("state:c", 2)]));
    publish(&stream, "state:c", 1, Ordinary);
    assert_eq!(received(&client), [], "the interval is not over");
    publish(&stream, "state:c", 1, Urgent);
    assert_eq!(received(&client), expected(&[("state:c", 4)]));
    client.set_visibility(Visibility::Background).unwrap();
    publish(&stream, "state:c", 1, Ordinary);
    assert_eq!(received(&client), []);
    publish(&stream, "state:c", 1, Urgent);
    assert_eq!(received(&client), expected(&[("state:c", 6)]));
    assert_eq!(
        client.queued_items(),
        0,
        "nothing waits for the end of an interval"
    );
}

#[tokio::test(start_paused = true)]
async fn an_urgent_publication_does_not_wait_for_a_batch_of_prices() {
    let stream = stream_with(StreamOptions::default());
    let prices = ["prices:A-USD", "prices:B-USD"];
    let channels = [prices[0], prices[1], "orders:a"];
    let client = connect(&stream, ShardId::CALLER, &channels).await;
    let update = |name: &str| {
        let price = PriceUpdate {
            symbol: name["prices:".len()..].to_owned(),
            price: Some(Decimal { value: "1".into() }),
            ..PriceUpdate::default()
        };
        stream.publish_with(&channel(name), Event::Price(price), Ordinary);
    };
    prices.iter().for_each(|name| update(name));
    assert_eq!(received(&client).len(), 1, "the first batch leaves at once");
    prices.iter().for_each(|name| update(name));
    publish(&stream, "orders:a", 1, Urgent);
    assert_eq!(received(&client), expected(&[("orders:a", 1)]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        received(&client).len(),
        1,
        "the prices are a batch of their own"
    );
}

#[tokio::test]
async fn a_full_outbox_makes_room_and_loses_nothing() {
    let stream = stream_with(StreamOptions {
        outbox_bytes: OUTBOX,
        ..StreamOptions::default()
    });
    let client = connect(&stream, ShardId::CALLER, &["orders:a", "orders:b"]).await;
    for _ in 0..20 {
        publish(&stream, "orders:b", 1_000, Ordinary);
    }
    // `orders:a` is held: there is no room.
    publish(&stream, "orders:a", 1_000, Ordinary);
    publish(&stream, "orders:a", 1_000, Urgent);
    assert!(client.queued_bytes() <= OUTBOX, "{}", client.queued_bytes());
    let all = received(&client);
    assert_eq!(all[..2], expected(&[("orders:a", 1), ("orders:a", 2)]));
    let rest: Vec<_> = (1..=20).map(|seq| ("orders:b", seq)).collect();
    assert_eq!(all[2..], expected(&rest));
}

#[tokio::test]
async fn a_lane_that_fills_the_outbox_waits_for_room() {
    let stream = stream_with(StreamOptions {
        outbox_bytes: OUTBOX,
        ..StreamOptions::default()
    });
    let client = connect(&stream, ShardId::CALLER, &["orders:a", "orders:b"]).await;
    for _ in 0..20 {
        publish(&stream, "orders:a", 1_000, Urgent);
        publish(&stream, "orders:b", 1_000, Ordinary);
        assert!(client.queued_bytes() <= OUTBOX, "{}", client.queued_bytes());
    }
    let all = received(&client);
    for name in ["orders:a", "orders:b"] {
        let numbers = all.iter().filter(|(channel, _)| channel == name);
        let numbers: Vec<_> = numbers.map(|(_, seq)| seq.unwrap()).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_delivers_what_its_inbox_has_of_the_channel_first() {
    let stream = stream_with(StreamOptions {
        shards: 1,
        ..StreamOptions::default()
    });
    let shard = stream.hub().shards().next().unwrap();
    let running = run_shard(&stream, shard);
    let client = connect(&stream, shard, &["orders:a", "orders:b"]).await;
    run_ticks().await;
    take(&client);
    publish(&stream, "orders:b", 1, Ordinary);
    publish(&stream, "orders:a", 1, Ordinary);
    publish(&stream, "orders:b", 1, Ordinary);
    publish(&stream, "orders:a", 1, Urgent);
    run_ticks().await;
    let order = [
        ("orders:a", 1),
        ("orders:a", 2),
        ("orders:b", 1),
        ("orders:b", 2),
    ];
    assert_eq!(received(&client), expected(&order));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn an_urgent_publication_ends_no_pause_and_does_not_wait_for_one() {
    let stream = stream_with(StreamOptions {
        shards: 1,
        ..StreamOptions::default()
    });
    let shard = stream.hub().shards().next().unwrap();
    let running = run_shard(&stream, shard);
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(connect(&stream, shard, &["orders:a", "orders:b"]).await);
    }
    // Often enough for pauses.
    for _ in 0..100 {
        publish(&stream, "orders:b", 1, Ordinary);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run_ticks().await;
    clients.iter().for_each(|client| drop(take(client)));
    publish(&stream, "orders:b", 1, Ordinary);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(received(&clients[0]), expected(&[("orders:b", 101)]));
    // The shard pauses now.
    publish(&stream, "orders:b", 1, Ordinary);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(
        received(&clients[0]),
        [],
        "the next tick comes after the pause"
    );
    let before = Instant::now();
    publish(&stream, "orders:a", 1, Urgent);
    let mut messages = Vec::new();
    clients[0].next(usize::MAX, &mut messages).await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(places(&messages), expected(&[("orders:a", 1)]));
    clients[0].next(usize::MAX, &mut messages).await.unwrap();
    assert_eq!(places(&messages)[1..], expected(&[("orders:b", 102)]));
    running.abort();
}

#[derive(Debug, Clone)]
enum Step {
    Publish(usize, usize, bool),
    Read(usize),
    Background,
    Foreground,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3_usize, 1..3_000_usize, any::<bool>())
            .prop_map(|(channel, length, urgent)| Step::Publish(channel, length, urgent)),
        3 => (1..4_000_usize).prop_map(Step::Read),
        1 => Just(Step::Background),
        1 => Just(Step::Foreground),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// Whatever is urgent and however slowly a client reads: each channel comes whole, each
    /// publication once, in order; and the outbox keeps its bound.
    #[test]
    fn every_channel_keeps_its_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let names = ["orders:a", "orders:b", "orders:c"];
            let stream = stream_with(StreamOptions {
                outbox_bytes: OUTBOX,
                ..StreamOptions::default()
            });
            let client = connect(&stream, ShardId::CALLER, &names).await;
            let mut messages = Vec::new();
            let mut sent: HashMap<&str, u64> = HashMap::new();
            for step in steps {
                match step {
                    Step::Publish(index, length, urgent) => {
                        let urgency = if urgent { Urgent } else { Ordinary };
                        publish(&stream, names[index], length, urgency);
                        *sent.entry(names[index]).or_default() += 1;
                    }
                    Step::Read(budget) => {
                        let read = client.next(budget, &mut messages);
                        read.now_or_never().transpose().unwrap();
                        tokio::task::yield_now().await;
                    }
                    Step::Background => drop(client.set_visibility(Visibility::Background)),
                    Step::Foreground => drop(client.set_visibility(Visibility::Active)),
                }
                prop_assert!(client.queued_bytes() <= OUTBOX, "{}", client.queued_bytes());
            }
            drop(client.set_visibility(Visibility::Active));
            messages.extend(take(&client));
            tokio::time::sleep(Duration::from_secs(1)).await;
            messages.extend(take(&client));
            let all = places(&messages);
            for name in names {
                let numbers = all.iter().filter(|(channel, _)| channel == name);
                let numbers: Vec<_> = numbers.map(|(_, seq)| *seq).collect();
                let count = sent.get(name).copied().unwrap_or_default();
                let whole: Vec<_> = (1..=count).map(Some).collect();
                prop_assert_eq!(numbers, whole, "{}", name);
            }
            Ok(())
        })?;
    }
}
