//! Bounds on channels: clients make a bounded number of them, the longest unused without
//! subscribers are forgotten, and no position of a forgotten channel is recovered.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use tidewire_proto::v1::{ErrorCode, UnsubscribeRequest};
use tidewire_stream::{
    Caller, Identity, ManualClock, Namespace, PageLimit, Position, ShardId, StreamCore,
    StreamError, StreamOptions,
};

use support::{START_MS, client_on, core_with, open_history, subscription};

/// Channels of a namespace in these tests.
const MOST: usize = 6;

/// Channels of a client in these tests.
const PER_CLIENT: usize = 3;

fn core() -> (Arc<StreamCore>, Arc<ManualClock>) {
    let small = Namespace {
        max_channels: MOST,
        ..open_history("small")
    };
    let options = StreamOptions {
        channels_per_client: PER_CLIENT,
        ..StreamOptions::default()
    };
    core_with([small, open_history("other")], options)
}

fn client(number: u8) -> Caller {
    Caller {
        address: Some([10, 0, 0, number].into()),
        ..Caller::from(Identity::Anonymous)
    }
}

async fn publish(stream: &StreamCore, by: u8, channel: &str) -> Result<Position, StreamError> {
    let data = Bytes::from_static(b"1");
    let published = stream.publish_as(client(by), channel, data, None).await;
    published.map(|(_, position)| position)
}

async fn top(stream: &StreamCore, channel: &str) -> Position {
    let identity = Identity::Anonymous;
    let history = stream
        .history_as(&identity, channel, None, PageLimit::ALL)
        .await;
    history.unwrap().1.top
}

#[tokio::test]
async fn a_position_of_a_forgotten_channel_is_not_recovered() {
    let (stream, clock) = core();
    let before = publish(&stream, 1, "small:a").await.unwrap();
    for channel in ["small:b", "small:c", "small:d"] {
        clock.advance(1);
        publish(&stream, 1, channel).await.unwrap();
    }
    assert_eq!(top(&stream, "small:a").await.seq, 0);
    let after = publish(&stream, 2, "small:a").await.unwrap();
    assert_eq!(after.seq, 1);
    assert_ne!(after.epoch, before.epoch);
    let identity = Identity::Anonymous;
    let since = stream.history_as(&identity, "small:a", Some(before), PageLimit::ALL);
    assert_eq!(
        since.await.unwrap_err().code(),
        ErrorCode::FailedPrecondition
    );
}

#[tokio::test]
async fn a_channel_that_is_left_makes_room_after_a_search_that_failed() {
    let (stream, _) = core();
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    let mut followed = Vec::new();
    for channel in ["other:a", "other:b", "other:c"] {
        publish(&stream, 1, channel).await.unwrap();
        followed.push(channel.to_owned());
    }
    for channel in &followed {
        let command = connection.begin_command();
        command.subscribe(subscription(channel)).await.unwrap();
    }
    let refused = publish(&stream, 1, "other:d").await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
    let left = UnsubscribeRequest {
        channels: vec!["other:b".to_owned()],
    };
    connection.unsubscribe(&left).unwrap();
    for (channel, fits) in [("other:d", true), ("other:e", true), ("other:d", true)] {
        // The one before it has no subscriber.
        assert_eq!(publish(&stream, 1, channel).await.is_ok(), fits);
    }
    let seqs = [
        ("other:a", 1),
        ("other:b", 0),
        ("other:c", 1),
        ("other:e", 0),
    ];
    for (channel, seq) in seqs {
        assert_eq!(top(&stream, channel).await.seq, seq, "{channel}");
    }
}

#[tokio::test]
async fn sweeps_keep_a_large_namespace_from_filling() {
    let large = Namespace {
        max_channels: 640,
        ..open_history("large")
    };
    let options = StreamOptions {
        channels_per_client: 0,
        ..StreamOptions::default()
    };
    let (stream, clock) = core_with([large], options);
    for number in 0..640 {
        clock.advance(1);
        let channel = format!("large:{number}");
        publish(&stream, 1, &channel).await.unwrap();
    }
    stream.sweep();
    // A part of 64 is free again: the ten oldest are gone.
    for number in [0, 9] {
        assert_eq!(top(&stream, &format!("large:{number}")).await.seq, 0);
    }
    for number in [10, 639] {
        assert_eq!(top(&stream, &format!("large:{number}")).await.seq, 1);
    }
}

#[tokio::test]
async fn sweeps_visit_a_large_table_in_parts() {
    let options = StreamOptions {
        channels_per_client: 0,
        ..StreamOptions::default()
    };
    let (stream, clock) = core_with([open_history("large")], options);
    for number in 0..5_000 {
        publish(&stream, 1, &format!("large:{number}"))
            .await
            .unwrap();
    }
    // Longer than a channel is known without a use.
    clock.advance(25 * 60 * 60 * 1_000);
    let known = async || {
        let mut known = 0;
        for number in 0..5_000 {
            known += top(&stream, &format!("large:{number}")).await.seq;
        }
        known
    };
    let mut left = vec![known().await];
    for _ in 0..2 {
        stream.sweep();
        left.push(known().await);
    }
    assert_eq!(left, [5_000, 904, 0]);
}

