//! Requests about chains, and subscriptions to them, on servers that do not own the chain.

use serde_json::{Value, json};
use tidewire_tests::{
    Client, HttpResponse, Node as ChainNode, RedisServer, Server, ServerBuilder, Token, Transport,
    eventually, on_every_transport, within,
};

use crate::servers::server;

on_every_transport!(a_session_watches_on_another_server);

/// A server that shares this chain, where the 3rd block confirms and the 6th is final.
fn sharing(redis: &RedisServer, chain: &ChainNode) -> ServerBuilder {
    server(redis)
        .set("store", "kind = \"redis\"")
        .set("broker", "share_chains = true")
        .set("broker", "share_prices = true")
        .table(&format!(
            "[[chain]]\nid = 31337\nendpoints = [{:?}]\nblock_time = \"100ms\"\nconfirmations = 3\nfinality = 6\n",
            chain.http()
        ))
}

async fn owns(server: &Server) {
    server
        .metric_until("tidewire_chain_owner", "31337", |value| value > 0.5)
        .await;
}

/// The owner of the chain, once it has read a block.
async fn owner(redis: &RedisServer, chain: &ChainNode) -> Server {
    let owner = sharing(redis, chain).start().await;
    owns(&owner).await;
    let block = json!({"chain": 31337});
    eventually("a block", async || {
        let answer = owner
            .call("WatchService/GetLatestBlock", None, &block)
            .await;
        (answer.status == 200).then_some(())
    })
    .await;
    owner
}

/// The owner of the chain, and a server that never owns it.
async fn pair(redis: &RedisServer, chain: &ChainNode) -> (Server, Server) {
    let gateway = sharing(redis, chain).set("server", "roles = [\"gateway\"]");
    (owner(redis, chain).await, gateway.start().await)
}

/// A chain with this many blocks, each with a transaction.
async fn chain_of(blocks: u64) -> (ChainNode, Vec<String>, Vec<String>) {
    let chain = ChainNode::start().await;
    let accounts = chain.accounts().await;
    let mut hashes = Vec::new();
    for value in 1..=blocks {
        hashes.push(chain.send(&accounts[0], &accounts[1], value).await);
    }
    (chain, accounts, hashes)
}

/// Requests about the transaction `HASH` and the wallet `WALLET`.
const REQUESTS: &str = r#"
GetLatestBlock {"chain": 31337}
GetLatestBlock {"chain": 5}
GetLatestBlock {}
GetTransactionStatus {"chain": 31337, "txHash": "HASH"}
GetTransactionStatus {"chain": 31337, "txHash": "0x00"}
GetTransactionStatus {"chain": 31337}
GetTransactionStatus {"chain": 5, "txHash": "HASH"}
GetTransactionStatus {"txHash": "HASH"}
WatchTransaction {"chain": 31337, "txHash": "HASH"}
WatchTransaction {"chain": 31337, "txHash": "HASH", "user": "ann", "abi": ["error E(uint256 x)"]}
WatchTransaction {"chain": 31337, "txHash": "HASH", "abi": ["nonsense"]}
WatchTransaction {"chain": 31337, "txHash": "HASH", "user": "a b:c"}
WatchTransaction {"chain": 31337, "txHash": "hash"}
WatchTransaction {"chain": 5, "txHash": "HASH"}
WatchTransaction {}
Unwatch {"chain": 31337, "txHash": "HASH"}
Unwatch {"chain": 31337, "txHash": "x"}
Unwatch {"chain": 5, "txHash": "HASH"}
LinkWallet {"user": "ann", "address": "WALLET"}
LinkWallet {"user": "ann", "address": "WALLET"}
LinkWallet {"user": "ann", "address": "0x12"}
LinkWallet {"address": "WALLET"}
LinkWallet {"user": "ann"}
UnlinkWallet {"user": "ann", "address": "WALLET"}
UnlinkWallet {"user": "ann", "address": "WALLET"}
UnlinkWallet {"user": "ann", "address": "0x12"}
UnlinkWallet {"user": "x y"}
"#;

