//! The broker over a Redis Cluster.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tidewire_stream::{
    ChannelName,
    broker::{
        Broker as _, Fence,
        memory::MemoryLimits,
        redis::{Cluster, RedisAddress, RedisOptions},
    },
};
use tidewire_tests::{RedisCluster, RedisServer, eventually};
use tokio::task::JoinSet;

use crate::node::{Delivered, Node, channel, options};

pub(crate) const MASTERS: usize = 3;

pub(crate) fn cluster_options(cluster: &RedisCluster) -> RedisOptions {
    RedisOptions {
        address: RedisAddress::parse("redis://cluster").unwrap(),
        // One of them is enough.
        cluster: Cluster::new(&cluster.seeds()[1..2]).unwrap(),
        timeout: Duration::from_secs(10),
        ..options(&cluster.servers[0])
    }
}

pub(crate) async fn node(cluster: &RedisCluster) -> Node {
    let node = Node::with(cluster_options(cluster), MemoryLimits::default()).await;
    node.unwrap()
}

fn channels(count: usize) -> Vec<ChannelName> {
    let names = (0..count).map(|number| channel(&format!("orders:{number}")));
    names.collect()
}

/// The slot of a channel of the prefix `test`.
pub(crate) async fn slot_of(cluster: &RedisCluster, name: &ChannelName) -> usize {
    let suffix = format!(":meta:{}", name.as_str());
    eventually(format!("the metadata of {name}"), async || {
        for server in &cluster.servers {
            let keys = server.try_command(&["KEYS", &format!("*{suffix}")]).await?;
            if let Some(key) = keys.lines().find(|line| line.ends_with(&suffix)) {
                return Some(cluster.slot(key).await);
            }
        }
        None
    })
    .await
}

/// The master of a channel, of those at the start.
async fn master_of(cluster: &RedisCluster, name: &ChannelName) -> usize {
    RedisCluster::first_owner(slot_of(cluster, name).await, MASTERS)
}

