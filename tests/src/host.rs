//! Host: a network namespace of Linux with an address of its own. This process is its router.
//!
//! Needs root, `ip` and `iptables`; loss and latency need `tc` and a kernel with `sch_netem`. Run the
//! tests under `unshare --net --mount`, so that nothing of the machine's own network is touched and all
//! of it ends with the process.
//!
//! ```text
//! host 1: 10.77.1.2/30 --- 10.77.1.1/30 : this process, 10.77.0.1 : 10.77.2.1/30 --- 10.77.2.2/30 :host 2
//! ```

use std::{
    ffi::OsStr,
    net::Ipv4Addr,
    process::{Command, Output},
    time::Duration,
};

/// The address of this process, which all hosts reach.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A host. Dropping it removes it.
#[derive(Debug)]
pub struct Host {
    number: u8,
}

/// Runs a command of the system.
fn run(command: &str) -> Output {
    let mut words = command.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output();
    output.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Runs commands, one a line.
///
/// # Panics
/// One of them fails.
fn run_all(commands: &str) {
    for command in commands.lines().map(str::trim) {
        let output = run(command);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}");
    }
}

/// Makes this process the router of hosts.
///
/// # Panics
/// It may not, or it is in the machine's own network: one with another interface than `lo`.
pub fn become_router() {
    let links = run("ip -brief link");
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    let is_own = links.lines().all(|line| line.starts_with("lo "));
    assert!(
        is_own,
        "hosts need a network of their own: run this under `unshare --net --mount`; there are {links}"
    );
    run_all(&format!(
        "mkdir -p /run/netns
         mount -t tmpfs tidewire /run/netns
         ip link set lo up
         ip addr add {ROUTER}/32 dev lo
         sysctl -q net.ipv4.ip_forward=1"
    ));
}

/// Whether the kernel can lose and delay packets (`sch_netem`).
#[must_use]
pub fn has_netem() -> bool {
    let can = run("tc qdisc add dev lo root netem delay 0ms").status;
    if can.success() {
        run_all("tc qdisc del dev lo root");
    }
    can.success()
}

impl Host {
    /// Adds a host with this number, from 1 to 254.
    ///
    /// # Panics
    /// [`become_router`] was not called.
    #[must_use]
    pub fn add(number: u8) -> Self {
        let host = Self { number };
        let (name, link, address) = (host.namespace(), host.link(), host.address());
        run_all(&format!(
            "ip netns add {name}
             ip link add {link} type veth peer name eth0 netns {name}
             ip addr add 10.77.{number}.1/30 dev {link}
             ip link set {link} up
             ip netns exec {name} ip link set lo up
             ip netns exec {name} ip addr add {address}/30 dev eth0
             ip netns exec {name} ip link set eth0 up
             ip netns exec {name} ip route add default via 10.77.{number}.1"
        ));
        host
    }

    fn namespace(&self) -> String {
        format!("tidewire-{}", self.number)
    }

    fn link(&self) -> String {
        format!("tidewire{}", self.number)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    /// Drops all packets between it and others, until [`heal`](Self::heal). No side notices.
    pub fn partition(&self) {
        let link = self.link();
        for (chain, direction) in [
            ("INPUT", "-i"),
            ("FORWARD", "-i"),
            ("FORWARD", "-o"),
            ("OUTPUT", "-o"),
        ] {
            run_all(&format!("iptables -A {chain} {direction} {link} -j DROP"));
        }
    }

    /// Drops all packets between it and another one, until [`heal`](Self::heal).
    pub fn partition_from(&self, other: &Self) {
        let (one, other) = (self.link(), other.link());
        run_all(&format!(
            "iptables -A FORWARD -i {one} -o {other} -j DROP
             iptables -A FORWARD -i {other} -o {one} -j DROP"
        ));
    }

    /// Loses this share of the packets to and from it, in percent, until [`heal`](Self::heal).
    pub fn lose(&self, percent: u8) {
        let (link, share) = (self.link(), f64::from(percent) / 100.0);
        for (chain, direction) in [
            ("INPUT", "-i"),
            ("FORWARD", "-i"),
            ("FORWARD", "-o"),
            ("OUTPUT", "-o"),
        ] {
            run_all(&format!(
                "iptables -A {chain} {direction} {link} -m statistic --mode random --probability {share} -j DROP"
            ));
        }
    }

    /// Delays each packet to and from it, until [`heal`](Self::heal).
    ///
    /// # Panics
    /// The kernel has no netem: see [`has_netem`].
    pub fn delay(&self, delay: Duration) {
        let (name, link, ms) = (self.namespace(), self.link(), delay.as_millis());
        run_all(&format!(
            "tc qdisc add dev {link} root netem delay {ms}ms
             ip netns exec {name} tc qdisc add dev eth0 root netem delay {ms}ms"
        ));
    }

    /// Ends the faults of all hosts' links, and the delay of this one.
    pub fn heal(&self) {
        run_all("iptables -F");
        let (name, link) = (self.namespace(), self.link());
        // There may be none.
        run(&format!("tc qdisc del dev {link} root"));
        run(&format!("ip netns exec {name} tc qdisc del dev eth0 root"));
    }
}

/// Where a process runs: on this machine, or on a host.
#[derive(Debug, Clone, Default)]
pub struct Place(Option<(String, Ipv4Addr)>);

impl Place {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.0
            .as_ref()
            .map_or(Ipv4Addr::LOCALHOST, |(_, address)| *address)
    }

    /// A command there. The process has the id of the command.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some((namespace, _)) = &self.0 else {
            return Command::new(program);
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }
}

impl From<&Host> for Place {
    fn from(host: &Host) -> Self {
        Self(Some((host.namespace(), host.address())))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        run(&format!("ip netns del {}", self.namespace()));
    }
}
