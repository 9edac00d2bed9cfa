//! Fork choice against endpoints that lie, are slow, or go away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/http_node.rs"]
mod http_node;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::primitives::{B256, keccak256};
use http_node::{CHAIN, HttpNode, NEVER, error, result};
use serde_json::{Value, json};
use tidewire_chain::{ChainEngine, transaction::Interest};
use tidewire_proto::v1::TransactionState;
use tidewire_stream::{
    AnonymousPolicy, Authenticator, ManualClock, Namespaces, StreamCore, StreamOptions,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The transaction in block 6 of the honest chain.
const TRANSACTION: B256 = B256::repeat_byte(0x77);

/// The hash of a block on a branch.
fn hash(branch: &str, number: u64) -> B256 {
    keccak256([branch.as_bytes(), &number.to_be_bytes()].concat())
}

fn number_in(hex: &Value) -> Option<u64> {
    u64::from_str_radix(hex.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn block_of(branch: &str, number: u64, parent: B256) -> Value {
    json!({
        "number": format!("{number:#x}"), "hash": hash(branch, number), "parentHash": parent,
        "timestamp": "0x1", "transactions": [],
    })
}

/// A block of the honest chain.
fn block(number: u64) -> Value {
    let mut block = block_of("", number, hash("", number - 1));
    if number == 6 {
        block["transactions"] = json!([transaction()]);
    }
    block
}

fn transaction() -> Value {
    json!({
        "type": "0x0", "hash": TRANSACTION, "nonce": "0x1", "gas": "0x5208", "gasPrice": "0x1",
        "value": "0x1", "input": "0x", "r": "0x1", "s": "0x1", "v": "0x1b",
        "from": format!("0x{}", "a1".repeat(20)), "to": format!("0x{}", "b2".repeat(20)),
        "blockHash": hash("", 6), "blockNumber": "0x6", "transactionIndex": "0x0",
    })
}

fn receipt() -> Value {
    json!({
        "type": "0x0", "transactionHash": TRANSACTION, "transactionIndex": "0x0",
        "blockHash": hash("", 6), "blockNumber": "0x6", "status": "0x1", "gasUsed": "0x5208",
        "cumulativeGasUsed": "0x5208", "effectiveGasPrice": "0x1", "logs": [],
        "logsBloom": format!("0x{}", "0".repeat(512)), "contractAddress": null,
        "from": format!("0x{}", "a1".repeat(20)), "to": format!("0x{}", "b2".repeat(20)),
    })
}

/// A node of the honest chain, which ends at `head`. Its first block is final.
fn honest(call: &Value, head: u64) -> Value {
    let first = &call["params"][0];
    let found = match call["method"].as_str().unwrap() {
        "eth_getBlockByNumber" if first == "latest" => Some(head),
        "eth_getBlockByNumber" if first == "finalized" => Some(1),
        "eth_getBlockByNumber" => number_in(first).filter(|number| *number <= head),
        "eth_getBlockByHash" => (1..=head).find(|number| *first == json!(hash("", *number))),
        "eth_getBlockReceipts" => {
            let is_sixth = *first == json!(hash("", 6));
            return result(
                call,
                if is_sixth {
                    json!([receipt()])
                } else {
                    json!([])
                },
            );
        }
        "eth_getTransactionByHash" if head >= 6 && *first == json!(TRANSACTION) => {
            return result(call, transaction());
        }
        "eth_getTransactionByHash" => return result(call, Value::Null),
        "eth_getTransactionReceipt" if *first == json!(TRANSACTION) => {
            return result(call, receipt());
        }
        _ => return error(call, -32601, "the method does not exist"),
    };
    result(call, found.map_or(Value::Null, block))
}

/// An engine that follows these nodes.
struct World {
    engine: ChainEngine,
    cancel: CancellationToken,
}

impl World {
    async fn new(nodes: &[&HttpNode], keys: Value) -> Self {
        let urls: Vec<_> = nodes.iter().map(|node| node.url.clone()).collect();
        let mut config = json!({
            "id": CHAIN, "endpoints": urls, "block_time": "50ms", "header_hash": false,
            "transactions_root": false, "receipts_root": false, "logs_bloom": false,
            "call_timeout": "10m",
        });
        let all = config.as_object_mut().unwrap();
        all.extend(keys.as_object().unwrap().clone());
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
        Self { engine, cancel }
    }

    async fn reached(&self, number: u64) {
        self.until(async || {
            let newest = self.engine.latest_block(CHAIN);
            newest.is_ok_and(|block| block.number == number)
        })
        .await;
    }

    async fn state(&self, hash: B256) -> TransactionState {
        let status = self
            .engine
            .status(CHAIN, &hash.to_string(), Vec::new())
            .await;
        status.unwrap().state()
    }

    async fn until(&self, is_true: impl AsyncFn() -> bool) {
        let reached = async {
            while !is_true().await {
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, reached).await.unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test]
async fn the_head_of_an_endpoint_that_is_gone_does_not_hold_the_chain() {
    const FAR: u64 = u64::MAX;
    let is_gone = Arc::new(AtomicBool::new(false));
    let (of_liar, of_other) = (is_gone.clone(), is_gone.clone());
    let liar = HttpNode::start(move |request| {
        let far = |call: &Value| match call["method"].as_str() {
            Some("eth_getBlockReceipts") => result(call, json!([])),
            _ => result(call, block_of("liar", FAR, B256::ZERO)),
        };
        match of_liar.load(Ordering::SeqCst) {
            true => (502, json!("gone")),
            false => (200, http_node::each(request, &far)),
        }
    })
    .await;
    let other = HttpNode::start(move |request| match of_other.load(Ordering::SeqCst) {
        true => (200, http_node::each(request, &|call| honest(call, 9))),
        false => (502, json!("not yet")),
    })
    .await;
    let world = World::new(&[&liar, &other], json!({})).await;
    world.reached(FAR).await;
    is_gone.store(true, Ordering::SeqCst);
    world.reached(9).await;
}

#[tokio::test]
async fn an_endpoint_with_ever_new_heads_that_answers_slowly_does_not_stop_the_others() {
    let head = Arc::new(AtomicU64::new(5));
    let made_up = Arc::new(AtomicU64::new(0));
    let (of_liar, of_honest) = (head.clone(), head.clone());
    let liar = HttpNode::start(move |request| {
        let (first, is_whole) = (&request["params"][0], &request["params"][1]);
        if request["method"] == "eth_getBlockByHash" && *is_whole == json!(false) {
            return (NEVER, Value::Null);
        }
        if *first != "latest" {
            return (
                200,
                http_node::each(request, &|call| result(call, Value::Null)),
            );
        }
        let height = of_liar.load(Ordering::SeqCst) + 2;
        let branch = made_up.fetch_add(1, Ordering::SeqCst).to_string();
        let head = block_of(&branch, height, hash(&branch, height - 1));
        (200, result(request, head))
    })
    .await;
    let other = HttpNode::answering(move |call| {
        // The chain grows with each poll.
        if call["params"][0] == "latest" {
            of_honest.fetch_add(1, Ordering::SeqCst);
        }
        honest(call, of_honest.load(Ordering::SeqCst))
    })
    .await;
    let world = World::new(&[&liar, &other], json!({})).await;
    let passed = |number: u64| {
        let newest = world.engine.latest_block(CHAIN);
        newest.is_ok_and(|block| block.number > number)
    };
    for number in [10, 30, 50] {
        world.until(async || passed(number)).await;
    }
}

#[tokio::test]
async fn a_block_is_final_once_enough_endpoints_call_it_so() {
    let head = Arc::new(AtomicU64::new(5));
    let (of_liar, of_honest) = (head.clone(), head.clone());
    let liar = HttpNode::answering(move |call| {
        let head = of_liar.load(Ordering::SeqCst);
        match call["params"][0] == "finalized" {
            true => result(call, block(head)),
            false => honest(call, head),
        }
    })
    .await;
    let has_final = Arc::new(AtomicBool::new(false));
    let is_final = has_final.clone();
    let other = HttpNode::answering(move |call| {
        let head = of_honest.load(Ordering::SeqCst);
        match call["params"][0] == "finalized" && is_final.load(Ordering::SeqCst) {
            true => result(call, block(7)),
            false => honest(call, head),
        }
    })
    .await;
    let keys = json!({"agreement": 2, "confirmations": 3});
    let world = World::new(&[&liar, &other], keys).await;
    world.reached(5).await;
    let hash = TRANSACTION.to_string();
    let watched = world
        .engine
        .watch(CHAIN, &hash, Interest::Session, Vec::new());
    watched.await.unwrap();
    for number in 6..=9 {
        head.store(number, Ordering::SeqCst);
        world.reached(number).await;
    }
    let confirmed = TransactionState::Confirmed;
    world
        .until(async || world.state(TRANSACTION).await == confirmed)
        .await;
    has_final.store(true, Ordering::SeqCst);
    head.store(10, Ordering::SeqCst);
    let finalized = TransactionState::Finalized;
    world
        .until(async || world.state(TRANSACTION).await == finalized)
        .await;
}

#[tokio::test]
async fn a_node_without_a_usable_head_is_an_outage() {
    // How the node answers calls for its head.
    let answer = Arc::new(Mutex::new("null"));
    let of_node = answer.clone();
    let node = HttpNode::answering(move |call| {
        let head = *of_node.lock().unwrap();
        match (call["params"][0] == "latest", head) {
            (true, "null") => result(call, Value::Null),
            (true, "not found") => error(call, -32001, "resource not found"),
            // Too far from the block before, and without the headers between.
            (_, "pruned") => match call["params"][0] == "latest" {
                true => result(call, block(1_000)),
                false => result(call, Value::Null),
            },
            _ => honest(call, 5),
        }
    })
    .await;
    let world = World::new(&[&node], json!({})).await;
    let has_outage = |expected: bool| {
        let world = &world;
        async move {
            world
                .until(async || world.engine.has_outage(CHAIN) == expected)
                .await;
        }
    };
    has_outage(true).await;
    let reason = world.engine.latest_block(CHAIN).unwrap_err().to_string();
    assert!(reason.contains("returns usable results"), "{reason}");
    for how in ["not found", "pruned", "null"] {
        *answer.lock().unwrap() = "a head";
        has_outage(false).await;
        world.reached(5).await;
        *answer.lock().unwrap() = how;
        has_outage(true).await;
    }
}

#[tokio::test]
async fn fewer_endpoints_than_must_agree_are_an_outage() {
    let is_up = [false, true].map(|is_up| Arc::new(AtomicBool::new(is_up)));
    let head = Arc::new(AtomicU64::new(5));
    let start = |index: usize| {
        let (is_up, head) = (is_up[index].clone(), head.clone());
        HttpNode::start(move |request| match is_up.load(Ordering::SeqCst) {
            true => {
                let answer = |call: &Value| honest(call, head.load(Ordering::SeqCst));
                (200, http_node::each(request, &answer))
            }
            false => (502, json!("gone")),
        })
    };
    let (first, second) = (start(0).await, start(1).await);
    let world = World::new(&[&first, &second], json!({"agreement": 2})).await;
    let is_named = async |expected: &str| {
        let named = || {
            let outage = world.engine.outage(CHAIN);
            outage.map(|outage| outage.to_string()).unwrap_or_default()
        };
        world.until(async || named() == expected).await;
    };
    let one = "1 of 2 endpoints that must agree responds";
    is_named(one).await;
    let reason = world.engine.latest_block(CHAIN).unwrap_err().to_string();
    assert!(reason.contains(one), "{reason}");
    is_up[0].store(true, Ordering::SeqCst);
    is_named("").await;
    world.reached(5).await;
    is_up[1].store(false, Ordering::SeqCst);
    is_named(one).await;
    is_up[0].store(false, Ordering::SeqCst);
    is_named("none of its endpoints returns usable results").await;
    for is_up in &is_up {
        is_up.store(true, Ordering::SeqCst);
    }
    head.store(6, Ordering::SeqCst);
    is_named("").await;
    world.reached(6).await;
}

#[tokio::test]
async fn a_block_that_one_endpoint_makes_up_includes_nothing() {
    let ghost = B256::repeat_byte(0xde);
    let other_block = B256::repeat_byte(0xba);
    let liar = HttpNode::answering(move |call| {
        let first = &call["params"][0];
        match call["method"].as_str().unwrap() {
            "eth_getTransactionByHash" if *first == json!(ghost) => {
                let mut made_up = transaction();
                made_up["hash"] = json!(ghost);
                made_up["blockHash"] = json!(other_block);
                made_up["blockNumber"] = json!("0x2");
                result(call, made_up)
            }
            "eth_getTransactionReceipt" if *first == json!(ghost) => {
                let mut made_up = receipt();
                made_up["transactionHash"] = json!(ghost);
                made_up["blockHash"] = json!(other_block);
                made_up["blockNumber"] = json!("0x2");
                result(call, made_up)
            }
            "eth_getBlockByNumber" if *first == "0x2" => {
                let mut made_up = block(2);
                made_up["hash"] = json!(other_block);
                result(call, made_up)
            }
            _ => honest(call, 30),
        }
    })
    .await;
    let other = HttpNode::answering(|call| honest(call, 30)).await;
    let world = World::new(&[&liar, &other], json!({"agreement": 2, "finality": 3})).await;
    world.reached(30).await;
    assert_eq!(world.state(ghost).await, TransactionState::Pending);
    // A block before the first one that the engine saw counts once both endpoints have it.
    assert_eq!(world.state(TRANSACTION).await, TransactionState::Finalized);
}
