//! Fences: an engine that several nodes can run has one that publishes.

use std::sync::Arc;

use tidewire_stream::broker::{Broker as _, Fence};
use tidewire_tests::RedisServer;

use crate::node::{Node, channel};

const LEASE: &str = "test:{prices}:lease";

/// Begins a term.
async fn begin(redis: &RedisServer, term: &str) -> Arc<Fence> {
    redis.command(&["HSET", LEASE, "term", term]).await;
    Arc::new(Fence {
        lease: LEASE.to_owned(),
        term: term.to_owned(),
    })
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
