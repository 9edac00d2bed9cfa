//! Endpoints against scripted HTTP nodes: refusals, batches, and reads by height.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/http_node.rs"]
mod http_node;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::{
    eips::Encodable2718 as _,
    primitives::{B256, keccak256},
    rpc::types::Transaction,
};
use http_node::{CHAIN, HttpNode, each, error, result};
use serde_json::{Value, json};
use tidewire_chain::{
    Call, ExpectedResult, ReceiptId, RpcClient as _, RpcError, endpoint::EndpointPool,
    proof::ProofPolicy,
};

/// The first parameter of a call.
fn echo(call: &Value) -> Value {
    result(call, call["params"][0].clone())
}

fn pool(nodes: &[&HttpNode]) -> EndpointPool {
    let addresses = nodes.iter().map(|node| (node.url.parse().unwrap(), None));
    EndpointPool::new(CHAIN, addresses.collect(), Duration::from_secs(20)).unwrap()
}

async fn call(pool: &EndpointPool, call: Call) -> Result<Value, RpcError> {
    pool.call_all(vec![call]).await.remove(0)
}

fn balance(number: u64) -> Call {
    Call::new("eth_getBalance", json!([format!("{number:#x}"), "latest"]))
}

#[tokio::test]
async fn an_error_of_a_providers_own_is_no_answer() {
    for (code, message) in [
        (-32012, "credits limited to 6000/sec"),
        (-32603, "Internal error"),
        (-32000, "daily quota reached, upgrade your plan"),
        (30, "Request timeout on the free tier"),
        (-32002, "project ID does not have access to this network"),
        (-32001, "eth_getBalance is not available"),
        (-32601, "the method does not exist"),
    ] {
        let bad = HttpNode::answering(move |call| error(call, code, message)).await;
        let good = HttpNode::answering(echo).await;
        let endpoints = pool(&[&bad, &good]);
        for _ in 0..2 {
            assert_eq!(
                call(&endpoints, balance(5)).await,
                Ok(json!("0x5")),
                "{message}"
            );
        }
        assert!(!bad.take_requests().is_empty());
        // Alone it leaves the call without an answer.
        let alone = call(&pool(&[&bad]), balance(5)).await;
        assert!(alone.is_err(), "{alone:?}");
    }
}

#[tokio::test]
async fn a_revert_and_invalid_parameters_are_every_nodes_answer() {
    let data = json!("0x08c379a0");
    for given in [
        json!({"code": 3, "message": "execution reverted", "data": data}),
        json!({"code": -32000, "message": "rate limit exceeded", "data": data}),
        json!({"code": -32000, "message": "execution reverted: too many requests"}),
        json!({"code": -32015, "message": "VM execution error.", "data": "Reverted 0x"}),
        json!({"code": -32602, "message": "invalid argument"}),
    ] {
        let refusal = given.clone();
        let script = move |call: &Value| match call["method"].as_str() {
            Some("eth_call") => {
                json!({"jsonrpc": "2.0", "id": call["id"], "error": refusal.clone()})
            }
            _ => echo(call),
        };
        let (first, second) = (
            HttpNode::answering(script).await,
            HttpNode::answering(echo).await,
        );
        let endpoints = pool(&[&first, &second]);
        for _ in 0..5 {
            let reverted = call(&endpoints, Call::new("eth_call", json!([{}, "latest"]))).await;
            assert!(
                matches!(reverted, Err(RpcError::Refused { .. })),
                "{given}: {reverted:?}"
            );
        }
        // The endpoint does not back off: it is still called first.
        assert_eq!(call(&endpoints, balance(5)).await, Ok(json!("0x5")));
        assert!(second.take_requests().is_empty(), "{given}");
    }
}

