//! Redis Cluster under test: several masters, each with a part of the slots.

use std::collections::BTreeSet;

use tokio::process::Command;

use crate::{Link, Port, RedisServer, eventually};

/// Slots of a cluster.
const SLOTS: usize = 16_384;

/// A cluster. The other slots go on while one server is away, and a replica takes the place of its
/// master after a second. Dropping it kills the servers.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters at first, in the order of their slots, then the replicas.
    pub servers: Vec<RedisServer>,
    /// The links that the servers announce, one for each, unless they announce themselves.
    pub links: Vec<Link>,
    announced: Announced,
    /// The ports by which the servers know of each other.
    bus_ports: Vec<Port>,
}

/// Where the servers of a cluster are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    Servers,
    Links,
}

impl RedisCluster {
    /// Starts a cluster of this many masters.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(masters: usize) -> Self {
        Self::announcing(Announced::Servers, masters).await
    }

    /// Starts a cluster whose servers announce a link to each. Their bus, by which they know of each
    /// other, goes past the links.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_behind_links(masters: usize) -> Self {
        Self::announcing(Announced::Links, masters).await
    }

    async fn announcing(announced: Announced, masters: usize) -> Self {
        let mut cluster = Self {
            servers: Vec::new(),
            links: Vec::new(),
            announced,
            bus_ports: Vec::new(),
        };
        for _ in 0..masters {
            cluster.add().await;
        }
        for (index, server) in cluster.servers.iter().enumerate() {
            let (first, end) = (SLOTS * index / masters, SLOTS * (index + 1) / masters);
            let (epoch, first, last) = (index + 1, first.to_string(), end - 1);
            done(server, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]).await;
            done(
                server,
                &["CLUSTER", "ADDSLOTSRANGE", &first, &last.to_string()],
            )
            .await;
        }
        for server in 1..masters {
            cluster.meet(server).await;
        }
        cluster.is_complete().await;
        cluster
    }

    /// Starts a further server, which knows no other one.
    async fn add(&mut self) {
        let link = match self.announced {
            Announced::Servers => None,
            // The server that it leads to is not there yet.
            Announced::Links => Some(Link::start(([127, 0, 0, 1], 1).into()).await),
        };
        let (server, bus_port) = start(link.as_ref()).await;
        if let Some(link) = link {
            link.redirect(server.address());
            self.links.push(link);
        }
        self.servers.push(server);
        self.bus_ports.push(bus_port);
    }

    /// Has a server meet the first one.
    async fn meet(&self, server: usize) {
        let port = self.servers[server].port().to_string();
        let bus_port = self.bus_ports[server].number().to_string();
        let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port];
        done(&self.servers[0], &meet).await;
    }

    /// Waits until each server knows all others, and the master of each slot.
    async fn is_complete(&self) {
        let known = format!("cluster_known_nodes:{}\r\n", self.servers.len());
        eventually("a complete cluster", async || {
            for server in &self.servers {
                let info = server.try_command(&["CLUSTER", "INFO"]).await?;
                let parts = ["cluster_state:ok", "cluster_slots_assigned:16384", &known];
                parts.iter().all(|part| info.contains(part)).then_some(())?;
            }
            Some(())
        })
        .await;
    }

    /// Starts a replica of a master that has all of its data.
    pub async fn add_replica(&mut self, master: usize) {
        self.add().await;
        self.meet(self.servers.len() - 1).await;
        self.is_complete().await;
        let (replica, id) = (&self.servers[self.servers.len() - 1], self.id(master).await);
        eventually("a replica", async || {
            let answer = replica.command(&["CLUSTER", "REPLICATE", &id]).await;
            answer.starts_with("+OK").then_some(())
        })
        .await;
        eventually("a replica with the data", async || {
            let info = replica.command(&["INFO", "replication"]).await;
            let is_known = self.servers[0].command(&["CLUSTER", "NODES"]).await;
            (info.contains("master_link_status:up") && is_known.contains("slave")).then_some(())
        })
        .await;
    }

    /// Waits until a replica has all that its master has.
    pub async fn is_replicated(&self, master: usize, replica: usize) {
        let (master, replica) = (&self.servers[master], &self.servers[replica]);
        eventually("a replica with the newest data", async || {
            let written = replication_offset(master).await?;
            (replication_offset(replica).await? == written).then_some(())
        })
        .await;
    }

    /// The addresses, as `broker.cluster` takes them.
    #[must_use]
    pub fn seeds(&self) -> Vec<String> {
        let ports = (0..self.servers.len()).map(|server| self.port(server));
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The port that a server announces.
    #[must_use]
    pub fn port(&self, server: usize) -> u16 {
        let link = self.links.get(server);
        link.map_or_else(|| self.servers[server].port(), |link| link.address().port())
    }

    /// The id by which the other servers know a server.
    ///
    /// # Panics
    /// No answer comes.
    pub async fn id(&self, server: usize) -> String {
        let answer = self.servers[server].command(&["CLUSTER", "MYID"]).await;
        let id = answer.lines().nth(1);
        id.expect("an id").to_owned()
    }

    /// The slot of a key.
    ///
    /// # Panics
    /// No answer comes.
    pub async fn slot(&self, key: &str) -> usize {
        let answer = self.servers[0].command(&["CLUSTER", "KEYSLOT", key]).await;
        let slot = answer.trim().strip_prefix(':');
        slot.and_then(|slot| slot.parse().ok()).expect("a slot")
    }

    /// The index of the master that had a slot at first, of this many.
    #[must_use]
    pub fn first_owner(slot: usize, masters: usize) -> usize {
        (0..masters)
            .rfind(|index| SLOTS * index / masters <= slot)
            .unwrap_or_default()
    }

    /// Begins to move a slot from one master to another.
    pub async fn begin_move(&self, slot: usize, from: usize, to: usize) {
        let text = slot.to_string();
        let (source, target) = (self.id(from).await, self.id(to).await);
        let importing = ["CLUSTER", "SETSLOT", &text, "IMPORTING", &source];
        done(&self.servers[to], &importing).await;
        let migrating = ["CLUSTER", "SETSLOT", &text, "MIGRATING", &target];
        done(&self.servers[from], &migrating).await;
    }

    /// Moves some keys of a slot that is being moved. Returns how many there were.
    pub async fn move_keys(&self, slot: usize, from: usize, to: usize, most: usize) -> usize {
        let (slot, most) = (slot.to_string(), most.to_string());
        let question = ["CLUSTER", "GETKEYSINSLOT", &slot, &most];
        let answer = self.servers[from].command(&question).await;
        let keys: Vec<_> = answer.lines().skip(2).step_by(2).collect();
        if !keys.is_empty() {
            self.migrate(from, to, &keys).await;
        }
        keys.len()
    }

    /// How many times a server has refused a command with an error of this kind.
    pub async fn count_errors(&self, server: usize, kind: &str) -> u64 {
        let stats = self.servers[server].command(&["INFO", "errorstats"]).await;
        let prefix = format!("errorstat_{kind}:count=");
        let count = stats.lines().find_map(|line| line.strip_prefix(&prefix));
        count.map_or(0, |count| count.trim().parse().expect("a number"))
    }

    /// Moves these keys of a slot that is being moved.
    ///
    /// # Panics
    /// They do not move.
    pub async fn migrate(&self, from: usize, to: usize, keys: &[&str]) {
        let port = self.servers[to].port().to_string();
        let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        let command = [&migrate[..], keys].concat();
        let moved = self.servers[from].command(&command).await;
        assert!(
            moved.starts_with("+OK") || moved.starts_with("+NOKEY"),
            "{moved}"
        );
    }

    /// The keys of a slot on a server.
    pub async fn keys(&self, slot: usize, server: usize) -> Vec<String> {
        let question = ["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000"];
        let answer = self.servers[server].command(&question).await;
        let keys = answer.lines().skip(2).step_by(2);
        keys.map(str::to_owned).collect()
    }

    /// Ends the move of a slot.
    pub async fn end_move(&self, slot: usize, to: usize) {
        let (slot, target) = (slot.to_string(), self.id(to).await);
        let command = ["CLUSTER", "SETSLOT", &slot, "NODE", &target];
        done(&self.servers[to], &command).await;
        for (index, server) in self.servers.iter().enumerate() {
            // A replica does not take it.
            if index != to {
                server.try_command(&command).await;
            }
        }
        // Two moves in the same epoch would undo each other.
        eventually("one epoch of the cluster", async || {
            let mut epochs = BTreeSet::new();
            for server in &self.servers {
                let info = server.try_command(&["CLUSTER", "INFO"]).await?;
                epochs.insert(number_after(&info, "cluster_current_epoch:")?);
            }
            (epochs.len() == 1).then_some(())
        })
        .await;
    }

    /// Waits until all servers agree on the server of each slot.
    pub async fn agrees(&self) {
        eventually("servers that agree on the slots", async || {
            let mut maps = BTreeSet::new();
            for server in &self.servers {
                maps.insert(server.try_command(&["CLUSTER", "SLOTS"]).await?);
            }
            (maps.len() == 1).then_some(())
        })
        .await;
    }

    /// Moves slots from one master to another with the tool of Redis.
    ///
    /// # Panics
    /// There is no program `redis-cli`, or it fails.
    pub async fn reshard(&self, slots: usize, from: usize, to: usize) {
        let (source, target) = (self.id(from).await, self.id(to).await);
        let output = Command::new("redis-cli")
            .args(["--cluster", "reshard"])
            .arg(format!("127.0.0.1:{}", self.servers[0].port()))
            .args(["--cluster-from", &source, "--cluster-to", &target])
            .args(["--cluster-slots", &slots.to_string(), "--cluster-yes"])
            .output()
            .await
            .expect("redis-cli is installed");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
    }

    /// Moves a slot with all of its keys.
    pub async fn move_slot(&self, slot: usize, from: usize, to: usize) {
        self.begin_move(slot, from, to).await;
        while self.move_keys(slot, from, to, 500).await > 0 {}
        self.end_move(slot, to).await;
    }
}

async fn replication_offset(server: &RedisServer) -> Option<u64> {
    let info = server.try_command(&["INFO", "replication"]).await?;
    number_after(&info, "master_repl_offset:")
}

/// The number in a line that begins with a word.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix(word));
    number?.trim().parse().ok()
}

async fn start(link: Option<&Link>) -> (RedisServer, Port) {
    let bus_port = Port::free();
    let text = bus_port.number().to_string();
    let mut arguments = vec![
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &text,
        "--cluster-node-timeout",
        "1000",
        "--cluster-require-full-coverage",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let announced = link.map(|link| link.address().port().to_string());
    if let Some(port) = &announced {
        arguments.extend(["--cluster-announce-port", port]);
    }
    (RedisServer::start_with(&arguments).await, bus_port)
}

async fn done(server: &RedisServer, command: &[&str]) {
    let answer = server.command(command).await;
    assert!(answer.starts_with("+OK"), "{command:?}: {answer}");
}
