//! The cluster under test: three servers, a Redis with a replica, and a sentinel.
//!
//! Each server and each Redis is behind a link, which can be cut. The Redis announce their links, so that
//! the sentinel, the replica and the servers all take them.

use tempfile::TempDir;
use tidewire_tests::{
    Endpoint, Link, RedisSentinel, RedisServer, Server, ServerBuilder, eventually,
};

/// Servers of the cluster.
pub(crate) const NODES: usize = 3;

/// A server, and the folder of its store, which outlives it.
pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) link: Link,
    builder: ServerBuilder,
    _folder: TempDir,
}

impl Node {
    async fn start(sentinel: &RedisSentinel) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let builder = Server::builder()
            .set("broker", "kind = \"redis\"")
            .set("broker", "url = \"redis://tidewire\"")
            .set("broker", &format!("sentinels = [{:?}]", sentinel.address()))
            .set("broker", "timeout = \"2s\"")
            .set("store", &format!("path = {:?}", folder.path()))
            .without_readiness_check();
        let server = builder.clone().start().await;
        let link = Link::start(server.address()).await;
        Self {
            server,
            link,
            builder,
            _folder: folder,
        }
    }

    /// Starts the server again, on its store, after it has ended.
    pub(crate) async fn restart(&mut self) {
        self.server = self.builder.clone().start().await;
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
    async fn start(master: Option<u16>) -> Self {
        let link = Link::start(([127, 0, 0, 1], 1).into()).await;
        let arguments = arguments(link.address().port(), master);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let server = RedisServer::start_with(&arguments).await;
        link.redirect(([127, 0, 0, 1], server.port()).into());
        Self { server, link }
    }

    pub(crate) fn port(&self) -> u16 {
        self.link.address().port()
    }

    /// Makes it a replica of the Redis on this port.
    pub(crate) async fn follow(&self, master: u16) {
        eventually("the old master becomes a replica", async || {
            let command = ["REPLICAOF", "127.0.0.1", &master.to_string()];
            let answer = self.server.try_command(&command).await?;
            answer.starts_with("+OK").then_some(())
        })
        .await;
    }

    /// Starts it again, without data, as a replica of the Redis on this port.
    pub(crate) async fn restart_behind(&mut self, master: u16) {
        let arguments = arguments(self.port(), Some(master));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.server.restart_with(&arguments).await;
    }
}

fn arguments(announced: u16, master: Option<u16>) -> Vec<String> {
    let announced = format!("--replica-announce-ip 127.0.0.1 --replica-announce-port {announced}");
    let mut text = format!("{announced} --repl-diskless-sync-delay 0");
    if let Some(master) = master {
        text += &format!(" --replicaof 127.0.0.1 {master}");
    }
    text.split(' ').map(str::to_owned).collect()
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) redis: [Redis; 2],
    /// Index of the master.
    pub(crate) master: usize,
    pub(crate) sentinel: RedisSentinel,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let master = Redis::start(None).await;
        let replica = Redis::start(Some(master.port())).await;
        let sentinel = RedisSentinel::watch(master.port(), 1).await;
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            nodes.push(Node::start(&sentinel).await);
        }
        let mut cluster = Self {
            nodes,
            redis: [master, replica],
            master: 0,
            sentinel,
        };
        cluster.whole().await;
        cluster
    }

    pub(crate) fn master(&self) -> &Redis {
        &self.redis[self.master]
    }

    pub(crate) fn replica(&self) -> &Redis {
        &self.redis[1 - self.master]
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
        for node in &self.nodes {
            eventually("a server is ready", async || {
                (node.server.get("/readyz").await.status == 200).then_some(())
            })
            .await;
        }
    }
}

/// The flags under which the sentinel has the master, or its replica.
async fn flags(sentinel: &RedisSentinel, what: &str) -> Option<String> {
    let answer = sentinel.command(&["SENTINEL", what, "tidewire"]).await;
    let mut lines = answer.lines().skip_while(|line| *line != "flags");
    // The name, the length of the value, and the value.
    lines.nth(2).map(str::to_owned)
}