#[tokio::test]
async fn a_refused_method_is_called_elsewhere_and_here_again_later() {
    let refuses = Arc::new(Mutex::new(true));
    let script = {
        let refuses = refuses.clone();
        move |call: &Value| match (call["method"].as_str(), *refuses.lock().unwrap()) {
            (Some("eth_getBalance"), true) => error(call, -32601, "the method does not exist"),
            _ => echo(call),
        }
    };
    let node = HttpNode::answering(script).await;
    let other = HttpNode::answering(echo).await;
    let both = pool(&[&node, &other]);
    for _ in 0..50 {
        assert_eq!(call(&both, balance(1)).await, Ok(json!("0x1")));
    }
    assert!(node.take_methods().len() < 40);
    // Other methods are served, and this one again after its pause.
    let alone = pool(&[&node]);
    assert!(call(&alone, balance(1)).await.is_err());
    let code = Call::new("eth_getCode", json!(["0x9"]));
    assert_eq!(call(&alone, code).await, Ok(json!("0x9")));
    *refuses.lock().unwrap() = false;
    let served = async {
        while call(&alone, balance(1)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_status_that_refuses_one_method_does_not_stop_the_others() {
    let node = HttpNode::start(|request| {
        let mut calls = match request {
            Value::Array(calls) => calls.iter().collect(),
            call => vec![call],
        };
        match calls.iter_mut().any(|call| call["method"] == "eth_getLogs") {
            true => (403, json!({"message": "upgrade your plan"})),
            false => (200, each(request, &echo)),
        }
    })
    .await;
    let endpoints = pool(&[&node]);
    let calls = vec![
        balance(1),
        Call::new("eth_getLogs", json!([{}])),
        balance(2),
    ];
    let results = endpoints.call_all(calls).await;
    assert_eq!(results[0], Ok(json!("0x1")));
    assert!(
        matches!(results[1], Err(RpcError::Unavailable { .. })),
        "{results:?}"
    );
    assert_eq!(results[2], Ok(json!("0x2")));
}

/// Ways in which providers refuse a batch of more calls than this.
fn refusing_batches(most: usize, how: &'static str) -> impl Fn(&Value) -> (u16, Value) {
    move |request| {
        let answers = each(request, &echo);
        let Value::Array(mut answers) = answers else {
            return (200, answers);
        };
        if answers.len() <= most {
            return (200, json!(answers));
        }
        match how {
            "status 400" => (400, json!({"message": "batch too large"})),
            "status 413" => (413, json!("too large")),
            "status 500" => (500, json!({"error": "oops"})),
            "an object" => (
                200,
                json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "batch limit"}}),
            ),
            "a foreign list" => (200, json!([{"error": "batch limit"}])),
            "one missing" => {
                answers.pop();
                (200, json!(answers))
            }
            "one twice" => {
                answers[1] = answers[0].clone();
                (200, json!(answers))
            }
            "status 429" => (429, json!({"error": "too many requests in batch"})),
            "an error from the eleventh on" => {
                for (index, call) in request.as_array().unwrap().iter().enumerate().skip(most) {
                    answers[index] = error(call, -32003, "response too large");
                }
                (200, json!(answers))
            }
            "a rate limit each" => {
                let limited = request.as_array().unwrap().iter();
                (
                    200,
                    limited
                        .map(|call| error(call, -32005, "batch exceeds the limit of calls"))
                        .collect(),
                )
            }
            "an error each" => {
                let refused = request.as_array().unwrap().iter();
                (
                    200,
                    refused
                        .map(|call| error(call, -32600, "batch limit"))
                        .collect(),
                )
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn batches_shrink_until_every_call_is_answered() {
    for how in [
        "status 400",
        "status 413",
        "status 500",
        "an object",
        "a foreign list",
        "one missing",
        "one twice",
        "an error each",
        "status 429",
        "an error from the eleventh on",
        "a rate limit each",
    ] {
        for most in [1, 10] {
            let node = HttpNode::start(refusing_batches(most, how)).await;
            let endpoints = pool(&[&node]);
            let calls = || (0..120).map(balance).collect::<Vec<_>>();
            let expected: Vec<_> = (0..120).map(|n| Ok(json!(format!("{n:#x}")))).collect();
            for _ in 0..8 {
                assert_eq!(endpoints.call_all(calls()).await, expected, "{how}, {most}");
            }
            node.take_requests();
            // The size is learned: no batch is refused any more.
            assert_eq!(endpoints.call_all(calls()).await, expected, "{how}, {most}");
            let requests = node.take_requests().into_iter();
            let sizes = requests.map(|request| request.as_array().map_or(1, Vec::len));
            assert!(sizes.max().unwrap() <= most, "{how}, {most}");
        }
    }
}

#[tokio::test]
async fn a_batch_that_is_never_answered_is_halved() {
    // A batch of more than ten waits for ever.
    let node = HttpNode::hanging(
        |request| request.as_array().is_some_and(|all| all.len() > 10),
        echo,
    )
    .await;
    let address = vec![(node.url.parse().unwrap(), None)];
    let endpoints = EndpointPool::new(CHAIN, address, Duration::from_millis(500)).unwrap();
    let calls: Vec<_> = (0..50).map(balance).collect();
    let expected: Vec<_> = (0..50).map(|n| Ok(json!(format!("{n:#x}")))).collect();
    assert_eq!(endpoints.call_all(calls).await, expected);
}

#[tokio::test]
async fn a_batch_that_is_to_blame_is_no_refusal_of_a_method() {
    let node = HttpNode::start(refusing_batches(10, "an error from the eleventh on")).await;
    let other = HttpNode::answering(echo).await;
    let endpoints = pool(&[&node, &other]);
    endpoints.call_all((0..50).map(balance).collect()).await;
    // The endpoint does not rest for the method: it is still called first.
    assert_eq!(call(&endpoints, balance(5)).await, Ok(json!("0x5")));
    assert!(other.take_requests().is_empty());
}

#[tokio::test]
async fn what_one_endpoint_does_not_have_is_asked_for_elsewhere() {
    let (hash, block) = (B256::repeat_byte(1), B256::repeat_byte(2));
    let id = ReceiptId {
        transaction: hash,
        block,
        index: Some(0),
    };
    let right = json!({"transactionHash": hash, "blockHash": block, "transactionIndex": "0x0"});
    let wrong = |field: &str, value: Value| {
        let mut receipt = right.clone();
        receipt[field] = value;
        receipt
    };
    for given in [
        Value::Null,
        wrong("transactionHash", json!(B256::ZERO)),
        wrong("blockHash", json!(B256::ZERO)),
        wrong("transactionIndex", json!("0x1")),
    ] {
        let (first_result, second_result) = (given.clone(), right.clone());
        let first = HttpNode::answering(move |call| result(call, first_result.clone())).await;
        let second = HttpNode::answering(move |call| result(call, second_result.clone())).await;
        let found = call(&pool(&[&first, &second]), id.call()).await;
        assert_eq!(found, Ok(right.clone()), "{given}");
        assert_eq!(first.take_requests().len(), 1);
        match call(&pool(&[&first]), id.call()).await {
            Ok(alone) => assert!(alone.is_null(), "{given}"),
            Err(error) => assert!(matches!(error, RpcError::Unreachable { .. }), "{error}"),
        }
    }
    let transaction = || {
        Call::new("eth_getTransactionByHash", json!([hash]))
            .expecting(ExpectedResult::Transaction(hash))
    };
    let null = HttpNode::answering(|call| result(call, Value::Null)).await;
    let down = HttpNode::start(|_| (500, Value::Null)).await;
    let found = call(&pool(&[&null, &down]), transaction()).await;
    assert_eq!(
        found,
        Ok(Value::Null),
        "an endpoint that fails does not hide the other's null"
    );
}

#[tokio::test]
async fn a_transaction_must_hash_to_the_hash_that_is_asked_for() {
    let mut right = json!({
        "type": "0x0", "hash": B256::ZERO, "nonce": "0x5", "gas": "0x5208", "gasPrice": "0x1",
        "value": "0x9", "input": "0x", "r": "0x1", "s": "0x1", "v": "0x1b",
        "from": format!("0x{}", "a1".repeat(20)), "to": format!("0x{}", "b2".repeat(20)),
        "blockHash": null, "blockNumber": null, "transactionIndex": null,
    });
    let parsed: Transaction = serde_json::from_value(right.clone()).unwrap();
    let hash = keccak256(parsed.inner.inner().encoded_2718());
    right["hash"] = json!(hash);
    let config = json!({"id": CHAIN, "endpoints": []});
    let proofs = ProofPolicy::of(&serde_json::from_value(config).unwrap());
    let asked = || {
        Call::new("eth_getTransactionByHash", json!([hash]))
            .expecting(ExpectedResult::Transaction(hash))
    };
    for (field, other) in [
        ("nonce", json!("0x0")),
        ("value", json!("0xffff")),
        ("to", json!(format!("0x{}", "c3".repeat(20)))),
        ("type", json!("0x7f")),
    ] {
        let (mut forged, expected) = (right.clone(), right.clone());
        forged[field] = other;
        let liar = HttpNode::answering(move |call| result(call, forged.clone())).await;
        let honest = HttpNode::answering(move |call| result(call, expected.clone())).await;
        let both = pool(&[&liar, &honest]).with_proofs(proofs);
        assert_eq!(call(&both, asked()).await, Ok(right.clone()), "{field}");
        let alone = call(&pool(&[&liar]).with_proofs(proofs), asked()).await;
        assert!(
            matches!(alone, Err(RpcError::Unreachable { .. })),
            "{field}: {alone:?}"
        );
    }
}

#[tokio::test]
async fn a_node_that_knows_heights_only_is_read_by_height() {
    let hash = B256::repeat_byte(7);
    for (at_height, is_found) in [(hash, true), (B256::repeat_byte(8), false)] {
        let header =
            move |hash: B256| json!({"number": "0x1f", "hash": hash, "parentHash": B256::ZERO});
        let node = HttpNode::answering(move |call| {
            let params = &call["params"];
            match call["method"].as_str().unwrap() {
                "eth_getBlockByHash" => result(call, header(hash)),
                "eth_getBlockByNumber" => {
                    assert_eq!(params[0], "0x1f");
                    result(call, header(at_height))
                }
                _ if params[1].is_object() => error(call, -32602, "invalid argument 1"),
                _ => {
                    assert_eq!(params[1], "0x1f");
                    result(call, json!("0x5"))
                }
            }
        })
        .await;
        let read = || Call::new("eth_getBalance", json!(["0x1", {"blockHash": hash}]));
        let results = pool(&[&node]).call_all(vec![read(), read()]).await;
        for result in results {
            match is_found {
                true => assert_eq!(result, Ok(json!("0x5"))),
                false => assert!(
                    matches!(result, Err(RpcError::Unavailable { .. })),
                    "{result:?}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn each_request_by_height_confirms_the_block_after_its_reads() {
    let hash = B256::repeat_byte(7);
    let node = HttpNode::answering(move |call| {
        let params = &call["params"];
        let header = json!({"number": "0x1f", "hash": hash, "parentHash": B256::ZERO});
        match call["method"].as_str().unwrap() {
            "eth_getBalance" if params[1].is_object() => error(call, -32602, "invalid argument 1"),
            "eth_getBalance" => result(call, params[0].clone()),
            _ => result(call, header),
        }
    })
    .await;
    let read = |number: u64| {
        let account = format!("{number:#x}");
        Call::new("eth_getBalance", json!([account, {"blockHash": hash}]))
    };
    let results = pool(&[&node]).call_all((0..120).map(read).collect()).await;
    let expected: Vec<_> = (0..120).map(|n| Ok(json!(format!("{n:#x}")))).collect();
    assert_eq!(results, expected);
    let mut read_count = 0;
    for request in node.take_requests() {
        let calls = request.as_array().cloned().unwrap_or_default();
        let is_by_height = |call: &Value| call["params"][1] == "0x1f";
        let reads = calls.iter().filter(|call| is_by_height(call)).count();
        read_count += reads;
        if reads > 0 {
            let methods: Vec<_> = calls.iter().map(|call| &call["method"]).collect();
            assert_eq!(methods.len(), reads + 1);
            assert_eq!(methods.last(), Some(&&json!("eth_getBlockByNumber")));
        }
    }
    assert_eq!(read_count, 120);
}

#[tokio::test]
async fn no_error_holds_the_key_of_an_endpoints_url() {
    const KEY: &str = "sk9MARKEDKEY77";
    let page = |padding: usize| {
        let padding = "x".repeat(padding);
        json!(format!("<p>{padding} /v3/{KEY} was not found</p>"))
    };
    for (status, body) in [
        (404, page(0)),
        // The excerpt of the page would end within the key.
        (404, page(185)),
        (404, page(480)),
        (429, page(0)),
        (502, page(0)),
        (200, page(0)),
        (
            200,
            json!({"jsonrpc": "2.0", "id": 0, "result": null, "error": KEY}),
        ),
    ] {
        let script = body.clone();
        let node = HttpNode::start(move |_| (status, script.clone())).await;
        let error = keyed(&node, KEY).await.to_string();
        assert!(!error.contains("sk9MARK"), "{status} {body}: {error}");
    }
    for code in [-32000, -32600, -32602, -32005, -32001, -32601, 3] {
        let node = HttpNode::answering(move |call| {
            error(call, code, &format!("project {KEY} is disabled"))
        })
        .await;
        let error = keyed(&node, KEY).await.to_string();
        assert!(error.contains("project [redacted] is disabled"), "{error}");
    }
}

/// The error of a call to a node whose URL holds a key.
async fn keyed(node: &HttpNode, key: &str) -> RpcError {
    let url = format!("{}/v3/{key}", node.url).parse().unwrap();
    let pool = EndpointPool::new(CHAIN, vec![(url, None)], Duration::from_secs(20)).unwrap();
    call(&pool, balance(1)).await.unwrap_err()
}
