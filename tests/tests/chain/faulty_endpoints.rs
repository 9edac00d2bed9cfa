//! Faulty endpoints: broken, lagging and invalid responses. Beside an honest endpoint clients see
//! none of them. From the only endpoint an invalid response stops the chain.

use serde_json::{Value, json};
use tidewire_tests::{
    Client, FaultyNode, Node, Server, Transport,
    faulty_node::{Reply, pass_through},
    node,
};

use crate::{
    blocks::wait_for_block,
    ledger::{Ledger, on_chain, on_chain_with},
    malformed_logs::deploy,
};

const CHANNEL: &str = "blocks:31337";

/// Deploys a contract that logs whenever it is called.
pub(crate) async fn logger(node: &Node, account: &str) -> String {
    // PUSH0 PUSH0 LOG0 STOP
    deploy(node, account, "5f5fa000").await
}

/// Follows a chain with logs over a faulty and an honest endpoint, and fails if a client sees the
/// fault.
async fn hides_faults(
    what: &str,
    over: fn(&FaultyNode) -> String,
    script: impl Fn(&str, &Value, Value) -> Reply + Send + Sync + 'static,
) {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    let contract = logger(&node, &accounts[0]).await;
    let faulty = FaultyNode::in_front_of(&node, script).await;
    let endpoints = [over(&faulty), node.http()];
    let builder = Server::builder();
    let server = on_chain_with(builder, 31337, &endpoints, "call_timeout_ms = 300");
    let server = server.start().await;
    let (mut client, mut ledger) = Ledger::subscribed(&server, CHANNEL).await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    for _ in 0..4 {
        node.send(&accounts[0], &contract, 0).await;
        node.mine(2).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
    }
    assert!(faulty.calls() > 0, "{what}");
    assert!(ledger.reorgs.is_empty(), "{what}");
    ledger.check(&node).await;
}

/// Removes a log from each receipt.
fn without_logs(method: &str, _params: &Value, mut truth: Value) -> Reply {
    if method == "eth_getBlockReceipts"
        && let Some(receipts) = truth["result"].as_array_mut()
    {
        for receipt in receipts {
            receipt["logs"].as_array_mut().unwrap().pop();
        }
    }
    Reply::Response(truth)
}

/// Serves no receipts, and no logs, like a node behind a load balancer that lags.
fn without_receipts_and_logs(method: &str, _params: &Value, mut truth: Value) -> Reply {
    match method {
        "eth_getBlockReceipts" => {
            let error = json!({"code": -32601, "message": "the method does not exist"});
            Reply::Response(json!({"jsonrpc": "2.0", "id": truth["id"], "error": error}))
        }
        "eth_getLogs" => {
            truth["result"] = json!([]);
            Reply::Response(truth)
        }
        _ => Reply::Response(truth),
    }
}

fn is_head(method: &str, params: &Value) -> bool {
    method == "newHeads" || (method == "eth_getBlockByNumber" && params[0] == "latest")
}

/// Every head has a parent that does not exist.
fn with_wrong_parent(method: &str, params: &Value, mut truth: Value) -> Reply {
    if is_head(method, params) {
        truth["result"]["hash"] = json!(format!("0x{}", "ab".repeat(32)));
        truth["result"]["parentHash"] = json!(format!("0x{}", "cd".repeat(32)));
    }
    Reply::Response(truth)
}

/// Every head is far above all others.
fn far_above(method: &str, params: &Value, mut truth: Value) -> Reply {
    if is_head(method, params) {
        let number = node::number(&truth["result"]["number"]);
        truth["result"]["number"] = json!(format!("{:#x}", number + 100_000));
        truth["result"]["hash"] = json!(format!("0x{number:064x}"));
    }
    Reply::Response(truth)
}

/// Every head is three heights too high.
fn with_wrong_height(method: &str, params: &Value, mut truth: Value) -> Reply {
    if is_head(method, params) {
        let number = node::number(&truth["result"]["number"]);
        truth["result"]["number"] = json!(format!("{:#x}", number + 3));
        truth["result"]["hash"] = json!(format!("0x{number:064x}"));
    }
    Reply::Response(truth)
}

/// No block is known by its hash.
fn without_blocks(method: &str, _params: &Value, mut truth: Value) -> Reply {
    if method == "eth_getBlockByHash" {
        truth["result"] = Value::Null;
    }
    Reply::Response(truth)
}

fn garbage(method: &str, _params: &Value, truth: Value) -> Reply {
    if method == "eth_chainId" {
        return Reply::Response(truth);
    }
    Reply::Text("{\"jsonrpc\": \"2.0\", \"result".to_owned())
}

