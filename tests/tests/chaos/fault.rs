//! The faults: each is injected, held for a while, and healed.

use std::time::Duration;

use tidewire_tests::{eventually, host::has_netem};
use tokio::time::sleep;

use crate::cluster::{Cluster, Layout, NODES};

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

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below the bound")
    }

    /// A time between two, in milliseconds.
    fn between(&mut self, least: usize, most: usize) -> Duration {
        Duration::from_millis((least + self.below(most - least)) as u64)
    }
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
    /// On hosts only, likewise those below.
    Partition,
    Loss,
    Latency,
}

impl Fault {
    const ON_HOSTS: [Self; 3] = [Self::Partition, Self::Loss, Self::Latency];

    const ALL: [Self; 14] = [
        Self::NodeKilled,
        Self::NodeHangs,
        Self::NodesRestartInTurn,
        Self::ClientsCut,
        Self::ClientsUnheard,
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
        let on_hosts: &[Self] = match layout {
            Layout::OneMachine => &[],
            Layout::Hosts if has_netem() => &Self::ON_HOSTS,
            Layout::Hosts => &[Self::Partition, Self::Loss],
        };
        let all = Self::ALL.into_iter().chain(on_hosts.iter().copied());
        let all: Vec<_> = all.filter(is_named).collect();
        assert!(
            !all.is_empty(),
            "no fault of {:?} is among {names:?}",
            Self::ALL
        );
        while drawn.len() < count {
            let mut deck = all.clone();
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
        let (long, brief) = (random.between(2_000, 5_000), random.between(300, 800));
        let (node, master) = (&mut cluster.nodes[index], &cluster.redis[cluster.master]);
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
            Self::MasterKilled => {
                let old = cluster.master;
                cluster.redis[old].server.kill();
                cluster.promoted().await;
                let next = cluster.master().port();
                cluster.redis[old].restart_behind(next).await;
            }
            Self::MasterHangs => {
                master.server.pause();
                cluster.promoted().await;
                // It still takes itself for the master, and carries out what waited for it.
                cluster.replica().server.resume();
                sleep(brief).await;
                cluster.replica().follow(cluster.master().port()).await;
            }
            Self::MasterHangsBriefly => {
                master.server.pause();
                sleep(brief).await;
                master.server.resume();
            }
            Self::MasterUnheard => {
                master.link.silence();
                cluster.promoted().await;
                cluster.replica().link.pass();
                cluster.replica().link.cut();
                cluster.replica().follow(cluster.master().port()).await;
            }
            Self::MasterReplaced => {
                eventually("the failover begins", async || {
                    let command = ["SENTINEL", "FAILOVER", "tidewire"];
                    let answer = cluster.sentinel.command(&command).await;
                    answer.starts_with("+OK").then_some(())
                })
                .await;
                cluster.promoted().await;
                // For so long it takes writes that will be lost.
                sleep(brief).await;
                cluster.replica().follow(cluster.master().port()).await;
            }
            Self::MasterBecomesReplica => {
                let (old, other) = (master, cluster.replica().port());
                // Redis replicates without waiting: writes that the replica lacks at this moment would be
                // lost, whatever the nodes do. An operator pauses them.
                let pause = ["CLIENT", "PAUSE", "5000", "WRITE"];
                old.server.command(&pause).await;
                cluster.in_step().await;
                old.follow(other).await;
                old.server.command(&["CLIENT", "UNPAUSE"]).await;
                sleep(brief).await;
                old.server.command(&["REPLICAOF", "NO", "ONE"]).await;
            }
            Self::RedisEmptied => cluster.empty().await,
            Self::RedisConnectionsKilled => {
                for _ in 0..3 {
                    for kind in ["normal", "pubsub"] {
                        master
                            .server
                            .command(&["CLIENT", "KILL", "TYPE", kind])
                            .await;
                    }
                    sleep(brief / 3).await;
                }
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
            Self::RedisConnectionsCut => {
                for _ in 0..3 {
                    master.link.cut();
                    sleep(brief / 3).await;
                }
            }
        }
    }
}
