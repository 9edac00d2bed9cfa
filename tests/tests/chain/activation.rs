//! Activation: only a subscription makes a chain follow a wallet or watch a transaction.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::json;
use tidewire_tests::{Client, FaultyNode, Node, Server, Transport, faulty_node::Reply, within};

use crate::{
    blocks::wait_for_block,
    ledger::{Ledger, on_chain},
};

const BLOCKS: &str = "blocks:31337";

/// A server on a node whose calls are counted where `counts` returns true.
async fn counted(
    node: &Node,
    counts: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> (Server, FaultyNode, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let faulty = FaultyNode::in_front_of(node, move |method, _params, truth| {
        if counts(method) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Reply::Response(truth)
    });
    let faulty = faulty.await;
    let endpoints = [faulty.ws()];
    let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
    wait_for_block(&server, 31337).await;
    (server, faulty, calls)
}

/// Sends every request on a channel that is no subscription.
async fn touch(client: &mut Client, channel: &str) {
    let _ = client.request("history", json!({"channel": channel})).await;
    let publish = json!({"channel": channel, "data": 1});
    let refused = client.request("publish", publish).await;
    assert_eq!(
        refused.error_code(),
        "permission_denied",
        "{}",
        refused.text
    );
    let unsubscribe = json!({"channels": [channel]});
    let _ = client.request("unsubscribe", unsubscribe).await;
}

#[tokio::test]
async fn only_a_subscription_watches_a_transaction() {
    let node = Node::start().await;
    let is_lookup = |method: &str| method == "eth_getTransactionByHash";
    let (server, _faulty, lookups) = counted(&node, is_lookup).await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let mut ledger = Ledger::default();
    client.subscribe(BLOCKS).await;
    let channel = format!("tx:31337:0x{}", "7".repeat(64));
    touch(&mut client, &channel).await;
    for _ in 0..3 {
        node.mine(1).await;
        ledger.follow(&mut client, &node, BLOCKS).await;
    }
    assert_eq!(lookups.load(Ordering::Relaxed), 0);
    assert_eq!(client.subscribe(&channel).await["class"], "history");
    within("a look-up", async {
        while lookups.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn only_a_subscription_follows_a_wallet() {
    let node = Node::start().await;
    let is_read = |method: &str| method == "eth_getBalance" || method.contains("trace");
    let (server, _faulty, reads) = counted(&node, is_read).await;
    let accounts = node.accounts().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let mut ledger = Ledger::default();
    client.subscribe(BLOCKS).await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    touch(&mut client, &channel).await;
    let history = client.request("history", json!({"channel": channel})).await;
    let history = history.expect("history").data;
    node.send(&accounts[0], &accounts[1], 5).await;
    ledger.follow(&mut client, &node, BLOCKS).await;
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    // The payment was not seen, and a client that resumes from the history learns it.
    let epoch = history["epoch"].as_str().unwrap();
    let resumed = client.resume(&channel, epoch, 0).await;
    assert_eq!(resumed["recovered"], false, "{resumed}");
    node.send(&accounts[0], &accounts[1], 6).await;
    client.next_on(&channel).await;
    assert!(reads.load(Ordering::Relaxed) > 0);
}
