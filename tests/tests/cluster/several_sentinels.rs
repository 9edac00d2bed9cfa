//! The broker with several sentinels that name different masters.

use tidewire_stream::broker::memory::MemoryLimits;
use tidewire_tests::{RedisSentinel, RedisServer, eventually};

use crate::{
    node::{Delivered, Node, channel},
    sentinel::Watched,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_of_another_redis_leads_no_node_astray() {
    let redis = Watched::start().await;
    let second = redis.another_sentinel().await;
    let foreign = RedisServer::start().await;
    let stray = RedisSentinel::start(&foreign).await;
    let name = channel("orders:1");
    let options = redis.options_with(&[&stray, &redis.sentinel, &second]);
    let node = Node::with(options, MemoryLimits::default()).await.unwrap();
    let start = node.subscribe(&name).await;
    node.publish(&name, "1").await;
    redis.replicated(1).await;
    // The two have another master, and the third one is alone with what it names.
    redis.fail_over().await;
    redis.followed().await;
    eventually("the second sentinel has heard of it", async || {
        (second.master().await == redis.replica.port()).then_some(())
    })
    .await;
    let next = eventually("a publication on the new master", async || {
        node.try_publish(&name, "2", Some("two")).await.ok()
    })
    .await;
    assert_eq!((&next.epoch, next.seq), (&start.epoch, 2));
    // Only the stray one answers, and all connections are opened again.
    redis.sentinel.pause();
    second.pause();
    // For a moment the node goes on with the master that they named last.
    let error = eventually("a refusal", async || {
        let kill = ["CLIENT", "KILL", "TYPE", "normal"];
        redis.replica.command(&kill).await;
        node.try_publish(&name, "3", Some("three")).await.err()
    })
    .await;
    assert!(
        error.message().contains("a master of before a failover"),
        "{error}"
    );
    redis.sentinel.resume();
    second.resume();
    let last = eventually("a publication on the new master", async || {
        node.try_publish(&name, "3", Some("three")).await.ok()
    })
    .await;
    assert_eq!((&last.epoch, last.seq), (&start.epoch, 3));
    let expected = [1, 2, 3].map(|number| (number, number.to_string()));
    assert_eq!(node.delivered(&name, 3).await, expected);
    assert_eq!(foreign.command(&["DBSIZE"]).await, ":0\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_on_a_master_that_was_replaced_is_missed_by_nobody_unawares() {
    let redis = Watched::start().await;
    let late = redis.another_sentinel().await;
    let name = channel("orders:1");
    let reader = redis.node().await;
    let start = reader.subscribe(&name).await;
    let options = redis.options_with(&[&late]);
    let publisher = Node::with(options, MemoryLimits::default()).await.unwrap();
    publisher.publish(&name, "1").await;
    reader.delivered(&name, 1).await;
    redis.replicated(1).await;
    redis.cut_replica().await;
    // The publisher's sentinel misses the failover.
    late.pause();
    redis.fail_over().await;
    redis.followed().await;
    for number in 2..=4 {
        let position = publisher.publish(&name, &number.to_string()).await;
        assert_eq!((&position.epoch, position.seq), (&start.epoch, number));
    }
    // Others have the same positions, and more.
    eventually("the new master", async || {
        reader
            .try_publish(&name, "\"other 2\"", Some("two"))
            .await
            .ok()
    })
    .await;
    for number in 3..=6 {
        reader.publish(&name, &format!("\"other {number}\"")).await;
    }
    reader.delivered(&name, 6).await;
    late.resume();
    eventually("another epoch", async || {
        let last = reader.recorder.on(&name).pop();
        matches!(last, Some(Delivered::Newest(epoch, 0)) if epoch != start.epoch.as_str())
            .then_some(())
    })
    .await;
}
