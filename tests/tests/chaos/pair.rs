//! Pair: a Redis with a replica, and the sentinel that watches them.
//!
//! Each Redis is behind a link, which can be cut. The Redis announce their links, so that the sentinel, the
//! replica and the servers all take them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tidewire_tests::{Link, Place, RedisSentinel, RedisServer, eventually};
use tokio::time::sleep;

use crate::fault::{Fault, Strength};

/// A Redis and its link.
pub(crate) struct Redis {
    pub(crate) server: RedisServer,
    pub(crate) link: Link,
}

impl Redis {
    /// Starts it with a link at an address of this process.
    async fn start(place: Place, router: Ipv4Addr, master: Option<u16>) -> Self {
        let link = Link::start_at(router, (router, 1).into()).await;
        let arguments = arguments(link.address(), master);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let server = RedisServer::start_on(place, &arguments).await;
        link.redirect(server.address());
        Self { server, link }
    }

    pub(crate) fn port(&self) -> u16 {
        self.link.address().port()
    }

    /// Bytes of the replication so far.
    async fn offset(&self) -> Option<u64> {
        let info = self.server.try_command(&["INFO", "replication"]).await?;
        let offset = info
            .lines()
            .find_map(|line| line.strip_prefix("master_repl_offset:"));
        offset?.trim().parse().ok()
    }

    /// Makes it a replica of the Redis on this port.
    pub(crate) async fn follow(&self, master: u16) {
        eventually("the old master becomes a replica", async || {
            let router = self.link.address().ip().to_string();
            let command = ["REPLICAOF", &router, &master.to_string()];
            let answer = self.server.try_command(&command).await?;
            answer.starts_with("+OK").then_some(())
        })
        .await;
    }

    /// Starts it again, without data, as a replica of the Redis on this port.
    pub(crate) async fn restart_behind(&mut self, master: u16) {
        let arguments = arguments(self.link.address(), Some(master));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.server.restart_with(&arguments).await;
    }
}

fn arguments(announced: SocketAddr, master: Option<u16>) -> Vec<String> {
    let (router, port) = (announced.ip(), announced.port());
    let announced = format!("--replica-announce-ip {router} --replica-announce-port {port}");
    let mut text = format!("{announced} --repl-diskless-sync-delay 0");
    if let Some(master) = master {
        text += &format!(" --replicaof {router} {master}");
    }
    text.split(' ').map(str::to_owned).collect()
}

/// A master, its replica, and their sentinel.
pub(crate) struct Pair {
    redis: [Redis; 2],
    /// Index of the master.
    master: usize,
    sentinel: RedisSentinel,
}

impl Pair {
    /// Starts it at these places. The sentinel takes a master for down that has not answered for
    /// `down_after`.
    pub(crate) async fn start(places: [Place; 3], router: Ipv4Addr, down_after: Duration) -> Self {
        let [first, second, third] = places;
        let master = Redis::start(first, router, None).await;
        let replica = Redis::start(second, router, Some(master.port())).await;
        let watched = master.link.address();
        let sentinel = RedisSentinel::watch_on(third, watched, 1, down_after).await;
        Self {
            redis: [master, replica],
            master: 0,
            sentinel,
        }
    }

    /// The address of the sentinel.
    pub(crate) fn sentinel(&self) -> String {
        self.sentinel.address()
    }

    fn master(&self) -> &Redis {
        &self.redis[self.master]
    }

    fn replica(&self) -> &Redis {
        &self.redis[1 - self.master]
    }

    /// Waits until the replica has all that the master has, whose writes are paused.
    pub(crate) async fn in_step(&self) {
        eventually("the replica has all", async || {
            let master = self.redis[self.master].offset().await?;
            (self.replica().offset().await? >= master).then_some(())
        })
        .await;
    }

    /// Waits until the sentinel names the replica as the master. It then is.
    pub(crate) async fn promoted(&mut self) {
        let next = self.replica().port();
        eventually("a failover", async || {
            (self.sentinel.master().await == next).then_some(())
        })
        .await;
        self.master = 1 - self.master;
    }

