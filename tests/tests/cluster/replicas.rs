//! The broker over a master that takes writes only while it has a replica (`min-replicas-to-write`).

use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{PageLimit, Position, broker::Broker as _};
use tidewire_tests::{RedisServer, eventually};

use crate::node::{Node, channel};

/// A master that needs one replica, which may lag by three seconds, and that replica.
async fn start() -> (RedisServer, RedisServer) {
    let needs = "--min-replicas-to-write 1 --min-replicas-max-lag 3 --repl-diskless-sync-delay 0";
    let needs: Vec<_> = needs.split(' ').collect();
    let master = RedisServer::start_with(&needs).await;
    let port = master.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    has_replicas(&master, 1).await;
    (master, replica)
}

/// Waits until the master counts this many replicas that do not lag.
async fn has_replicas(master: &RedisServer, count: usize) {
    let expected = format!("min_slaves_good_slaves:{count}\r\n");
    eventually(format!("{count} replicas"), async || {
        let info = master.command(&["INFO", "replication"]).await;
        info.contains(&expected).then_some(())
    })
    .await;
}

/// The refusal of a publication, which names the setting.
async fn refused(node: &Node) {
    let name = channel("orders:1");
    let error = node.try_publish(&name, "\"refused\"", None);
    let error = error.await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    let expected = ["nothing was published", "min-replicas-to-write"];
    assert!(
        expected.iter().all(|part| error.message().contains(part)),
        "{error}"
    );
    let named = async || {
        node.fault()
            .filter(|fault| fault.contains("min-replicas-to-write"))
    };
    eventually("the fault", named).await;
}

async fn works(node: &Node) {
    eventually("no fault", async || node.fault().is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_a_replica_takes_nothing_and_is_read() {
    let (master, mut replica) = start().await;
    let name = channel("orders:1");
    let node = Node::start(&master).await;
    let start = node.subscribe(&name).await;
    for number in 1..=3 {
        node.publish(&name, &number.to_string()).await;
    }
    replica.kill();
    has_replicas(&master, 0).await;
    refused(&node).await;
    // Those who come now read what was published.
    let late = Node::start(&master).await;
    let newest = Position {
        seq: 3,
        ..start.clone()
    };
    assert_eq!(late.subscribe(&name).await, newest);
    let read = late.history(&name, Some(&start)).await;
    assert_eq!((read.top, read.publications.len()), (newest, 3));
    refused(&late).await;
    replica.restart().await;
    has_replicas(&master, 1).await;
    works(&late).await;
    assert_eq!(late.publish(&name, "4").await.seq, 4);
    let expected = [1, 2, 3, 4].map(|number| (number, number.to_string()));
    assert_eq!(node.delivered(&name, 4).await, expected);
    assert_eq!(late.delivered(&name, 1).await, expected[3..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lags_counts_as_none() {
    let (master, replica) = start().await;
    let name = channel("orders:1");
    let node = Node::start(&master).await;
    node.subscribe(&name).await;
    node.publish(&name, "1").await;
    replica.pause();
    has_replicas(&master, 0).await;
    refused(&node).await;
    replica.resume();
    has_replicas(&master, 1).await;
    works(&node).await;
    assert_eq!(node.publish(&name, "2").await.seq, 2);
}

/// A write that a lost connection left is refused by the server that comes back. Nobody publishes any
/// more: a load balancer asks whether the node is ready.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_after_its_last_write_was_refused() {
    let mut redis = RedisServer::start().await;
    let node = Node::start(&redis).await;
    let name = channel("orders:1");
    node.publish(&name, "1").await;
    redis.pause();
    let (outcome, ()) = tokio::join!(node.try_publish(&name, "\"left\"", None), async {
        eventually("a write under way", async || {
            let link = node.broker.link()?;
            (link.waiting_bytes > 0).then_some(())
        })
        .await;
        redis.kill();
        redis.restart_with(&["--min-replicas-to-write", "1"]).await;
    });
    outcome.unwrap_err();
    let named = async || {
        node.fault()
            .filter(|fault| fault.contains("min-replicas-to-write"))
    };
    eventually("the fault", named).await;
    redis
        .command(&["CONFIG", "SET", "min-replicas-to-write", "0"])
        .await;
    works(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_save_is_read() {
    let redis = RedisServer::start().await;
    let name = channel("orders:1");
    let node = Node::start(&redis).await;
    let start = node.subscribe(&name).await;
    node.publish(&name, "1").await;
    // No snapshot can be written: a folder is in its place.
    std::fs::create_dir(redis.folder().join("dump.rdb")).unwrap();
    redis
        .command(&["CONFIG", "SET", "save", "3600 1000000"])
        .await;
    redis.command(&["BGSAVE"]).await;
    eventually("a failed snapshot", async || {
        node.try_publish(&name, "\"perhaps\"", None).await.err()
    })
    .await;
    let late = Node::start(&redis).await;
    assert!(late.subscribe(&name).await.seq >= 1);
    let read = late.broker.history(&name, Some(&start), PageLimit::ALL);
    assert!(!read.await.unwrap().publications.is_empty());
    let named = async || late.fault().filter(|fault| fault.contains("MISCONF"));
    eventually("the fault", named).await;
}
