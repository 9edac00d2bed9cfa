//! Redis store: the suite of all stores, one owner at a time, and faults. Each test starts a server
//! of Redis of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
#[path = "../../../tests/src/deadline.rs"]
mod deadline;
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
#[path = "../../../tests/src/host.rs"]
mod host;
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
#[path = "../../../tests/src/link.rs"]
mod link;
#[allow(unreachable_pub, reason = "other tests use it too")]
#[path = "../../../tests/src/port.rs"]
mod port;
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
#[path = "../../../tests/src/redis.rs"]
mod redis_server;
#[allow(unreachable_pub, reason = "other tests use it too")]
#[path = "../../../tests/src/stop.rs"]
mod stop;
mod suite;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use tidewire_redis::{
    CertificateFiles, Cluster, NodeProtocol, RedisAddress, RedisOptions, RedisTls, Sentinels,
};
use tidewire_store::{
    Balance, Batch, Candidacy, EngineLease, EngineTerm, Ownership, Preference, RedisStore,
    RedisStoreOptions, SharedStore, Store as _, StoreError, StoreLease,
};
use tokio::{sync::mpsc, task::JoinSet};

use deadline::{eventually, within};
use host::Place;
use link::Link;
use port::Port;
use redis_server::RedisServer;
use suite::{TABLE, all};

fn options(redis: &RedisServer) -> RedisOptions {
    RedisOptions {
        address: RedisAddress::parse(&redis.url()).unwrap(),
        cluster: Cluster::default(),
        sentinels: Sentinels::default(),
        tls: RedisTls::new(&CertificateFiles::default()).unwrap(),
        prefix: "test".to_owned(),
        timeout: Duration::from_secs(5),
        buffer_bytes: 64 << 20,
        comparison: RedisOptions::COMPARISON,
        protocol: NodeProtocol::CURRENT,
    }
}

/// A node with this name.
fn node(redis: &RedisServer, name: &str) -> StoreLease {
    with(redis, name, |_| {})
}

fn with(
    redis: &RedisServer,
    name: &str,
    change: impl FnOnce(&mut RedisStoreOptions),
) -> StoreLease {
    let mut all = RedisStoreOptions {
        redis: options(redis),
        node: name.to_owned(),
        replicas: 0,
        candidacy: Candidacy::Candidate,
    };
    change(&mut all);
    StoreLease::start(all)
}

/// The store of a node, once it is the owner.
async fn owned(lease: &StoreLease) -> RedisStore {
    let mut ownership = lease.ownership();
    let is_open = |one: &Ownership| matches!(one, Ownership::Own(store) if !store.has_ended());
    let owner = within("the lease", ownership.wait_for(is_open)).await;
    match &*owner.unwrap() {
        Ownership::Own(store) => store.clone(),
        other => panic!("{other:?}"),
    }
}

/// A store that is shared with nobody, and all that it needs.
async fn alone() -> (RedisServer, StoreLease, SharedStore) {
    let redis = RedisServer::start().await;
    let lease = node(&redis, "a");
    let store = owned(&lease).await;
    (redis, lease, Arc::new(store))
}

