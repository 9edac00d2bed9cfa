//! Made-up transaction types: they do not switch off the proofs of a block.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/http_node.rs"]
mod http_node;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::{
    consensus::{
        Header,
        proofs::{calculate_receipt_root, ordered_trie_root_encoded},
    },
    eips::Encodable2718 as _,
    primitives::{B256, keccak256},
    rpc::types::{Transaction, TransactionReceipt},
};
use http_node::{CHAIN, HttpNode, error, result};
use serde_json::{Value, json};
use tidewire_chain::{ChainEngine, transaction::Interest};
use tidewire_proto::v1::TransactionState;
use tidewire_stream::{
    AnonymousPolicy, Authenticator, ManualClock, Namespaces, StreamCore, StreamOptions,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A block as nodes return it, and its receipts.
struct Block {
    hash: B256,
    json: Value,
    receipts: Vec<Value>,
}

/// A block of transactions with these outcomes. Its hash and roots are true.
fn block(number: u64, parent: B256, outcomes: &[&str]) -> Block {
    let (mut transactions, mut encoded) = (Vec::new(), Vec::new());
    for nonce in 0..outcomes.len() {
        let mut transaction = json!({
            "type": "0x0", "hash": B256::ZERO, "nonce": format!("{nonce:#x}"), "gas": "0x5208",
            "gasPrice": "0x1", "value": "0x9", "input": "0x", "r": "0x1", "s": "0x1", "v": "0x1b",
            "from": format!("0x{}", "a1".repeat(20)), "to": format!("0x{}", "b2".repeat(20)),
            "blockHash": null, "blockNumber": null, "transactionIndex": null,
        });
        let parsed: Transaction = serde_json::from_value(transaction.clone()).unwrap();
        let bytes = parsed.inner.inner().encoded_2718();
        transaction["hash"] = json!(keccak256(&bytes));
        transactions.push(transaction);
        encoded.push(bytes);
    }
    let receipts = transactions.iter().zip(outcomes).enumerate();
    let mut receipts: Vec<_> = receipts
        .map(|(index, (transaction, outcome))| {
            json!({
                "type": "0x0", "transactionHash": transaction["hash"], "status": outcome,
                "transactionIndex": format!("{index:#x}"), "blockHash": B256::ZERO,
                "blockNumber": format!("{number:#x}"), "gasUsed": "0x5208", "logs": [],
                "cumulativeGasUsed": format!("{:#x}", 0x5208 * (index + 1)),
                "effectiveGasPrice": "0x1", "contractAddress": null,
                "logsBloom": format!("0x{}", "0".repeat(512)),
                "from": transaction["from"], "to": transaction["to"],
            })
        })
        .collect();
    let parsed: Vec<TransactionReceipt> = serde_json::from_value(json!(receipts)).unwrap();
    let plain = parsed.into_iter();
    let plain: Vec<_> = plain
        .map(|receipt| receipt.inner.map_logs(|log| log.inner))
        .collect();
    let header = Header {
        number,
        parent_hash: parent,
        timestamp: number,
        transactions_root: ordered_trie_root_encoded(&encoded),
        receipts_root: calculate_receipt_root(&plain),
        ..Header::default()
    };
    let hash = header.hash_slow();
    for (index, transaction) in transactions.iter_mut().enumerate() {
        transaction["blockHash"] = json!(hash);
        transaction["blockNumber"] = json!(format!("{number:#x}"));
        transaction["transactionIndex"] = json!(format!("{index:#x}"));
    }
    for receipt in &mut receipts {
        receipt["blockHash"] = json!(hash);
    }
    let mut json = serde_json::to_value(&header).unwrap();
    json["hash"] = json!(hash);
    json["transactions"] = json!(transactions);
    Block {
        hash,
        json,
        receipts,
    }
}

/// A node of the chain up to `head`, which changes its responses by method.
fn answer(call: &Value, blocks: &[Block], head: u64, change: &dyn Fn(&str, &mut Value)) -> Value {
    let first = &call["params"][0];
    let method = call["method"].as_str().unwrap();
    let known = &blocks[..=usize::try_from(head).unwrap()];
    let by_hash = known.iter().find(|block| *first == json!(block.hash));
    let by_number = known.iter().find(|block| *first == block.json["number"]);
    let mut found = match method {
        "eth_getBlockByNumber" if first == "latest" => known.last().map(|block| block.json.clone()),
        "eth_getBlockByNumber" => by_number.map(|block| block.json.clone()),
        "eth_getBlockByHash" => by_hash.map(|block| block.json.clone()),
        "eth_getBlockReceipts" => by_hash.map(|block| json!(block.receipts)),
        "eth_getTransactionByHash" => Some(Value::Null),
        _ => return error(call, -32601, "the method does not exist"),
    }
    .unwrap_or_default();
    if method == "eth_getBlockReceipts" || call["params"][1] == json!(true) {
        change(method, &mut found);
    }
    result(call, found)
}

/// The state of the second transaction of block 3, of which one endpoint lies. It failed.
async fn state(lie: impl Fn(&str, &mut Value) + Send + Sync + 'static) -> TransactionState {
    let mut blocks: Vec<Block> = Vec::new();
    for number in 0..=3 {
        let parent = blocks.last().map_or(B256::ZERO, |parent| parent.hash);
        let outcomes: &[_] = if number == 3 { &["0x1", "0x0"] } else { &[] };
        blocks.push(block(number, parent, outcomes));
    }
    let watched = blocks[3].json["transactions"][1]["hash"].clone();
    let (blocks, head) = (Arc::new(blocks), Arc::new(AtomicU64::new(2)));
    let (of_liar, known) = (head.clone(), blocks.clone());
    let liar =
        HttpNode::answering(move |call| answer(call, &known, of_liar.load(Ordering::SeqCst), &lie))
            .await;
    let of_honest = head.clone();
    let honest = HttpNode::answering(move |call| {
        answer(call, &blocks, of_honest.load(Ordering::SeqCst), &|_, _| {})
    })
    .await;
    let config = json!({
        "id": CHAIN, "endpoints": [liar.url, honest.url], "block_time": "50ms", "agreement": 2,
        "confirmations": 1, "finality": 100,
    });
    let clock = ManualClock::at(0);
    let authenticator =
        Authenticator::hs256(&[7; 32], AnonymousPolicy::Read, clock.clone()).unwrap();
    let stream = StreamCore::in_memory(
        Namespaces::built_in(),
        authenticator,
        clock.clone(),
        StreamOptions::default(),
    );
    let config = serde_json::from_value(config).unwrap();
    let engine = ChainEngine::new(&[config], stream, clock, None).unwrap();
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    engine.start(&tasks, &cancel).await.unwrap();
    let watched = watched.as_str().unwrap();
    let settled = async {
        while !engine
            .latest_block(CHAIN)
            .is_ok_and(|block| block.number == 2)
        {
            tokio::task::yield_now().await;
        }
        let watch = engine.watch(CHAIN, watched, Interest::Session, Vec::new());
        watch.await.unwrap();
        head.store(3, Ordering::SeqCst);
        loop {
            let status = engine.status(CHAIN, watched, Vec::new()).await.unwrap();
            if status.block_number == Some(3) {
                return status.state();
            }
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(60);
    let state = tokio::time::timeout(limit, settled).await.unwrap();
    cancel.cancel();
    state
}

#[tokio::test]
async fn a_made_up_type_does_not_switch_off_the_proofs() {
    // Receipts of a made-up type, all of which succeed.
    let receipts = |labelled: usize| {
        state(move |method, found| {
            if method == "eth_getBlockReceipts" && found[1].is_object() {
                found[1]["status"] = json!("0x1");
                found[labelled]["type"] = json!("0x7f");
            }
        })
    };
    assert_eq!(receipts(0).await, TransactionState::Failed);
    assert_eq!(receipts(1).await, TransactionState::Failed);
    // Transactions and receipts of one.
    let both = state(|method, found| match method {
        "eth_getBlockReceipts" if found[1].is_object() => {
            found[1]["status"] = json!("0x1");
            found[0]["type"] = json!("0x7e");
        }
        "eth_getBlockByHash" if found["transactions"][1].is_object() => {
            found["transactions"][1]["value"] = json!("0xffff");
            found["transactions"][0]["type"] = json!("0x7e");
        }
        _ => {}
    });
    assert_eq!(both.await, TransactionState::Failed);
}
