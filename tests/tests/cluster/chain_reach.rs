//! Chains of which some servers reach no endpoint, and chains that no server owns.

use std::time::Duration;

use serde_json::{Value, json};
use tidewire_tests::{
    Client, FaultyNode, Node as ChainNode, RedisServer, Server, ServerBuilder, Transport,
    eventually,
    faulty_node::{Reply, pass_through},
};
use tokio::time::timeout;

use crate::servers::server;

/// The second chain.
const SECOND: &str = "1";

/// A server that shares these chains, each with its URL.
fn sharing(redis: &RedisServer, chains: &[(&str, &str)]) -> ServerBuilder {
    let builder = server(redis)
        .set("store", "kind = \"redis\"")
        .set("broker", "share_chains = true")
        .set("broker", "share_prices = true");
    chains.iter().fold(builder, |builder, (id, url)| {
        builder.table(&format!(
            "[[chain]]\nid = {id}\nendpoints = [{url:?}]\nblock_time = \"100ms\"\nconfirmations = 3\nfinality = 6\ndrop_after = \"1s\"\n"
        ))
    })
}

async fn owns(server: &Server, chain: &str) -> bool {
    let label = format!("\"{chain}\"");
    server.metric("tidewire_chain_owner", &label).await > 0.5
}

/// Waits until a candidate has looked at the balance again: it extends its candidacy each time.
async fn next_look(redis: &RedisServer) {
    let ends = [
        "ZRANGE",
        "test:{balance}:candidates",
        "0",
        "-1",
        "WITHSCORES",
    ];
    let extended = async || redis.command(&ends).await;
    let before = extended().await;
    eventually("another look at the balance", async || {
        (extended().await != before).then_some(())
    })
    .await;
}

/// Waits until the server owns the chain, or does not.
async fn until_owner(server: &Server, chain: &str, expected: bool) {
    eventually(format!("an owner of {chain}: {expected}"), async || {
        (owns(server, chain).await == expected).then_some(())
    })
    .await;
}

/// The fault of a chain, as the server reports it.
async fn fault(server: &Server, chain: &str) -> Option<String> {
    let listed = server.get("/readyz?verbose").await.json();
    let part = format!("chain {chain}");
    let mut parts = listed["parts"].as_array()?.iter();
    let found = parts.find(|one| one["part"] == part.as_str())?;
    found["reason"].as_str().map(str::to_owned)
}

/// Mines a block, and waits until the server has it.
async fn block_comes(server: &Server, chain: &ChainNode, id: u64) {
    chain.mine(1).await;
    let height = chain.height().await;
    let asked = json!({"chain": id});
    eventually(format!("block {height} of {id}"), async || {
        let answer = server
            .call("WatchService/GetLatestBlock", None, &asked)
            .await;
        (answer.status == 200 && answer.json()["number"] == height).then_some(())
    })
    .await;
}