fn one(key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(TABLE, key, key);
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite_of_all_stores() {
    let (redis, _lease, store) = alone().await;
    let empty = async || {
        for kind in ["values", "order"] {
            for table in ["things", "others"] {
                let key = format!("test:{{store}}:{kind}:{table}");
                redis.command(&["DEL", &key]).await;
            }
        }
    };
    suite::scan_in_pages(&*store).await;
    empty().await;
    suite::read_many(&*store).await;
    empty().await;
    suite::commit_concurrently(&store).await;
    empty().await;
    suite::commit_urgently(&store).await;
    let mut runner = TestRunner::deterministic();
    for _ in 0..64 {
        empty().await;
        let batches = suite::batches().new_tree(&mut runner).unwrap().current();
        suite::compare_with_map(&*store, batches).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_ranges_and_batches_are_stored() {
    let (_redis, _lease, store) = alone().await;
    let mut batch = Batch::new();
    for number in 0..20_000_u32 {
        batch.put(TABLE, number.to_be_bytes(), vec![7; 300]);
    }
    batch.put(TABLE, [u8::MAX; 9], vec![b'\r'; 8 << 20]);
    store.commit(batch).await.unwrap();
    let entries = all(&*store).await;
    assert_eq!(entries.len(), 20_001);
    assert_eq!(entries[&[u8::MAX; 9][..]].len(), 8 << 20);
    let mut batch = Batch::new();
    batch.delete_range(TABLE, 10_u32.to_be_bytes(), 19_990_u32.to_be_bytes());
    store.commit(batch).await.unwrap();
    assert_eq!(all(&*store).await.len(), 21);
    let mut batch = Batch::new();
    for number in 0..300_001_u32 {
        batch.delete(TABLE, number.to_be_bytes());
    }
    let error = store.commit(batch).await.unwrap_err().to_string();
    assert!(error.contains("expected at most 300000"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_at_a_time_owns_it() {
    let redis = RedisServer::start().await;
    let (a, b) = (node(&redis, "a"), node(&redis, "b"));
    let (owner, other, name) = tokio::select! {
        _ = owned(&a) => (a, b, "a"),
        _ = owned(&b) => (b, a, "b"),
    };
    let seen = eventually("the other node sees the owner", async || {
        match &*other.ownership().borrow() {
            Ownership::Other { node, .. } => Some(node.clone()),
            _ => None,
        }
    });
    assert_eq!(seen.await, name);
    let store = owned(&owner).await;
    store.commit(one("1")).await.unwrap();
    owner.end().await;
    assert_eq!(store.commit(one("2")).await, Err(StoreError::Closed));
    let next = owned(&other).await;
    assert_eq!(all(&next).await.len(), 1);
    assert!(other.fault().is_none(), "{:?}", other.fault());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_overtaken_cannot_write() {
    let (redis, _a, store) = alone().await;
    store.commit(one("1")).await.unwrap();
    // The lease of the first node ends early. That of the other one must not.
    let cut = "if redis.call('HGET', KEYS[1], 'node') == 'a' then redis.call('HSET', KEYS[1], 'until', '0') end";
    let b = node(&redis, "b");
    let taken = async {
        loop {
            if let Err(error) = store.commit(one("a")).await {
                return error;
            }
            redis
                .command(&["EVAL", cut, "1", "test:{store}:lease"])
                .await;
        }
    };
    let error = within("a refusal", taken).await;
    assert_eq!(error, StoreError::TakenOver);
    let next = owned(&b).await;
    next.commit(one("b")).await.unwrap();
    assert_eq!(store.commit(one("c")).await, Err(StoreError::TakenOver));
    assert_eq!(
        store.get(TABLE, b"1".to_vec()).await,
        Err(StoreError::TakenOver)
    );
    assert!(!store.is_current());
    assert!(!all(&next).await.contains_key(&b"c"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_does_not_lengthen_the_lease_of_a_node_that_is_gone() {
    let (redis, a, store) = alone().await;
    store.commit(one("1")).await.unwrap();
    drop(a);
    // The end of its lease by the clock of before.
    let end = ["HSET", "test:{store}:lease", "until", "99999999999999"];
    redis.command(&end).await;
    let b = node(&redis, "b");
    assert_eq!(all(&owned(&b).await).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_given_up_is_left_to_another_node() {
    let (redis, a, store) = alone().await;
    store.commit(one("1")).await.unwrap();
    let b = node(&redis, "b");
    owned(&a).await.give_up();
    let next = owned(&b).await;
    next.commit(one("2")).await.unwrap();
    assert_eq!(all(&next).await.len(), 2);
    assert!(store.commit(one("3")).await.is_err());
    assert!(!a.is_owner());
    // It does not take the store for a while, and knows meanwhile who has it.
    eventually("the first node knows the owner", async || {
        (a.ownership().borrow().node() == Some("b")).then_some(())
    })
    .await;
    b.end().await;
    let found = eventually("the first node knows that there is none", async || {
        let ownership = a.ownership();
        let owner = ownership.borrow();
        owner.term().is_none().then(|| owner.clone())
    });
    assert!(matches!(
        found.await,
        Ownership::Unknown(StoreError::NoOwner(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_was_replaced_is_not_read() {
    let old = RedisServer::start().await;
    let port = old.port().to_string();
    let next = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let link = Link::start(old.address()).await;
    let lease = linked(&link, &old, "a", |_| {});
    let store = owned(&lease).await;
    store.commit(one("1")).await.unwrap();
    assert!(all(&store).await.contains_key(&b"1"[..]));
    let key = "test:{store}:values:things";
    eventually("the replica has it", async || {
        let found = next.command(&["HGET", key, "1"]).await;
        (found == "$1\r\n1\r\n").then_some(())
    })
    .await;
    next.command(&["REPLICAOF", "NO", "ONE"]).await;
    link.redirect(next.address());
    // It refuses writes and serves reads, without a way to the new master.
    old.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    eventually("a commit on the new master", async || {
        store.commit(one("2")).await.ok()
    })
    .await;
    assert!(all(&store).await.contains_key(&b"2"[..]));
    assert_eq!(lease.lost_commits(), 0);
}

/// A node whose connections to Redis go through a link.
fn linked(
    link: &Link,
    redis: &RedisServer,
    name: &str,
    change: impl FnOnce(&mut RedisStoreOptions),
) -> StoreLease {
    with(redis, name, |all| {
        let url = format!("redis://{}", link.address());
        all.redis.address = RedisAddress::parse(&url).unwrap();
        change(all);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_renewal_hangs_has_stopped_before_another_node_owns_the_store() {
    let redis = RedisServer::start().await;
    let link = Link::start(redis.address()).await;
    // It waits for an answer for longer than the lease lasts.
    let a = linked(&link, &redis, "a", |all| {
        all.redis.timeout = Duration::from_secs(60);
    });
    let store = owned(&a).await;
    store.commit(one("1")).await.unwrap();
    let b = node(&redis, "b");
    assert!(store.is_current());
    link.silence();
    let next = owned(&b).await;
    assert!(!store.is_current(), "two nodes own the store");
    next.commit(one("2")).await.unwrap();
    link.pass();
    link.cut();
    eventually("the first node knows the owner", async || {
        (a.ownership().borrow().node() == Some("b")).then_some(())
    })
    .await;
    assert!(store.commit(one("3")).await.is_err());
    assert_eq!(all(&next).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_another_replica_than_the_promoted_one_has_is_reported_as_lost() {
    let old = RedisServer::start().await;
    let port = old.port().to_string();
    let replica_of = ["--replicaof", "127.0.0.1", &port];
    let (has, lacks) = tokio::join!(
        RedisServer::start_with(&replica_of),
        RedisServer::start_with(&replica_of)
    );
    let link = Link::start(old.address()).await;
    let lease = linked(&link, &old, "a", |all| all.replicas = 1);
    let store = owned(&lease).await;
    let found = async |redis: &RedisServer, key: &str| {
        let value = ["HGET", "test:{store}:values:things", key];
        redis.command(&value).await.starts_with("$1")
    };
    store.commit(one("1")).await.unwrap();
    eventually("both replicas have it", async || {
        (found(&has, "1").await && found(&lacks, "1").await).then_some(())
    })
    .await;
    lacks.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    store.commit(one("2")).await.unwrap();
    assert!(found(&has, "2").await && !found(&lacks, "2").await);
    lacks.command(&["REPLICAOF", "NO", "ONE"]).await;
    let promoted = lacks.port().to_string();
    has.command(&["REPLICAOF", "127.0.0.1", &promoted]).await;
    link.redirect(lacks.address());
    old.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let next = eventually("a commit on the promoted server", async || {
        let store = owned(&lease).await;
        store.commit(one("3")).await.ok().map(|()| store)
    })
    .await;
    assert!(store.has_ended());
    let entries = all(&next).await;
    assert!(entries.contains_key(&b"1"[..]) && !entries.contains_key(&b"2"[..]));
    assert_eq!(lease.lost_commits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_of_redis_is_reported() {
    let (mut redis, lease, store) = alone().await;
    for number in 0..5 {
        store.commit(one(&number.to_string())).await.unwrap();
    }
    // It stores nothing on disk.
    redis.kill();
    redis.restart().await;
    let ended = within("the end of the term", async {
        loop {
            match store.commit(one("later")).await {
                Err(error @ (StoreError::Lost(_) | StoreError::TakenOver)) => return error,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    ended.await;
    let next = owned(&lease).await;
    assert!(all(&next).await.is_empty());
    next.commit(one("new")).await.unwrap();
    assert_eq!(lease.lost_commits(), 5);
    let fault = lease.fault().unwrap().to_string();
    assert!(fault.contains("has lost 5 commits"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_is_a_fault_that_ends_by_itself() {
    let mut redis =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let lease = with(&redis, "a", |all| {
        all.redis.timeout = Duration::from_millis(500);
    });
    let store = owned(&lease).await;
    store.commit(one("1")).await.unwrap();
    redis.kill();
    let error = store.commit(one("2")).await.unwrap_err().to_string();
    assert!(error.contains("Redis: "), "{error}");
    assert!(store.failure().is_some());
    assert!(store.get(TABLE, b"1".to_vec()).await.is_err());
    redis.restart().await;
    let committed = eventually("a commit", async || {
        let store = owned(&lease).await;
        store.commit(one("3")).await.ok().map(|()| store)
    });
    let store = committed.await;
    let entries = all(&store).await;
    assert!(entries.contains_key(&b"1"[..]) && entries.contains_key(&b"3"[..]));
    assert_eq!(store.failure(), None);
    assert_eq!(lease.lost_commits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_and_is_used_again() {
    let (redis, lease, store) = alone().await;
    store.commit(one("1")).await.unwrap();
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = store.commit(one("2")).await.unwrap_err().to_string();
    assert!(error.contains("raise its `maxmemory`"), "{error}");
    assert!(store.failure().is_some());
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("the end of the fault", async || {
        store.failure().is_none().then_some(())
    })
    .await;
    store.commit(one("3")).await.unwrap();
    assert_eq!(all(&*store).await.len(), 2);
    // It is the same term: nothing was in doubt.
    assert!(!owned(&lease).await.has_ended());
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_neither_lose_nor_double_commits() {
    let (redis, lease, store) = alone().await;
    let redis = Arc::new(redis);
    let mut commits = JoinSet::new();
    let (done, mut acknowledged) = mpsc::unbounded_channel();
    for task in 0..8 {
        let (store, done) = (store.clone(), done.clone());
        commits.spawn(async move {
            for number in 0..100 {
                store
                    .commit(one(&format!("{task}.{number}")))
                    .await
                    .unwrap();
                done.send(()).unwrap();
            }
        });
    }
    drop(done);
    let cutting = tokio::spawn({
        let redis = redis.clone();
        async move {
            let mut count = 0;
            while acknowledged.recv().await.is_some() {
                count += 1;
                if count % 40 == 0 {
                    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
                }
            }
            count
        }
    });
    while let Some(done) = within("all commits", commits.join_next()).await {
        done.unwrap();
    }
    assert_eq!(within("the last cut", cutting).await.unwrap(), 800);
    assert_eq!(all(&*store).await.len(), 800);
    assert_eq!(lease.lost_commits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_a_replica_if_one_is_wanted() {
    let master = RedisServer::start().await;
    let lease = with(&master, "a", |all| all.replicas = 1);
    let fault = eventually("the fault", async || {
        let fault = lease.fault()?.to_string();
        fault.contains("store.replicas").then_some(fault)
    });
    assert!(fault.await.contains("0 replicas"));
    // No term begins meanwhile: each would tell all clients of a gap.
    let other = with(&master, "b", |all| all.replicas = 1);
    eventually("the fault of another node", async || {
        let fault = other.fault()?.to_string();
        fault.contains("0 replicas").then_some(())
    })
    .await;
    let term = master
        .command(&["HGET", "test:{store}:lease", "term"])
        .await;
    assert_eq!(term, "$-1\r\n");
    other.end().await;
    drop(other);
    let port = master.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let store = owned(&lease).await;
    store.commit(one("1")).await.unwrap();
    let found = replica
        .command(&["HGET", "test:{store}:values:things", "1"])
        .await;
    assert_eq!(found, "$1\r\n1\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_asked_only_by_a_node_that_takes_the_lease() {
    let master = RedisServer::start().await;
    let port = master.port().to_string();
    let _replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let owner = with(&master, "a", |all| all.replicas = 1);
    owned(&owner).await;
    let calls = async |command: &str| {
        let stats = master.command(&["INFO", "commandstats"]).await;
        let name = format!("cmdstat_{command}:calls=");
        let (_, rest) = stats.split_once(&name).unwrap();
        rest.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let _other = with(&master, "b", |all| all.replicas = 1);
    let (waits, looks) = (calls("wait").await, calls("eval").await);
    eventually("a dozen looks", async || {
        (calls("eval").await > looks + 12).then_some(())
    })
    .await;
    assert_eq!(calls("wait").await, waits);
}

/// A node that may own an engine. It is preferred while the flag is set.
fn engine(redis: &RedisServer, name: &str, preferred: &Arc<AtomicBool>) -> EngineLease {
    let preferred = preferred.clone();
    let engine = ("prices", "the engine");
    let prefer = move || match preferred.load(Ordering::Relaxed) {
        true => Preference::Wanted,
        false => Preference::HandOver,
    };
    EngineLease::start(options(redis), name, engine, Candidacy::Candidate, prefer)
}

/// Waits until a node owns its engine.
async fn owns(lease: &EngineLease) {
    let mut ownership = lease.ownership();
    let is_own = |one: &Ownership<EngineTerm>| matches!(one, Ownership::Own(_));
    within("the engine", ownership.wait_for(is_own))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_goes_to_the_node_that_is_preferred() {
    let redis = RedisServer::start().await;
    let [never, later] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let a = engine(&redis, "a", &never);
    owns(&a).await;
    let b = engine(&redis, "b", &later);
    let observer = EngineLease::start(
        options(&redis),
        "c",
        ("prices", "the engine"),
        Candidacy::Observer,
        || Preference::Wanted,
    );
    let seen = async |owner: &str| {
        eventually("the owner is seen", async || {
            match &*observer.ownership().borrow() {
                Ownership::Other { node, .. } if node == owner => Some(()),
                _ => None,
            }
        })
        .await;
    };
    seen("a").await;
    assert!(a.is_owner() && !b.is_owner());
    later.store(true, Ordering::Relaxed);
    owns(&b).await;
    seen("b").await;
    assert!(!a.is_owner() && !observer.is_owner());
    // The other one stays a candidate.
    b.end().await;
    owns(&a).await;
    assert!(a.fault().is_none());
}

/// A node that takes part in the balance of some shards.
struct BalancedNode {
    balance: Balance,
    leases: Vec<EngineLease>,
    /// Find out whether it can use the shards: it can.
    _checks: JoinSet<()>,
}

impl BalancedNode {
    fn start(redis: &RedisServer, name: &str, shards: usize) -> Self {
        let balance = Balance::start(options(redis), name);
        let mut checks = JoinSet::new();
        let leases = (0..shards).map(|number| {
            let shard = format!("chain-{number}");
            let (checked, checker) = (shard.clone(), balance.clone());
            checks.spawn(async move {
                loop {
                    checker.check_due(&checked).await;
                    checker.report(&checked, true);
                }
            });
            let prefer = balance.shard(&shard);
            let engine = (&*shard, "a shard");
            EngineLease::start(options(redis), name, engine, Candidacy::Candidate, prefer)
        });
        let leases = leases.collect();
        Self {
            balance,
            leases,
            _checks: checks,
        }
    }

    fn owned(&self) -> usize {
        let owned = self.leases.iter().filter(|lease| lease.is_owner()).count();
        // What it says of itself may be late by a moment.
        owned.min(self.balance.owned())
    }
}

/// Waits until the nodes own these numbers of shards.
async fn balanced<const N: usize>(nodes: [&BalancedNode; N], expected: [usize; N]) {
    eventually("the balance", async || {
        (nodes.map(BalancedNode::owned) == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_spread_over_the_nodes_that_are_there() {
    let redis = RedisServer::start().await;
    let a = BalancedNode::start(&redis, "a", 4);
    balanced([&a], [4]).await;
    let b = BalancedNode::start(&redis, "b", 4);
    balanced([&a, &b], [2, 2]).await;
    assert_eq!([&a, &b].map(|node| node.balance.handovers()), [2, 0]);
    // A node that is gone, and did not say so.
    drop(a);
    balanced([&b], [4]).await;
    let c = BalancedNode::start(&redis, "c", 4);
    balanced([&b, &c], [2, 2]).await;
    // One that leaves hands over what it has before it ends.
    b.balance.leave().await;
    balanced([&b, &c], [0, 4]).await;
    let candidates = redis.command(&["HKEYS", "test:{balance}:shards"]).await;
    assert_eq!(candidates, "*1\r\n$1\r\nc\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_a_node_cannot_use_goes_to_another_one_and_stays() {
    let redis = RedisServer::start().await;
    let a = BalancedNode::start(&redis, "a", 2);
    balanced([&a], [2]).await;
    let b = BalancedNode::start(&redis, "b", 2);
    balanced([&a, &b], [1, 1]).await;
    let terms = async || {
        let mut all = Vec::new();
        for number in 0..2 {
            let lease = format!("test:{{chain-{number}}}:lease");
            all.push(redis.command(&["HGET", &lease, "term"]).await);
        }
        all
    };
    let held = b.leases.iter().find(|lease| lease.is_owner()).unwrap();
    match &*held.ownership().borrow() {
        Ownership::Own(term) => term.give_up(),
        other => panic!("{other:?}"),
    }
    balanced([&a, &b], [2, 0]).await;
    let before = terms().await;
    // The plan has it at the first node from now on: that one does not offer it.
    eventually("another look of all", async || {
        let list = redis.command(&["HGET", "test:{balance}:shards", "b"]).await;
        (list.matches("chain-").count() == 1).then_some(())
    })
    .await;
    assert_eq!(terms().await, before);
    assert_eq!(a.balance.handovers(), 1);
}
