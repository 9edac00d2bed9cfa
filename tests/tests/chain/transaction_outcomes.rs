//! Transaction outcomes: replaced, cancelled, dropped, failed, and unknown.

use alloy::{hex, primitives::keccak256};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Client, Node, Server, Transport, node, within};

use crate::{
    blocks::wait_for_block,
    ledger::on_chain_with,
    watching::{server_on, until},
};

on_every_transport!(
    a_speed_up_replaces_a_transaction,
    an_empty_payment_to_oneself_cancels,
    a_transaction_that_leaves_all_mempools_is_dropped,
    a_failure_has_its_reason,
    a_custom_error_is_explained,
    an_unseen_hash_is_unknown,
    a_client_that_returns_to_a_transaction_misses_nothing,
);

/// Sends a transaction with more fields.
async fn send_with(node: &Node, from: &str, fields: Value) -> String {
    let mut request = json!({"from": from, "gas": "0x186a0"});
    for (name, value) in fields.as_object().unwrap() {
        request[name] = value.clone();
    }
    let hash = node.call("eth_sendTransaction", json!([request])).await;
    hash.as_str().unwrap().to_owned()
}

/// The fields of a transaction with the first nonce of its account, at this gas price in Gwei.
fn paying(gwei: u64, to: &str, value: u64) -> Value {
    let fee = format!("{:#x}", gwei * 1_000_000_000);
    json!({
        "nonce": "0x0", "to": to, "value": format!("{value:#x}"),
        "maxFeePerGas": fee, "maxPriorityFeePerGas": fee,
    })
}

async fn watch(client: &mut Client, hash: &str) -> Value {
    let watch = json!({"chain": 31337, "txHash": hash});
    client.request("watch", watch).await.expect("watching").data
}

async fn a_speed_up_replaces_a_transaction(transport: Transport) {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    let slow = send_with(&node, &accounts[0], paying(5, &accounts[1], 7)).await;
    assert_eq!(watch(&mut client, &slow).await["state"], "pending");
    let fast = send_with(&node, &accounts[0], paying(10, &accounts[1], 7)).await;
    node.mine(1).await;
    let status = until(&mut client, &slow, "replaced").await;
    assert_eq!(status["replacedBy"], fast, "{status}");
}

async fn an_empty_payment_to_oneself_cancels(transport: Transport) {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    let sent = send_with(&node, &accounts[0], paying(5, &accounts[1], 7)).await;
    assert_eq!(watch(&mut client, &sent).await["state"], "pending");
    let other = send_with(&node, &accounts[0], paying(10, &accounts[0], 0)).await;
    node.mine(1).await;
    let status = until(&mut client, &sent, "cancelled").await;
    assert_eq!(status["replacedBy"], other, "{status}");
}

async fn a_transaction_that_leaves_all_mempools_is_dropped(transport: Transport) {
    let node = Node::start_with(&["--no-mining"]).await;
    let rule = "drop_after_ms = 1000";
    let server = on_chain_with(Server::builder(), 31337, &[node.ws()], rule);
    let server = server.start().await;
    wait_for_block(&server, 31337).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    let still_pending = send_with(&node, &accounts[1], paying(5, &accounts[2], 7)).await;
    let sent = send_with(&node, &accounts[0], paying(5, &accounts[1], 7)).await;
    assert_eq!(watch(&mut client, &still_pending).await["state"], "pending");
    assert_eq!(watch(&mut client, &sent).await["state"], "pending");
    node.call("anvil_dropTransaction", json!([sent])).await;
    let status = until(&mut client, &sent, "dropped").await;
    let reason = "no node keeps it in its pool, and its nonce is free";
    assert_eq!(status["reason"], reason);
    // The other transaction is still pending.
    let request = json!({"chain": 31337, "txHash": still_pending});
    let answer = server
        .call("WatchService/GetTransactionStatus", None, &request)
        .await;
    assert_eq!(answer.json()["state"], "pending", "{}", answer.body);
}

/// Deploys a contract that reverts every call with this data.
async fn refusing(node: &Node, account: &str, data: &str) -> String {
    let length = data.len() / 2;
    // PUSH2 length, PUSH1 12, PUSH0, CODECOPY, PUSH2 length, PUSH0, REVERT, and the data.
    let code = format!("61{length:04x}600c5f3961{length:04x}5ffd{data}");
    deployed(node, account, &code).await
}

/// Deploys a contract with this code.
pub(crate) async fn deployed(node: &Node, account: &str, code: &str) -> String {
    let size = code.len() / 2;
    // PUSH2 size, DUP1, PUSH1 10, PUSH0, CODECOPY, PUSH0, RETURN, and the code.
    let data = format!("0x61{size:04x}80600a5f395ff3{code}");
    let hash = send_with(node, account, json!({"data": data})).await;
    let mined = async {
        loop {
            let receipt = node.call("eth_getTransactionReceipt", json!([hash])).await;
            if !receipt.is_null() {
                assert_eq!(node::number(&receipt["status"]), 1, "{receipt}");
                break receipt["contractAddress"].as_str().unwrap().to_owned();
            }
        }
    };
    within("a contract", mined).await
}

