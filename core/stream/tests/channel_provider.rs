//! Channel providers: which requests activate a channel, and in which order.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidewire_proto::v1::{
    ChannelClass, ChannelSubscription, ErrorCode, Position as WirePosition, SubscribeRequest,
    SubscriptionResult, UnsubscribeRequest,
};
use tidewire_stream::{
    Access, Caller, ChannelEpoch, ChannelName, ChannelProvider, Connection, Epoch, Identity,
    Namespace, PageLimit, ShardId, StreamCore, StreamError, StreamOptions, Target, UserId,
};

use support::{client_on, core_with, open_history};

/// Records its calls. A channel that was activated has the epoch of its activation.
#[derive(Default)]
struct RecordingProvider {
    calls: Mutex<Vec<String>>,
}

impl RecordingProvider {
    fn note(&self, call: &str, rest: &str) {
        self.calls.lock().unwrap().push(format!("{call} {rest}"));
    }

    /// The calls so far. Forgets them.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn take_activations(&self) -> usize {
        let calls = self.take();
        let activations = calls.iter().filter(|call| call.starts_with("activate"));
        activations.count()
    }
}

impl ChannelProvider for RecordingProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        self.note("validate", rest);
        match rest.starts_with("unknown") {
            true => Err(StreamError::new(ErrorCode::NotFound, "no such channel")),
            false => Ok(()),
        }
    }

    fn activate(&self, rest: &str, _caller: &Caller) -> Result<(), StreamError> {
        self.note("activate", rest);
        match rest.starts_with("full") {
            true => Err(StreamError::new(ErrorCode::ResourceExhausted, "no room")),
            false => Ok(()),
        }
    }

    fn epoch(&self, rest: &str) -> ChannelEpoch {
        self.note("epoch", rest);
        let calls = self.calls.lock().unwrap();
        match calls.contains(&format!("activate {rest}")) {
            true => ChannelEpoch::Active(Epoch::new("engine")),
            false => ChannelEpoch::Inactive,
        }
    }

    fn owns(&self, user: &UserId, rest: &str) -> bool {
        self.note("owns", rest);
        user.as_str() == rest
    }
}

/// A core with the namespaces `made`, which everyone may read and publish to, and `owned`,
/// whose channels have no owner here.
fn core() -> (Arc<StreamCore>, Arc<RecordingProvider>) {
    let owned = Namespace {
        access: Access::Owner,
        ..open_history("owned")
    };
    let options = StreamOptions {
        channels_per_connection: 2,
        ..StreamOptions::default()
    };
    let (stream, _clock) = core_with([open_history("made"), owned], options);
    let provider = Arc::new(RecordingProvider::default());
    for namespace in ["made", "owned"] {
        stream
            .register_provider(namespace, provider.clone())
            .unwrap();
    }
    (stream, provider)
}

async fn connect(stream: &Arc<StreamCore>) -> Connection {
    stream.connect(client_on(ShardId::CALLER)).await
}

async fn subscribe(connection: &Connection, wanted: ChannelSubscription) -> SubscriptionResult {
    let channels = vec![wanted];
    let subscribed = connection
        .begin_command()
        .subscribe(SubscribeRequest { channels })
        .await;
    subscribed.unwrap().channels.remove(0)
}

fn wanted(name: &str) -> ChannelSubscription {
    ChannelSubscription {
        channel: name.to_owned(),
        ..ChannelSubscription::default()
    }
}

#[tokio::test]
async fn subscribing_activates_before_the_position_is_read() {
    let (stream, provider) = core();
    let connection = connect(&stream).await;
    let result = subscribe(&connection, wanted("made:1")).await;
    assert_eq!(result.error, None);
    assert_eq!((result.epoch.as_str(), result.seq), ("engine", 0));
    assert_eq!(provider.take(), ["validate 1", "activate 1", "epoch 1"]);
}

#[tokio::test]
async fn subscribing_by_an_operator_activates() {
    let (stream, provider) = core();
    let connection = connect(&stream).await;
    let target = Target::Connection(connection.id().as_str());
    // An operator needs no permission of the client.
    for name in ["made:1", "owned:1"] {
        let subscribed = stream.subscribe_target(target, name).await;
        assert_eq!(subscribed.unwrap(), 1);
        assert_eq!(provider.take_activations(), 1, "{name}");
    }
}

