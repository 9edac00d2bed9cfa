//! The cluster under test: three servers, their Redis, and a venue.
//!
//! Each server and each Redis is behind a link, which can be cut. The processes run on this machine, or
//! each on a [host](Host) of its own, with this process and the links as their router.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::json;
use tempfile::TempDir;
use tidewire_tests::{
    Endpoint, Host, Link, Place, Server, ServerBuilder, Token, VenueKind, VenueStandIn, eventually,
    host::{ROUTER, become_router},
};
use tokio::time::timeout;

use crate::{market::SYMBOL, pair::Pair, shards::Shards};

/// The Redis of the cluster, and where the processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A Redis with a replica and a sentinel, all on this machine.
    OneMachine,
    /// The same, each on a host of its own.
    Hosts,
    /// A Redis Cluster, on this machine.
    RedisCluster,
}

/// The Redis that the servers share.
pub(crate) enum Redis {
    Pair(Box<Pair>),
    Shards(Shards),
}

impl Redis {
    /// The lines of `[broker]` that name it.
    fn settings(&self) -> Vec<String> {
        match self {
            Self::Pair(pair) => vec![
                "url = \"redis://tidewire\"".to_owned(),
                format!("sentinels = [{:?}]", pair.sentinel()),
            ],
            Self::Shards(shards) => vec![format!("cluster = {:?}", shards.seeds())],
        }
    }
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
    async fn start(index: usize, place: Place, redis: &Redis, venue: &VenueStandIn) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut builder = Server::builder()
            .on(place)
            .namespace("lane", "history_size = 10000")
            .set("broker", "kind = \"redis\"")
            .set("broker", "timeout = \"2s\"")
            .set("broker", "share_prices = true")
            .set("store", &format!("path = {:?}", folder.path()))
            .set("store", "kind = \"redis\"")
            .set("store", "replicas = 1")
            .set("prices", &format!("symbols = [{SYMBOL:?}]"))
            .source("kraken", "kraken", &venue.url())
            .without_readiness_check();
        for line in redis.settings() {
            builder = builder.set("broker", &line);
        }
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

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// The hosts of the servers, if they have some.
    pub(crate) hosts: Vec<Host>,
    _others: Vec<Host>,
    pub(crate) redis: Redis,
    /// Failovers that no fault asked for.
    pub(crate) unasked: usize,
}

impl Cluster {
    /// Starts it, with a venue. A sentinel takes a master for down that has not answered for
    /// `down_after`.
    pub(crate) async fn start(down_after: Duration, layout: Layout) -> (Self, VenueStandIn) {
        let (router, mut hosts) = match layout {
            Layout::OneMachine | Layout::RedisCluster => (Ipv4Addr::LOCALHOST, Vec::new()),
            Layout::Hosts => {
                become_router();
                let count = u8::try_from(NODES).expect("a few") + 3;
                (ROUTER, (1..=count).map(Host::add).collect())
            }
        };
        let place = |index| hosts.get(index).map_or_else(Place::default, Place::from);
        let redis = if layout == Layout::RedisCluster {
            Redis::Shards(Shards::start().await)
        } else {
            let places = [NODES, NODES + 1, NODES + 2].map(place);
            Redis::Pair(Box::new(Pair::start(places, router, down_after).await))
        };
        let any = (router, 0).into();
        let venue = VenueStandIn::listen(VenueKind::Kraken, any, None).await;
        let venue = venue.expect("a free port");
        let mut nodes = Vec::new();
        for index in 0..NODES {
            nodes.push(Node::start(index, place(index), &redis, &venue).await);
        }
        let others = hosts.split_off(NODES.min(hosts.len()));
        let mut cluster = Self {
            nodes,
            hosts,
            _others: others,
            redis,
            unasked: 0,
        };
        cluster.whole().await;
        (cluster, venue)
    }

    /// Waits until every part works again: Redis, with all replicas, and all servers. Redis may have
    /// replaced a master by itself.
    pub(crate) async fn whole(&mut self) {
        self.unasked += match &mut self.redis {
            Redis::Pair(pair) => pair.whole().await,
            Redis::Shards(shards) => shards.whole().await,
        };
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
}
