//! Servers of which one follows each chain for all.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidewire_stream::broker::{memory::MemoryLimits, redis::RedisOptions};
use tidewire_tests::{
    Client, FaultyNode, Node as ChainNode, RedisServer, Server, ServerBuilder, Token, Transport,
    eventually, faulty_node::pass_through,
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    node::{Delivered, Node, channel, options},
    servers::server,
};

pub(crate) const BLOCKS: &str = "blocks:31337";

/// Time between two blocks under load.
const PACE: Duration = Duration::from_millis(50);

fn sharing(base: ServerBuilder, url: &str) -> ServerBuilder {
    let chain = format!(
        "[[chain]]\nid = 31337\nname = \"local\"\nendpoints = [{url:?}]\nblock_time = \"100ms\"\n"
    );
    base.set("store", "kind = \"redis\"")
        .set("broker", "share_chains = true")
        .set("broker", "share_prices = true")
        .table(&chain)
}

/// A server with its own way to the chain's node, whose calls are counted.
pub(crate) struct Member {
    pub(crate) server: Server,
    endpoint: FaultyNode,
}

impl Member {
    async fn start(redis: &RedisServer, chain: &ChainNode) -> Self {
        Self::with(redis, chain, |builder| builder).await
    }

    async fn gateway(redis: &RedisServer, chain: &ChainNode) -> Self {
        Self::with(redis, chain, |builder| {
            builder.set("server", "roles = [\"gateway\"]")
        })
        .await
    }

    async fn with(
        redis: &RedisServer,
        chain: &ChainNode,
        change: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> Self {
        Self::on(change(server(redis)), chain).await
    }

    /// With the rest of its configuration.
    pub(crate) async fn on(base: ServerBuilder, chain: &ChainNode) -> Self {
        let endpoint = FaultyNode::in_front_of(chain, pass_through).await;
        let server = sharing(base, &endpoint.http()).start().await;
        Self { server, endpoint }
    }

    /// Waits until the server owns the chain, or does not.
    pub(crate) async fn owns(&self, expected: bool) {
        self.server
            .metric_until("tidewire_chain_owner", "31337", |value| {
                (value > 0.5) == expected
            })
            .await;
    }

    /// The fault of the chain, as the server reports it.
    async fn fault(&self) -> Option<String> {
        let listed = self.server.get("/readyz?verbose").await.json();
        let mut parts = listed["parts"].as_array()?.iter();
        let part = parts.find(|one| one["part"] == "chain 31337")?;
        part["reason"].as_str().map(str::to_owned)
    }
}

/// A server that owns the chain, and others.
async fn owner_and_others<const N: usize>(
    redis: &RedisServer,
    chain: &ChainNode,
) -> (Member, [Member; N]) {
    let owner = Member::start(redis, chain).await;
    owner.owns(true).await;
    let mut others = Vec::new();
    for _ in 0..N {
        others.push(Member::start(redis, chain).await);
    }
    let others = others.try_into().ok().expect("as many servers");
    (owner, others)
}

/// A listener to all that is published about a channel.
async fn listener(redis: &RedisServer, name: &str) -> Node {
    listener_with(options(redis), name).await
}

pub(crate) async fn listener_with(options: RedisOptions, name: &str) -> Node {
    let shared = ["blocks", "tx", "wallet", "events"];
    let node = Node::sharing(&shared, options, MemoryLimits::default());
    let node = node.await.expect("Redis is there");
    node.subscribe(&channel(name)).await;
    node
}

/// Mines blocks until it is stopped.
pub(crate) struct Mining {
    stop: oneshot::Sender<()>,
    mining: JoinHandle<ChainNode>,
}

impl Mining {
    pub(crate) fn start(chain: ChainNode) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let mining = tokio::spawn(async move {
            loop {
                chain.mine(1).await;
                if tokio::time::timeout(PACE, &mut stopped).await.is_ok() {
                    return chain;
                }
            }
        });
        Self { stop, mining }
    }

    pub(crate) async fn end(self) -> ChainNode {
        self.stop.send(()).expect("it goes on");
        self.mining.await.expect("it ends")
    }
}

