//! Durable channels: restored after a restart, started in a new epoch, or forgotten by their
//! engine.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tidewire_proto::v1::{Block, ChannelSubscription, Position, SubscribeRequest, server_message};
use tidewire_stream::{
    ChannelEpoch, ChannelName, ChannelProvider, Connection, DurablePublisher as _, Epoch,
    OutgoingMessage, Publisher as _, ShardId, StoredPublication, StreamCore, StreamError,
    StreamOptions,
};

use support::{client_on, core_with, take};

fn stream() -> Arc<StreamCore> {
    core_with([], StreamOptions::default()).0
}

fn channel() -> ChannelName {
    ChannelName::parse("blocks:1").unwrap()
}

fn block(number: u64) -> server_message::Data {
    server_message::Data::Block(Block {
        number,
        ..Block::default()
    })
}

/// Stored blocks of these numbers, with the same sequence numbers.
fn stored(numbers: std::ops::RangeInclusive<u64>) -> Vec<StoredPublication> {
    let stored = numbers.map(|seq| StoredPublication {
        seq,
        time_ms: 999_000,
        event: block(seq),
    });
    stored.collect()
}

/// Subscribes a client. Returns it with its first messages, and whether it was recovered.
async fn subscribed(
    stream: &Arc<StreamCore>,
    since: Option<(&str, u64)>,
) -> (Connection, Vec<String>, bool) {
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    received(&connection);
    let subscription = ChannelSubscription {
        channel: "blocks:1".to_owned(),
        since: since.map(|(epoch, seq)| Position {
            epoch: epoch.to_owned(),
            seq,
        }),
        ..ChannelSubscription::default()
    };
    let request = SubscribeRequest {
        channels: vec![subscription],
    };
    let reply = connection.begin_command().subscribe(request).await.unwrap();
    let got = received(&connection);
    (connection, got, reply.channels[0].recovered)
}

/// Takes the messages queued for the client: types and sequence numbers.
fn received(connection: &Connection) -> Vec<String> {
    let messages = take(connection).into_iter().map(|outgoing| match outgoing {
        OutgoingMessage::Publication(publication) => {
            format!("{} {}", publication.event_type(), publication.seq())
        }
        other => other.event_type().to_owned(),
    });
    messages.collect()
}

#[tokio::test]
async fn a_restored_channel_recovers_its_clients() {
    let stream = stream();
    let epoch = Epoch::new("before");
    let restored = stream.restore(&channel(), epoch, stored(7..=9)).await;
    restored.unwrap();
    let position = stream.position(&channel()).await.unwrap();
    assert_eq!((position.epoch.as_str(), position.seq), ("before", 9));
    let (client, got, recovered) = subscribed(&stream, Some(("before", 7))).await;
    assert_eq!(
        (got, recovered),
        (vec!["block 8".into(), "block 9".into()], true)
    );
    stream.publish(&channel(), block(10));
    assert_eq!(received(&client), ["block 10"]);
    // A position before the stored publications is not recovered.
    let (_, got, recovered) = subscribed(&stream, Some(("before", 5))).await;
    assert_eq!((got.len(), recovered), (0, false));
}

#[tokio::test]
async fn a_channel_with_publications_is_not_restored() {
    let stream = stream();
    stream.publish(&channel(), block(1));
    let before = stream.position(&channel()).await.unwrap();
    let epoch = Epoch::new("other");
    let restored = stream.restore(&channel(), epoch, stored(1..=9)).await;
    restored.unwrap();
    assert_eq!(stream.position(&channel()).await.unwrap(), before);
}

#[tokio::test]
async fn a_subscription_to_blocks_starts_with_the_newest() {
    let stream = stream();
    let (early, got, _) = subscribed(&stream, None).await;
    assert!(got.is_empty());
    stream.publish(&channel(), block(1));
    stream.publish(&channel(), block(2));
    assert_eq!(received(&early), ["block 1", "block 2"]);
    let (client, got, recovered) = subscribed(&stream, None).await;
    assert_eq!((got, recovered), (vec!["block 2".into()], false));
    stream.publish(&channel(), block(3));
    assert_eq!(received(&client), ["block 3"]);
}

