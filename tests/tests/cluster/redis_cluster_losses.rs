//! A part of a Redis Cluster that is away holds up nothing else.

use std::collections::BTreeSet;

use tidewire_stream::ChannelName;
use tidewire_tests::{Client, Node as ChainNode, RedisCluster, Transport, eventually};

use crate::{
    chains::{BLOCKS, Member, caught_up, further, listener_with},
    node::{Delivered, Node, channel},
    redis_cluster::cluster_options,
    redis_cluster_servers::base,
};

/// As many that one of them has nothing that a chain needs.
const MASTERS: usize = 5;

/// The slot of a channel on which nothing was published yet.
pub(crate) async fn slot_of(cluster: &RedisCluster, name: &ChannelName) -> usize {
    let fnv = name
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    cluster.slot(&format!("test:{{{}}}:", fnv % 1_024)).await
}

/// The master of a channel, of this many.
async fn master_of(cluster: &RedisCluster, name: &ChannelName, masters: usize) -> usize {
    RedisCluster::first_owner(slot_of(cluster, name).await, masters)
}

/// A server that follows a chain, with a client of two wallets.
struct Followed {
    cluster: RedisCluster,
    chain: ChainNode,
    accounts: Vec<String>,
    /// The server, and its way to the node of the chain.
    _member: Member,
    listener: Node,
    _client: Client,
    /// A wallet on a master of its own, and that master.
    apart: (ChannelName, usize),
    /// A wallet on another one.
    well: ChannelName,
}

impl Followed {
    async fn start() -> Self {
        let cluster = RedisCluster::start(MASTERS).await;
        let chain = ChainNode::start().await;
        let accounts = chain.accounts().await;
        let member = Member::on(base(&cluster), &chain).await;
        member.owns(true).await;
        let listener = listener_with(cluster_options(&cluster), BLOCKS).await;
        let mut used = BTreeSet::new();
        for key in ["{chain-31337}:lease", "{store}:lease", "{control}:x"] {
            let slot = cluster.slot(&format!("test:{key}")).await;
            used.insert(RedisCluster::first_owner(slot, MASTERS));
        }
        used.insert(master_of(&cluster, &channel(BLOCKS), MASTERS).await);
        let (mut apart, mut well) = (None, None);
        for number in 0x1000.. {
            if apart.is_some() && well.is_some() {
                break;
            }
            let name = channel(&format!("wallet:0x{number:040x}"));
            listener.subscribe(&name).await;
            let master = master_of(&cluster, &name, MASTERS).await;
            match used.contains(&master) {
                true => drop(well.get_or_insert(name)),
                false => drop(apart.get_or_insert((name, master))),
            }
        }
        let (apart, well) = (apart.unwrap(), well.unwrap());
        let mut client = Client::connect(Transport::WebSocketJson, &member.server).await;
        client.subscribe(apart.0.as_str()).await;
        client.subscribe(well.as_str()).await;
        let followed = Self {
            cluster,
            chain,
            accounts,
            _member: member,
            listener,
            _client: client,
            apart,
            well,
        };
        let paid = followed.pay(&followed.apart.0).await;
        followed.is_told(&followed.apart.0, &paid).await;
        followed
    }

    /// Pays a wallet in a new block. Returns the transaction.
    async fn pay(&self, wallet: &ChannelName) -> String {
        let hash = self.chain.send(&self.accounts[0], wallet.rest(), 1).await;
        self.chain.mine(1).await;
        hash
    }

    /// Waits until a wallet was told of a transaction.
    async fn is_told(&self, wallet: &ChannelName, hash: &str) {
        eventually(format!("{hash} on {wallet}"), async || {
            self.has_told(wallet, hash).then_some(())
        })
        .await;
    }

    fn has_told(&self, wallet: &ChannelName, hash: &str) -> bool {
        let told = self.listener.recorder.publications(wallet);
        told.iter().any(|one| one.1.contains(hash))
    }

    /// Pays both wallets, and the other one once more. Returns the transaction of the one that waits.
    async fn goes_on(&self) -> String {
        let waits = self.pay(&self.apart.0).await;
        for _ in 0..3 {
            let paid = self.pay(&self.well).await;
            self.is_told(&self.well, &paid).await;
        }
        let mined = further(&self.listener, 3);
        let mining = async { self.chain.mine(3).await };
        tokio::join!(mined, mining);
        assert!(!self.has_told(&self.apart.0, &waits));
        waits
    }

    /// Each block was told once, and what is published is not stored any more.
    async fn is_complete(&self) {
        caught_up(&self.listener, &self.chain).await;
        eventually("an empty outbox", async || {
            for server in &self.cluster.servers {
                let rows = server.try_command(&["HLEN", "test:{chain-31337}:values:chain.journal"]);
                let rows = rows.await?;
                (rows.starts_with(":0") || rows.starts_with("-MOVED")).then_some(())?;
            }
            Some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_whose_master_is_lost_holds_up_no_other_channel_of_its_chain() {
    let mut followed = Followed::start().await;
    let master = followed.apart.1;
    followed.cluster.servers[master].kill();
    let waits = followed.goes_on().await;
    followed.cluster.servers[master].restart().await;
    // It comes back empty, and its channels begin another epoch.
    let wallet = &followed.apart.0;
    eventually("what waited, or a gap", async || {
        let delivered = followed.listener.recorder.on(wallet);
        let has_gap = delivered
            .iter()
            .any(|one| matches!(one, Delivered::Newest(..)));
        (has_gap || followed.has_told(wallet, &waits)).then_some(())
    })
    .await;
    followed.is_complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_whose_slot_is_half_moved_holds_up_no_other_channel_of_its_chain() {
    let followed = Followed::start().await;
    let (wallet, from) = &followed.apart;
    let (slot, to) = (
        slot_of(&followed.cluster, wallet).await,
        (from + 1) % MASTERS,
    );
    followed.cluster.begin_move(slot, *from, to).await;
    let waits = followed.goes_on().await;
    while followed.cluster.move_keys(slot, *from, to, 500).await > 0 {}
    followed.cluster.end_move(slot, to).await;
    followed.is_told(wallet, &waits).await;
    let told = followed.listener.recorder.publications(wallet);
    let times = told.iter().filter(|one| one.1.contains(&waits));
    let documents: Vec<_> = times.map(|one| &one.1).collect();
    let unique: BTreeSet<_> = documents.iter().collect();
    assert_eq!(unique.len(), documents.len(), "none is told twice");
    followed.is_complete().await;
}