/// The epochs, seqs and documents that a node delivered, and no gap.
pub(crate) fn without_gap(node: &Node, name: &ChannelName) -> Vec<(String, u64, String)> {
    let all = node.recorder.on(name).into_iter();
    all.map(|one| match one {
        Delivered::Publication(epoch, seq, document) => (epoch, seq, document),
        gap @ Delivered::Newest(..) => panic!("{gap:?} on {name}"),
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_on_all_masters_are_published_read_and_resumed() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    let names = channels(60);
    for name in &names {
        b.subscribe(name).await;
    }
    let mut masters = BTreeSet::new();
    for name in &names {
        let first = a.try_publish(name, "1", Some("one")).await.unwrap();
        let again = b.try_publish(name, "1", Some("one")).await.unwrap();
        assert_eq!(first, again, "{name}");
        a.publish(name, "2").await;
        let expected = [(1, "1".to_owned()), (2, "2".to_owned())];
        assert_eq!(b.delivered(name, 2).await, expected);
        let missed = a.history(name, Some(&first)).await;
        assert_eq!((missed.top.seq, missed.publications.len()), (2, 1));
        masters.insert(master_of(&cluster, name).await);
    }
    assert_eq!(masters.len(), MASTERS, "the channels are on all masters");
    assert_eq!((a.fault(), b.fault()), (None, None));
    // A node leaves a channel of each master, and comes back.
    for name in &names {
        b.unsubscribe(name);
        a.publish(name, "3").await;
        assert_eq!(b.subscribe(name).await.seq, 3);
    }
}

/// Publishes on a channel until it is stopped: half of the publications with keys, some at once.
/// Returns how many there were.
async fn publish_until(node: &Node, name: &ChannelName, stopped: &AtomicBool) -> usize {
    let mut count = 0;
    // Each key of a publication has to move too: without a pace, a slot would grow while it moves.
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !stopped.load(Ordering::Relaxed) {
        pace.tick().await;
        let keys: Vec<_> = (count..count + 4)
            .map(|number| (number % 2 == 0).then(|| format!("key {number}")))
            .collect();
        let documents: Vec<_> = (count..count + 4)
            .map(|number| number.to_string())
            .collect();
        let publish = |at: usize| node.try_publish(name, &documents[at], keys[at].as_deref());
        // They are queued in this order.
        let published = tokio::join!(biased; publish(0), publish(1), publish(2), publish(3));
        for one in [published.0, published.1, published.2, published.3] {
            one.unwrap();
        }
        count += 4;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_under_load_lose_double_and_disorder_nothing() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (Arc::new(node(&cluster).await), node(&cluster).await);
    let names = channels(8);
    let mut slots = Vec::new();
    for name in &names {
        b.subscribe(name).await;
        a.publish(name, "first").await;
        slots.push(slot_of(&cluster, name).await);
    }
    let stopped = Arc::new(AtomicBool::new(false));
    let mut publishers = JoinSet::new();
    for name in names.clone() {
        let (a, stopped) = (a.clone(), stopped.clone());
        publishers.spawn(async move {
            let count = publish_until(&a, &name, &stopped).await;
            (name, count)
        });
    }
    // Each slot goes to the next master, then to the one after it, and back.
    for step in 0..MASTERS {
        for slot in &slots {
            let from = RedisCluster::first_owner(*slot, MASTERS) + step;
            let (from, to) = (from % MASTERS, (from + 1) % MASTERS);
            cluster.move_slot(*slot, from, to).await;
        }
    }
    stopped.store(true, Ordering::Relaxed);
    while let Some(published) = publishers.join_next().await {
        let (name, count) = published.unwrap();
        b.delivered(&name, 1 + count).await;
        let delivered = without_gap(&b, &name);
        let documents = ["first".to_owned()].into_iter();
        let documents = documents.chain((0..count).map(|number| number.to_string()));
        let epoch = delivered[0].0.clone();
        let expected: Vec<_> = (1..)
            .zip(documents)
            .map(|(seq, document)| (epoch.clone(), seq, document))
            .collect();
        assert_eq!(delivered, expected, "{name}");
    }
    eventually("no fault", async || {
        (a.fault().is_none() && b.fault().is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tool_of_redis_moves_slots_under_load() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (Arc::new(node(&cluster).await), node(&cluster).await);
    let names = channels(24);
    for name in &names {
        b.subscribe(name).await;
    }
    let stopped = Arc::new(AtomicBool::new(false));
    let mut publishers = JoinSet::new();
    for name in names {
        let (a, stopped) = (a.clone(), stopped.clone());
        publishers.spawn(async move {
            let count = publish_until(&a, &name, &stopped).await;
            (name, count)
        });
    }
    // Some hundred slots with channels, in the order of their numbers.
    cluster.reshard(1_500, 0, 1).await;
    cluster.reshard(1_500, 1, 2).await;
    stopped.store(true, Ordering::Relaxed);
    while let Some(published) = publishers.join_next().await {
        let (name, count) = published.unwrap();
        b.delivered(&name, count).await;
        let delivered = without_gap(&b, &name).into_iter();
        let delivered: Vec<_> = delivered.map(|one| (one.1, one.2)).collect();
        let documents = (0..count).map(|number| number.to_string());
        let expected: Vec<_> = (1..).zip(documents).collect();
        assert_eq!(delivered, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_waits_while_its_slot_is_half_moved_and_others_go_on() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (Arc::new(node(&cluster).await), node(&cluster).await);
    let names = channels(12);
    for name in &names {
        b.subscribe(name).await;
        a.publish(name, "1").await;
    }
    let name = &names[0];
    let slot = slot_of(&cluster, name).await;
    let from = RedisCluster::first_owner(slot, MASTERS);
    let to = (from + 1) % MASTERS;
    cluster.begin_move(slot, from, to).await;
    assert_eq!(cluster.move_keys(slot, from, to, 1).await, 1);
    let waiting = {
        let (a, name) = (a.clone(), name.clone());
        tokio::spawn(async move {
            tokio::join!(biased; a.try_publish(&name, "2", Some("two")), a.try_publish(&name, "3", None))
        })
    };
    for other in &names[1..] {
        if slot_of(&cluster, other).await != slot {
            a.publish(other, "2").await;
            b.delivered(other, 2).await;
        }
    }
    assert!(!waiting.is_finished());
    while cluster.move_keys(slot, from, to, 10).await > 0 {}
    cluster.end_move(slot, to).await;
    let (second, third) = waiting.await.unwrap();
    assert_eq!((second.unwrap().seq, third.unwrap().seq), (2, 3));
    let delivered = b.delivered(name, 3).await;
    let expected = [(1, "1"), (2, "2"), (3, "3")].map(|(seq, text)| (seq, text.to_owned()));
    assert_eq!(delivered, expected);
    without_gap(&b, name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_goes_on_while_its_slot_moves_slowly() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    // Of the classes history and latest.
    let names = [channel("orders:1"), channel("prices:S1-USD")];
    for name in &names {
        b.subscribe(name).await;
        a.publish(name, "1").await;
        b.delivered(name, 1).await;
    }
    for name in &names {
        let slot = slot_of(&cluster, name).await;
        let from = RedisCluster::first_owner(slot, MASTERS);
        let to = (from + 1) % MASTERS;
        cluster.begin_move(slot, from, to).await;
        a.publish(name, "2").await;
        b.delivered(name, 2).await;
        // The keys of the channel go, and the epoch of new channels stays.
        let keys = cluster.keys(slot, from).await;
        let own = keys.iter().map(String::as_str);
        let own: Vec<_> = own.filter(|key| key.ends_with(name.as_str())).collect();
        assert_eq!(own.len(), 2, "{keys:?}");
        cluster.migrate(from, to, &own[..1]).await;
        let half = async {
            tokio::join!(biased; a.try_publish(name, "3", None), a.try_publish(name, "4", None))
        };
        let refused = async || {
            cluster.count_errors(to, "TRYAGAIN").await
                + cluster.count_errors(from, "TRYAGAIN").await
        };
        let before = refused().await;
        let rest = async {
            eventually("some attempts", async || {
                (refused().await >= before + 3).then_some(())
            })
            .await;
            cluster.migrate(from, to, &own[1..]).await;
        };
        let ((third, fourth), ()) = tokio::join!(half, rest);
        assert_eq!((third.unwrap().seq, fourth.unwrap().seq), (3, 4), "{name}");
        // The subscribers are at the server of before, and hear of what is published at the other one.
        eventually("the newest", async || {
            let known = b.recorder.publications(name);
            known.iter().any(|one| one.0 == 4).then_some(())
        })
        .await;
        let epoch = without_gap(&b, name).remove(0).0;
        let read = b.history(name, None).await;
        assert_eq!((read.top.epoch.as_str(), read.top.seq), (&*epoch, 4));
        // One that is new has a new key, which exists nowhere yet.
        let (keyed, ()) = tokio::join!(biased; a.try_publish(name, "5", Some("five")), async {
            while cluster.move_keys(slot, from, to, 10).await > 0 {}
            cluster.end_move(slot, to).await;
        });
        assert_eq!(keyed.unwrap().seq, 5);
        a.publish(name, "6").await;
        eventually("the end", async || {
            let known = b.recorder.publications(name);
            known.iter().any(|one| one.0 == 6).then_some(())
        })
        .await;
        without_gap(&b, name);
    }
    let orders: Vec<_> = b.delivered(&names[0], 6).await;
    let expected: Vec<_> = (1..=6).map(|seq: u64| (seq, seq.to_string())).collect();
    assert_eq!(orders, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_goes_on_by_seq() {
    let mut cluster = RedisCluster::start(MASTERS).await;
    cluster.add_replica(0).await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    let names = channels(12);
    let mut on_first = 0;
    for name in &names {
        b.subscribe(name).await;
        for number in 1..=3 {
            a.publish(name, &number.to_string()).await;
        }
        on_first += usize::from(master_of(&cluster, name).await == 0);
    }
    assert!(on_first > 0);
    cluster.is_replicated(0, MASTERS).await;
    cluster.servers[0].kill();
    for name in &names {
        let next = eventually("a publication after the failover", async || {
            a.try_publish(name, "4", Some("four")).await.ok()
        })
        .await;
        assert_eq!(next.seq, 4, "{name}");
        b.delivered(name, 4).await;
        let seqs: Vec<_> = without_gap(&b, name).into_iter().map(|one| one.1).collect();
        assert_eq!(seqs, [1, 2, 3, 4], "{name}");
    }
    eventually("no fault", async || {
        (a.fault().is_none() && b.fault().is_none()).then_some(())
    })
    .await;
    // The earlier master comes back as a replica.
    cluster.servers[0].restart().await;
    for name in &names {
        a.publish(name, "5").await;
        b.delivered(name, 5).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_hung_and_was_replaced_leaves_no_fault_behind() {
    let mut cluster = RedisCluster::start(MASTERS).await;
    cluster.add_replica(0).await;
    let a = node(&cluster).await;
    let names = channels(12);
    for name in &names {
        a.subscribe(name).await;
        a.publish(name, "1").await;
    }
    let promoted = &cluster.servers[MASTERS];
    for server in [&cluster.servers[0], promoted] {
        let set = ["CONFIG", "SET", "min-replicas-to-write", "1"];
        server.command(&set).await;
    }
    cluster.is_replicated(0, MASTERS).await;
    cluster.servers[0].pause();
    // The promoted one has no replica. The probes that waited for the earlier master are told so too.
    eventually("a refusal of the promoted replica", async || {
        let port = promoted.port().to_string();
        let fault = a.fault()?;
        (fault.contains(&port) && fault.contains("NOREPLICAS")).then_some(())
    })
    .await;
    cluster.servers[0].resume();
    for name in &names {
        eventually("a publication after the failover", async || {
            a.try_publish(name, "2", Some("two")).await.ok()
        })
        .await;
    }
    eventually("no fault", async || a.fault().is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_a_replica_that_is_away_stops_its_own_slots_alone() {
    let mut cluster = RedisCluster::start(MASTERS).await;
    let options = RedisOptions {
        timeout: Duration::from_secs(2),
        ..cluster_options(&cluster)
    };
    let a = Node::with(options, MemoryLimits::default()).await.unwrap();
    let names = channels(12);
    let (mut away, mut others) = (Vec::new(), Vec::new());
    for name in names {
        a.subscribe(&name).await;
        a.publish(&name, "1").await;
        match master_of(&cluster, &name).await {
            0 => away.push(name),
            _ => others.push(name),
        }
    }
    assert!(!away.is_empty() && !others.is_empty());
    cluster.servers[0].kill();
    let refused = a.try_publish(&away[0], "2", None);
    let published = async {
        for name in &others {
            a.publish(name, "2").await;
            a.delivered(name, 2).await;
        }
    };
    let (refused, ()) = tokio::join!(refused, published);
    let error = refused.unwrap_err();
    assert_eq!(
        error.code(),
        tidewire_proto::v1::ErrorCode::Unavailable,
        "{error}"
    );
    let link = a.broker.link().unwrap();
    assert!(link.is_available && !link.is_whole);
    let port = cluster.servers[0].port().to_string();
    assert!(link.fault.is_some_and(|fault| fault.contains(&port)));
    // It comes back empty: its channels begin another epoch.
    cluster.servers[0].restart().await;
    for name in &away {
        eventually("a publication after the restart", async || {
            a.try_publish(name, "3", Some("three")).await.ok()
        })
        .await;
        let gap = |one: &Delivered| matches!(one, Delivered::Newest(..));
        eventually("a gap", async || {
            let delivered = a.recorder.on(name);
            let has_third = a.recorder.publications(name).iter().any(|one| one.1 == "3");
            (has_third || delivered.iter().any(gap)).then_some(())
        })
        .await;
    }
    eventually("no fault", async || a.fault().is_none().then_some(())).await;
}

#[tokio::test]
async fn an_earlier_owner_is_refused_on_all_masters() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (a, b) = (node(&cluster).await, node(&cluster).await);
    let names: Vec<_> = (0..12)
        .map(|number| channel(&format!("prices:S{number}-USD")))
        .collect();
    for name in &names {
        b.subscribe(name).await;
    }
    let term = |term: &str| {
        Arc::new(Fence {
            lease: "test:{prices}:lease".to_owned(),
            term: term.to_owned(),
        })
    };
    let (first, second) = (term("9-aaaa"), term("10-bbbb"));
    a.broker.raise_fence(&first).await.unwrap();
    for name in &names {
        a.offer(name, "1", &first);
        b.delivered(name, 1).await;
    }
    b.broker.raise_fence(&second).await.unwrap();
    // The first owner does not know yet, and cannot raise its fence again.
    a.broker.raise_fence(&first).await.unwrap();
    for name in &names {
        a.offer(name, "late", &first);
    }
    a.broker.flush().await.unwrap();
    for name in &names {
        b.offer(name, "2", &second);
    }
    for name in &names {
        let expected = [(1, "1".to_owned()), (2, "2".to_owned())];
        assert_eq!(b.delivered(name, 2).await, expected);
    }
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let cluster = RedisCluster::start(MASTERS).await;
    let rights = "+@read +@write +@scripting +@pubsub +@connection +time +cluster|slots +cluster|info +cluster|myid";
    let set = [
        "ACL", "SETUSER", "tidewire", "on", ">secret", "~test:*", "&test:*",
    ];
    let set: Vec<_> = set.into_iter().chain(rights.split(' ')).collect();
    for server in &cluster.servers {
        assert_eq!(server.command(&set).await, "+OK\r\n");
    }
    let mut options = cluster_options(&cluster);
    options.address = RedisAddress::parse("redis://tidewire:secret@cluster").unwrap();
    let node = Node::with(options, MemoryLimits::default()).await.unwrap();
    for name in channels(12) {
        node.subscribe(&name).await;
        node.publish(&name, "1").await;
        node.delivered(&name, 1).await;
    }
    assert_eq!(node.fault(), None);
}

#[tokio::test]
async fn a_cluster_that_is_not_fit_is_refused() {
    let cluster = RedisCluster::start(1).await;
    let alone = RedisServer::start().await;
    let start = async |options| {
        let refused = Node::with(options, MemoryLimits::default()).await;
        refused.err().expect("a refusal").message().to_owned()
    };
    let error = start(options(&cluster.servers[0])).await;
    assert!(error.contains("broker.cluster"), "{error}");
    let no_cluster = RedisOptions {
        cluster: Cluster::new(&[format!("127.0.0.1:{}", alone.port())]).unwrap(),
        ..options(&alone)
    };
    let error = start(no_cluster).await;
    assert!(
        error.contains("broker.cluster") && error.contains("it is a single server"),
        "{error}"
    );
    cluster.servers[0]
        .command(&["CLUSTER", "DELSLOTS", "7"])
        .await;
    let error = start(RedisOptions {
        cluster: Cluster::new(&cluster.seeds()).unwrap(),
        ..options(&cluster.servers[0])
    })
    .await;
    assert!(error.contains("16383 of its 16384 slots"), "{error}");
}