/// The chain as its publications tell it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Height and hash, oldest first.
    blocks: Vec<(u64, String)>,
    /// How many blocks each reorg took back.
    pub(crate) reorgs: Vec<usize>,
}

/// Reads the publications so far. Checks that each has the next number in one epoch, and that each
/// block follows the one before, or names those that it takes the place of: none is missing, and none
/// is there twice.
fn told(listener: &Node) -> Told {
    let mut told = Told::default();
    let mut last: Option<(String, u64)> = None;
    for delivered in listener.recorder.on(&channel(BLOCKS)) {
        let Delivered::Publication(epoch, seq, document) = delivered else {
            continue;
        };
        if let Some((known, before)) = &last {
            assert_eq!((known, before + 1), (&epoch, seq), "{document}");
        }
        last = Some((epoch, seq));
        let block: Value = serde_json::from_str(&document).expect("a block");
        let text = |name: &str| block[name].as_str().expect("a text").to_owned();
        let reorged = block["reorged"].as_array().cloned().unwrap_or_default();
        for hash in &reorged {
            let (_, retracted) = told.blocks.pop().expect("a block that was published");
            assert_eq!(json!(retracted), *hash, "{block}");
        }
        if !reorged.is_empty() {
            told.reorgs.push(reorged.len());
        }
        let number = block["number"].as_u64().expect("a height");
        if let Some((before, hash)) = told.blocks.last() {
            assert_eq!((before + 1, hash), (number, &text("parentHash")), "{block}");
        }
        told.blocks.push((number, text("hash")));
    }
    told
}

/// Waits until the newest block of the node was published.
pub(crate) async fn caught_up(listener: &Node, chain: &ChainNode) -> Told {
    let height = chain.height().await;
    let newest = (height, chain.hash(height).await);
    let told = eventually(format!("block {height}"), async || {
        let told = told(listener);
        (told.blocks.last() == Some(&newest)).then_some(told)
    })
    .await;
    for (number, hash) in told.blocks.iter().filter(|(number, _)| *number > 0) {
        assert_eq!(chain.hash(*number).await, *hash, "block {number}");
    }
    told
}

/// Waits for further blocks.
pub(crate) async fn further(listener: &Node, count: usize) {
    let before = told(listener).blocks.len();
    eventually("further blocks", async || {
        (told(listener).blocks.len() >= before + count).then_some(())
    })
    .await;
}

