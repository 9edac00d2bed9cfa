//! Support of the streaming core's tests: a core alone, with a clock that stands still, and the
//! connection info of a client.
#![allow(dead_code, reason = "each test program uses what it needs")]

use std::sync::Arc;

use tidewire_proto::v1::{ChannelSubscription, SubscribeRequest};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, ConnectionInfo, Encoding, Identity, ManualClock, Namespace,
    Namespaces, PublishRight, ShardId, StreamCore, StreamOptions, Transport,
};

/// Time of the clock, in milliseconds since the Unix epoch.
pub(crate) const START_MS: i64 = 1_000_000;

/// A core with these namespaces besides the built-in ones, and its clock.
pub(crate) fn core_with(
    namespaces: impl IntoIterator<Item = Namespace>,
    options: StreamOptions,
) -> (Arc<StreamCore>, Arc<ManualClock>) {
    let clock = ManualClock::at(START_MS);
    let mut all = Namespaces::built_in();
    for namespace in namespaces {
        all.add(namespace).unwrap();
    }
    let authenticator =
        Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, clock.clone()).unwrap();
    let stream = StreamCore::in_memory(all, authenticator, clock.clone(), options);
    (stream, clock)
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
