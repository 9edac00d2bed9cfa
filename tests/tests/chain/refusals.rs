//! Refusals: endpoints that refuse a method, return no receipt, or return less than others.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tidewire_tests::{
    Client, FaultyNode, Node, Server, Transport,
    faulty_node::{Reply, pass_through},
    within,
};

use crate::{
    blocks::wait_for_block,
    ledger::{Ledger, on_chain_with},
    transaction_outcomes::deployed,
};

const CHANNEL: &str = "blocks:31337";

/// The script of a faulty node.
type Script = fn(&str, &Value, Value) -> Reply;

fn refusal(truth: &Value, code: i64, message: &str) -> Reply {
    let error = json!({"code": code, "message": message});
    Reply::Response(json!({"jsonrpc": "2.0", "id": truth["id"], "error": error}))
}

/// Ways to refuse the receipts of a block. The logs that are returned instead are forged.
const REFUSALS: [Script; 5] = [
    |method, _, truth| match method {
        "eth_getBlockReceipts" => refusal(&truth, -32601, "the method does not exist"),
        _ => with_forged_logs(method, truth),
    },
    |method, _, truth| match method {
        "eth_getBlockReceipts" => refusal(&truth, -32000, "not available on the Free tier"),
        _ => with_forged_logs(method, truth),
    },
    |method, _, truth| match method {
        "eth_getBlockReceipts" => refusal(&truth, -32001, "resource not found"),
        _ => with_forged_logs(method, truth),
    },
    |method, _, mut truth| match method {
        "eth_getBlockReceipts" => {
            truth["result"] = Value::Null;
            Reply::Response(truth)
        }
        _ => with_forged_logs(method, truth),
    },
    |method, _, truth| match method {
        "eth_getBlockReceipts" => Reply::Status(403, ""),
        _ => with_forged_logs(method, truth),
    },
];

/// Changes the amount in each log to 10³⁰.
fn with_forged_logs(method: &str, mut truth: Value) -> Reply {
    if method == "eth_getLogs" {
        for log in truth["result"].as_array_mut().into_iter().flatten() {
            log["data"] = json!(word(10_u128.pow(30)));
        }
    }
    Reply::Response(truth)
}

fn word(number: u128) -> String {
    format!("0x{number:064x}")
}

/// Deploys a contract that logs the amount 5 whenever it is called.
async fn amount_logger(node: &Node, account: &str) -> String {
    // PUSH1 5, PUSH0, MSTORE, PUSH1 32, PUSH0, LOG0, STOP
    deployed(node, account, "60055f5260205fa000").await
}