fn a_page(method: &str, _params: &Value, truth: Value) -> Reply {
    match method {
        "eth_chainId" => Reply::Response(truth),
        _ => Reply::Text("<html><body>Be right back</body></html>".to_owned()),
    }
}

/// A batch without a response.
fn nothing(method: &str, _params: &Value, truth: Value) -> Reply {
    match method {
        "eth_chainId" => Reply::Response(truth),
        _ => Reply::Text("[]".to_owned()),
    }
}

fn of_another_type(method: &str, _params: &Value, mut truth: Value) -> Reply {
    truth["result"] = match method {
        "newHeads" | "eth_getBlockByNumber" => json!("0x"),
        "eth_getBlockByHash" => json!([]),
        "eth_getBlockReceipts" => json!({"receipts": 5}),
        _ => return Reply::Response(truth),
    };
    Reply::Response(truth)
}

/// A response with neither a result nor an error.
fn bare(method: &str, _params: &Value, truth: Value) -> Reply {
    match method {
        "eth_chainId" => Reply::Response(truth),
        _ => Reply::Response(json!({"jsonrpc": "2.0", "id": truth["id"]})),
    }
}

/// Responses to calls that were never made.
fn to_nobody(method: &str, _params: &Value, mut truth: Value) -> Reply {
    if method != "eth_chainId" && method != "newHeads" {
        truth["id"] = json!(123_456_789);
    }
    Reply::Response(truth)
}

/// Numbers that no block can have.
fn with_large_numbers(method: &str, params: &Value, mut truth: Value) -> Reply {
    if is_head(method, params) {
        truth["result"]["number"] = json!(format!("0x{}", "f".repeat(64)));
        truth["result"]["timestamp"] = json!("0x-1");
    }
    Reply::Response(truth)
}

fn too_busy(method: &str, _params: &Value, truth: Value) -> Reply {
    if method == "eth_chainId" {
        return Reply::Response(truth);
    }
    Reply::Status(429, "retry-after: 1\r\n")
}

fn over_its_limit(method: &str, _params: &Value, truth: Value) -> Reply {
    if method == "eth_chainId" {
        return Reply::Response(truth);
    }
    let error = json!({"code": -32005, "message": "limit exceeded"});
    Reply::Response(json!({"jsonrpc": "2.0", "id": truth["id"], "error": error}))
}

fn silence(method: &str, _params: &Value, truth: Value) -> Reply {
    if method == "eth_chainId" {
        return Reply::Response(truth);
    }
    Reply::Silence
}

/// A test over a WebSocket and one over HTTP for each script.
macro_rules! faults_are_hidden {
    ($($test:ident: $script:ident),* $(,)?) => {$(
        mod $test {
            #[tokio::test]
            async fn over_a_websocket() {
                super::hides_faults(stringify!($test), tidewire_tests::FaultyNode::ws, super::$script).await;
            }

            #[tokio::test]
            async fn over_http() {
                super::hides_faults(stringify!($test), tidewire_tests::FaultyNode::http, super::$script).await;
            }
        }
    )*};
}

faults_are_hidden!(
    an_honest_proxy: pass_through,
    missing_logs: without_logs,
    incomplete_logs_where_there_are_no_receipts: without_receipts_and_logs,
    a_wrong_parent: with_wrong_parent,
    a_head_far_above: far_above,
    a_wrong_height: with_wrong_height,
    blocks_that_are_not_there_yet: without_blocks,
    malformed_json: garbage,
    a_page_instead_of_json: a_page,
    a_batch_without_answers: nothing,
    results_of_another_type: of_another_type,
    neither_result_nor_error: bare,
    answers_to_nobody: to_nobody,
    numbers_that_are_too_large: with_large_numbers,
    a_rate_limit_of_http: too_busy,
    a_rate_limit_of_json_rpc: over_its_limit,
    no_answers_at_all: silence,
);

/// Marks every log as removed.
fn all_removed(method: &str, _params: &Value, mut truth: Value) -> Reply {
    if method == "eth_getBlockReceipts" {
        for receipt in truth["result"].as_array_mut().into_iter().flatten() {
            for log in receipt["logs"].as_array_mut().into_iter().flatten() {
                log["removed"] = json!(true);
            }
        }
    }
    Reply::Response(truth)
}

/// Serves no receipts, but logs.
fn without_receipts(method: &str, params: &Value, truth: Value) -> Reply {
    match method {
        "eth_getLogs" => Reply::Response(truth),
        _ => without_receipts_and_logs(method, params, truth),
    }
}

