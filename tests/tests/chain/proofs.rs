//! What does not hash to its hash returned an invalid response: headers, transactions, receipts.

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
type Lie = fn(&str, &Value, Value) -> Reply;

/// Changes a field of each header but for the first blocks'.
fn with_another_time(method: &str, _params: &Value, mut truth: Value) -> Reply {
    let is_header = method == "newHeads" || method.starts_with("eth_getBlockBy");
    if is_header && is_late(&truth["result"]) {
        truth["result"]["timestamp"] = json!("0x77777777");
    }
    Reply::Response(truth)
}

/// Leaves a field of each header out that its hash is of.
fn without_a_root(method: &str, _params: &Value, mut truth: Value) -> Reply {
    let is_header = method == "newHeads" || method.starts_with("eth_getBlockBy");
    if is_header && is_late(&truth["result"]) {
        truth["result"].as_object_mut().unwrap().remove("stateRoot");
    }
    Reply::Response(truth)
}

/// Changes what transactions pay.
fn with_another_value(method: &str, _params: &Value, mut truth: Value) -> Reply {
    if method == "eth_getBlockByHash" {
        for transaction in transactions(&mut truth) {
            transaction["value"] = json!("0x99");
        }
    }
    Reply::Response(truth)
}

/// Calls transactions by other names, in the block and in the receipts.
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

/// Leaves all transactions out, and their receipts.
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

/// Says of what failed that it went well, and the other way round.
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

const LIES: [(Lie, &str); 6] = [
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
async fn what_does_not_hash_is_not_told_and_is_asked_elsewhere() {
    for over in [FaultyNode::ws, FaultyNode::http] {
        for (lie, what) in LIES {
            let node = Node::start().await;
            node.mine(2).await;
            let accounts = node.accounts().await;
            let faulty = FaultyNode::in_front_of(&node, lie).await;
            let endpoints = [over(&faulty)];
            let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
            wait_for_block(&server, 31337).await;
            let mut client = Client::connect(Transport::WebSocketJson, &server).await;
            client.subscribe(CHANNEL).await;
            let mut ledger = Ledger::default();
            ledger.follow(&mut client, &node, CHANNEL).await;
            node.send(&accounts[0], &accounts[1], 5).await;
            // Alone it holds the chain up, and is not told.
            let line = server.log_line("returned an invalid response").await;
            assert!(line.contains(what), "{line}");
            assert!(server.metric("tidewire_chain_lies_total", "31337").await >= 1.0);
            client.settle().await;
            assert!(client.unread().is_empty(), "{what}");
            faulty.set_script(pass_through).await;
            ledger.follow(&mut client, &node, CHANNEL).await;
            ledger.check(&node).await;
            faulty.set_script(lie).await;
            // Beside an honest endpoint it is not seen.
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
async fn a_chain_that_hashes_otherwise_is_followed_where_that_is_said() {
    for (lie, rest) in [
        (with_another_time as Lie, "header_hash = false"),
        (with_another_value, "transactions_root = false"),
        (with_another_status, "receipts_root = false"),
    ] {
        let node = Node::start().await;
        let accounts = node.accounts().await;
        let faulty = FaultyNode::in_front_of(&node, lie).await;
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
async fn headers_of_every_fork_hash_to_their_hash() {
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