#[derive(Debug, Clone)]
enum Action {
    Publish { client: u8, channel: u8 },
    Subscribe(u8),
    Unsubscribe(u8),
    Sweep,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0_u8..4, 0_u8..12).prop_map(|(client, channel)| Action::Publish { client, channel }),
        2 => (0_u8..12).prop_map(Action::Subscribe),
        1 => (0_u8..12).prop_map(Action::Unsubscribe),
        1 => Just(Action::Sweep),
    ];
    prop::collection::vec(action, 1..80)
}

/// The model of one channel.
#[derive(Debug, Clone)]
struct Known {
    position: Position,
    client: u8,
    used_ms: i64,
}

/// The channels that an action may forget: the longest unused without a subscriber.
fn oldest_idle(
    known: &BTreeMap<u8, Known>,
    subscribed: &[u8],
    counts: impl Fn(&Known) -> bool,
) -> Option<u8> {
    let idle = known
        .iter()
        .filter(|(number, one)| counts(one) && !subscribed.contains(number));
    let oldest = idle.min_by_key(|(_, one)| one.used_ms);
    oldest.map(|(number, _)| *number)
}

async fn play(actions: Vec<Action>) {
    let (stream, clock) = core();
    let reader = stream.connect(client_on(ShardId::CALLER)).await;
    let quiet = top(&stream, "other:quiet").await;
    let mut known: BTreeMap<u8, Known> = BTreeMap::new();
    let mut subscribed: Vec<u8> = Vec::new();
    let mut now_ms = START_MS;
    for action in actions {
        now_ms += 1;
        clock.set(now_ms);
        match action {
            Action::Sweep => stream.sweep(),
            Action::Subscribe(channel) => {
                let request = support::subscription(&format!("small:{channel}"));
                let command = reader.begin_command();
                command.subscribe(request).await.unwrap();
                drop(command);
                if !subscribed.contains(&channel) {
                    subscribed.push(channel);
                }
            }
            Action::Unsubscribe(channel) => {
                let channels = vec![format!("small:{channel}")];
                reader
                    .unsubscribe(&tidewire_proto::v1::UnsubscribeRequest { channels })
                    .unwrap();
                if subscribed.contains(&channel)
                    && let Some(left) = known.get_mut(&channel)
                {
                    // It was in use until now.
                    left.used_ms = now_ms;
                }
                subscribed.retain(|one| *one != channel);
            }
            Action::Publish { client, channel } => {
                let published = publish(&stream, client, &format!("small:{channel}")).await;
                let mut fits = true;
                if !known.contains_key(&channel) {
                    let made = known.values().filter(|one| one.client == client).count();
                    if made >= PER_CLIENT {
                        let oldest = oldest_idle(&known, &subscribed, |one| one.client == client);
                        fits = oldest.map(|oldest| known.remove(&oldest)).is_some();
                    }
                    if fits && known.len() >= MOST {
                        let oldest = oldest_idle(&known, &subscribed, |_| true);
                        fits = oldest.map(|oldest| known.remove(&oldest)).is_some();
                    }
                }
                let Ok(position) = published else {
                    assert!(!fits, "the channel {channel} fits: {published:?}");
                    assert_eq!(published.unwrap_err().code(), ErrorCode::ResourceExhausted);
                    continue;
                };
                assert!(fits, "{channel} has no room");
                let entry = known.entry(channel).or_insert_with(|| Known {
                    position: Position {
                        seq: 0,
                        ..position.clone()
                    },
                    client,
                    used_ms: 0,
                });
                // A channel that was not forgotten goes on.
                entry.position.seq += 1;
                entry.used_ms = now_ms;
                assert_eq!(entry.position, position);
            }
        }
    }
    for (channel, known) in &known {
        let channel = format!("small:{channel}");
        assert_eq!(top(&stream, &channel).await, known.position);
    }
    assert_eq!(top(&stream, "other:quiet").await, quiet);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn channels_are_bounded_like_the_model(actions in actions()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(actions));
    }
}

#[tokio::test]
async fn a_client_does_not_make_room_with_the_channel_of_another() {
    let publish = |client, channel| Action::Publish { client, channel };
    play(vec![
        Action::Subscribe(8),
        publish(1, 8),
        publish(1, 7),
        Action::Subscribe(7),
        Action::Subscribe(11),
        publish(1, 11),
        Action::Subscribe(6),
        // No room.
        publish(1, 0),
        Action::Unsubscribe(11),
        // In place of 11, which another client makes again.
        publish(1, 6),
        publish(0, 11),
        publish(1, 0),
    ])
    .await;
}