#[tokio::test]
async fn a_log_is_retracted_once_whatever_the_node_reports() {
    for script in [pass_through, all_removed, without_receipts] {
        let node = Node::start().await;
        let accounts = node.accounts().await;
        let contract = logger(&node, &accounts[0]).await;
        let faulty = FaultyNode::in_front_of(&node, script).await;
        let server = on_chain(Server::builder(), 31337, &[faulty.ws()])
            .start()
            .await;
        wait_for_block(&server, 31337).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        let watch = json!({"chain": 31337, "events": {"addresses": [contract]}});
        let watching = client.request("watch", watch).await.expect("watching");
        let channel = watching.data["channel"].as_str().unwrap().to_owned();
        let mut published = Vec::new();
        for _ in 0..3 {
            let hash = node.send(&accounts[0], &contract, 0).await;
            let log = client.next_on(&channel).await.expect("event_log").data;
            assert_eq!(
                (&log["txHash"], &log["removed"]),
                (&json!(hash), &json!(false))
            );
            published.push(log);
        }
        node.reorg(3).await;
        for old in published.iter().rev() {
            let log = client.next_on(&channel).await.expect("event_log").data;
            assert_eq!(log["removed"], true, "{log}");
            for same in ["txHash", "blockHash", "blockNumber", "logIndex"] {
                assert_eq!(log[same], old[same], "{log}");
            }
            // The node pushes the removal too, as nodes do to a log subscription.
            faulty.push(json!({
                "address": contract, "topics": [], "data": "0x", "removed": true,
                "blockHash": old["blockHash"], "blockNumber": "0x2", "logIndex": "0x0",
                "transactionHash": old["txHash"], "transactionIndex": "0x0",
            }));
        }
        // Nothing else is published before the next log.
        let hash = node.send(&accounts[0], &contract, 0).await;
        let log = client.next_on(&channel).await.expect("event_log").data;
        assert_eq!(
            (&log["txHash"], &log["removed"]),
            (&json!(hash), &json!(false))
        );
    }
}

#[tokio::test]
async fn a_lagging_endpoint_causes_no_reorg() {
    let node = Node::start().await;
    node.mine(5).await;
    let stuck = node.block(5).await;
    let script = move |method: &str, params: &Value, mut truth: Value| {
        if is_head(method, params) {
            truth["result"] = stuck.clone();
        }
        Reply::Response(truth)
    };
    let faulty = FaultyNode::in_front_of(&node, script).await;
    let endpoints = [faulty.http(), node.ws()];
    let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
    let (mut client, mut ledger) = Ledger::subscribed(&server, CHANNEL).await;
    for _ in 0..5 {
        node.mine(3).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
    }
    assert!(ledger.reorgs.is_empty());
    ledger.check(&node).await;
}

#[tokio::test]
async fn an_invalid_response_from_the_only_endpoint_stops_the_chain_and_is_not_published() {
    let node = Node::start().await;
    let accounts = node.accounts().await;
    let contract = logger(&node, &accounts[0]).await;
    let faulty = FaultyNode::in_front_of(&node, without_logs).await;
    let server = on_chain(Server::builder(), 31337, &[faulty.ws()])
        .start()
        .await;
    let (mut client, mut ledger) = Ledger::subscribed(&server, CHANNEL).await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    node.send(&accounts[0], &contract, 0).await;
    let line = server.log_line("returned an invalid response").await;
    assert!(line.contains("bloom"), "{line}");
    client.settle().await;
    assert!(client.unread().is_empty());
    faulty.set_script(pass_through).await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    ledger.check(&node).await;
}

#[tokio::test]
async fn with_agreement_one_endpoint_alone_moves_no_head() {
    // Two nodes with chains of their own, which never agree. The third endpoint serves the
    // chain of the first node.
    let honest_node = Node::start().await;
    let follower = FaultyNode::in_front_of(&honest_node, pass_through).await;
    let forked = Node::start_with(&["--timestamp", "1000000000"]).await;
    forked.mine(30).await;
    let endpoints = [forked.ws(), honest_node.ws(), follower.http()];
    let server = on_chain_with(Server::builder(), 31337, &endpoints, "agreement = 2");
    let server = server.start().await;
    let first = wait_for_block(&server, 31337).await;
    assert_eq!(first["hash"], honest_node.hash(0).await);
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe(CHANNEL).await;
    let mut ledger = Ledger::default();
    for _ in 0..3 {
        honest_node.mine(2).await;
        ledger.follow(&mut client, &honest_node, CHANNEL).await;
    }
    assert!(ledger.reorgs.is_empty());
    ledger.check(&honest_node).await;
}