/// The script of an endpoint that refuses all calls.
fn refuse(_method: &str, _params: &Value, _response: Value) -> Reply {
    Reply::Status(503, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_endpoints_takes_no_chain() {
    let redis = RedisServer::start().await;
    let (first, second) = (
        ChainNode::start().await,
        ChainNode::start_with(&["--chain-id", SECOND]).await,
    );
    let urls = (first.http(), second.http());
    let good = sharing(&redis, &[("31337", &urls.0), (SECOND, &urls.1)]);
    let good = good.start().await;
    for chain in ["31337", SECOND] {
        until_owner(&good, chain, true).await;
    }
    // The plan gives one of the two to it. The endpoints of one are those of another chain.
    let bad = sharing(
        &redis,
        &[("31337", &urls.1), (SECOND, "http://127.0.0.1:1")],
    );
    let bad = bad.start().await;
    let line = bad.log_line("this node cannot follow a chain").await;
    assert!(
        line.contains("0 of its endpoints answered, expected 1"),
        "{line}"
    );
    let reached = eventually("a chain that is not reached", async || {
        for chain in ["31337", SECOND] {
            let label = format!("\"{chain}\"");
            let text = bad.get("/metrics").await.body;
            let line = format!("tidewire_chain_reachable{{chain={label}}} 0");
            if text.contains(&line) {
                return Some(chain);
            }
        }
        None
    })
    .await;
    println!("{reached} is not reached");
    // The plan is without it now, also for as long as a hand-over would take.
    for _ in 0..8 {
        for (chain, id) in [(&first, 31337), (&second, 1)] {
            block_comes(&bad, chain, id).await;
        }
        next_look(&redis).await;
        for chain in ["31337", SECOND] {
            assert!(owns(&good, chain).await && !owns(&bad, chain).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_goes_to_a_server_whose_endpoint_lives() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let ends = [
        FaultyNode::in_front_of(&chain, pass_through).await,
        FaultyNode::in_front_of(&chain, pass_through).await,
    ];
    let mut servers = Vec::new();
    for end in &ends {
        servers.push(sharing(&redis, &[("31337", &end.http())]).start().await);
        if servers.len() == 1 {
            until_owner(&servers[0], "31337", true).await;
        }
    }
    block_comes(&servers[0], &chain, 31337).await;
    // The plan may have given it to the second one.
    let first = usize::from(owns(&servers[1], "31337").await);
    ends[first].set_script(refuse).await;
    let (dark, light) = (&servers[first], &servers[1 - first]);
    until_owner(light, "31337", true).await;
    until_owner(dark, "31337", false).await;
    block_comes(dark, &chain, 31337).await;
    assert_eq!(fault(light, "31337").await, None);
    // Both are dark: the last one keeps it, and says that it stands still.
    ends[1 - first].set_script(refuse).await;
    let reason = eventually("a fault", async || {
        fault(light, "31337")
            .await
            .filter(|one| one.contains("stands still"))
    })
    .await;
    println!("{reason}");
    let terms = redis
        .command(&["HGET", "test:{chain-31337}:lease", "term"])
        .await;
    let reachable = "tidewire_chain_reachable";
    assert!(dark.metric(reachable, "31337").await < 0.5);
    assert!(owns(light, "31337").await);
    let now = redis
        .command(&["HGET", "test:{chain-31337}:lease", "term"])
        .await;
    assert_eq!(terms, now);
    // One comes back.
    ends[first].set_script(pass_through).await;
    until_owner(dark, "31337", true).await;
    block_comes(light, &chain, 31337).await;
    assert_eq!(fault(dark, "31337").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_no_server_owns_holds_up_nothing() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let other = ChainNode::start_with(&["--chain-id", SECOND]).await;
    let urls = (chain.http(), other.http());
    let owner = sharing(&redis, &[("31337", &urls.0)]).start().await;
    until_owner(&owner, "31337", true).await;
    let both = [("31337", urls.0.as_str()), (SECOND, urls.1.as_str())];
    let gateway = sharing(&redis, &both).set("server", "roles = [\"gateway\"]");
    let gateway = gateway.start().await;
    block_comes(&gateway, &chain, 31337).await;
    let mut client = Client::connect(Transport::WebSocketJson, &gateway).await;
    // Each of them would wait three seconds by itself.
    let wallets: Vec<_> = (0..40)
        .map(|index| format!("wallet:0x{index:040x}"))
        .collect();
    let names: Vec<_> = wallets.iter().map(String::as_str).collect();
    let subscribed = client
        .request("subscribe", json!({"channels": names}))
        .await;
    let subscribed = subscribed.expect("subscribed").data;
    for one in subscribed["channels"].as_array().expect("a list") {
        assert!(one["error"].is_null(), "{one}");
    }
    let transactions: Vec<_> = (0..40)
        .map(|index| format!("tx:1:0x{index:064x}"))
        .collect();
    let refused = client
        .request("subscribe", json!({"channels": transactions}))
        .await;
    for one in refused.expect("subscribed").data["channels"]
        .as_array()
        .expect("a list")
    {
        assert_eq!(one["error"]["code"], "unavailable", "{one}");
        let text = one["error"]["message"].as_str().expect("a text");
        assert!(text.contains("chain 1 are unavailable"), "{text}");
    }
    for _ in 0..20 {
        let asked = json!({"chain": 1});
        let answer = gateway
            .call("WatchService/GetLatestBlock", None, &asked)
            .await;
        assert_eq!(answer.status, 503, "{}", answer.body);
    }
    // Its owner hears of the wallets.
    let late = sharing(&redis, &[(SECOND, &urls.1)]).start().await;
    until_owner(&late, SECOND, true).await;
    block_comes(&gateway, &other, 1).await;
    let accounts = other.accounts().await;
    eventually("a payment of the second chain", async || {
        // One before the owner has heard of the wallet is not told.
        other.send(&accounts[0], &format!("0x{:040x}", 7), 5).await;
        let update = timeout(Duration::from_secs(1), client.next_on(&wallets[7]));
        (update.await.ok()?.data["chain"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_reads_a_dropped_transaction_again() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start_with(&["--no-mining"]).await;
    let url = chain.http();
    let owner = sharing(&redis, &[("31337", &url)]).start().await;
    let gateway = sharing(&redis, &[("31337", &url)]).set("server", "roles = [\"gateway\"]");
    let gateway = gateway.start().await;
    block_comes(&gateway, &chain, 31337).await;
    let accounts = chain.accounts().await;
    for (server, from) in [(&owner, &accounts[0]), (&gateway, &accounts[1])] {
        let request = json!([{
            "from": from, "to": accounts[2], "value": "0x7", "gas": "0x5208", "nonce": "0x0",
            "maxFeePerGas": "0x77359400", "maxPriorityFeePerGas": "0x3b9aca00",
        }]);
        let hash = chain.call("eth_sendTransaction", request.clone()).await;
        let name = format!("tx:31337:{}", hash.as_str().expect("a hash"));
        let mut first = Client::connect(Transport::WebSocketJson, server).await;
        first.subscribe(&name).await;
        // It may have been told before the subscription was made.
        let asked = json!({"chain": 31337, "txHash": hash});
        eventually("a pending transaction", async || {
            let answer = server.call("WatchService/GetTransactionStatus", None, &asked);
            (answer.await.json()["state"] == "pending").then_some(())
        })
        .await;
        chain.call("anvil_dropTransaction", json!([hash])).await;
        until_state(&mut first, &name, "dropped").await;
        assert_eq!(chain.call("eth_sendTransaction", request).await, hash);
        chain.mine(1).await;
        let mut second = Client::connect(Transport::WebSocketJson, server).await;
        second.subscribe(&name).await;
        until_state(&mut second, &name, "confirming").await;
        until_state(&mut first, &name, "confirming").await;
    }
}

/// Reads a channel until a transaction has this state.
async fn until_state(client: &mut Client, name: &str, state: &str) {
    while client.next_on(name).await.data["state"] != state {}
}
