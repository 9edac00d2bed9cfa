//! Shards: a Redis Cluster of several masters with a replica each.
//!
//! Each server is behind a link, which it announces: clients and replicas take it. The bus of the
//! cluster goes past the links. A server behind a silent link is therefore not replaced.

use std::collections::BTreeSet;

use tidewire_tests::{Link, RedisCluster, RedisServer, eventually};
use tokio::time::{sleep, timeout};

use crate::{
    fault::{Fault, PROMOTION, Random, Strength},
    pair::empty,
};

/// Masters of the cluster.
pub(crate) const MASTERS: usize = 3;

/// Slots that the tool of Redis moves, besides those of the load.
const MOVED: usize = 300;

/// Keys whose slots are moved: those of the channels, of the prices, of the store, and of all nodes.
const LOAD: [&str; 4] = [
    "tidewire:*:meta:lane:*",
    "tidewire:*:meta:prices:*",
    "tidewire:{store}:*",
    "tidewire:{control}:*",
];

/// A cluster, and the present master of each shard.
pub(crate) struct Shards {
    redis: RedisCluster,
    /// Shard number n has the servers n and n + [`MASTERS`].
    masters: [usize; MASTERS],
}

/// The server of the same shard that is not this one.
fn other(server: usize) -> usize {
    (server + MASTERS) % (2 * MASTERS)
}

impl Shards {
    pub(crate) async fn start() -> Self {
        let mut redis = RedisCluster::start_behind_links(MASTERS).await;
        for master in 0..MASTERS {
            redis.add_replica(master).await;
        }
        let masters = std::array::from_fn(|shard| shard);
        Self { redis, masters }
    }

    /// Addresses of some servers, as `broker.cluster` takes them.
    pub(crate) fn seeds(&self) -> Vec<String> {
        self.redis.seeds()
    }

    /// The master of a shard, and the link to it.
    fn master(&self, shard: usize) -> (&RedisServer, &Link) {
        let index = self.masters[shard];
        (&self.redis.servers[index], &self.redis.links[index])
    }

    fn replica(&self, shard: usize) -> &RedisServer {
        &self.redis.servers[other(self.masters[shard])]
    }

    /// Waits until the replica of a shard is its master.
    async fn promoted(&mut self, shard: usize) {
        eventually("a failover of a shard", async || {
            is_master(self.replica(shard)).await.then_some(())
        })
        .await;
        self.masters[shard] = other(self.masters[shard]);
    }

    /// Whether each master has some of the channels of the load.
    pub(crate) async fn is_loaded(&self) -> bool {
        for index in self.masters {
            let keys = ["KEYS", LOAD[0]];
            let answer = self.redis.servers[index].command(&keys).await;
            if answer.starts_with("*0") {
                return false;
            }
        }
        true
    }

    /// Waits until each shard has a master and a replica with its data, and all servers agree on the
    /// slots. Returns how many shards have another master than was known: a busy machine is slow to
    /// answer.
    pub(crate) async fn whole(&mut self) -> usize {
        let before = self.masters;
        eventually("a whole cluster", async || {
            let mut masters = before;
            for (index, server) in self.redis.servers.iter().enumerate() {
                let info = server.try_command(&["INFO", "replication"]).await?;
                if info.contains("role:master") {
                    info.contains("connected_slaves:1").then_some(())?;
                    masters[index % MASTERS] = index;
                } else {
                    info.contains("master_link_status:up").then_some(())?;
                }
                let info = server.try_command(&["CLUSTER", "INFO"]).await?;
                let parts = ["cluster_state:ok", "cluster_slots_ok:16384"];
                parts.iter().all(|part| info.contains(part)).then_some(())?;
                let nodes = server.try_command(&["CLUSTER", "NODES"]).await?;
                let is_open = nodes.contains("->-") || nodes.contains("-<-");
                (!is_open && !nodes.contains("fail")).then_some(())?;
            }
            self.masters = masters;
            Some(())
        })
        .await;
        self.redis.agrees().await;
        let pairs = self.masters.iter().zip(before);
        pairs.filter(|(now, before)| *now != before).count()
    }

