//! The broker over a master that a sentinel watches, with a replica that takes its place.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tidewire_stream::{
    ChannelName, Position,
    broker::{
        memory::MemoryLimits,
        redis::{RedisAddress, RedisOptions, Sentinels},
    },
};
use tidewire_tests::{Client, RedisSentinel, RedisServer, Server, Transport, eventually, within};

use crate::node::{Delivered, Node, channel, options};

/// A master, a replica that has all of its data, and their sentinel.
pub(crate) struct Watched {
    pub(crate) master: RedisServer,
    pub(crate) replica: RedisServer,
    pub(crate) sentinel: RedisSentinel,
}

impl Watched {
    /// A node that has published ten on a channel, which the replica has; and the position before.
    async fn with_ten(&self, name: &ChannelName) -> (Node, Position) {
        let node = self.node().await;
        let start = node.subscribe(name).await;
        for number in 1..=10 {
            node.publish(name, &number.to_string()).await;
        }
        self.replicated(10).await;
        (node, start)
    }

    pub(crate) async fn start() -> Self {
        let master = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = master.port().to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        eventually("the replica has the data", async || {
            let info = replica.command(&["INFO", "replication"]).await;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        let sentinel = RedisSentinel::start(&master).await;
        let redis = Self {
            master,
            replica,
            sentinel,
        };
        redis.is_known_to(&redis.sentinel).await;
        redis
    }

    /// Another sentinel, which knows the first one.
    pub(crate) async fn another_sentinel(&self) -> RedisSentinel {
        let sentinel = RedisSentinel::start(&self.master).await;
        self.is_known_to(&sentinel).await;
        eventually("the sentinels know each other", async || {
            for (one, other) in [(&sentinel, &self.sentinel), (&self.sentinel, &sentinel)] {
                let known = one.command(&["SENTINEL", "SENTINELS", "tidewire"]).await;
                known
                    .contains(other.address().split_once(':')?.1)
                    .then_some(())?;
            }
            Some(())
        })
        .await;
        sentinel
    }

    async fn is_known_to(&self, sentinel: &RedisSentinel) {
        let known = self.replica.port().to_string();
        eventually("the sentinel knows the replica", async || {
            let question = ["SENTINEL", "REPLICAS", "tidewire"];
            let replicas = sentinel.command(&question).await;
            replicas.contains(&known).then_some(())
        })
        .await;
    }

    pub(crate) fn options(&self) -> RedisOptions {
        self.options_with(&[&self.sentinel])
    }

    /// Options with these sentinels.
    pub(crate) fn options_with(&self, sentinels: &[&RedisSentinel]) -> RedisOptions {
        let mut options = options(&self.master);
        let addresses: Vec<_> = sentinels.iter().map(|one| one.address()).collect();
        options.address = RedisAddress::parse("redis://tidewire").unwrap();
        options.sentinels = Sentinels::new(&addresses).unwrap();
        options.timeout = Duration::from_secs(2);
        options
    }

    /// Cuts the replica off for good. Nobody notices.
    pub(crate) async fn cut_replica(&self) {
        for command in [
            &["ACL", "SETUSER", "default", "-psync", "-sync"][..],
            &["CLIENT", "KILL", "TYPE", "replica"],
        ] {
            self.master.command(command).await;
        }
    }

    pub(crate) async fn node(&self) -> Node {
        let node = Node::with(self.options(), MemoryLimits::default()).await;
        node.unwrap()
    }

    /// Waits until the replica has this many publications of the channel.
    pub(crate) async fn replicated(&self, count: usize) {
        let expected = format!(":{count}\r\n");
        eventually("the publications on the replica", async || {
            let keys = self
                .replica
                .command(&["KEYS", "test:*:history:orders:1"])
                .await;
            let key = keys.lines().last()?.trim().to_owned();
            (self.replica.command(&["XLEN", &key]).await == expected).then_some(())
        })
        .await;
    }

    /// Makes the replica the master, while the master works.
    pub(crate) async fn fail_over(&self) {
        eventually("the failover begins", async || {
            let begun = self
                .sentinel
                .command(&["SENTINEL", "FAILOVER", "tidewire"])
                .await;
            begun.starts_with("+OK").then_some(())
        })
        .await;
    }

    /// Waits until the node hears of publications on the replica.
    pub(crate) async fn followed(&self) {
        eventually("a subscription on the new master", async || {
            // A server that changes its role ends all connections.
            let channels = ["PUBSUB", "SHARDCHANNELS", "test:*:orders:1"];
            let subscribed = self.replica.try_command(&channels).await?;
            subscribed.contains("orders:1").then_some(())
        })
        .await;
    }
}

/// The publications that a node delivered: their epochs and numbers.
fn delivered(node: &Node) -> Vec<(String, u64)> {
    let all = node.recorder.on(&channel("orders:1")).into_iter();
    let all = all.filter_map(|one| match one {
        Delivered::Publication(epoch, seq, _) => Some((epoch, seq)),
        Delivered::Newest(..) => None,
    });
    all.collect()
}

/// Waits until a node has come to a position: by its publication, or by a gap that covers it.
async fn reached(node: &Node, position: &Position) {
    eventually(format!("{position:?}"), async || {
        let all = node.recorder.on(&channel("orders:1"));
        let (epoch, seq) = match all.last()? {
            Delivered::Publication(epoch, seq, _) | Delivered::Newest(epoch, seq) => (epoch, *seq),
        };
        (epoch == position.epoch.as_str() && seq >= position.seq).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_with_all_data_goes_on_in_the_same_epoch() {
    let redis = Watched::start().await;
    let name = channel("orders:1");
    let (node, start) = redis.with_ten(&name).await;
    redis.fail_over().await;
    redis.followed().await;
    // A call may still be on its way to the old master, which refuses it.
    let next = eventually("a publication on the new master", async || {
        node.try_publish(&name, "11", Some("eleven")).await.ok()
    })
    .await;
    assert_eq!((&next.epoch, next.seq), (&start.epoch, 11));
    node.delivered(&name, 11).await;
    let epoch = start.epoch.as_str().to_owned();
    let expected: Vec<_> = (1..=11).map(|seq| (epoch.clone(), seq)).collect();
    assert_eq!(delivered(&node), expected);
    let gaps = node.recorder.on(&name).into_iter();
    let gaps = gaps.filter(|one| matches!(one, Delivered::Newest(..)));
    assert_eq!(gaps.count(), 0);
    eventually("no fault", async || node.fault().is_none().then_some(())).await;
    // A node that starts now finds it as well.
    let other = redis.node().await;
    assert_eq!(other.subscribe(&name).await.seq, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_that_lacks_publications_begins_another_epoch() {
    let mut redis = Watched::start().await;
    let name = channel("orders:1");
    let (node, start) = redis.with_ten(&name).await;
    redis.cut_replica().await;
    let mut given = HashSet::new();
    for number in 11..=15 {
        let position = node.publish(&name, &number.to_string()).await;
        assert_eq!((&position.epoch, position.seq), (&start.epoch, number));
        assert!(given.insert(position.seq));
    }
    node.delivered(&name, 15).await;
    redis.master.kill();
    eventually("the fault", async || node.fault()).await;
    let next = eventually("a publication on the new master", async || {
        node.try_publish(&name, "16", Some("sixteen")).await.ok()
    })
    .await;
    assert_ne!(next.epoch, start.epoch, "11 to 15 were given before");
    reached(&node, &next).await;
    let last = node.publish(&name, "17").await;
    assert_eq!((&last.epoch, last.seq), (&next.epoch, next.seq + 1));
    reached(&node, &last).await;
    // Each number came once in its epoch, and the last one after the new epoch was known.
    let all = delivered(&node);
    let different: HashSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "{all:?}");
    let epoch = next.epoch.as_str();
    let of_new: Vec<_> = all.iter().filter(|(of, _)| of == epoch).collect();
    assert_eq!(
        of_new.last().map(|(_, seq)| *seq),
        Some(last.seq),
        "{all:?}"
    );
    assert!(
        of_new.windows(2).all(|pair| pair[0].1 + 1 == pair[1].1),
        "{all:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_hangs_is_not_waited_for_once_it_was_replaced() {
    let redis = Watched::start().await;
    let name = channel("orders:1");
    let mut patient = redis.options();
    patient.timeout = Duration::from_secs(300);
    let node = Node::with(patient, MemoryLimits::default()).await.unwrap();
    let start = node.subscribe(&name).await;
    node.publish(&name, "1").await;
    redis.replicated(1).await;
    redis.master.pause();
    // It is on its way to the old master, which carries it out later.
    let next = within("the new master", node.publish(&name, "2")).await;
    assert_eq!((&next.epoch, next.seq), (&start.epoch, 2));
    redis.replicated(2).await;
    redis.master.resume();
    assert_eq!(node.publish(&name, "3").await.seq, 3);
    let expected = [1, 2, 3].map(|number| (number, number.to_string()));
    assert_eq!(node.delivered(&name, 3).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_under_load_gives_no_number_twice() {
    let redis = Watched::start().await;
    let nodes = [redis.node().await, redis.node().await];
    let name = channel("orders:1");
    for node in &nodes {
        node.subscribe(&name).await;
    }
    let nodes = Arc::new(nodes);
    let is_followed = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for publisher in 0..4_usize {
        let (nodes, name, is_followed) = (nodes.clone(), name.clone(), is_followed.clone());
        tasks.push(tokio::spawn(async move {
            let mut given = Vec::new();
            let (mut number, mut left) = (0, 25);
            // Until some are on the new master.
            while left > 0 {
                let text = format!("[{publisher},{number}]");
                if let Ok(position) = nodes[publisher % 2].try_publish(&name, &text, None).await {
                    given.push((position.epoch.as_str().to_owned(), position.seq));
                    left -= i32::from(is_followed.load(Ordering::Acquire));
                }
                number += 1;
            }
            given
        }));
    }
    redis.fail_over().await;
    redis.followed().await;
    is_followed.store(true, Ordering::Release);
    let mut given = Vec::new();
    for task in tasks {
        given.extend(task.await.unwrap());
    }
    let last = eventually("the last publication", async || {
        let published = nodes[0].try_publish(&name, "\"last\"", Some("last")).await;
        published.ok()
    })
    .await;
    let newest = (last.epoch.as_str().to_owned(), last.seq);
    for node in nodes.iter() {
        reached(node, &last).await;
        let all = delivered(node);
        let of_last: Vec<_> = all.iter().filter(|(epoch, _)| *epoch == newest.0).collect();
        // From where the epoch began for this node, without a hole.
        for pair in of_last.windows(2) {
            assert_eq!(pair[0].1 + 1, pair[1].1);
        }
        let different: HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
    // Of the newest epoch, each number was given once.
    given.retain(|(epoch, _)| *epoch == newest.0);
    let different: HashSet<_> = given.iter().collect();
    assert_eq!(different.len(), given.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_server_is_used_before_the_sentinel_names_it() {
    let redis = Watched::start().await;
    let name = channel("orders:1");
    let (node, start) = redis.with_ten(&name).await;
    redis.fail_over().await;
    eventually("the promotion", async || {
        let role = redis.replica.try_command(&["ROLE"]).await?;
        role.contains("master").then_some(())
    })
    .await;
    // It reads the roles of servers once a second, and nearly never has read this one yet.
    redis.sentinel.pause();
    let next = eventually("a publication on the new master", async || {
        node.try_publish(&name, "11", Some("eleven")).await.ok()
    })
    .await;
    assert_eq!((&next.epoch, next.seq), (&start.epoch, 11));
    redis.replicated(11).await;
    node.delivered(&name, 11).await;
    redis.sentinel.resume();
    assert_eq!(node.publish(&name, "12").await.seq, 12);
    redis.replicated(12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_the_sentinel_does_not_know_is_named() {
    let master = RedisServer::start().await;
    let sentinel = RedisSentinel::start(&master).await;
    let mut wrong = options(&master);
    wrong.address = RedisAddress::parse("redis://other").unwrap();
    wrong.sentinels = Sentinels::new(&[sentinel.address()]).unwrap();
    let refused = match Node::with(wrong, MemoryLimits::default()).await {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    };
    assert!(
        refused.contains("watch no master under the name"),
        "{refused}"
    );
    // A sentinel in the place of a server, and the other way round.
    let start = async |options| {
        let refused = Node::with(options, MemoryLimits::default()).await;
        refused.err().expect("a refusal").message().to_owned()
    };
    let mut in_url = options(&master);
    in_url.address = RedisAddress::parse(&format!("redis://{}", sentinel.address())).unwrap();
    let error = start(in_url).await;
    assert!(
        error.starts_with("broker.url: redis://")
            && error.contains("it is a sentinel: name it in `broker.sentinels`"),
        "{error}"
    );
    let mut as_sentinel = options(&master);
    as_sentinel.address = RedisAddress::parse("redis://tidewire").unwrap();
    let address = format!("127.0.0.1:{}", master.port());
    as_sentinel.sentinels = Sentinels::new(&[address]).unwrap();
    let error = start(as_sentinel).await;
    assert!(
        error.starts_with(
            "broker.sentinels: the master \"tidewire\" cannot be used: it is no sentinel"
        ),
        "{error}"
    );
    // Sentinels that are away may come later.
    drop(sentinel);
    let mut away = options(&master);
    away.address = RedisAddress::parse("redis://tidewire").unwrap();
    away.sentinels = Sentinels::new(&["127.0.0.1:1".to_owned()]).unwrap();
    let node = Node::with(away, MemoryLimits::default()).await.unwrap();
    let fault = node.fault().unwrap();
    assert!(
        fault.contains("no sentinel answers: redis://127.0.0.1:1"),
        "{fault}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_not_ready_without_a_master_and_dials_until_there_is_one() {
    let mut redis = Watched::start().await;
    // Nothing takes the place of the master: its address, which the sentinel names on, refuses each dial.
    redis.replica.kill();
    let server = Server::builder()
        .set("broker", "kind = \"redis\"")
        .set("broker", "url = \"redis://tidewire\"")
        .set(
            "broker",
            &format!("sentinels = [{:?}]", redis.sentinel.address()),
        )
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("demo:a").await;
    assert_eq!(server.get("/readyz").await.status, 200);
    redis.master.kill();
    server.log_line("Connection refused").await;
    let is_ready = async |expected: u16| {
        eventually(format!("{expected}"), async || {
            (server.get("/readyz").await.status == expected).then_some(())
        })
        .await;
    };
    is_ready(503).await;
    redis.master.restart().await;
    is_ready(200).await;
    server.publish("demo:a", json!("after")).await;
    eventually("the publication", async || {
        (client.next_on("demo:a").await.data == "after").then_some(())
    })
    .await;
}
