//! Heartbeat: its interval, how clients are announced it, and the quality of a link.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
use tidewire_proto::v1::{Visibility, server_message::Data};
use tidewire_stream::{
    Connection, ConnectionInfo, Identity, OutgoingMessage, ShardId, StreamCore, StreamOptions,
};
use tokio::time::{Instant, advance};

use support::{client_on, core_with, open_history, subscription};

const CHANNEL: &str = "orders:1";

fn stream() -> Arc<StreamCore> {
    core_with([open_history("orders")], StreamOptions::default()).0
}

async fn connect(stream: &Arc<StreamCore>, heartbeat: Option<Duration>) -> Connection {
    let info = ConnectionInfo {
        heartbeat,
        ..client_on(ShardId::CALLER)
    };
    let connection = stream.connect(info).await;
    let command = connection.begin_command();
    command.subscribe(subscription(CHANNEL)).await.unwrap();
    drop(command);
    connection
}

async fn publish(stream: &StreamCore) {
    let data = Bytes::from_static(b"1");
    let published = stream.publish_as(&Identity::Anonymous, CHANNEL, data, None);
    published.await.unwrap();
}

/// Intervals that the session announced by itself, in milliseconds.
fn announced(connection: &Connection) -> Vec<u32> {
    let mut intervals = Vec::new();
    let mut out = Vec::new();
    while let Some(Ok(())) = connection.next(usize::MAX, &mut out).now_or_never() {
        for message in out.drain(..) {
            let OutgoingMessage::Direct(message) = message else {
                continue;
            };
            match &message.to_message().data {
                Some(Data::Pong(pong)) => intervals.push(pong.heartbeat_ms),
                Some(Data::Welcome(welcome)) => intervals.push(welcome.heartbeat_ms),
                _ => {}
            }
        }
    }
    intervals
}

async fn wait(secs: u64) {
    advance(Duration::from_secs(secs)).await;
}

#[tokio::test(start_paused = true)]
async fn the_interval_grows_while_idle_and_shrinks_at_once() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    assert_eq!(announced(&connection), [2_000]);
    wait(59).await;
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 2_000);
    wait(1).await;
    // A ping is no activity.
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 10_000);
    wait(240).await;
    assert_eq!(connection.heartbeat_ms(), 10_000, "until it is announced");
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 30_000);

    publish(&stream).await;
    assert_eq!(announced(&connection), [2_000], "announced once, by itself");
    publish(&stream).await;
    assert!(announced(&connection).is_empty());
    assert_eq!(connection.heartbeat_ms(), 2_000);

    wait(60).await;
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 10_000);
    connection.record_activity();
    assert_eq!(announced(&connection), [2_000]);
}

#[tokio::test(start_paused = true)]
async fn an_interval_that_did_not_change_is_not_announced() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let _ = announced(&connection);
    wait(600).await;
    publish(&stream).await;
    assert!(announced(&connection).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_interval_is_long_in_the_background() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let _ = announced(&connection);
    let hidden = connection.set_visibility(Visibility::Background).unwrap();
    assert_eq!(hidden.heartbeat_ms, 30_000);
    // Commands do not change that.
    connection.record_activity();
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 30_000);
    wait(600).await;
    let seen = connection.set_visibility(Visibility::Active).unwrap();
    assert_eq!(seen.heartbeat_ms, 2_000);
    assert!(announced(&connection).is_empty(), "the reply announced it");
}

#[tokio::test(start_paused = true)]
async fn the_interval_is_never_shorter_than_the_client_wants() {
    let stream = stream();
    let connection = connect(&stream, Some(Duration::from_secs(15))).await;
    assert_eq!(announced(&connection), [15_000]);
    wait(60).await;
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 15_000);
    wait(240).await;
    assert_eq!(connection.answer_ping(None).heartbeat_ms, 30_000);
    publish(&stream).await;
    assert_eq!(announced(&connection), [15_000]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_pings_is_held_to_the_announced_interval() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let seconds = |connection: &Connection| {
        let timeouts = connection.keep_alive_timeouts(Instant::now());
        let heartbeat = timeouts.heartbeat.map(|timeout| timeout.as_secs());
        (heartbeat, timeouts.silence.as_secs())
    };
    // It has sent no ping yet.
    assert_eq!(seconds(&connection), (None, 25));
    connection.answer_ping(None);
    assert_eq!(seconds(&connection), (Some(3), 25));
    wait(60).await;
    assert_eq!(
        seconds(&connection),
        (Some(3), 25),
        "it knows no other interval"
    );
    connection.answer_ping(None);
    assert_eq!(seconds(&connection), (Some(20), 25));
    connection.set_visibility(Visibility::Background).unwrap();
    assert_eq!(seconds(&connection), (Some(60), 50));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_transport_notices_a_shorter_interval() {
    let stream = stream();
    let connection = connect(&stream, None).await;
    let _ = announced(&connection);
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
async fn a_pong_has_the_measured_quality() {
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
        "ended connections count"
    );
}

#[tokio::test(start_paused = true)]
async fn the_keep_alive_follows_its_option_and_doubles_while_a_client_sleeps() {
    let options = StreamOptions {
        keepalive: Duration::from_secs(10),
        ..StreamOptions::default()
    };
    let (stream, _) = core_with([], options);
    let connection = stream.connect(client_on(ShardId::CALLER)).await;
    let silence = || {
        connection
            .keep_alive_timeouts(Instant::now())
            .silence
            .as_secs()
    };
    assert_eq!(silence(), 10);
    connection.set_visibility(Visibility::Background).unwrap();
    assert_eq!(silence(), 20);
    connection.set_visibility(Visibility::Active).unwrap();
    assert_eq!(silence(), 10);
    // Five minutes without any activity.
    wait(300).await;
    assert_eq!(silence(), 20);
}
