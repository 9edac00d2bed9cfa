//! Nodes of several releases side by side: they agree on a version of the protocol between nodes.

use tidewire_stream::broker::{
    Broker as _, BrokerLink,
    memory::MemoryLimits,
    redis::{NodeProtocol, RedisOptions},
};
use tidewire_tests::{RedisServer, eventually};

use crate::{
    control::listening_with,
    node::{Node, options},
};

/// A node of another release.
fn release(redis: &RedisServer, oldest: u32, newest: u32) -> RedisOptions {
    RedisOptions {
        protocol: NodeProtocol { oldest, newest },
        ..options(redis)
    }
}

fn link(node: &Node) -> BrokerLink {
    node.broker.link().unwrap()
}

async fn agreed(node: &Node, version: u32) {
    eventually(format!("version {version} is agreed on"), async || {
        (link(node).node_protocol == Some(version)).then_some(())
    })
    .await;
}

async fn refusal(options: RedisOptions) -> String {
    match Node::with(options, MemoryLimits::default()).await {
        Ok(_) => panic!("the node starts"),
        Err(error) => error.to_string(),
    }
}

/// Has Redis list a node that is none of ours, with these versions.
async fn list(redis: &RedisServer, node: &str, versions: Option<&str>) {
    let now = redis.command(&["TIME"]).await;
    let now: u64 = now.lines().nth(2).unwrap().parse().unwrap();
    let end = ((now + 4) * 1_000).to_string();
    redis
        .command(&["ZADD", "test:{control}:nodes", &end, node])
        .await;
    if let Some(versions) = versions {
        redis
            .command(&["HSET", "test:{control}:spoken", node, versions])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_version_of_all_is_agreed_on_once_the_older_nodes_are_gone() {
    let redis = RedisServer::start().await;
    let (new, _of_new) = listening_with(release(&redis, 1, 3)).await;
    agreed(&new, 3).await;
    let (old, _of_old) = listening_with(release(&redis, 1, 2)).await;
    agreed(&old, 2).await;
    agreed(&new, 2).await;
    old.broker.flush().await.unwrap();
    agreed(&new, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_start_beside_one_without_a_common_version() {
    let redis = RedisServer::start().await;
    let (old, _of_old) = listening_with(release(&redis, 1, 2)).await;
    agreed(&old, 2).await;
    let error = refusal(release(&redis, 3, 4)).await;
    let expected = "speaks versions 1 to 2 of the protocol between nodes, and this one versions 3 to 4: upgrade that node first";
    assert!(error.contains(expected), "{error}");
    // The refused one left nothing behind, and the one in between makes the step.
    let (between, _of_between) = listening_with(release(&redis, 2, 3)).await;
    agreed(&between, 2).await;
    old.broker.flush().await.unwrap();
    agreed(&between, 3).await;
    let (new, _of_new) = listening_with(release(&redis, 3, 4)).await;
    agreed(&new, 3).await;
    let error = refusal(release(&redis, 1, 1)).await;
    assert!(error.ends_with("upgrade this node"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_names_no_version_speaks_the_first() {
    let redis = RedisServer::start().await;
    list(&redis, "0badcafe", None).await;
    let error = refusal(release(&redis, 2, 3)).await;
    assert!(
        error.contains("node 0badcafe (Tidewire 0.1.0) speaks version 1"),
        "{error}"
    );
    list(&redis, "0badcafe", None).await;
    let (new, _of_new) = listening_with(release(&redis, 1, 3)).await;
    agreed(&new, 1).await;
    // Its lease ends by itself.
    agreed(&new, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_says_that_the_others_have_gone_on_without_it() {
    let redis = RedisServer::start().await;
    let (old, _of_old) = listening_with(release(&redis, 1, 1)).await;
    agreed(&old, 1).await;
    let nodes = "test:{control}:nodes";
    redis
        .command(&["DEL", nodes, "test:{control}:spoken"])
        .await;
    let fault = eventually("a fault", async || {
        list(&redis, "0badcafe", Some("2 3 0.9.0")).await;
        link(&old).fault
    })
    .await;
    assert!(fault.contains("0badcafe (Tidewire 0.9.0)"), "{fault}");
    assert!(!link(&old).is_available);
    redis.command(&["DEL", nodes]).await;
    eventually("no fault", async || {
        link(&old).fault.is_none().then_some(())
    })
    .await;
    assert!(link(&old).is_available);
    // What was written about a node that is gone is removed.
    let spoken = redis.command(&["HKEYS", "test:{control}:spoken"]).await;
    assert!(!spoken.contains("0badcafe"), "{spoken}");
}