#[tokio::test]
async fn a_new_epoch_sends_a_gap_to_subscribers() {
    let stream = stream();
    stream.publish(&channel(), block(1));
    let before = stream.position(&channel()).await.unwrap();
    let (client, _, _) = subscribed(&stream, None).await;
    stream.start_new_epoch(&channel()).await.unwrap();
    // At once: nothing more may ever be published there.
    assert_eq!(received(&client), ["gap"]);
    stream.publish(&channel(), block(50));
    assert_eq!(received(&client), ["block 1"]);
    stream.publish(&channel(), block(51));
    assert_eq!(received(&client), ["block 2"]);
    // Two new epochs before the client reads are one gap.
    stream.start_new_epoch(&channel()).await.unwrap();
    stream.start_new_epoch(&channel()).await.unwrap();
    stream.publish(&channel(), block(52));
    assert_eq!(received(&client), ["gap"]);
    stream.publish(&channel(), block(53));
    assert_eq!(received(&client), ["block 2"]);
    let after = stream.position(&channel()).await.unwrap();
    assert!(after.epoch != before.epoch && after.seq == 2);
    let (_, _, recovered) = subscribed(&stream, Some((before.epoch.as_str(), 1))).await;
    assert!(!recovered);
}

/// Epochs by the rest of a channel's name.
type Epochs = Arc<Mutex<HashMap<String, &'static str>>>;

/// Follows the channels that the map holds, in its epochs.
struct MapProvider(Epochs);

impl ChannelProvider for MapProvider {
    fn validate(&self, _rest: &str) -> Result<(), StreamError> {
        Ok(())
    }

    fn epoch(&self, rest: &str) -> ChannelEpoch {
        match self.0.lock().unwrap().get(rest) {
            Some(epoch) => ChannelEpoch::Active(Epoch::new(epoch)),
            None => ChannelEpoch::Inactive,
        }
    }
}

/// A core whose `wallet` channels have the epochs of the map.
fn core_with_epochs() -> (Arc<StreamCore>, Epochs) {
    let epochs = Epochs::default();
    let (stream, _clock) = core_with([], StreamOptions::default());
    let provider = Arc::new(MapProvider(epochs.clone()));
    stream.register_provider("wallet", provider).unwrap();
    (stream, epochs)
}

#[tokio::test]
async fn a_channel_starts_in_the_epoch_of_its_engine() {
    let (stream, epochs) = core_with_epochs();
    let channel = ChannelName::parse("wallet:0xab").unwrap();
    let top = || async {
        let top = stream.position(&channel).await.unwrap();
        (top.epoch.as_str().to_owned(), top.seq)
    };
    // The engine does not follow it: no position is given twice.
    assert_ne!(top().await, top().await);
    epochs.lock().unwrap().insert("0xab".to_owned(), "one");
    assert_eq!(top().await, ("one".to_owned(), 0));
    stream.publish(&channel, block(1));
    assert_eq!(top().await, ("one".to_owned(), 1));
    // A new epoch before and after the first publication.
    epochs.lock().unwrap().insert("0xab".to_owned(), "two");
    stream.start_new_epoch(&channel).await.unwrap();
    assert_eq!(top().await, ("two".to_owned(), 0));
    stream.forget(&channel).await.unwrap();
    epochs.lock().unwrap().insert("0xab".to_owned(), "three");
    stream.start_new_epoch(&channel).await.unwrap();
    assert_eq!(top().await, ("three".to_owned(), 0));
    stream.publish(&channel, block(2));
    assert_eq!(top().await, ("three".to_owned(), 1));
    // A forgotten epoch does not come back.
    epochs.lock().unwrap().remove("0xab");
    stream.forget(&channel).await.unwrap();
    assert_ne!(top().await.0, "three");
}

#[tokio::test]
async fn a_saved_channel_is_loaded_if_its_engine_is_in_the_same_epoch() {
    let channel = ChannelName::parse("wallet:0xab").unwrap();
    let (before, epochs) = core_with_epochs();
    epochs.lock().unwrap().insert("0xab".to_owned(), "one");
    before.publish(&channel, block(1));
    for (epoch, seq) in [("one", 1), ("two", 0)] {
        let (after, epochs) = core_with_epochs();
        epochs.lock().unwrap().insert("0xab".to_owned(), epoch);
        for saved in before.broker().save() {
            after.broker().load(&saved).unwrap();
        }
        let top = after.position(&channel).await.unwrap();
        assert_eq!((top.epoch.as_str(), top.seq), (epoch, seq));
    }
}