    /// Waits until the sentinel sees a master and a replica, and the replica has the data. Returns whether
    /// the sentinel has replaced the master by itself: a busy machine is slow to answer.
    pub(crate) async fn whole(&mut self) -> usize {
        let before = self.master;
        eventually("a master and a replica", async || {
            let named = self.sentinel.master().await;
            let mut redis = self.redis.iter();
            self.master = redis.position(|redis| redis.port() == named)?;
            let question = ["INFO", "replication"];
            let info = self.replica().server.try_command(&question).await?;
            let master = flags(&self.sentinel, "MASTER").await?;
            let replica = flags(&self.sentinel, "REPLICAS").await?;
            let seen = (info.contains("master_link_status:up"), &*master, &*replica);
            (seen == (true, "master", "slave")).then_some(())
        })
        .await;
        usize::from(self.master != before)
    }

    /// Injects a fault of Redis, holds it, and heals it.
    pub(crate) async fn strike(&mut self, fault: Fault, strength: Strength) {
        match fault {
            Fault::MasterKilled => {
                let old = self.master;
                self.redis[old].server.kill();
                self.promoted().await;
                let next = self.master().port();
                self.redis[old].restart_behind(next).await;
            }
            Fault::MasterHangs => {
                self.master().server.pause();
                self.promoted().await;
                // It still takes itself for the master, and carries out what waited for it.
                self.replica().server.resume();
                sleep(strength.brief).await;
                self.replica().follow(self.master().port()).await;
            }
            Fault::MasterHangsBriefly => {
                self.master().server.pause();
                sleep(strength.brief).await;
                self.master().server.resume();
            }
            Fault::MasterUnheard => {
                self.master().link.silence();
                self.promoted().await;
                self.replica().link.pass();
                self.replica().link.cut();
                self.replica().follow(self.master().port()).await;
            }
            Fault::MasterReplaced => {
                eventually("the failover begins", async || {
                    let command = ["SENTINEL", "FAILOVER", "tidewire"];
                    let answer = self.sentinel.command(&command).await;
                    answer.starts_with("+OK").then_some(())
                })
                .await;
                self.promoted().await;
                // For so long it takes writes that will be lost.
                sleep(strength.brief).await;
                self.replica().follow(self.master().port()).await;
            }
            Fault::MasterBecomesReplica => {
                let (old, other) = (self.master(), self.replica().port());
                // Redis replicates without waiting: writes that the replica lacks at this moment would be
                // lost, whatever the nodes do. An operator pauses them.
                let pause = ["CLIENT", "PAUSE", "5000", "WRITE"];
                old.server.command(&pause).await;
                self.in_step().await;
                old.follow(other).await;
                old.server.command(&["CLIENT", "UNPAUSE"]).await;
                sleep(strength.brief).await;
                old.server.command(&["REPLICAOF", "NO", "ONE"]).await;
            }
            Fault::RedisEmptied => empty(&self.master().server).await,
            Fault::RedisConnectionsKilled => {
                for _ in 0..3 {
                    for kind in ["normal", "pubsub"] {
                        self.master()
                            .server
                            .command(&["CLIENT", "KILL", "TYPE", kind])
                            .await;
                    }
                    sleep(strength.brief / 3).await;
                }
            }
            Fault::RedisConnectionsCut => {
                for _ in 0..3 {
                    self.master().link.cut();
                    sleep(strength.brief / 3).await;
                }
            }
            _ => unreachable!("{fault:?} is none of a master and a replica"),
        }
    }
}

/// Empties Redis, but for the shared store: of that nothing would be left to compare.
pub(crate) async fn empty(server: &RedisServer) {
    let script = "for _, key in ipairs(redis.call('KEYS', '*')) do
        if not string.find(key, '{store}', 1, true) then redis.call('UNLINK', key) end
    end";
    server.command(&["EVAL", script, "0"]).await;
    server.command(&["SCRIPT", "FLUSH"]).await;
}

/// The flags under which the sentinel has the master, or its replica.
async fn flags(sentinel: &RedisSentinel, what: &str) -> Option<String> {
    let answer = sentinel.command(&["SENTINEL", what, "tidewire"]).await;
    let mut lines = answer.lines().skip_while(|line| *line != "flags");
    // The name, the length of the value, and the value.
    lines.nth(2).map(str::to_owned)
}
