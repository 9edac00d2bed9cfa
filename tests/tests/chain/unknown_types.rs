//! Unknown types: transactions and receipts of other chains, which the configuration names, and
//! extra fields in headers.

use alloy::primitives::B256;
use serde_json::{Value, json};
use tidewire_tests::{Client, FaultyNode, Node, Server, Transport, faulty_node::Reply};

use crate::{
    blocks::wait_for_block,
    faulty_endpoints::logger,
    ledger::{Ledger, on_chain_with},
    watching::until,
};

const CHANNEL: &str = "blocks:31337";

/// Rewrites transactions as the deposits of an OP Stack chain.
fn deposits(method: &str, _params: &Value, truth: Value) -> Reply {
    change(method, truth, "0x7e", |transaction| {
        for gone in [
            "r",
            "s",
            "v",
            "yParity",
            "accessList",
            "chainId",
            "maxFeePerGas",
            "maxPriorityFeePerGas",
            "gasPrice",
        ] {
            transaction.remove(gone);
        }
        transaction.insert("mint".to_owned(), json!("0x0"));
        transaction.insert("isSystemTx".to_owned(), json!(false));
        transaction.insert("sourceHash".to_owned(), json!(B256::repeat_byte(2)));
        transaction.insert("depositReceiptVersion".to_owned(), json!("0x1"));
    })
}

/// Rewrites transactions as those with which Arbitrum begins a block.
fn internal(method: &str, _params: &Value, truth: Value) -> Reply {
    change(method, truth, "0x6a", |transaction| {
        for gone in ["accessList", "maxFeePerGas", "maxPriorityFeePerGas"] {
            transaction.remove(gone);
        }
        transaction.insert("v".to_owned(), json!("0x0"));
        transaction.insert("yParity".to_owned(), Value::Null);
    })
}

/// Rewrites transactions to a type that does not exist yet.
fn future_type(method: &str, _params: &Value, truth: Value) -> Reply {
    change(method, truth, "0x55", |transaction| {
        transaction.insert("signatures".to_owned(), json!([{"scheme": "new"}]));
    })
}

type Fields = serde_json::Map<String, Value>;

/// Sets the type of transactions and receipts, and adds fields to headers.
fn change(method: &str, mut truth: Value, kind: &str, then: impl Fn(&mut Fields)) -> Reply {
    let result = &mut truth["result"];
    if method == "newHeads" || method.starts_with("eth_getBlockBy") {
        if let Some(header) = result.as_object_mut() {
            header.insert("l1BlockNumber".to_owned(), json!("0x1234"));
            header.insert("sendRoot".to_owned(), json!(B256::repeat_byte(1)));
            header.insert("milliTimestamp".to_owned(), json!(null));
        }
        for transaction in result["transactions"].as_array_mut().into_iter().flatten() {
            if let Some(fields) = transaction.as_object_mut() {
                fields.insert("type".to_owned(), json!(kind));
                then(fields);
            }
        }
    }
    if method == "eth_getTransactionByHash"
        && let Some(fields) = result.as_object_mut()
    {
        fields.insert("type".to_owned(), json!(kind));
        then(fields);
    }
    let set_type = |receipt: &mut Value| {
        if receipt.is_object() {
            receipt["type"] = json!(kind);
            receipt["l1Fee"] = json!("0x1");
            receipt["depositNonce"] = json!("0x7");
        }
    };
    match method {
        "eth_getBlockReceipts" => {
            result
                .as_array_mut()
                .into_iter()
                .flatten()
                .for_each(set_type);
        }
        "eth_getTransactionReceipt" => set_type(result),
        _ => {}
    }
    Reply::Response(truth)
}

#[tokio::test]
async fn blocks_with_unknown_types_are_published_and_their_contents_are_watched() {
    for (script, over) in [
        (
            deposits as fn(&str, &Value, Value) -> Reply,
            FaultyNode::ws as fn(&FaultyNode) -> String,
        ),
        (internal, FaultyNode::http),
        (future_type, FaultyNode::ws),
    ] {
        let node = Node::start().await;
        let accounts = node.accounts().await;
        let contract = logger(&node, &accounts[0]).await;
        let faulty = FaultyNode::in_front_of(&node, script).await;
        let rest = "confirmations = 2\nfinality = 4\ntransaction_types = [0x7e, 0x6a, 0x55]";
        let server = on_chain_with(Server::builder(), 31337, &[over(&faulty)], rest);
        let server = server.start().await;
        wait_for_block(&server, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.subscribe(CHANNEL).await;
        let wallet = format!("wallet:{}", accounts[1].to_ascii_lowercase());
        client.subscribe(&wallet).await;
        let watch = json!({"chain": 31337, "events": {"addresses": [contract]}});
        let watching = client.request("watch", watch).await.expect("watching");
        let events = watching.data["channel"].as_str().unwrap().to_owned();
        // One transaction logs, the other pays a wallet.
        let called = node.send(&accounts[0], &contract, 0).await;
        let paid = node.send(&accounts[0], &accounts[1], 5).await;
        let log = client.next_on(&events).await.expect("event_log").data;
        assert_eq!(log["txHash"], called);
        let watch = json!({"chain": 31337, "txHash": paid});
        let _ = client.request("watch", watch).await.expect("watching");
        node.mine(6).await;
        until(&mut client, &paid, "finalized").await;
        let mut ledger = Ledger::default();
        ledger.follow(&mut client, &node, CHANNEL).await;
        ledger.check(&node).await;
        loop {
            let update = client.next_on(&wallet).await.expect("wallet_update").data;
            if update["type"] == "transaction" && update["data"]["status"] != "pending" {
                assert_eq!(update["data"]["hash"], paid, "{update}");
                assert_eq!(update["data"]["value"], "5", "{update}");
                break;
            }
        }
        assert!(
            !server.log().contains("returned an invalid response"),
            "{}",
            server.log()
        );
    }
}