/// The status and the body of a response, without times.
fn comparable(response: &HttpResponse) -> (u16, Value) {
    (response.status, without_times(json_of(&response.body)))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(json!(text))
}

fn without_times(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| !name.ends_with("At") && name != "timestamp");
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_gets_the_answer_of_the_owner() {
    let redis = RedisServer::start().await;
    let (chain, accounts, hashes) = chain_of(9).await;
    let (owner, gateway) = pair(&redis, &chain).await;
    let newest = json!({"chain": 31337});
    eventually("the newest block", async || {
        let block = owner
            .call("WatchService/GetLatestBlock", None, &newest)
            .await;
        (block.json()["number"] == 9).then_some(())
    })
    .await;
    let (service, mallory) = (Token::service(), Token::of("mallory").sign());
    for line in REQUESTS.trim().lines() {
        let line = line.replace("HASH", &hashes[0]);
        let line = line.replace("WALLET", &accounts[2]);
        let (method, body) = line.split_once(' ').expect("a method and a body");
        let (method, body) = (format!("WatchService/{method}"), json_of(body));
        for token in [Some(&*service), Some(&*mallory), None] {
            let expected = owner.call(&method, token, &body).await;
            assert_ne!(expected.status, 503, "{line} {}", expected.body);
            let answer = gateway.call(&method, token, &body).await;
            assert_eq!(comparable(&answer), comparable(&expected), "{line}");
        }
    }
}

/// Reads the statuses of a transaction until this state. Checks that each has the next number.
async fn until(client: &mut Client, hash: &str, state: &str, last: &mut Option<u64>) -> Value {
    let channel = format!("tx:31337:{hash}");
    loop {
        let message = client.next_on(&channel).await.expect("transaction");
        let seq = message.seq.expect("a seq");
        assert!(last.is_none_or(|last| last + 1 == seq), "{last:?} {seq}");
        *last = Some(seq);
        if message.data["state"] == state {
            return message.data;
        }
    }
}

