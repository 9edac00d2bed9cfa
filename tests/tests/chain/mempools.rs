//! Mempools: pending transactions of endpoints that do not push them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tidewire_tests::{Client, FaultyNode, Node, Server, Transport, faulty_node::Reply, within};

use crate::watching::server_on;

/// Sends to a followed wallet, and awaits the pending transaction.
async fn receives_pending(client: &mut Client, node: &Node, value: u64) {
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    // A transaction between other wallets is not published.
    node.send(&accounts[2], &accounts[3], value).await;
    let hash = node.send(&accounts[0], &accounts[1], value).await;
    let update = client.next_on(&channel).await.expect("wallet_update").data;
    let found = (&update["data"]["hash"], &update["data"]["status"]);
    assert_eq!(found, (&json!(hash), &json!("pending")), "{update}");
}

async fn following(server: &Server, node: &Node) -> Client {
    let mut client = Client::connect(Transport::WebSocketJson, server).await;
    let accounts = node.accounts().await;
    let channel = format!("wallet:{}", accounts[1].to_ascii_lowercase());
    client.subscribe(&channel).await;
    server.log_line("the mempool is read by polling").await;
    client
}

#[tokio::test]
async fn over_http_the_mempool_is_polled_by_a_filter() {
    let node = Node::start_with(&["--no-mining"]).await;
    let server = server_on(Server::builder(), node.http()).await;
    let mut client = following(&server, &node).await;
    for value in 1..4 {
        receives_pending(&mut client, &node, value).await;
    }
}

#[tokio::test]
async fn an_expired_filter_is_replaced() {
    let node = Node::start_with(&["--no-mining"]).await;
    let (polls, filters) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count_polls, count_filters) = (polls, filters.clone());
    // The node forgets each filter after a few polls.
    let script = move |method: &str, _params: &Value, truth: Value| {
        if method == "eth_newPendingTransactionFilter" {
            count_filters.fetch_add(1, Ordering::Relaxed);
        }
        if method == "eth_getFilterChanges" && count_polls.fetch_add(1, Ordering::Relaxed) % 3 == 2
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
        while filters.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    receives_pending(&mut client, &node, 1).await;
}

#[tokio::test]
async fn without_filters_the_whole_mempool_is_polled() {
    for is_offered in [false, true] {
        let node = Node::start_with(&["--no-mining"]).await;
        let polled = Arc::new(AtomicUsize::new(0));
        let count = polled.clone();
        // The node has no filters, or forgets each at once.
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
        within("a poll of the mempool", async {
            while polled.load(Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        receives_pending(&mut client, &node, 1).await;
        receives_pending(&mut client, &node, 2).await;
    }
}
