//! The control task of the broker: the revocations of all nodes, and their leases.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidewire_stream::{
    auth::Revocation,
    broker::{Broker as _, ControlHandler, memory::MemoryLimits, redis::RedisOptions},
};
use tidewire_tests::{RedisServer, eventually};

use crate::node::{Node, options};

/// The revocations of a node.
#[derive(Default)]
pub(crate) struct Revocations(Mutex<Vec<(Revocation, i64)>>);

impl Revocations {
    fn has(&self, token: &str) -> bool {
        let all = self.0.lock();
        all.iter()
            .any(|(one, _)| matches!(one, Revocation::Token(known) if known == token))
    }
}

impl ControlHandler for Revocations {
    fn revoke(&self, revocation: &Revocation, expires_at_ms: i64) {
        let one = (revocation.clone(), expires_at_ms);
        let mut all = self.0.lock();
        if !all.contains(&one) {
            all.push(one);
        }
    }

    fn revocations(&self) -> Vec<(Revocation, i64)> {
        self.0.lock().clone()
    }

    fn now_ms(&self) -> i64 {
        0
    }

    fn answer(self: Arc<Self>, question: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> {
        Box::pin(std::future::ready(question))
    }
}

/// A node that listens to the others, and compares its revocations ten times a second.
async fn listening(redis: &RedisServer) -> (Node, Arc<Revocations>) {
    let options = RedisOptions {
        comparison: Duration::from_millis(100),
        ..options(redis)
    };
    listening_with(options).await
}

/// The same with options of its own.
pub(crate) async fn listening_with(options: RedisOptions) -> (Node, Arc<Revocations>) {
    let node = Node::with(options, MemoryLimits::default()).await.unwrap();
    let handler = Arc::new(Revocations::default());
    let weak: Weak<Revocations> = Arc::downgrade(&handler);
    node.broker
        .listen_to_operators(weak)
        .unwrap()
        .await
        .unwrap();
    (node, handler)
}

async fn revoke((node, known): &(Node, Arc<Revocations>), token: &str) {
    let revocation = Revocation::Token(token.to_owned());
    known.revoke(&revocation, i64::MAX);
    let spread = node.broker.spread(&revocation, i64::MAX).unwrap();
    spread.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_gets_all_revocations_back_also_after_one_more() {
    let redis = RedisServer::start().await;
    let (a, b) = (listening(&redis).await, listening(&redis).await);
    revoke(&a, "x").await;
    let told = eventually("the other node hears of it", async || {
        b.1.has("x").then_some(())
    });
    told.await;
    // Both have compared their revocations since.
    let scans = async || {
        let stats = redis.command(&["INFO", "commandstats"]).await;
        let (_, rest) = stats.split_once("cmdstat_hscan:calls=")?;
        rest.split(',').next()?.parse::<u32>().ok()
    };
    let known = eventually("the comparisons", async || {
        scans().await.filter(|n| *n >= 4)
    });
    known.await;
    redis.command(&["FLUSHALL"]).await;
    // The hash has had as many changes as before.
    revoke(&b, "y").await;
    eventually("Redis has both", async || {
        let fields = redis
            .command(&["HKEYS", "test:{control}:revocations"])
            .await;
        (fields.contains("t:x") && fields.contains("t:y")).then_some(())
    })
    .await;
    let late = listening(&redis).await;
    assert!(late.1.has("x") && late.1.has("y"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_emptied_before_anybody_compared_gets_a_revocation_back() {
    let redis = RedisServer::start().await;
    let a = listening(&redis).await;
    revoke(&a, "x").await;
    redis.command(&["FLUSHALL"]).await;
    eventually("Redis has it again", async || {
        let field = ["HEXISTS", "test:{control}:revocations", "t:x"];
        (redis.command(&field).await.trim() == ":1").then_some(())
    })
    .await;
    assert!(listening(&redis).await.1.has("x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_not_missed_for_longer_after_the_clock_was_set_back() {
    let redis = RedisServer::start().await;
    let (node, _handler) = listening(&redis).await;
    // Its lease ends in a far future, by the clock of before.
    let gone = ["ZADD", "test:{control}:nodes", "99999999999999", "0badcafe"];
    redis.command(&gone).await;
    eventually("the node is counted", async || {
        (node.broker.other_nodes() == 1).then_some(())
    })
    .await;
    eventually("the end of its lease", async || {
        (node.broker.other_nodes() == 0).then_some(())
    })
    .await;
}
