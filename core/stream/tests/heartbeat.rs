//! How often a client has to give a sign of life, and how it is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use tidewire_proto::v1::{ChannelSubscription, SubscribeRequest, Visibility, server_message::Data};
use tidewire_stream::{
    Connection, ConnectionInfo, Identity, OutgoingMessage, ShardId, StreamCore, StreamOptions,
};
use tokio::time::{Instant, advance};

use support::{arrival, core_with, open_history};

const CHANNEL: &str = "orders:1";

fn stream() -> Arc<StreamCore> {
    core_with([open_history("orders")], StreamOptions::default()).0
}

async fn connect(stream: &Arc<StreamCore>, heartbeat: Option<Duration>) -> Connection {
    let arrival = ConnectionInfo {
        heartbeat,
        ..arrival(ShardId::CALLER)
    };
    let connection = stream.connect(arrival).await;
    let channels = vec![ChannelSubscription {
        channel: CHANNEL.into(),
        ..ChannelSubscription::default()
    }];
    let request = SubscribeRequest { channels };
    connection.subscribe(request).await.unwrap();
    connection.release_held();
    connection
}

async fn publish(stream: &StreamCore) {
    let data = Bytes::from_static(b"1");
    let published = stream.publish_as(&Identity::Anonymous, CHANNEL, data, None);
    published.await.unwrap();
}

/// The heartbeats that the client is told unasked, in milliseconds.
fn told(connection: &Connection) -> Vec<u32> {
    let mut told = Vec::new();
    let mut out = Vec::new();
    while let Some(Ok(())) = connection.next(usize::MAX, &mut out).now_or_never() {
        for message in out.drain(..) {
            let OutgoingMessage::Direct(message) = message else {
                continue;
            };
            match &message.data {
                Some(Data::Pong(pong)) => told.push(pong.heartbeat_ms),
                Some(Data::Welcome(welcome)) => told.push(welcome.heartbeat_ms),
                _ => {}
            }
        }
    }
    told
}

async fn pass(secs: u64) {
    advance(Duration::from_secs(secs)).await;
}

#[tokio::test(start_paused = true)]
async fn it_grows_while_nothing_is_going_on_and_is_short_again_at_once() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    assert_eq!(told(&connection), [2_000]);
    pass(59).await;
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 2_000);
    pass(1).await;
    // A sign of life is no word of interest.
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 10_000);
    pass(240).await;
    assert_eq!(connection.heartbeat_ms(), 10_000, "until it is told");
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 30_000);

    publish(&stream).await;
    assert_eq!(told(&connection), [2_000], "unasked, and once");
    publish(&stream).await;
    assert!(told(&connection).is_empty());
    assert_eq!(connection.heartbeat_ms(), 2_000);

    pass(60).await;
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 10_000);
    connection.record_activity();
    assert_eq!(told(&connection), [2_000]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_told_nothing_longer_is_told_nothing() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let _ = told(&connection);
    pass(600).await;
    publish(&stream).await;
    assert!(told(&connection).is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_is_long_in_the_background() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let _ = told(&connection);
    let hidden = connection.set_visibility(Visibility::Background).unwrap();
    assert_eq!(hidden.heartbeat_ms, 30_000);
    // Whatever is asked meanwhile.
    connection.record_activity();
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 30_000);
    pass(600).await;
    let seen = connection.set_visibility(Visibility::Active).unwrap();
    assert_eq!(seen.heartbeat_ms, 2_000);
    assert!(told(&connection).is_empty(), "the reply said it");
}

#[tokio::test(start_paused = true)]
async fn it_is_never_shorter_than_was_asked_for() {
    let stream = stream();
    let connection = connect(&stream, Some(Duration::from_secs(15))).await;
    assert_eq!(told(&connection), [15_000]);
    pass(60).await;
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 15_000);
    pass(240).await;
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 30_000);
    publish(&stream).await;
    assert_eq!(told(&connection), [15_000]);
}

#[tokio::test(start_paused = true)]
async fn who_beats_is_held_to_what_it_was_told() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let seconds = |connection: &Connection| {
        let timeouts = connection.keep_alive_timeouts(Instant::now());
        let beat = timeouts.heartbeat.map(|beat| beat.as_secs());
        (beat, timeouts.silence.as_secs())
    };
    // Nothing says that it beats at all.
    assert_eq!(seconds(&connection), (None, 20));
    connection.answer_ping(None);
    assert_eq!(seconds(&connection), (Some(3), 20));
    pass(60).await;
    assert_eq!(seconds(&connection), (Some(3), 20), "it knows no other");
    connection.answer_ping(None);
    assert_eq!(seconds(&connection), (Some(20), 20));
    connection.set_visibility(Visibility::Background).unwrap();
    assert_eq!(seconds(&connection), (Some(60), 60));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_notices_that_it_is_short_again() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let _ = told(&connection);
    connection.set_visibility(Visibility::Background).unwrap();
    let start = Instant::now();
    let quiet_at = || {
        let heartbeat = Duration::from_millis(connection.heartbeat_ms().into());
        Some(start + heartbeat)
    };
    let mut out = Vec::new();
    let waiting = connection.next_until(quiet_at, usize::MAX, &mut out);
    let looking = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        connection.set_visibility(Visibility::Active).unwrap();
    };
    let (waited, ()) = tokio::join!(waiting, looking);
    waited.unwrap();
    assert!(out.is_empty());
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pong_tells_the_quality() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let pong = connection.answer_ping(Some(17.5));
    assert_eq!(
        (pong.t, pong.rtt_ms, pong.jitter_ms),
        (Some(17.5), None, None)
    );
    for ms in [40, 56] {
        connection.record_round_trip(Duration::from_millis(ms));
    }
    connection.record_missed_heartbeat();
    connection.record_sent(100);
    connection.record_sent(23);
    connection.record_received(7);
    let pong = connection.answer_ping(None);
    assert_eq!((pong.rtt_ms, pong.jitter_ms), (Some(42.0), Some(1.0)));
    let quality = connection.quality();
    assert_eq!(quality.missed_beats, 1);
    assert_eq!((quality.bytes_sent, quality.bytes_received), (123, 7));
    drop(connection);
    let stats = stream.stats();
    let [transport] = stats.transports[..] else {
        panic!("one transport was used: {stats:?}");
    };
    assert_eq!(
        (transport.bytes_sent, transport.bytes_received),
        (123, 7),
        "what ended counts"
    );
}
