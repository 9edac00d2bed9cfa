//! The cluster under test: three servers, a Redis with a replica, a sentinel, and a venue.
//!
//! Each server and each Redis is behind a link, which can be cut. The Redis announce their links, so that
//! the sentinel, the replica and the servers all take them. The processes run on this machine, or each on
//! a [host](Host) of its own, with this process and the links as their router.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;
use tidewire_tests::{
    Endpoint, Host, Link, Place, RedisSentinel, RedisServer, Server, ServerBuilder, Token,
    VenueKind, VenueStandIn, eventually,
    host::{ROUTER, become_router},
};
use tokio::time::timeout;

use crate::market::SYMBOL;

/// Where the processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    OneMachine,
    /// Each on a host of its own.
    Hosts,
}

/// Servers of the cluster.
pub(crate) const NODES: usize = 3;

/// A server, and the folder of its store, which outlives it.
pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) link: Link,
    /// One for each release that takes turns.
    releases: Vec<ServerBuilder>,
    starts: usize,
    _folder: TempDir,
}

impl Node {
    /// Starts it. The first release of a node is the next one of that of the node before.
    async fn start(
        index: usize,
        place: Place,
        sentinel: &RedisSentinel,
        venue: &VenueStandIn,
    ) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let builder = Server::builder()
            .on(place)
            .namespace("lane", "history_size = 10000")
            .set("broker", "kind = \"redis\"")
            .set("broker", "url = \"redis://tidewire\"")
            .set("broker", &format!("sentinels = [{:?}]", sentinel.address()))
            .set("broker", "timeout = \"2s\"")
            .set("broker", "share_prices = true")
            .set("store", &format!("path = {:?}", folder.path()))
            .set("store", "kind = \"redis\"")
            .set("store", "replicas = 1")
            .set("prices", &format!("symbols = [{SYMBOL:?}]"))
            .source("kraken", "kraken", &venue.url())
            .without_readiness_check();
        let mut releases = vec![builder.clone()];
        if let Some(other) = std::env::var_os("TIDEWIRE_CHAOS_OTHER_BIN") {
            releases.push(builder.binary(other.into()));
        }
        let first = releases[index % releases.len()].clone();
        let server = first.start().await;
        let link = Link::start(server.address()).await;
        Self {
            server,
            link,
            releases,
            starts: index + 1,
            _folder: folder,
        }
    }

    /// Starts the server again, on its store, after it has ended.
    pub(crate) async fn restart(&mut self) {
        let next = self.releases[self.starts % self.releases.len()].clone();
        self.starts += 1;
        self.server = next.start().await;
        self.link.redirect(self.server.address());
    }

    /// Where clients reach it.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::at(self.link.address())
    }
}

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

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// The hosts of the servers, if they have some.
    pub(crate) hosts: Vec<Host>,
    _others: Vec<Host>,
    pub(crate) redis: [Redis; 2],
    /// Index of the master.
    pub(crate) master: usize,
    pub(crate) sentinel: RedisSentinel,
    /// Failovers that no fault asked for.
    pub(crate) unasked: usize,
}

impl Cluster {
    /// Starts it, with a venue. The sentinel takes a master for down that has not answered for
    /// `down_after`.
    pub(crate) async fn start(down_after: Duration, layout: Layout) -> (Self, VenueStandIn) {
        let (router, mut hosts) = match layout {
            Layout::OneMachine => (Ipv4Addr::LOCALHOST, Vec::new()),
            Layout::Hosts => {
                become_router();
                let count = u8::try_from(NODES).expect("a few") + 3;
                (ROUTER, (1..=count).map(Host::add).collect())
            }
        };
        let place = |index| hosts.get(index).map_or_else(Place::default, Place::from);
        let master = Redis::start(place(NODES), router, None).await;
        let replica = Redis::start(place(NODES + 1), router, Some(master.port())).await;
        let watched = master.link.address();
        let sentinel = RedisSentinel::watch_on(place(NODES + 2), watched, 1, down_after).await;
        let any = (router, 0).into();
        let venue = VenueStandIn::listen(VenueKind::Kraken, any, None).await;
        let venue = venue.expect("a free port");
        let mut nodes = Vec::new();
        for index in 0..NODES {
            nodes.push(Node::start(index, place(index), &sentinel, &venue).await);
        }
        let others = hosts.split_off(NODES.min(hosts.len()));
        let mut cluster = Self {
            nodes,
            hosts,
            _others: others,
            redis: [master, replica],
            master: 0,
            sentinel,
            unasked: 0,
        };
        cluster.whole().await;
        (cluster, venue)
    }

    pub(crate) fn master(&self) -> &Redis {
        &self.redis[self.master]
    }

    pub(crate) fn replica(&self) -> &Redis {
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

    /// Waits until every part works again: the sentinel sees a master and a replica, the replica has
    /// the data, and all servers are ready. The sentinel may have replaced the master by itself: a
    /// busy machine is slow to answer.
    pub(crate) async fn whole(&mut self) {
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
        self.unasked += usize::from(self.master != before);
        for node in &self.nodes {
            eventually("a server is ready", async || {
                (node.server.get("/readyz").await.status == 200).then_some(())
            })
            .await;
            eventually("the store has an owner", async || {
                let body = json!({"user": "probe"});
                let token = Token::service();
                let asked = node
                    .server
                    .try_call("NotifyService/GetUnreadCount", &token, &body);
                let answer = timeout(Duration::from_secs(5), asked).await.ok()??;
                (answer.status == 200).then_some(())
            })
            .await;
        }
    }

    /// Empties Redis, but for the shared store: of that nothing would be left to compare.
    pub(crate) async fn empty(&self) {
        let script = "for _, key in ipairs(redis.call('KEYS', '*')) do
            if not string.find(key, '{store}', 1, true) then redis.call('UNLINK', key) end
        end";
        let server = &self.master().server;
        server.command(&["EVAL", script, "0"]).await;
        server.command(&["SCRIPT", "FLUSH"]).await;
    }
}

/// The flags under which the sentinel has the master, or its replica.
async fn flags(sentinel: &RedisSentinel, what: &str) -> Option<String> {
    let answer = sentinel.command(&["SENTINEL", what, "tidewire"]).await;
    let mut lines = answer.lines().skip_while(|line| *line != "flags");
    // The name, the length of the value, and the value.
    lines.nth(2).map(str::to_owned)
}