#[tokio::test]
async fn an_endpoint_without_block_receipts_cannot_forge_an_amount() {
    for (script, over) in REFUSALS.into_iter().zip([
        FaultyNode::http,
        FaultyNode::ws,
        FaultyNode::http,
        FaultyNode::ws,
        FaultyNode::http,
    ]) {
        let node = Node::start().await;
        let accounts = node.accounts().await;
        let contract = amount_logger(&node, &accounts[0]).await;
        let faulty = FaultyNode::in_front_of(&node, script).await;
        let server = on_chain_with(Server::builder(), 31337, &[over(&faulty)], "");
        let server = server.start().await;
        wait_for_block(&server, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        let watch = json!({"chain": 31337, "events": {"addresses": [contract]}});
        let watching = client.request("watch", watch).await.expect("watching");
        let channel = watching.data["channel"].as_str().unwrap().to_owned();
        for _ in 0..3 {
            let hash = node.send(&accounts[0], &contract, 0).await;
            let log = client.next_on(&channel).await.expect("event_log").data;
            assert_eq!(
                (&log["txHash"], &log["data"]),
                (&json!(hash), &json!(word(5)))
            );
        }
        assert!(!server.log().contains("returned an invalid response"));
        let refusals = server
            .metric("tidewire_chain_refusals_total", "31337")
            .await;
        assert!(refusals >= 1.0, "{refusals}");
    }
}

#[tokio::test]
async fn an_endpoint_whose_receipts_are_null_rests_for_them_and_is_named_once() {
    let node = Node::start().await;
    let script = |method: &str, _: &Value, mut truth: Value| {
        if method == "eth_getBlockReceipts" {
            truth["result"] = Value::Null;
        }
        Reply::Response(truth)
    };
    let faulty = FaultyNode::in_front_of(&node, script).await;
    let server = on_chain_with(Server::builder(), 31337, &[faulty.http()], "");
    let server = server.start().await;
    let (mut client, mut ledger) = Ledger::subscribed(&server, CHANNEL).await;
    // The third refusal comes after the first two pauses.
    let refusals = async || {
        server
            .metric("tidewire_chain_refusals_total", "31337")
            .await
    };
    within("the third refusal", async {
        while refusals().await < 3.0 {
            node.mine(1).await;
            ledger.follow(&mut client, &node, CHANNEL).await;
        }
    })
    .await;
    let log = server.log();
    let lines: Vec<_> = log.matches("an endpoint refuses a method").collect();
    assert_eq!(lines.len(), 1, "{log}");
}

#[tokio::test]
async fn a_failed_transaction_without_a_receipt_is_never_sent_as_confirming() {
    let faults: [Script; 4] = [
        |_, _, mut truth| {
            truth["result"] = Value::Null;
            Reply::Response(truth)
        },
        |_, _, truth| refusal(&truth, -32603, "Internal error"),
        |_, _, mut truth| {
            truth["result"]["transactionHash"] = json!(format!("0x{}", "ab".repeat(32)));
            Reply::Response(truth)
        },
        |_, _, mut truth| {
            truth["result"]["blockHash"] = json!(format!("0x{}", "ab".repeat(32)));
            truth["result"]["status"] = json!("0x1");
            Reply::Response(truth)
        },
    ];
    for fault in faults {
        let node = Node::start().await;
        let accounts = node.accounts().await;
        // PUSH0, PUSH0, REVERT
        let contract = deployed(&node, &accounts[0], "5f5ffd").await;
        let is_faulty = Arc::new(AtomicBool::new(true));
        let faults = is_faulty.clone();
        let script = move |method: &str, params: &Value, truth: Value| match method {
            "eth_getBlockReceipts" => refusal(&truth, -32601, "the method does not exist"),
            "eth_getTransactionReceipt" if faults.load(Ordering::Relaxed) => {
                fault(method, params, truth)
            }
            _ => Reply::Response(truth),
        };
        let faulty = FaultyNode::in_front_of(&node, script).await;
        let rest = "receipts_root = false\nconfirmations = 2";
        let server = on_chain_with(Server::builder(), 31337, &[faulty.http()], rest);
        let server = server.start().await;
        wait_for_block(&server, 31337).await;
        let channel = format!("wallet:{}", accounts[1]);
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.subscribe(&channel).await;
        let request = json!({"from": accounts[1], "to": contract, "gas": "0x186a0"});
        let hash = node.call("eth_sendTransaction", json!([request])).await;
        let mut status = async || loop {
            let update = client.next_on(&channel).await.expect("wallet_update").data;
            if update["data"]["hash"] == hash && update["data"]["status"] != "pending" {
                break update["data"]["status"].clone();
            }
        };
        assert_eq!(status().await, "unknown");
        node.mine(4).await;
        is_faulty.store(false, Ordering::Relaxed);
        node.mine(1).await;
        assert_eq!(status().await, "failed");
    }
}

#[tokio::test]
async fn pushed_heads_without_newer_fields_are_no_invalid_responses() {
    let node = Node::start().await;
    let script = |method: &str, _: &Value, mut truth: Value| {
        if method == "newHeads" {
            let head = truth["result"].as_object_mut().unwrap();
            for field in ["mixHash", "withdrawalsRoot", "parentBeaconBlockRoot"] {
                head.remove(field);
            }
        }
        Reply::Response(truth)
    };
    let faulty = FaultyNode::in_front_of(&node, script).await;
    let server = on_chain_with(Server::builder(), 31337, &[faulty.ws()], "");
    let server = server.start().await;
    let (mut client, mut ledger) = Ledger::subscribed(&server, CHANNEL).await;
    for _ in 0..5 {
        node.mine(1).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
    }
    ledger.check(&node).await;
    assert!(!server.log().contains("returned an invalid response"));
}

/// Returns receipts in the reverse order, without blooms.
fn reversed_without_blooms(method: &str, _: &Value, mut truth: Value) -> Reply {
    if method == "eth_getBlockReceipts"
        && let Some(receipts) = truth["result"].as_array_mut()
    {
        receipts.reverse();
        for receipt in receipts {
            receipt["logsBloom"] = Value::Null;
        }
    }
    Reply::Response(truth)
}

/// Every header has a bloom of all ones.
fn with_another_bloom(method: &str, _: &Value, mut truth: Value) -> Reply {
    let is_header = method == "newHeads" || method.starts_with("eth_getBlockBy");
    if is_header && truth["result"].is_object() {
        truth["result"]["logsBloom"] = json!(format!("0x{}", "ff".repeat(256)));
    }
    Reply::Response(truth)
}

/// No header has a bloom.
fn without_a_bloom(method: &str, params: &Value, truth: Value) -> Reply {
    match with_another_bloom(method, params, truth) {
        Reply::Response(mut truth) if truth["result"]["logsBloom"].is_string() => {
            truth["result"]["logsBloom"] = json!("0x");
            Reply::Response(truth)
        }
        reply => reply,
    }
}

#[tokio::test]
async fn each_check_has_its_switch_and_the_log_names_it() {
    let off = "header_hash = false\nlogs_bloom = false";
    for (script, rest, switch) in [
        (reversed_without_blooms as Script, "", None),
        (with_another_bloom, off, None),
        (without_a_bloom, off, None),
        (
            with_another_bloom,
            "header_hash = false",
            Some("`logs_bloom = false`"),
        ),
        (
            without_a_bloom,
            "header_hash = false",
            Some("`logs_bloom = false`"),
        ),
    ] {
        let node = Node::start().await;
        let accounts = node.accounts().await;
        let contract = amount_logger(&node, &accounts[0]).await;
        let faulty = FaultyNode::in_front_of(&node, pass_through).await;
        let server = on_chain_with(Server::builder(), 31337, &[faulty.http()], rest);
        let server = server.start().await;
        wait_for_block(&server, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.subscribe(CHANNEL).await;
        faulty.set_script(script).await;
        node.call("evm_setAutomine", json!([false])).await;
        for from in &accounts[..3] {
            node.call(
                "eth_sendTransaction",
                json!([{"from": from, "to": contract, "gas": "0x186a0"}]),
            )
            .await;
        }
        node.mine(1).await;
        if let Some(switch) = switch {
            let line = server.log_line("returned an invalid response").await;
            assert!(line.contains(switch), "{line}");
            continue;
        }
        let mut ledger = Ledger::default();
        ledger.follow(&mut client, &node, CHANNEL).await;
        ledger.check(&node).await;
        assert!(!server.log().contains("returned an invalid response"));
    }
}
