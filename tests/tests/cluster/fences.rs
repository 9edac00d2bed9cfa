//! Fences: an engine that several nodes can run has one that publishes.

use std::sync::Arc;

use bytes::Bytes;
use tidewire_stream::{
    ChannelName, Event, Urgency,
    broker::{Broker as _, Fence},
};
use tidewire_tests::RedisServer;

use crate::node::{Node, channel};

const LEASE: &str = "test:{prices}:lease";

/// The lease of the shared store.
const STORE: &str = "test:{store}:lease";

/// Begins a term of the price engine.
async fn begin(redis: &RedisServer, term: &str) -> Arc<Fence> {
    begin_of(redis, LEASE, term).await
}

async fn begin_of(redis: &RedisServer, lease: &str, term: &str) -> Arc<Fence> {
    redis.command(&["HSET", lease, "term", term]).await;
    Arc::new(Fence {
        lease: lease.to_owned(),
        term: term.to_owned(),
    })
}

/// Pushes to a user, as the hub and the alert engine do.
fn push(node: &Node, user: &ChannelName, text: &'static str, fence: &Arc<Fence>) {
    let event = Event::Message(Bytes::from_static(text.as_bytes()));
    let broker = &node.broker;
    broker.offer_if_known(user, event.into(), Urgency::Ordinary, Some(fence));
}

#[tokio::test]
async fn the_script_refuses_the_owner_of_an_earlier_term() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let prices = channel("prices:BTC-USD");
    for node in [&a, &b] {
        node.subscribe(&prices).await;
    }
    let first = begin(&redis, "1-aaaa").await;
    a.offer(&prices, "1", &first);
    a.offer(&prices, "2", &first);
    b.delivered(&prices, 2).await;
    let second = begin(&redis, "2-bbbb").await;
    // The first owner does not know yet.
    a.offer(&prices, "late", &first);
    a.broker.flush().await.unwrap();
    b.offer(&prices, "3", &second);
    b.broker.flush().await.unwrap();
    // Nor may what waited under the earlier term go out under a later one of the same node.
    let third = begin(&redis, "3-aaaa").await;
    a.offer(&prices, "later", &second);
    a.offer(&prices, "4", &third);
    let expected = [(1, "1"), (2, "2"), (3, "3"), (4, "4")];
    let expected = expected.map(|(seq, text)| (seq, text.to_owned()));
    for node in [&a, &b] {
        assert_eq!(node.delivered(&prices, 4).await, expected);
    }
    let newest = b.history(&prices, None).await;
    assert_eq!(newest.top.seq, 4);
}

#[tokio::test]
async fn the_next_owner_repeats_under_the_same_key_and_nothing_is_there_twice() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let prices = channel("prices:BTC-USD");
    b.subscribe(&prices).await;
    let first = begin(&redis, "1-aaaa").await;
    a.offer_once(&prices, "1", "k1", &first).await.unwrap();
    let second = begin(&redis, "2-bbbb").await;
    let refused = a.offer_once(&prices, "2", "k2", &first).await.unwrap_err();
    assert!(
        refused.message().contains("another node owns the engine"),
        "{refused:?}"
    );
    // One that was published, and one that was refused.
    b.offer_once(&prices, "1", "k1", &second).await.unwrap();
    b.offer_once(&prices, "2", "k2", &second).await.unwrap();
    b.offer_once(&prices, "2", "k2", &second).await.unwrap();
    let expected = [(1, "1"), (2, "2")].map(|(seq, text)| (seq, text.to_owned()));
    assert_eq!(b.delivered(&prices, 2).await, expected);
    assert_eq!(b.history(&prices, None).await.top.seq, 2);
}

#[tokio::test]
async fn channels_of_an_engine_that_each_node_runs_stay_on_their_node() {
    let redis = RedisServer::start().await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let blocks = channel("blocks:1");
    for node in [&a, &b] {
        node.subscribe(&blocks).await;
    }
    let fence = begin(&redis, "1-aaaa").await;
    a.offer(&blocks, "1", &fence);
    assert_eq!(a.delivered(&blocks, 1).await, [(1, "1".to_owned())]);
    assert!(b.recorder.publications(&blocks).is_empty());
    let keys = redis.command(&["KEYS", "test:*:meta:*"]).await;
    assert!(!keys.contains("blocks"), "{keys}");
}

#[tokio::test]
async fn the_script_refuses_the_pushes_of_an_earlier_owner_of_the_store() {
    let redis = RedisServer::start().await;
    let first = begin_of(&redis, STORE, "1-aaaa").await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let user = channel("user:u1");
    for node in [&a, &b] {
        node.subscribe(&user).await;
    }
    push(&a, &user, "1", &first);
    a.broker.flush().await.unwrap();
    let second = begin_of(&redis, STORE, "2-bbbb").await;
    // The first owner does not know yet, and what it pushed waits in its queue.
    push(&a, &user, "late", &first);
    a.broker.flush().await.unwrap();
    push(&b, &user, "2", &second);
    // A user who was never connected has no channel, and a push makes none.
    push(&b, &channel("user:u2"), "3", &second);
    b.broker.flush().await.unwrap();
    let expected = [(1, "1"), (2, "2")].map(|(seq, text)| (seq, text.to_owned()));
    for node in [&a, &b] {
        assert_eq!(node.delivered(&user, 2).await, expected);
    }
    let keys = redis.command(&["KEYS", "test:*:meta:user:u2"]).await;
    assert_eq!(keys, "*0\r\n");
}

#[tokio::test]
async fn a_term_of_the_store_begins_one_epoch_of_a_user_of_several_nodes() {
    let redis = RedisServer::start().await;
    begin_of(&redis, STORE, "1-aaaa").await;
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let user = channel("user:u1");
    let epoch = a.subscribe(&user).await.epoch;
    assert_eq!(b.subscribe(&user).await.epoch, epoch);
    let mut known = vec![epoch];
    for term in ["2-bbbb", "3-aaaa"] {
        begin_of(&redis, STORE, term).await;
        let mut begun = Vec::new();
        for node in [&a, &b, &a] {
            node.broker.start_epoch_of_term(&user).await.unwrap();
            begun.push(node.history(&user, None).await.top.epoch);
        }
        assert!(begun.iter().all(|one| *one == begun[0]), "{begun:?}");
        assert!(!known.contains(&begun[0]));
        known.push(begun[0].clone());
    }
}
