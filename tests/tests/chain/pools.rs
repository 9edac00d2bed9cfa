//! What is pending, heard by asking where an endpoint does not push.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tidewire_tests::{Client, FaultyNode, Node, Server, Transport, faulty_node::Reply, within};

use crate::watches::server_on;

/// Sends to a wallet that is followed, and awaits that it is told while it is pending.
async fn is_told(client: &mut Client, node: &Node, value: u64) {
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    // Of others nothing is told.
    node.send(&accounts[2], &accounts[3], value).await;
    let hash = node.send(&accounts[0], &accounts[1], value).await;
    let told = client.next_on(&channel).await.expect("wallet_update").data;
    let found = (&told["data"]["hash"], &told["data"]["status"]);
    assert_eq!(found, (&json!(hash), &json!("pending")), "{told}");
}

async fn following(server: &Server, node: &Node) -> Client {
    let mut client = Client::connect(Transport::WebSocketJson, server).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    client.subscribe(&channel).await;
    server.log_line("a pool is heard by asking").await;
    client
}

#[tokio::test]
async fn over_http_the_pool_is_heard_by_a_filter() {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.http()).await;
    let mut client = following(&server, &node).await;
    for value in 1..4 {
        is_told(&mut client, &node, value).await;
    }
}

#[tokio::test]
async fn a_filter_that_expired_is_made_anew() {
    let node = Node::start_with(&["--no-mining"]).await;
    let (asked, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count_asked, count_made) = (asked, made.clone());
    // Each filter is forgotten after a few questions.
    let script = move |method: &str, _params: &Value, truth: Value| {
        if method == "eth_newPendingTransactionFilter" {
            count_made.fetch_add(1, Ordering::Relaxed);
        }
        if method == "eth_getFilterChanges" && count_asked.fetch_add(1, Ordering::Relaxed) % 3 == 2
        {
            let error = json!({"code": -32000, "message": "filter not found"});
            return Reply::Response(json!({"jsonrpc": "2.0", "id": truth["id"], "error": error}));
        }
        Reply::Response(truth)
    };
    let faulty = FaultyNode::in_front_of(&node, script).await;
    let server = server_on(Server::builder(), faulty.http()).await;
    let mut client = following(&server, &node).await;
    within("a third filter", async {
        while made.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    is_told(&mut client, &node, 1).await;
}

#[tokio::test]
async fn without_filters_the_whole_pool_is_looked_through() {
    for is_offered in [false, true] {
        let node = Node::start_with(&["--no-mining"]).await;
        let looked = Arc::new(AtomicUsize::new(0));
        let count = looked.clone();
        // Filters are not there, or never there when they are asked for.
        let script = move |method: &str, _params: &Value, truth: Value| {
            if method == "txpool_content" {
                count.fetch_add(1, Ordering::Relaxed);
            }
            let is_gone = match method {
                "eth_newPendingTransactionFilter" => !is_offered,
                "eth_getFilterChanges" => true,
                _ => false,
            };
            if !is_gone {
                return Reply::Response(truth);
            }
            let error = match is_offered {
                true => json!({"code": -32000, "message": "filter not found"}),
                false => json!({"code": -32601, "message": "the method does not exist"}),
            };
            Reply::Response(json!({"jsonrpc": "2.0", "id": truth["id"], "error": error}))
        };
        let faulty = FaultyNode::in_front_of(&node, script).await;
        let server = server_on(Server::builder(), faulty.http()).await;
        let mut client = following(&server, &node).await;
        within("a look at the pool", async {
            while looked.load(Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        is_told(&mut client, &node, 1).await;
        is_told(&mut client, &node, 2).await;
    }
}