async fn a_session_watches_on_another_server(transport: Transport) {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start_with(&["--no-mining"]).await;
    let (owner, gateway) = pair(&redis, &chain).await;
    let accounts = chain.accounts().await;
    let mut client = Client::connect(transport, &gateway).await;
    let hash = chain.send(&accounts[0], &accounts[1], 5).await;
    let watch = json!({"chain": 31337, "txHash": hash});
    let reply = client.request("watch", watch.clone()).await;
    assert_eq!(reply.expect("watching").data["state"], "pending");
    let wallet = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    client.subscribe(&wallet).await;
    let filter = json!({"chain": 31337, "events": {"addresses": [accounts[2]]}});
    let reply = client.request("watch", filter.clone()).await;
    let events = reply.expect("watching").data["channel"].clone();
    chain.mine(1).await;
    let mut last = None;
    until(&mut client, &hash, "confirming", &mut last).await;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let update = client.next_on(&wallet).await.expect("wallet_update").data;
        if update["data"]["status"] != "pending" {
            kinds.push(update["type"].as_str().expect("a type").to_owned());
        }
    }
    kinds.sort_unstable();
    assert_eq!(kinds, ["balance", "transaction"]);
    chain.mine(11).await;
    until(&mut client, &hash, "finalized", &mut last).await;
    let newest = json!({"chain": 31337});
    eventually("the newest block", async || {
        let block = owner.call("WatchService/GetLatestBlock", None, &newest);
        (block.await.json()["number"] == 12).then_some(())
    })
    .await;
    // The same messages are refused in the same words.
    let mut other = Client::connect(transport, &owner).await;
    let requests = [
        ("get_block", json!({"chain": 31337})),
        ("get_block", json!({"chain": 5})),
        ("watch", json!({"chain": 5, "txHash": hash})),
        ("watch", json!({"chain": 31337, "txHash": "0x1"})),
        ("watch", json!({"chain": 31337})),
        ("watch", json!({"chain": 31337, "events": {}})),
        (
            "watch",
            json!({"chain": 31337, "events": {"addresses": ["x"]}}),
        ),
        ("watch", filter.clone()),
        ("unwatch", filter),
        (
            "subscribe",
            json!({"channels": ["tx:5:0x1", "wallet:0x1", "blocks:5"]}),
        ),
        (
            "subscribe",
            json!({"channels": ["events:31337:none", "events:5:none"]}),
        ),
        ("subscribe", json!({"channels": [events]})),
    ];
    for (kind, request) in requests {
        let expected = other.request(kind, request.clone()).await;
        let answer = client.request(kind, request.clone()).await;
        let read = |text: &str| {
            let mut reply = without_times(json_of(text));
            reply["id"] = Value::Null;
            reply
        };
        assert_eq!(read(&answer.text), read(&expected.text), "{kind} {request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_sees_its_transaction_while_servers_are_killed() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start_with(&["--no-mining"]).await;
    let mut first = owner(&redis, &chain).await;
    let gateway = || sharing(&redis, &chain).set("server", "roles = [\"gateway\"]");
    let (mut near, third, next) = tokio::join!(
        gateway().start(),
        gateway().start(),
        sharing(&redis, &chain).start()
    );
    let accounts = chain.accounts().await;
    let hash = chain.send(&accounts[0], &accounts[1], 5).await;
    let channel = format!("tx:31337:{hash}");
    let mut client = Client::connect(Transport::WebSocketJson, &near).await;
    let subscribed = client.subscribe(&channel).await;
    let epoch = subscribed["epoch"].as_str().expect("an epoch").to_owned();
    let mut last = subscribed["seq"].as_u64();
    if last == Some(0) {
        until(&mut client, &hash, "pending", &mut last).await;
    }
    // Mined while nobody follows the chain.
    first.kill().await;
    chain.mine(1).await;
    until(&mut client, &hash, "confirming", &mut last).await;
    owns(&next).await;
    near.kill().await;
    chain.mine(2).await;
    let mut client = Client::connect(Transport::WebSocketJson, &third).await;
    let resumed = client.resume(&channel, &epoch, last.expect("a seq")).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    until(&mut client, &hash, "confirmed", &mut last).await;
    chain.mine(9).await;
    until(&mut client, &hash, "finalized", &mut last).await;
    assert!(client.unread().iter().all(|one| one.kind != "gap"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_on_a_server_is_followed_by_the_next_owner() {
    let redis = RedisServer::start().await;
    let chain = ChainNode::start().await;
    let (mut first, gateway) = pair(&redis, &chain).await;
    let next = sharing(&redis, &chain).start().await;
    let accounts = chain.accounts().await;
    let mut client = Client::connect(Transport::WebSocketJson, &gateway).await;
    let wallet = |account: &String| format!("wallet:{}", account.to_ascii_lowercase());
    client.subscribe(&wallet(&accounts[1])).await;
    // Told to the owner, and not stored by it yet.
    client.subscribe(&wallet(&accounts[2])).await;
    first.kill().await;
    // A subscription waits for the next owner.
    client.subscribe(&wallet(&accounts[3])).await;
    owns(&next).await;
    for account in &accounts[1..4] {
        let hash = chain.send(&accounts[0], account, 7).await;
        loop {
            let update = client
                .next_on(&wallet(account))
                .await
                .expect("wallet_update");
            if update.data["type"] == "transaction" && update.data["data"]["status"] != "pending" {
                assert_eq!(update.data["data"]["hash"], hash);
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_find_the_next_owner() {
    let redis = RedisServer::start().await;
    let (chain, _, hashes) = chain_of(2).await;
    let (mut first, gateway) = pair(&redis, &chain).await;
    let second = sharing(&redis, &chain).start().await;
    let request = json!({"chain": 31337, "txHash": hashes[0]});
    let ask = async |server: &Server| {
        let method = "WatchService/GetTransactionStatus";
        let answer = server.call(method, None, &request);
        let answer = within("an answer", answer).await;
        (answer.status, answer.json()["state"].clone(), answer.body)
    };
    let read = |(status, state, body): (u16, Value, String)| {
        assert_eq!((status, &state), (200, &json!("confirming")), "{body}");
    };
    first.kill().await;
    read(ask(&gateway).await);
    owns(&second).await;
    // One that hangs is not waited for once another one owns the chain.
    let third = sharing(&redis, &chain).start().await;
    second.pause();
    read(ask(&gateway).await);
    owns(&third).await;
    second.resume();
    for server in [&gateway, &second, &third] {
        read(ask(server).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_wallet_may_be_read_on_each_server() {
    let redis = RedisServer::start().await;
    let (chain, accounts, _) = chain_of(1).await;
    let owned = |builder: ServerBuilder| builder.namespace("wallet", "access = \"owner\"");
    let owner = owned(sharing(&redis, &chain)).start().await;
    owns(&owner).await;
    let gateway = owned(sharing(&redis, &chain)).set("server", "roles = [\"gateway\"]");
    let gateway = gateway.start().await;
    let (service, ann) = (Token::service(), Token::of("ann").sign());
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    let link = json!({"user": "ann", "address": accounts[1]});
    let mut clients = Vec::new();
    for server in [&owner, &gateway] {
        let client = Client::connect_as(Transport::WebSocketJson, server, Some(&ann)).await;
        clients.push((server, client));
    }
    let request = json!({"channels": [channel]});
    for (_, client) in &mut clients {
        let refused = client.request("subscribe", request.clone()).await;
        let error = &refused.data["channels"][0]["error"];
        assert_eq!(error["code"], "permission_denied", "{}", refused.text);
    }
    let linked = gateway
        .call("WatchService/LinkWallet", Some(&service), &link)
        .await;
    assert_eq!(linked.status, 200, "{}", linked.body);
    for (_, client) in &mut clients {
        client.subscribe(&channel).await;
    }
    let unlinked = owner
        .call("WatchService/UnlinkWallet", Some(&service), &link)
        .await;
    assert_eq!(unlinked.status, 200, "{}", unlinked.body);
    for (server, client) in &mut clients {
        let left = client.next_of("unsubscribed").await;
        assert!(left.text.contains(&channel), "{}", left.text);
        let refused = client.request("subscribe", request.clone()).await;
        let error = &refused.data["channels"][0]["error"];
        assert_eq!(error["code"], "permission_denied", "{}", refused.text);
        let history = json!({"channel": channel});
        let answer = server
            .call("StreamService/GetHistory", Some(&ann), &history)
            .await;
        assert_eq!(answer.status, 403, "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_a_connection_is_the_same_on_each_server() {
    let redis = RedisServer::start().await;
    let (chain, _, _) = chain_of(1).await;
    let unlimited = |builder: ServerBuilder| {
        builder
            .set("limits", "messages_per_second = 0")
            .set("limits", "bytes_per_second = 0")
            .set("limits", "channels_per_connection = 0")
    };
    let owner = unlimited(sharing(&redis, &chain)).start().await;
    owns(&owner).await;
    let gateway = unlimited(sharing(&redis, &chain)).set("server", "roles = [\"gateway\"]");
    let gateway = gateway.start().await;
    let mut refusals = Vec::new();
    for (number, server) in [&owner, &gateway].into_iter().enumerate() {
        let mut client = Client::connect(Transport::WebSocketJson, server).await;
        let refusal = loop_until_refused(&mut client, number).await;
        refusals.push(refusal);
    }
    assert_eq!(refusals[0], refusals[1]);
}

/// Watches filters until one is refused. Returns how many were taken, and the refusal.
async fn loop_until_refused(client: &mut Client, number: usize) -> (usize, String) {
    for count in 0..300_usize {
        let address = |index: usize| format!("0x{:040x}", (number * 1_000 + count) * 1_000 + index);
        let addresses: Vec<_> = (1..=100).map(address).collect();
        let watch = json!({"chain": 31337, "events": {"addresses": addresses}});
        let reply = client.request("watch", watch).await;
        if reply.kind == "error" {
            return (count, reply.data["message"].to_string());
        }
    }
    panic!("no filter is refused");
}