async fn a_failure_has_its_reason(transport: Transport) {
    let word = |number: u64| format!("{number:064x}");
    let text = |text: &str| {
        let bytes: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "08c379a0{}{}{bytes:0<64}",
            word(32),
            word(text.len() as u64)
        )
    };
    let node = Node::start().await;
    let server = server_on(Server::builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    for (data, expected) in [
        // Error(string)
        (text("not today"), "not today"),
        // Panic(uint256)
        (format!("4e487b71{}", word(0x11)), "overflow"),
        // ERC20InsufficientBalance(address,uint256,uint256)
        (
            format!("e450d38c{}{}{}", word(1), word(2), word(3)),
            "ERC20InsufficientBalance",
        ),
    ] {
        let contract = refusing(&node, &accounts[0], &data).await;
        let hash = send_with(&node, &accounts[0], json!({"to": contract})).await;
        let first = watch(&mut client, &hash).await;
        let status = if first["state"] == "failed" {
            first
        } else {
            until(&mut client, &hash, "failed").await
        };
        let reason = status["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(expected), "{status}");
    }
}

async fn an_unseen_hash_is_unknown(transport: Transport) {
    let node = Node::start().await;
    let server = server_on(Server::builder(), node.ws()).await;
    let mut client = Client::connect(transport, &server).await;
    let status = watch(&mut client, &format!("0x{}", "ab".repeat(32))).await;
    assert_eq!(status["state"], "unknown", "{status}");
    let reason = status["reason"].as_str().unwrap_or_default();
    let (since, now) = (status["since"].as_i64(), status["timestamp"].as_i64());
    assert!(since.is_some() && since <= now, "{status}");
    // As a reader writes it: the day, and the time in UTC.
    let (_, text) = reason.split_once("looking since 20").unwrap();
    assert!(text.len() == 18 && text.ends_with('Z'), "{status}");
}

async fn a_custom_error_is_explained(transport: Transport) {
    let node = Node::start().await;
    let rule = r#"errors = ["error NotYet(uint256 at)"]"#;
    let server = on_chain_with(Server::builder(), 31337, &[node.ws()], rule);
    let server = server.start().await;
    wait_for_block(&server, 31337).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    let selector = |signature: &str| hex::encode(&keccak256(signature)[..4]);
    let word = |number: u64| format!("{number:064x}");
    // A signature in the configuration explains it.
    let data = format!("{}{}", selector("NotYet(uint256)"), word(7));
    let contract = refusing(&node, &accounts[0], &data).await;
    let hash = send_with(&node, &accounts[0], json!({"to": contract})).await;
    let status = failed(&mut client, &hash, json!([])).await;
    assert_eq!(status["reason"], "NotYet(at: 7)", "{status}");
    // A signature of the watcher explains it.
    let data = format!("{}{}", selector("TooLate(uint256)"), word(8));
    let contract = refusing(&node, &accounts[0], &data).await;
    let hash = send_with(&node, &accounts[0], json!({"to": contract})).await;
    let status = failed(&mut client, &hash, json!(["error TooLate(uint256 by)"])).await;
    assert_eq!(status["reason"], "TooLate(by: 8)", "{status}");
    // A signature of a later watcher explains it to all watchers.
    let hash = send_with(&node, &accounts[0], json!({"to": contract})).await;
    let status = failed(&mut client, &hash, json!([])).await;
    let unexplained = format!("custom error 0x{}", selector("TooLate(uint256)"));
    assert_eq!(status["reason"], unexplained, "{status}");
    let mut other = Client::connect(Transport::WebSocketJson, &server).await;
    let status = failed(&mut other, &hash, json!(["error TooLate(uint256 by)"])).await;
    assert_eq!(status["reason"], "TooLate(by: 8)", "{status}");
    // The unexplained reason may come first.
    while until(&mut client, &hash, "failed").await["reason"] != "TooLate(by: 8)" {}
    // A malformed signature is refused, and so are too many.
    for (abi, expected) in [
        (json!(["error TooLate("]), "TooLate("),
        (json!(vec!["error A()"; 21]), "expected at most 20"),
    ] {
        let watch = json!({"chain": 31337, "txHash": hash, "abi": abi});
        let reply = client.request("watch", watch).await;
        assert_eq!(reply.error_code(), "invalid_argument", "{}", reply.text);
        assert!(reply.error_message().contains(expected), "{}", reply.text);
    }
}

/// Watches with signatures, and reads until the transaction has failed.
async fn failed(client: &mut Client, hash: &str, abi: Value) -> Value {
    let watch = json!({"chain": 31337, "txHash": hash, "abi": abi});
    let first = client.request("watch", watch).await.expect("watching").data;
    match first["state"] == "failed" {
        true => first,
        false => until(client, hash, "failed").await,
    }
}

async fn a_client_that_returns_to_a_transaction_misses_nothing(transport: Transport) {
    let node = Node::start_with(&["--no-mining"]).await;
    let folder = TempDir::new().unwrap();
    let path = format!("path = {:?}", folder.path().display().to_string());
    let builder = || Server::builder().set("store", &path);
    let mut server = server_on(builder(), node.ws()).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(transport, &server).await;
    let hash = node.send(&accounts[0], &accounts[1], 5).await;
    let channel = format!("tx:31337:{hash}");
    // A subscription starts the watch.
    let at = client.subscribe(&channel).await;
    until(&mut client, &hash, "pending").await;
    drop(client);
    node.mine(1).await;
    let mut client = Client::connect(transport, &server).await;
    let epoch = at["epoch"].as_str().unwrap();
    let seq = at["seq"].as_u64().unwrap();
    let resumed = client.resume(&channel, epoch, seq).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    until(&mut client, &hash, "pending").await;
    until(&mut client, &hash, "confirming").await;
    drop(client);
    server.kill().await;
    node.mine(3).await;
    let server = server_on(builder(), node.ws()).await;
    let mut client = Client::connect(transport, &server).await;
    let resumed = client.resume(&channel, epoch, seq).await;
    // The current status is published, even if the client saw it before.
    if resumed["recovered"] == true {
        until(&mut client, &hash, "confirming").await;
    }
    until(&mut client, &hash, "confirmed").await;
    node.mine(8).await;
    until(&mut client, &hash, "finalized").await;
}
