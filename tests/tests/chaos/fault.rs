//! The faults: each is injected, held for a while, and healed.

use std::time::Duration;

use tidewire_tests::host::has_netem;
use tokio::time::sleep;

use crate::cluster::{Cluster, Layout, NODES, Redis};

/// Time in which a failover of a working master that was asked for is done, or given up.
pub(crate) const PROMOTION: Duration = Duration::from_secs(6);

/// SplitMix64: numbers that a seed decides.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below the bound")
    }

    /// A time between two, in milliseconds.
    fn between(&mut self, least: usize, most: usize) -> Duration {
        Duration::from_millis((least + self.below(most - least)) as u64)
    }
}

/// How long a fault is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strength {
    pub(crate) long: Duration,
    pub(crate) brief: Duration,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    NodeKilled,
    NodeHangs,
    NodesRestartInTurn,
    ClientsCut,
    ClientsUnheard,
    MasterKilled,
    MasterHangs,
    MasterHangsBriefly,
    MasterUnheard,
    MasterReplaced,
    MasterBecomesReplica,
    RedisEmptied,
    RedisConnectionsKilled,
    RedisConnectionsCut,
    /// Of a Redis Cluster only, likewise those up to [`Self::MasterEmptied`].
    ShardFailsOver,
    ShardFailsOverByForce,
    ShardHangs,
    MasterSilent,
    ReplicaKilled,
    SlotsMoved,
    MasterEmptied,
    /// On hosts only, likewise those below.
    Partition,
    Loss,
    Latency,
}

impl Fault {
    const ON_HOSTS: [Self; 3] = [Self::Partition, Self::Loss, Self::Latency];

    /// Of the servers.
    const NODES: [Self; 5] = [
        Self::NodeKilled,
        Self::NodeHangs,
        Self::NodesRestartInTurn,
        Self::ClientsCut,
        Self::ClientsUnheard,
    ];

    /// Of a Redis with a replica and a sentinel.
    const PAIR: [Self; 9] = [
        Self::MasterKilled,
        Self::MasterHangs,
        Self::MasterHangsBriefly,
        Self::MasterUnheard,
        Self::MasterReplaced,
        Self::MasterBecomesReplica,
        Self::RedisEmptied,
        Self::RedisConnectionsKilled,
        Self::RedisConnectionsCut,
    ];

    /// Of a Redis Cluster.
    const SHARDS: [Self; 12] = [
        Self::MasterKilled,
        Self::MasterHangs,
        Self::MasterHangsBriefly,
        Self::ShardFailsOver,
        Self::ShardFailsOverByForce,
        Self::ShardHangs,
        Self::MasterSilent,
        Self::ReplicaKilled,
        Self::SlotsMoved,
        Self::MasterEmptied,
        Self::RedisConnectionsKilled,
        Self::RedisConnectionsCut,
    ];

    /// The name of the kind in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::NodeKilled => "a node is killed, and restarted",
            Self::NodeHangs => "a node hangs for 2 to 5 s",
            Self::NodesRestartInTurn => "all nodes restart in turn",
            Self::ClientsCut => "the clients of a node are cut",
            Self::ClientsUnheard => "the link to a node drops all packets for 2 to 5 s",
            Self::MasterKilled => "the master is killed, and the replica promoted",
            Self::MasterHangs => "the master hangs until the replica is promoted",
            Self::MasterHangsBriefly => "the master hangs for 0.3 to 0.8 s",
            Self::MasterUnheard => {
                "the link to the master drops all packets until the replica is promoted"
            }
            Self::MasterReplaced => "the sentinel replaces a master that works",
            Self::MasterBecomesReplica => "the master is a replica for 0.3 to 1 s",
            Self::RedisEmptied => "Redis loses all but the shared store",
            Self::RedisConnectionsKilled => "Redis ends all connections, three times",
            Self::RedisConnectionsCut => "the link to the master is cut, three times",
            Self::ShardFailsOver => "an operator replaces a master that works",
            Self::ShardFailsOverByForce => "an operator replaces it by force",
            Self::ShardHangs => "a master and its replica hang for 2 to 5 s",
            Self::MasterSilent => {
                "the link to a master drops all packets for 2 to 5 s, and nothing is promoted"
            }
            Self::ReplicaKilled => "a replica is killed, and restarted",
            Self::SlotsMoved => "some hundred slots move to another master, and back",
            Self::MasterEmptied => "a master loses all but the shared store",
            Self::Partition => "the host of a node is cut off for 2 to 5 s",
            Self::Loss => "the host of a node loses 10 % of all packets for 2 to 5 s",
            Self::Latency => {
                "packets to and from the host of a node take 80 ms longer for 2 to 5 s"
            }
        }
    }

    /// Draws faults, of all kinds or of those whose names are among these: each once before any comes
    /// again.
    pub(crate) fn draw(
        random: &mut Random,
        count: usize,
        layout: Layout,
        names: Option<&str>,
    ) -> Vec<Self> {
        let mut drawn = Vec::new();
        let is_named = |fault: &Self| {
            let name = format!("{fault:?}");
            names.is_none_or(|names| names.split(',').any(|one| one == name))
        };
        let others: [&[Self]; 2] = match layout {
            Layout::OneMachine => [&Self::PAIR, &[]],
            Layout::Hosts if has_netem() => [&Self::PAIR, &Self::ON_HOSTS],
            Layout::Hosts => [&Self::PAIR, &[Self::Partition, Self::Loss]],
            Layout::RedisCluster => [&Self::SHARDS, &[]],
        };
        let all = Self::NODES.into_iter().chain(others.concat());
        let all: Vec<_> = all.collect();
        let named: Vec<_> = all.iter().copied().filter(is_named).collect();
        assert!(!named.is_empty(), "no fault of {all:?} is among {names:?}");
        while drawn.len() < count {
            let mut deck = named.clone();
            while !deck.is_empty() {
                drawn.push(deck.swap_remove(random.below(deck.len())));
            }
        }
        drawn.truncate(count);
        drawn
    }

    /// Injects the fault, holds it, and heals it.
    pub(crate) async fn strike(self, cluster: &mut Cluster, random: &mut Random) {
        let index = random.below(NODES);
        let strength = Strength {
            long: random.between(2_000, 5_000),
            brief: random.between(300, 800),
        };
        let Strength { long, brief } = strength;
        let node = &mut cluster.nodes[index];
        match self {
            Self::NodeKilled => {
                node.server.kill().await;
                sleep(brief).await;
                node.restart().await;
            }
            Self::NodeHangs => {
                node.server.pause();
                sleep(long).await;
                node.server.resume();
            }
            Self::NodesRestartInTurn => {
                for node in &mut cluster.nodes {
                    node.server.terminate();
                    assert!(node.server.ended().await.success());
                    node.restart().await;
                }
            }
            Self::ClientsCut => node.link.cut(),
            Self::ClientsUnheard => {
                node.link.silence();
                sleep(long).await;
                node.link.pass();
            }
            Self::Partition | Self::Loss | Self::Latency => {
                let host = &cluster.hosts[index];
                match self {
                    Self::Partition => host.partition(),
                    Self::Loss => host.lose(10),
                    _ => host.delay(Duration::from_millis(40)),
                }
                sleep(long).await;
                host.heal();
            }
            _ => match &mut cluster.redis {
                Redis::Pair(pair) => pair.strike(self, strength).await,
                Redis::Shards(shards) => shards.strike(self, strength, random).await,
            },
        }
    }
}