#[tokio::test]
async fn publishing_activates_nothing() {
    let (stream, provider) = core();
    let data = Bytes::from_static(b"{}");
    let publish =
        |name: &'static str| stream.publish_as(&Identity::Anonymous, name, data.clone(), None);
    publish("made:1").await.unwrap();
    publish("made:unknown").await.unwrap_err();
    assert_eq!(provider.take_activations(), 0);
}

#[tokio::test]
async fn reading_a_history_activates_nothing() {
    let (stream, provider) = core();
    for name in ["made:1", "made:unknown", "owned:1"] {
        let _ = stream
            .history_as(&Identity::Anonymous, name, None, PageLimit::ALL)
            .await;
    }
    assert_eq!(provider.take_activations(), 0);
}

#[tokio::test]
async fn reading_presence_activates_nothing() {
    let (stream, provider) = core();
    for name in ["made:1", "made:unknown", "owned:1"] {
        let _ = stream.presence_as(&Identity::Anonymous, name).await;
    }
    assert_eq!(provider.take_activations(), 0);
}

#[tokio::test]
async fn unsubscribing_activates_nothing() {
    let (stream, provider) = core();
    let connection = connect(&stream).await;
    subscribe(&connection, wanted("made:1")).await;
    provider.take();
    // One that is subscribed, one that is not, one that its engine does not know.
    let channels = ["made:1", "made:2", "made:unknown"].map(str::to_owned);
    let request = UnsubscribeRequest {
        channels: channels.to_vec(),
    };
    assert_eq!(connection.unsubscribe(&request).unwrap().channels, channels);
    let target = Target::Connection(connection.id().as_str());
    assert_eq!(stream.unsubscribe_target(target, "made:3").unwrap(), 0);
    assert_eq!(provider.take_activations(), 0);
}

#[tokio::test]
async fn a_refused_subscription_activates_nothing() {
    let (stream, provider) = core();
    let connection = connect(&stream).await;
    let limited = ChannelSubscription {
        min_interval_ms: Some(10),
        ..wanted("made:1")
    };
    for refused in [wanted("owned:1"), wanted("made:unknown"), limited] {
        let result = subscribe(&connection, refused).await;
        assert!(result.error.is_some(), "{result:?}");
        assert_eq!((result.class, result.batched), (None, None));
    }
    assert_eq!(provider.take_activations(), 0);
    // As many channels as a connection may have.
    for name in ["made:1", "made:2"] {
        assert_eq!(subscribe(&connection, wanted(name)).await.error, None);
    }
    provider.take();
    let result = subscribe(&connection, wanted("made:3")).await;
    assert_eq!(result.error.unwrap().code(), ErrorCode::ResourceExhausted);
    assert_eq!(provider.take_activations(), 0);
}

#[tokio::test]
async fn a_failed_activation_refuses_the_subscription() {
    let (stream, provider) = core();
    let connection = connect(&stream).await;
    let result = subscribe(&connection, wanted("made:full")).await;
    assert_eq!(result.error.unwrap().code(), ErrorCode::ResourceExhausted);
    assert_eq!(provider.take_activations(), 1);
    let channel = ChannelName::parse("made:full").unwrap();
    assert_eq!(stream.hub().subscriber_count(&channel), 0);
}

#[tokio::test]
async fn a_position_from_the_history_of_an_inactive_channel_is_not_recovered() {
    let (stream, _provider) = core();
    let read = stream.history_as(&Identity::Anonymous, "made:1", None, PageLimit::ALL);
    let (_, history) = read.await.unwrap();
    assert_eq!((history.top.seq, history.publications.len()), (0, 0));
    let since = WirePosition {
        epoch: history.top.epoch.as_str().to_owned(),
        seq: 0,
    };
    let connection = connect(&stream).await;
    let recovered = ChannelSubscription {
        since: Some(since),
        ..wanted("made:1")
    };
    let result = subscribe(&connection, recovered).await;
    // Events before the activation are unknown, and the reply reports this.
    assert!(!result.recovered);
    assert_eq!(result.epoch, "engine");
}

#[tokio::test]
async fn a_subscription_tells_the_class_and_the_batching_of_its_channel() {
    let (stream, _provider) = core();
    for (name, class, batched) in [
        ("made:1", ChannelClass::History, false),
        ("prices:BTC-USD", ChannelClass::Latest, true),
        ("market:overview", ChannelClass::Latest, false),
    ] {
        let result = subscribe(&connect(&stream).await, wanted(name)).await;
        assert_eq!((result.class(), result.batched), (class, Some(batched)));
    }
}
