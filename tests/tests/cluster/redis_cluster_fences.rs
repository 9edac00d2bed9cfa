//! Fences of a Redis Cluster that are later than a lease, which has lost terms.

use std::sync::Arc;

use tidewire_store::{Candidacy, EngineLease, EngineTerm, Ownership, Preference, Tenure as _};
use tidewire_stream::{
    ChannelName,
    broker::{Broker as _, Fence},
};
use tidewire_tests::{RedisCluster, eventually};

use crate::{
    node::{Node, channel},
    redis_cluster::{MASTERS, cluster_options, node},
};

/// Later than a term that is numbered by the clock.
const LATE: &str = "9000000000-aaaa";

fn lease(cluster: &RedisCluster) -> EngineLease {
    let (redis, engine) = (cluster_options(cluster), ("prices", "the price engine"));
    EngineLease::start(redis, "a", engine, Candidacy::Candidate, || {
        Preference::Equal
    })
}

fn fence(term: &str) -> Arc<Fence> {
    Arc::new(Fence {
        lease: EngineLease::key("test", "prices"),
        term: term.to_owned(),
    })
}

/// Waits for a term of this node whose number satisfies a condition.
async fn term(lease: &EngineLease, is_it: impl Fn(u64) -> bool) -> EngineTerm {
    eventually("a term of this node", async || {
        let ownership = lease.ownership();
        let Ownership::Own(term) = ownership.borrow().clone() else {
            return None;
        };
        let number = term.term().split('-').next()?.parse().ok()?;
        is_it(number).then_some(term)
    })
    .await
}

fn names() -> Vec<ChannelName> {
    let names = (0..12).map(|number| channel(&format!("prices:S{number}-USD")));
    names.collect()
}

/// Publishes as the owner of the present term, on channels of all masters.
async fn publish_on_all(node: &Node, term: &str) {
    let fence = fence(term);
    node.broker.raise_fence(&fence).await.unwrap();
    for name in names() {
        let key = format!("{name} {term}");
        node.offer_once(&name, "1", &key, &fence).await.unwrap();
    }
}

#[tokio::test]
async fn the_owner_of_a_lease_that_went_back_takes_a_term_after_the_fences() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (before, a) = (node(&cluster).await, node(&cluster).await);
    // The lease of this term is lost.
    before.broker.raise_fence(&fence(LATE)).await.unwrap();
    let lease = lease(&cluster);
    let early = term(&lease, |number| number < 9_000_000_000).await;
    a.broker.raise_fence(&fence(early.term())).await.unwrap();
    let late = term(&lease, |number| number > 9_000_000_000).await;
    assert!(early.has_ended());
    publish_on_all(&a, late.term()).await;
    assert!(!late.has_ended());
}

#[tokio::test]
async fn an_owner_that_is_refused_by_a_later_fence_takes_a_term_after_it() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (other, a) = (node(&cluster).await, node(&cluster).await);
    let lease = lease(&cluster);
    let early = term(&lease, |_| true).await;
    publish_on_all(&a, early.term()).await;
    // Another node took over, and the lease is again that of before.
    other.broker.raise_fence(&fence(LATE)).await.unwrap();
    let name = &names()[0];
    let refused = a.offer_once(name, "2", "2", &fence(early.term())).await;
    assert!(refused.is_err());
    let late = term(&lease, |number| number > 9_000_000_000).await;
    assert!(early.has_ended());
    publish_on_all(&a, late.term()).await;
}

#[tokio::test]
async fn an_earlier_owner_does_not_end_the_term_of_the_next_one() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (before, a) = (node(&cluster).await, node(&cluster).await);
    let lease = lease(&cluster);
    let own = term(&lease, |_| true).await;
    publish_on_all(&a, own.term()).await;
    // It does not know yet that it was followed.
    let earlier = fence("7-aaaa");
    before.broker.raise_fence(&earlier).await.unwrap();
    let name = &names()[0];
    assert!(before.offer_once(name, "2", "2", &earlier).await.is_err());
    before.broker.flush().await.unwrap();
    let key = EngineLease::key("test", "prices");
    let slot = cluster.slot(&key).await;
    let server = &cluster.servers[RedisCluster::first_owner(slot, MASTERS)];
    let told = server.command(&["HEXISTS", &key, "fenced"]).await;
    assert_eq!(told.trim(), ":0");
    assert!(!own.has_ended());
}