    /// Injects a fault of the cluster, holds it, and heals it.
    pub(crate) async fn strike(&mut self, fault: Fault, strength: Strength, random: &mut Random) {
        let shard = random.below(MASTERS);
        match fault {
            Fault::MasterKilled => {
                let old = self.masters[shard];
                self.redis.servers[old].kill();
                self.promoted(shard).await;
                self.redis.servers[old].restart().await;
            }
            Fault::MasterHangs => {
                self.master(shard).0.pause();
                self.promoted(shard).await;
                // It still takes itself for the master, and carries out what waited for it.
                self.replica(shard).resume();
            }
            Fault::MasterHangsBriefly => {
                self.master(shard).0.pause();
                sleep(strength.brief).await;
                self.master(shard).0.resume();
            }
            Fault::ShardHangs => {
                self.master(shard).0.pause();
                self.replica(shard).pause();
                sleep(strength.long).await;
                self.master(shard).0.resume();
                self.replica(shard).resume();
            }
            Fault::MasterSilent => {
                let link = self.master(shard).1;
                link.silence();
                sleep(strength.long).await;
                link.pass();
                link.cut();
            }
            Fault::ShardFailsOver => self.fail_over(shard, &["CLUSTER", "FAILOVER"]).await,
            Fault::ShardFailsOverByForce => {
                self.fail_over(shard, &["CLUSTER", "FAILOVER", "FORCE"])
                    .await;
            }
            Fault::ReplicaKilled => {
                let replica = other(self.masters[shard]);
                self.redis.servers[replica].kill();
                sleep(strength.brief).await;
                self.redis.servers[replica].restart().await;
            }
            Fault::SlotsMoved => {
                let to = (shard + 1 + random.below(MASTERS - 1)) % MASTERS;
                self.move_slots(shard, to).await;
            }
            Fault::MasterEmptied => empty(self.master(shard).0).await,
            Fault::RedisConnectionsKilled => {
                for _ in 0..3 {
                    for server in &self.redis.servers {
                        for kind in ["normal", "pubsub"] {
                            server.command(&["CLIENT", "KILL", "TYPE", kind]).await;
                        }
                    }
                    sleep(strength.brief / 3).await;
                }
            }
            Fault::RedisConnectionsCut => {
                for _ in 0..3 {
                    self.master(shard).1.cut();
                    sleep(strength.brief / 3).await;
                }
            }
            _ => unreachable!("{fault:?} is none of a Redis Cluster"),
        }
    }

    /// Has the replica of a shard take the place of a master that works, as an operator does.
    async fn fail_over(&mut self, shard: usize, command: &[&str]) {
        eventually("the failover begins", async || {
            let replica = self.replica(shard);
            replica.command(command).await;
            // Redis gives it up if the master, or the others, do not answer in time.
            let promoted = eventually("a promotion", async || {
                is_master(replica).await.then_some(())
            });
            timeout(PROMOTION, promoted).await.ok()
        })
        .await;
        self.promoted(shard).await;
    }

    /// Moves the slots of the load, and some hundred others, from one shard to another and back.
    async fn move_slots(&self, from: usize, to: usize) {
        let [from, to] = [from, to].map(|shard| self.masters[shard]);
        let mut slots = BTreeSet::new();
        for pattern in LOAD {
            let keys = self.redis.servers[from].command(&["KEYS", pattern]).await;
            for key in keys.lines().skip(2).step_by(2) {
                slots.insert(self.redis.slot(key).await);
            }
        }
        for (from, to) in [(from, to), (to, from)] {
            for slot in &slots {
                self.redis.move_slot(*slot, from, to).await;
            }
            // The tool refuses to work otherwise.
            self.redis.agrees().await;
            self.redis.reshard(MOVED, from, to).await;
        }
    }
}

async fn is_master(server: &RedisServer) -> bool {
    let role = server.try_command(&["ROLE"]).await;
    role.is_some_and(|role| role.contains("master"))
}
