//! The comparison of all channels with Redis from time to time, which finds what nothing else announces.

use std::time::Duration;

use tidewire_stream::broker::memory::MemoryLimits;
use tidewire_tests::{RedisServer, eventually};

use crate::node::{Delivered, Node, channel, lose_message, options};

/// A node that compares its channels all the time.
async fn node(redis: &RedisServer) -> Node {
    let mut options = options(redis);
    options.comparison = Duration::from_millis(50);
    Node::with(options, MemoryLimits::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_pub_sub_lost_on_a_quiet_channel_is_delivered() {
    let redis = RedisServer::start().await;
    let node = node(&redis).await;
    let name = channel("orders:1");
    node.subscribe(&name).await;
    node.publish(&name, "1").await;
    node.delivered(&name, 1).await;
    lose_message(&redis, 2).await;
    let expected = [(1, "1".to_owned()), (2, "1".to_owned())];
    assert_eq!(node.delivered(&name, 2).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_emptied_is_found_on_a_quiet_channel() {
    let redis = RedisServer::start().await;
    let node = node(&redis).await;
    let name = channel("orders:1");
    let before = node.subscribe(&name).await;
    node.publish(&name, "1").await;
    node.delivered(&name, 1).await;
    redis.command(&["FLUSHALL"]).await;
    eventually("another epoch", async || {
        let last = node.recorder.on(&name).pop();
        matches!(last, Some(Delivered::Newest(epoch, 0)) if epoch != before.epoch.as_str())
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_eviction_policy_is_found() {
    let redis = RedisServer::start().await;
    let node = node(&redis).await;
    let set = async |policy| {
        let command = ["CONFIG", "SET", "maxmemory-policy", policy];
        assert_eq!(redis.command(&command).await, "+OK\r\n");
    };
    set("allkeys-lru").await;
    let named = async || node.fault().filter(|fault| fault.contains("noeviction"));
    eventually("the fault", named).await;
    set("noeviction").await;
    eventually("no fault", async || node.fault().is_none().then_some(())).await;
}
