//! Proofs: headers, transactions and receipts that do not match their hashes are refused.

use serde_json::{Value, json};
use tidewire_tests::{
    Client, FaultyNode, Node, Server, Transport,
    faulty_node::{Reply, pass_through},
    node::number,
};

use crate::{
    blocks::wait_for_block,
    ledger::{Ledger, on_chain, on_chain_with},
};

const CHANNEL: &str = "blocks:31337";

/// The script of a faulty node.
type Script = fn(&str, &Value, Value) -> Reply;

/// Changes the time of each header after the first blocks.
fn with_another_time(method: &str, _params: &Value, mut truth: Value) -> Reply {
    let is_header = method == "newHeads" || method.starts_with("eth_getBlockBy");
    if is_header && is_late(&truth["result"]) {
        truth["result"]["timestamp"] = json!("0x77777777");
    }
    Reply::Response(truth)
}

/// Removes a hashed field from each header.
fn without_a_root(method: &str, _params: &Value, mut truth: Value) -> Reply {
    let is_header = method == "newHeads" || method.starts_with("eth_getBlockBy");
    if is_header && is_late(&truth["result"]) {
        truth["result"].as_object_mut().unwrap().remove("stateRoot");
    }
    Reply::Response(truth)
}

/// Changes the value of transactions.
fn with_another_value(method: &str, _params: &Value, mut truth: Value) -> Reply {
    if method == "eth_getBlockByHash" {
        for transaction in transactions(&mut truth) {
            transaction["value"] = json!("0x99");
        }
    }
    Reply::Response(truth)
}

/// Changes the hashes of transactions, in blocks and in receipts.
fn with_another_hash(method: &str, _params: &Value, mut truth: Value) -> Reply {
    let made_up = json!(format!("0x{}", "ab".repeat(32)));
    match method {
        "eth_getBlockByHash" => {
            for transaction in transactions(&mut truth) {
                transaction["hash"] = made_up.clone();
            }
        }
        "eth_getBlockReceipts" => {
            for receipt in truth["result"].as_array_mut().into_iter().flatten() {
                receipt["transactionHash"] = made_up.clone();
            }
        }
        _ => {}
    }
    Reply::Response(truth)
}

/// Removes all transactions and receipts.
fn without_transactions(method: &str, _params: &Value, mut truth: Value) -> Reply {
    match method {
        "eth_getBlockByHash" if truth["result"]["transactions"].is_array() => {
            truth["result"]["transactions"] = json!([]);
        }
        "eth_getBlockReceipts" => truth["result"] = json!([]),
        _ => {}
    }
    Reply::Response(truth)
}

/// Swaps success and failure in receipts.
fn with_another_status(method: &str, _params: &Value, mut truth: Value) -> Reply {
    if method == "eth_getBlockReceipts" {
        for receipt in truth["result"].as_array_mut().into_iter().flatten() {
            let failed = receipt["status"] == "0x0";
            receipt["status"] = json!(if failed { "0x1" } else { "0x0" });
        }
    }
    Reply::Response(truth)
}

fn transactions(block: &mut Value) -> impl Iterator<Item = &mut Value> {
    let transactions = block["result"]["transactions"].as_array_mut();
    let whole = transactions.into_iter().flatten();
    whole.filter(|transaction| transaction.is_object())
}

fn is_late(block: &Value) -> bool {
    block["number"].is_string() && number(&block["number"]) > 2
}

const INVALID_RESPONSES: [(Script, &str); 6] = [
    (with_another_time, "its header hashes to"),
    (without_a_root, "its header cannot be hashed"),
    (with_another_value, "hashes to"),
    (with_another_hash, "hashes to"),
    (
        without_transactions,
        "the transactions do not hash to the header's root",
    ),
    (
        with_another_status,
        "the receipts do not hash to the header's root",
    ),
];

#[tokio::test]
async fn data_with_a_wrong_hash_is_not_published_and_is_requested_elsewhere() {
    for over in [FaultyNode::ws, FaultyNode::http] {
        for (script, what) in INVALID_RESPONSES {
            let node = Node::start().await;
            node.mine(2).await;
            let accounts = node.accounts().await;
            let faulty = FaultyNode::in_front_of(&node, script).await;
            let endpoints = [over(&faulty)];
            let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
            wait_for_block(&server, 31337).await;
            let mut client = Client::connect(Transport::WebSocketJson, &server).await;
            client.subscribe(CHANNEL).await;
            let mut ledger = Ledger::default();
            ledger.follow(&mut client, &node, CHANNEL).await;
            node.send(&accounts[0], &accounts[1], 5).await;
            // From the only endpoint it stops the chain.
            let line = server.log_line("returned an invalid response").await;
            assert!(line.contains(what), "{line}");
            assert!(server.metric("tidewire_chain_lies_total", "31337").await >= 1.0);
            client.settle().await;
            assert!(client.unread().is_empty(), "{what}");
            faulty.set_script(pass_through).await;
            ledger.follow(&mut client, &node, CHANNEL).await;
            ledger.check(&node).await;
            faulty.set_script(script).await;
            // Beside an honest endpoint clients see nothing of it.
            let endpoints = [over(&faulty), node.http()];
            let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
            wait_for_block(&server, 31337).await;
            let mut client = Client::connect(Transport::WebSocketJson, &server).await;
            client.subscribe(CHANNEL).await;
            let mut ledger = Ledger::default();
            for value in 1..4 {
                node.send(&accounts[0], &accounts[1], value).await;
                ledger.follow(&mut client, &node, CHANNEL).await;
            }
            ledger.check(&node).await;
        }
    }
}

#[tokio::test]
async fn a_chain_with_other_hashes_is_followed_if_so_configured() {
    for (script, rest) in [
        (with_another_time as Script, "header_hash = false"),
        (with_another_value, "transactions_root = false"),
        (with_another_status, "receipts_root = false"),
    ] {
        let node = Node::start().await;
        let accounts = node.accounts().await;
        let faulty = FaultyNode::in_front_of(&node, script).await;
        let endpoints = [faulty.ws()];
        let server = on_chain_with(Server::builder(), 31337, &endpoints, rest);
        let server = server.start().await;
        wait_for_block(&server, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.subscribe(CHANNEL).await;
        let mut ledger = Ledger::default();
        for value in 1..4 {
            node.send(&accounts[0], &accounts[1], value).await;
            ledger.follow(&mut client, &node, CHANNEL).await;
        }
        ledger.check(&node).await;
    }
}

#[tokio::test]
async fn headers_of_every_fork_are_verified() {
    for fork in ["london", "paris", "shanghai", "cancun", "prague"] {
        let node = Node::start_with(&["--hardfork", fork]).await;
        let accounts = node.accounts().await;
        let server = on_chain(Server::builder(), 31337, &[node.ws(), node.http()]);
        let server = server.start().await;
        wait_for_block(&server, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.subscribe(CHANNEL).await;
        let mut ledger = Ledger::default();
        for value in 1..4 {
            node.send(&accounts[0], &accounts[1], value).await;
            ledger.follow(&mut client, &node, CHANNEL).await;
        }
        ledger.check(&node).await;
        assert!(
            !server.log().contains("returned an invalid response"),
            "{fork}"
        );
    }
}