/// Reads blocks from a client until this height. Checks that none is missing.
async fn received(client: &mut Client, seqs: &mut Vec<u64>, height: u64) {
    loop {
        let message = client.next_on(BLOCKS).await;
        let seq = message.seq.expect("a seq");
        assert!(
            seqs.last().is_none_or(|last| last + 1 == seq),
            "{seqs:?} {seq}"
        );
        seqs.push(seq);
        if message.data["number"].as_u64() >= Some(height) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_servers_follows_the_chain_for_all() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let listener = listener(&redis, BLOCKS).await;
    let (a, [b, c]) = owner_and_others(&redis, &chain).await;
    let gateway = Member::gateway(&redis, &chain).await;
    let mut clients = Vec::new();
    for member in [&a, &b, &c, &gateway] {
        let mut client = Client::connect(Transport::WebSocketJson, &member.server).await;
        client.subscribe(BLOCKS).await;
        clients.push(client);
    }
    for _ in 0..20 {
        chain.mine(1).await;
    }
    caught_up(&listener, &chain).await;
    for client in &mut clients {
        received(client, &mut Vec::new(), 20).await;
    }
    // Calls to a node cost money. One that may own the chain asks once if it could follow it.
    assert!(a.endpoint.calls() > 0);
    assert_eq!(gateway.endpoint.calls(), 0);
    for member in [&b, &c, &gateway] {
        assert!(member.endpoint.calls() <= 2, "{}", member.endpoint.calls());
        member.owns(false).await;
        assert_eq!(member.fault().await, None);
        assert_eq!(member.server.get("/readyz").await.status, 200);
    }
    // One that subscribes later begins with the newest block.
    let mut late = Client::connect(Transport::WebSocketJson, &gateway.server).await;
    late.subscribe(BLOCKS).await;
    received(&mut late, &mut Vec::new(), 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_goes_on_when_the_owner_is_killed() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let listener = listener(&redis, BLOCKS).await;
    let (mut a, [b]) = owner_and_others(&redis, &chain).await;
    let gateway = Member::gateway(&redis, &chain).await;
    let mut client = Client::connect(Transport::WebSocketJson, &gateway.server).await;
    client.subscribe(BLOCKS).await;
    let mining = Mining::start(chain);
    further(&listener, 20).await;
    let started = Instant::now();
    a.server.kill().await;
    further(&listener, 1).await;
    println!(
        "the next block is published {:?} after the kill",
        started.elapsed()
    );
    further(&listener, 20).await;
    b.owns(true).await;
    let chain = mining.end().await;
    let told = caught_up(&listener, &chain).await;
    assert!(told.reorgs.is_empty(), "{told:?}");
    received(&mut client, &mut Vec::new(), chain.height().await).await;
    assert!(client.unread().iter().all(|one| one.kind != "gap"));
    // What is published is not stored any more.
    eventually("an empty outbox", async || {
        let rows = redis.command(&["HLEN", "test:{chain-31337}:values:chain.journal"]);
        rows.await.starts_with(":0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_during_the_takeover_is_told() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let listener = listener(&redis, BLOCKS).await;
    let (mut a, [b]) = owner_and_others(&redis, &chain).await;
    chain.mine(10).await;
    caught_up(&listener, &chain).await;
    a.server.kill().await;
    chain.reorg(3).await;
    chain.mine(2).await;
    let told = caught_up(&listener, &chain).await;
    assert_eq!(told.reorgs, [3]);
    b.owns(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_paused_publishes_nothing_late() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let listener = listener(&redis, BLOCKS).await;
    let (a, [b]) = owner_and_others(&redis, &chain).await;
    let mining = Mining::start(chain);
    for (paused, next) in [(&a, &b), (&b, &a)] {
        further(&listener, 10).await;
        paused.server.pause();
        next.owns(true).await;
        further(&listener, 10).await;
        paused.server.resume();
        paused.owns(false).await;
        further(&listener, 10).await;
    }
    let chain = mining.end().await;
    let told = caught_up(&listener, &chain).await;
    assert!(told.reorgs.is_empty(), "{told:?}");
    // It has left the chain's node.
    eventually("no more calls", async || {
        let calls = b.endpoint.calls();
        chain.mine(1).await;
        caught_up(&listener, &chain).await;
        (calls == b.endpoint.calls()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_does_not_know_the_next_one_cannot_commit() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let listener = listener(&redis, BLOCKS).await;
    let (a, [b]) = owner_and_others(&redis, &chain).await;
    let mining = Mining::start(chain);
    let lease = "test:{chain-31337}:lease";
    for number in 100..105 {
        further(&listener, 5).await;
        // The term of another node, which the owner hears of when it commits. It is over.
        let term = format!("{number}-00000000");
        redis
            .command(&["HSET", lease, "until", "0", "term", &term])
            .await;
        further(&listener, 5).await;
    }
    let chain = mining.end().await;
    let told = caught_up(&listener, &chain).await;
    assert!(told.reorgs.is_empty(), "{told:?}");
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_the_chain_over() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let listener = listener(&redis, BLOCKS).await;
    let (mut a, [b]) = owner_and_others(&redis, &chain).await;
    let mining = Mining::start(chain);
    further(&listener, 10).await;
    let started = Instant::now();
    a.server.terminate();
    b.owns(true).await;
    let taken = started.elapsed();
    further(&listener, 2).await;
    println!(
        "the next owner has the lease {taken:?} after SIGTERM, and publishes {:?} after it",
        started.elapsed()
    );
    assert!(a.server.ended().await.success());
    let chain = mining.end().await;
    let told = caught_up(&listener, &chain).await;
    assert!(told.reorgs.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_an_owner_is_reported() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let gateway = Member::gateway(&redis, &chain).await;
    let fault = eventually("a fault", async || gateway.fault().await).await;
    assert!(fault.contains("no node owns it"), "{fault}");
    let owner = Member::start(&redis, &chain).await;
    owner.owns(true).await;
    eventually("no fault", async || {
        gateway.fault().await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_go_on_when_redis_comes_back() {
    let mut redis =
        RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let chain = ChainNode::start().await;
    let listener = listener(&redis, BLOCKS).await;
    let (a, []) = owner_and_others(&redis, &chain).await;
    let mining = Mining::start(chain);
    for _ in 0..2 {
        further(&listener, 10).await;
        redis.kill();
        a.server.log_line("Redis does not work").await;
        redis.restart().await;
    }
    further(&listener, 10).await;
    let chain = mining.end().await;
    let told = caught_up(&listener, &chain).await;
    assert!(told.reorgs.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_fire_on_a_server_that_does_not_follow_the_chain() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let listener = listener(&redis, BLOCKS).await;
    let with = async |roles: &str| {
        let roles = format!("roles = {roles}");
        Member::with(&redis, &chain, |builder| builder.set("server", &roles)).await
    };
    let follower = with("[\"chain\"]").await;
    let alerts = with("[\"prices\", \"alerts\"]").await;
    follower.owns(true).await;
    alerts
        .server
        .metric_until("tidewire_store_owner", "", |value| value > 0.5)
        .await;
    let token = Token::of("ada").sign();
    let mut ada = Client::connect_as(Transport::WebSocketJson, &alerts.server, Some(&token)).await;
    let rule = json!({
        "condition": {"kind": "gas_above", "chain": 31337, "gwei": 50},
        "repeat": "recurring",
    });
    let registered = ada.request("alert_register", rule).await;
    let id = registered.expect("alert_registered").data["id"].clone();
    for wei in ["0x77359400", "0x12a05f2000"] {
        chain
            .call("anvil_setNextBlockBaseFeePerGas", json!([wei]))
            .await;
        chain.mine(1).await;
        caught_up(&listener, &chain).await;
    }
    let alert = next_alert(&mut ada).await;
    assert_eq!((&alert["alertId"], &alert["value"]), (&id, &json!(80)));
    // A state of a transaction.
    let accounts = chain.accounts().await;
    chain.call("evm_setAutomine", json!([false])).await;
    let hash = chain.send(&accounts[0], &accounts[1], 5).await;
    let rule = json!({
        "condition": {
            "kind": "transaction_state", "chain": 31337, "txHash": hash, "state": "confirmed",
        },
        "repeat": "recurring",
    });
    let registered = ada.request("alert_register", rule).await;
    let id = registered.expect("alert_registered").data["id"].clone();
    chain.mine(30).await;
    let alert = loop {
        let alert = next_alert(&mut ada).await;
        if alert["alertId"] == id {
            break alert;
        }
    };
    assert_eq!(alert["rule"]["condition"]["txHash"], hash, "{alert}");
    assert_eq!(alerts.endpoint.calls(), 0);
}

/// The next fire of a rule.
async fn next_alert(client: &mut Client) -> Value {
    loop {
        let pushed = client.next_on("user:ada").await;
        if pushed.kind == "alert" {
            return pushed.data;
        }
    }
}

/// Calls a method as a back end.
async fn call(member: &Member, method: &str, body: Value) -> Value {
    let token = Token::service();
    let called = eventually("an answer", async || {
        let answer = member.server.call(method, Some(&token), &body).await;
        // The owner has read no block yet.
        (answer.status != 503).then_some(answer)
    })
    .await;
    assert_eq!(called.status, 200, "{}", called.body);
    called.json()
}

/// The states of a transaction as they were published. Checks that each has the next number, and that
/// none is there twice.
fn states(listener: &Node, name: &str) -> Vec<String> {
    let mut states = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for (expected, (seq, document)) in (1..).zip(listener.recorder.publications(&channel(name))) {
        assert_eq!(seq, expected, "{document}");
        let status: Value = serde_json::from_str(&document).expect("a status");
        assert!(known.insert(document.clone()), "{document} is there twice");
        states.push(status["state"].as_str().expect("a state").to_owned());
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_transaction_is_final_once_across_takeovers() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start_with(&["--no-mining"]).await;
    let blocks = listener(&redis, BLOCKS).await;
    let (mut a, [mut b, mut c]) = owner_and_others(&redis, &chain).await;
    let gateway = Member::gateway(&redis, &chain).await;
    chain.mine(1).await;
    caught_up(&blocks, &chain).await;
    let accounts = chain.accounts().await;
    let hash = chain.send(&accounts[0], &accounts[1], 5).await;
    let name = format!("tx:31337:{hash}");
    let listener = listener(&redis, &name).await;
    let mut client = Client::connect(Transport::WebSocketJson, &gateway.server).await;
    client.subscribe(&name).await;
    let watch = json!({"chain": 31337, "txHash": hash});
    let watched = call(&gateway, "WatchService/WatchTransaction", watch).await;
    assert_eq!(watched["status"]["state"], "pending", "{watched}");
    a.server.kill().await;
    chain.mine(2).await;
    caught_up(&blocks, &chain).await;
    let is_b = b.server.metric("tidewire_chain_owner", "31337").await > 0.5;
    let next = if is_b { &mut b } else { &mut c };
    next.server.kill().await;
    chain.mine(100).await;
    caught_up(&blocks, &chain).await;
    let seen = eventually("a final state", async || {
        let states = states(&listener, &name);
        (states.last()? == "finalized").then_some(states)
    })
    .await;
    let finals = seen.iter().filter(|state| *state == "finalized").count();
    assert_eq!(finals, 1, "{seen:?}");
    // The subscriber of a node that never followed the chain has all of it.
    loop {
        let message = client.next_on(&name).await;
        if message.data["state"] == "finalized" {
            break;
        }
    }
    assert_eq!(gateway.endpoint.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chains_are_spread_over_two_servers() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let second =
        |url: &str| format!("[[chain]]\nid = 1\nendpoints = [{url:?}]\nblock_time = \"100ms\"\n");
    let other = ChainNode::start_with(&["--chain-id", "1"]).await;
    let start = async || {
        Member::with(&redis, &chain, |builder| {
            builder.table(&second(&other.http()))
        })
        .await
    };
    let owned = async |member: &Member| {
        let mut owned = Vec::new();
        for id in ["\"1\"", "\"31337\""] {
            if member.server.metric("tidewire_chain_owner", id).await > 0.5 {
                owned.push(id);
            }
        }
        owned
    };
    let a = start().await;
    eventually("an owner of both", async || {
        (owned(&a).await.len() == 2).then_some(())
    })
    .await;
    let mut client = Client::connect(Transport::WebSocketJson, &a.server).await;
    let b = start().await;
    let kept = eventually("an owner of each", async || {
        let of_each = (owned(&a).await, owned(&b).await);
        (of_each.0.len() == 1 && of_each.1.len() == 1).then(|| of_each.0[0])
    })
    .await;
    // Only the owner of a chain has figures of its endpoint.
    eventually("figures of the owners alone", async || {
        let heads = async |member: &Member| {
            let metrics = member.server.get("/metrics").await.body;
            let lines = metrics.lines().filter(|line| {
                line.starts_with("tidewire_chain_endpoint_head{") && !line.ends_with(" NaN")
            });
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let (of_a, of_b) = (heads(&a).await, heads(&b).await);
        let each_has_one = of_a.len() == 1 && of_b.len() == 1;
        (each_has_one && of_a[0].contains(kept) && !of_b[0].contains(kept)).then_some(())
    })
    .await;
    // A hand-over is no fault.
    a.server.log_line("this node hands the chain over").await;
    assert!(
        !a.server.log().contains("cannot be used"),
        "{}",
        a.server.log()
    );
    client.settle().await;
    assert!(client.unread().iter().all(|one| one.kind != "status"));
}
