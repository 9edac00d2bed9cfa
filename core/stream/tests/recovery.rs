//! Recovery against a model: in any order of actions, a client gets every publication once and
//! in order, or a `gap`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use proptest::prelude::*;
use tidewire_proto::v1::{
    self, ChannelSubscription, SubscribeRequest, UnsubscribeRequest, Visibility,
    server_message::Data,
};
use tidewire_stream::{
    AnonymousPolicy, Authenticator, Connection, Identity, ManualClock, Namespace, Namespaces,
    OutgoingMessage, PublishRight, ShardId, StreamCore, StreamOptions,
};

use support::{client_on, core_with, open_history};

const HISTORY: usize = 40;
const CHANNEL: &str = "orders:1";

fn stream(outbox_bytes: usize) -> Arc<StreamCore> {
    let orders = Namespace {
        history_size: HISTORY,
        ..open_history("orders")
    };
    let options = StreamOptions {
        outbox_bytes,
        ..StreamOptions::default()
    };
    core_with([orders], options).0
}

async fn connect(stream: &Arc<StreamCore>) -> Connection {
    stream.connect(client_on(ShardId::CALLER)).await
}

/// A client, and the guarantees that it was given.
struct Client {
    connection: Connection,
    /// Sequence number of its last publication, or of its last `gap`.
    seq: u64,
    epoch: String,
    /// Sequence number up to which the last `subscribed` promised publications.
    promised: u64,
    is_subscribed: bool,
}

impl Client {
    async fn subscribe(
        stream: &Arc<StreamCore>,
        connection: Connection,
        since: Option<(String, u64)>,
    ) -> Self {
        let position = since
            .clone()
            .map(|(epoch, seq)| v1::Position { epoch, seq });
        let channels = vec![ChannelSubscription {
            channel: CHANNEL.into(),
            since: position,
            min_interval_ms: None,
        }];
        let result = connection
            .begin_command()
            .subscribe(SubscribeRequest { channels })
            .await
            .unwrap()
            .channels
            .remove(0);
        assert!(result.error.is_none());
        let missed = since.map(|(_, seq)| result.seq - seq);
        // Recovered if and only if the history reaches back.
        assert_eq!(
            result.recovered,
            missed.is_some_and(|missed| missed <= HISTORY as u64)
        );
        let start = if result.recovered {
            result.seq - missed.unwrap()
        } else {
            result.seq
        };
        let _ = stream;
        Self {
            connection,
            seq: start,
            epoch: result.epoch,
            promised: result.seq,
            is_subscribed: true,
        }
    }

    /// Reads once, up to about `budget` bytes. False if there was nothing.
    fn read(&mut self, budget: usize) -> bool {
        let mut out = Vec::new();
        // The memory broker never waits: all existing publications come at once.
        let Some(taken) = self.connection.next(budget, &mut out).now_or_never() else {
            return false;
        };
        taken.unwrap();
        for message in out {
            match message {
                OutgoingMessage::Publication(publication) => {
                    assert!(self.is_subscribed, "nothing is sent after unsubscribing");
                    assert_eq!(publication.seq(), self.seq + 1, "each once, in order");
                    self.seq = publication.seq();
                }
                OutgoingMessage::Direct(message) => {
                    if let Some(Data::Gap(gap)) = &message.to_message().data {
                        assert!(gap.seq > self.seq, "a gap goes forward");
                        self.seq = gap.seq;
                    }
                }
                OutgoingMessage::PriceBatch(_) => unreachable!("there are no prices"),
            }
        }
        true
    }
}

#[derive(Debug, Clone)]
enum Action {
    Publish(u8),
    Read(usize),
    Reconnect,
    Resubscribe,
    Unsubscribe,
    Show(bool),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (1_u8..30).prop_map(Action::Publish),
        4 => (1_usize..4_000).prop_map(Action::Read),
        1 => Just(Action::Reconnect),
        1 => Just(Action::Resubscribe),
        1 => Just(Action::Unsubscribe),
        1 => any::<bool>().prop_map(Action::Show),
    ]
}

async fn play(actions: Vec<Action>, outbox: usize) {
    let stream = stream(outbox);
    let mut top = 0;
    let mut client = Client::subscribe(&stream, connect(&stream).await, None).await;
    for action in actions {
        match action {
            Action::Publish(count) => {
                for _ in 0..count {
                    top += 1;
                    let data = Bytes::from(format!("{{\"n\":{top}}}"));
                    let (_, at) = stream
                        .publish_as(&Identity::Anonymous, CHANNEL, data, None)
                        .await
                        .unwrap();
                    assert_eq!(at.seq, top);
                }
            }
            Action::Read(budget) => {
                client.read(budget);
            }
            Action::Reconnect => {
                let since = (client.epoch.clone(), client.seq);
                drop(client);
                client = Client::subscribe(&stream, connect(&stream).await, Some(since)).await;
            }
            Action::Resubscribe => {
                let since = (client.epoch.clone(), client.seq);
                client = Client::subscribe(&stream, client.connection, Some(since)).await;
            }
            Action::Unsubscribe => {
                let channels = vec![CHANNEL.to_owned()];
                client
                    .connection
                    .unsubscribe(&UnsubscribeRequest { channels })
                    .unwrap();
                client.is_subscribed = false;
                while client.read(usize::MAX) {}
                assert_eq!(
                    client.connection.queued_bytes(),
                    0,
                    "nothing is left behind"
                );
                let since = (client.epoch.clone(), client.seq);
                client = Client::subscribe(&stream, client.connection, Some(since)).await;
            }
            Action::Show(is_active) => {
                let state = if is_active {
                    Visibility::Active
                } else {
                    Visibility::Background
                };
                client.connection.set_visibility(state).unwrap();
            }
        }
        let one_message = 200;
        assert!(
            client.connection.queued_bytes() <= outbox + one_message,
            "the outbox is bounded"
        );
    }
    // In the end the client has everything, or a gap for it.
    client
        .connection
        .set_visibility(Visibility::Active)
        .unwrap();
    while client.read(usize::MAX) {}
    assert_eq!(client.seq, top);
    assert!(client.seq >= client.promised);
    drop(client);
    assert_eq!(
        stream.hub().channel_count(),
        0,
        "no subscription is left in the hub"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_publication_is_lost_repeated_or_reordered_without_a_gap(
        actions in prop::collection::vec(action(), 1..120),
        outbox in 300_usize..6_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(actions, outbox));
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_subscribing_without_reading_leaves_nothing_queued() {
    let mut namespaces = Namespaces::built_in();
    let ticks = Namespace {
        publish: PublishRight::Public,
        ..Namespace::latest("ticks")
    };
    namespaces.add(ticks).unwrap();
    let clock = ManualClock::at(0);
    let authenticator =
        Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, clock.clone()).unwrap();
    let stream = StreamCore::in_memory(namespaces, authenticator, clock, StreamOptions::default());
    stream
        .publish_as(
            &Identity::Anonymous,
            "ticks:a",
            Bytes::from_static(b"1"),
            None,
        )
        .await
        .unwrap();
    let connection = connect(&stream).await;
    for _ in 0..1_000 {
        let channels = vec![ChannelSubscription {
            channel: "ticks:a".into(),
            ..ChannelSubscription::default()
        }];
        connection
            .begin_command()
            .subscribe(SubscribeRequest { channels })
            .await
            .unwrap();
        connection
            .unsubscribe(&UnsubscribeRequest {
                channels: vec!["ticks:a".into()],
            })
            .unwrap();
    }
    assert_eq!(connection.queued_items(), 0);
}
