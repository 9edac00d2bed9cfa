//! Gaps between the tip and a new head: how the missing headers are read.
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

use alloy::primitives::{B256, keccak256};
use http_node::{CHAIN, HttpNode, error, result};
use serde_json::{Value, json};
use tidewire_chain::ChainEngine;
use tidewire_stream::{
    AnonymousPolicy, Authenticator, ManualClock, Namespaces, StreamCore, StreamOptions,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The first block that the engine sees.
const FIRST: u64 = 5;

fn hash(number: u64) -> B256 {
    keccak256(number.to_be_bytes())
}

fn number_in(hex: &Value) -> Option<u64> {
    u64::from_str_radix(hex.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// An empty block, which is a header too.
fn block(number: u64) -> Value {
    json!({
        "number": format!("{number:#x}"), "hash": hash(number), "parentHash": hash(number - 1),
        "timestamp": "0x1", "transactions": [],
    })
}

/// A node whose chain ends at `head`.
fn answer(call: &Value, head: u64) -> Value {
    let first = &call["params"][0];
    let found = match call["method"].as_str().unwrap() {
        "eth_getBlockByNumber" if first == "latest" => Some(head),
        "eth_getBlockByNumber" => number_in(first),
        "eth_getBlockByHash" => (1..=head).find(|number| *first == json!(hash(*number))),
        "eth_getBlockReceipts" => return result(call, json!([])),
        _ => return error(call, -32601, "the method does not exist"),
    };
    result(call, found.map_or(Value::Null, block))
}

/// The headers that were read by height and by hash, in the order of their heights.
fn header_reads(requests: Vec<Value>) -> (Vec<u64>, Vec<u64>) {
    let (mut by_height, mut by_hash) = (Vec::new(), Vec::new());
    for request in requests {
        let calls = match request {
            Value::Array(calls) => calls,
            call => vec![call],
        };
        for call in calls {
            let (first, is_whole) = (&call["params"][0], &call["params"][1]);
            match call["method"].as_str().unwrap() {
                "eth_getBlockByNumber" => by_height.extend(number_in(first)),
                "eth_getBlockByHash" if *is_whole == json!(false) => {
                    by_hash.extend((1..100).find(|number| *first == json!(hash(*number))));
                }
                _ => {}
            }
        }
    }
    by_height.sort_unstable();
    by_hash.sort_unstable();
    (by_height, by_hash)
}

async fn reached(engine: &ChainEngine, number: u64) {
    let reached = async {
        while !engine
            .latest_block(CHAIN)
            .is_ok_and(|block| block.number == number)
        {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, reached).await.unwrap();
}

/// How the headers are read when the chain goes from [`FIRST`] to `last` at once.
async fn reads_up_to(last: u64) -> (Vec<u64>, Vec<u64>) {
    let head = Arc::new(AtomicU64::new(FIRST));
    let of_node = head.clone();
    let node = HttpNode::answering(move |call| answer(call, of_node.load(Ordering::SeqCst))).await;
    let config = json!({
        "id": CHAIN, "endpoints": [node.url], "block_time": "50ms", "header_hash": false,
        "transactions_root": false, "receipts_root": false, "logs_bloom": false,
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
    reached(&engine, FIRST).await;
    node.take_requests();
    head.store(last, Ordering::SeqCst);
    reached(&engine, last).await;
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    header_reads(node.take_requests())
}

#[tokio::test]
async fn up_to_three_missing_headers_are_read_by_hash_and_more_by_height() {
    // The head itself is known.
    assert_eq!(reads_up_to(FIRST + 1).await, (vec![], vec![]));
    assert_eq!(reads_up_to(FIRST + 4).await, (vec![], vec![6, 7, 8]));
    assert_eq!(reads_up_to(FIRST + 5).await, (vec![6, 7, 8, 9], vec![]));
}
