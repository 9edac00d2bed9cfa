//! A server of a Redis Cluster that hangs does not stop the work of the others.

use std::{sync::Arc, time::Duration};

use tidewire_stream::{
    ChannelName,
    broker::{memory::MemoryLimits, redis::RedisOptions},
};
use tidewire_tests::{RedisCluster, eventually};
use tokio::task::JoinSet;

use crate::{
    node::{Node, channel},
    redis_cluster::{MASTERS, cluster_options, node, slot_of, without_gap},
};

/// Channels whose names and metadata a master has.
async fn channels_of(cluster: &RedisCluster, master: usize) -> Vec<ChannelName> {
    let keys = cluster.servers[master].command(&["KEYS", "*:meta:*"]).await;
    let names = keys.lines().filter_map(|line| line.split_once(":meta:"));
    names.map(|(_, name)| channel(name)).collect()
}

/// Publishes on many channels at once.
async fn publish_on(node: &Arc<Node>, count: usize) {
    let mut publishing = JoinSet::new();
    for number in 0..count {
        let node = node.clone();
        publishing.spawn(async move {
            node.publish(&channel(&format!("orders:{number}")), "1")
                .await;
        });
    }
    publishing.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_target_of_a_moving_slot_does_not_stop_the_server_that_hands_it_over() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (Arc::new(node(&cluster).await), node(&cluster).await);
    publish_on(&a, 60).await;
    let (from, to) = (0, 1);
    let mut names = channels_of(&cluster, from).await;
    let name = names.remove(0);
    let slot = slot_of(&cluster, &name).await;
    b.subscribe(&name).await;
    cluster.begin_move(slot, from, to).await;
    cluster.move_keys(slot, from, to, 500).await;
    // Both nodes are connected to the target.
    a.publish(&name, "2").await;
    a.history(&name, None).await;
    cluster.servers[to].pause();
    let waiting = {
        let (a, name) = (a.clone(), name.clone());
        tokio::spawn(async move { a.try_publish(&name, "3", None).await })
    };
    let reading = {
        let (a, name) = (a.clone(), name.clone());
        tokio::spawn(async move { a.history(&name, None).await })
    };
    let mut others = Vec::new();
    for other in names {
        if slot_of_known(&cluster, &other, from).await != slot {
            others.push(other);
        }
    }
    assert!(others.len() > 5);
    for round in 2..12 {
        for other in &others {
            assert_eq!(a.publish(other, "again").await.seq, round);
            assert_eq!(a.history(other, None).await.top.seq, round);
        }
    }
    assert!(!waiting.is_finished() && !reading.is_finished());
    cluster.servers[to].resume();
    assert_eq!(waiting.await.unwrap().unwrap().seq, 3);
    assert!(reading.await.unwrap().top.seq >= 2);
    while cluster.move_keys(slot, from, to, 500).await > 0 {}
    cluster.end_move(slot, to).await;
    a.publish(&name, "4").await;
    let expected = [(2, "2"), (3, "3"), (4, "4")].map(|(seq, text)| (seq, text.to_owned()));
    assert_eq!(b.delivered(&name, 3).await, expected);
    without_gap(&b, &name);
}

/// The slot of a channel that a master has: another one may hang.
async fn slot_of_known(cluster: &RedisCluster, name: &ChannelName, master: usize) -> usize {
    let suffix = format!(":meta:{}", name.as_str());
    let keys = cluster.servers[master].command(&["KEYS", "*:meta:*"]).await;
    let key = keys.lines().find(|key| key.ends_with(&suffix));
    let key = key.unwrap();
    // The first server does not hang.
    cluster.slot(key).await
}

#[tokio::test(flavor = "multi_thread")]
async fn comparisons_with_a_hung_server_leave_room_for_those_with_others() {
    let cluster = RedisCluster::start(MASTERS).await;
    let options = RedisOptions {
        comparison: Duration::from_millis(250),
        ..cluster_options(&cluster)
    };
    let a = Node::with(options, MemoryLimits::default()).await.unwrap();
    let a = Arc::new(a);
    publish_on(&a, 1_200).await;
    let hung = channels_of(&cluster, 1).await;
    assert!(hung.len() > 300);
    let mut joining = JoinSet::new();
    for name in hung {
        let a = a.clone();
        joining.spawn(async move { a.subscribe(&name).await });
    }
    joining.join_all().await;
    cluster.servers[1].pause();
    eventually("comparisons that are not answered", async || {
        a.fault().map(drop)
    })
    .await;
    for other in &channels_of(&cluster, 2).await[..20] {
        a.subscribe(other).await;
        a.publish(other, "2").await;
        assert_eq!(a.delivered(other, 1).await, [(2, "2".to_owned())]);
    }
    cluster.servers[1].resume();
}
