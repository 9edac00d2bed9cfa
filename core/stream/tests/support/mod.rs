//! Support of the streaming core's tests: a core alone, with a clock that stands still, clients of
//! it, and shards that run in paused time.
#![allow(dead_code, reason = "each test program uses what it needs")]

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use tidewire_proto::v1::{ChannelSubscription, SubscribeRequest};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, Connection, ConnectionInfo, Encoding, Identity, ManualClock,
    Namespace, Namespaces, OutgoingMessage, PublishRight, ShardId, SharedClock, StreamCore,
    StreamOptions, Transport,
};
use tokio::task::JoinHandle;

/// Time of the clock, in milliseconds since the Unix epoch.
pub(crate) const START_MS: i64 = 1_000_000;

/// Longest pause of a shard between two ticks.
const MAX_PAUSE: Duration = Duration::from_millis(15);

/// A core with these namespaces besides the built-in ones, and its clock.
pub(crate) fn core_with(
    namespaces: impl IntoIterator<Item = Namespace>,
    options: StreamOptions,
) -> (Arc<StreamCore>, Arc<ManualClock>) {
    let clock = ManualClock::at(START_MS);
    (core_of(namespaces, options, clock.clone()), clock)
}

/// A core with these namespaces and this clock.
pub(crate) fn core_of(
    namespaces: impl IntoIterator<Item = Namespace>,
    options: StreamOptions,
    clock: SharedClock,
) -> Arc<StreamCore> {
    let mut all = Namespaces::built_in();
    for namespace in namespaces {
        all.add(namespace).unwrap();
    }
    let authenticator =
        Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, clock.clone()).unwrap();
    StreamCore::in_memory(all, authenticator, clock, options)
}

/// A history namespace that everyone may publish on.
pub(crate) fn open_history(name: &str) -> Namespace {
    Namespace {
        publish: PublishRight::Public,
        ..Namespace::history(name)
    }
}

/// An anonymous client with JSON encoding.
pub(crate) fn client_on(shard: ShardId) -> ConnectionInfo {
    ConnectionInfo {
        caller: Identity::Anonymous.into(),
        transport: Transport::new("test"),
        post_key: None,
        encoding: Encoding::Json,
        heartbeat: None,
        quota: None,
        shard,
    }
}

/// A request to subscribe to one channel.
pub(crate) fn subscription(channel: &str) -> SubscribeRequest {
    SubscribeRequest {
        channels: vec![ChannelSubscription {
            channel: channel.to_owned(),
            ..ChannelSubscription::default()
        }],
    }
}

/// All messages of a connection that are due now.
pub(crate) fn take(connection: &Connection) -> Vec<OutgoingMessage> {
    let mut all = Vec::new();
    while let Some(Ok(())) = connection.next(usize::MAX, &mut all).now_or_never() {}
    all
}

/// Runs a shard until its task is aborted.
pub(crate) fn run_shard(stream: &StreamCore, shard: ShardId) -> JoinHandle<()> {
    let shard = stream.hub().shard(shard).clone();
    tokio::spawn(async move { shard.run(MAX_PAUSE).await })
}

/// Lets the running shards finish their ticks. In paused time, in which every timer of a shard
/// that is due before the end of this one fires first.
pub(crate) async fn run_ticks() {
    tokio::time::sleep(2 * MAX_PAUSE).await;
}
