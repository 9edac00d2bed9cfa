//! Reorgs and outages of a real node.

use serde_json::json;
use tidewire_tests::{Client, Node, Server, Transport};

use crate::{
    blocks::wait_for_block,
    ledger::{Ledger, on_chain_with},
};

/// A server on this node, a client that follows its blocks, and the blocks so far.
async fn followed(endpoint: &str, node: &Node, rest: &str) -> (Server, Client, Ledger) {
    let builder = Server::builder();
    let server = on_chain_with(builder, 31337, &[endpoint.to_owned()], rest);
    let server = server.start().await;
    wait_for_block(&server, 31337).await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("blocks:31337").await;
    let mut ledger = Ledger::default();
    ledger.follow(&mut client, node, "blocks:31337").await;
    (server, client, ledger)
}

/// Follows reorgs of 1, 3 and 12 blocks, one after the other.
async fn publishes_reorgs(endpoint: &str, node: &Node) {
    let (_server, mut client, mut ledger) = followed(endpoint, node, "").await;
    node.mine(15).await;
    ledger.follow(&mut client, node, "blocks:31337").await;
    for depth in [1, 3, 12] {
        node.reorg(depth).await;
        ledger.follow(&mut client, node, "blocks:31337").await;
        ledger.check(node).await;
        assert_eq!(ledger.blocks.len(), 16);
        node.mine(2).await;
        ledger.follow(&mut client, node, "blocks:31337").await;
        node.reorg(2).await;
        node.mine(1).await;
        ledger.follow(&mut client, node, "blocks:31337").await;
        node.call("anvil_rollback", json!([3])).await;
        node.mine(3).await;
        ledger.follow(&mut client, node, "blocks:31337").await;
        node.call("anvil_rollback", json!([3])).await;
        node.mine(1).await;
        ledger.follow(&mut client, node, "blocks:31337").await;
        node.call("anvil_rollback", json!([1])).await;
        node.mine(1).await;
        ledger.follow(&mut client, node, "blocks:31337").await;
        assert_eq!(ledger.blocks.len(), 17);
        node.call("anvil_rollback", json!([2])).await;
        node.mine(1).await;
        ledger.follow(&mut client, node, "blocks:31337").await;
        assert_eq!(ledger.blocks.len(), 16);
    }
    assert!(ledger.reorgs.contains(&12) && ledger.reorgs.contains(&3));
    ledger.check(node).await;
}

#[tokio::test]
async fn reorgs_are_published_from_a_websocket_endpoint() {
    let node = Node::start().await;
    publishes_reorgs(&node.ws(), &node).await;
}

#[tokio::test]
async fn reorgs_are_published_from_an_http_endpoint() {
    let node = Node::start().await;
    publishes_reorgs(&node.http(), &node).await;
}

#[tokio::test]
async fn a_reorg_past_the_limit_is_a_gap() {
    let node = Node::start().await;
    let (server, mut client, mut ledger) = followed(&node.ws(), &node, "reorg_limit = 4").await;
    node.mine(10).await;
    ledger.follow(&mut client, &node, "blocks:31337").await;
    node.reorg(8).await;
    server.log_line("resync: ").await;
    let gap = client.next_on("blocks:31337").await.expect("gap");
    assert_eq!(gap.data["channel"], "blocks:31337");
    // The block may be published before the gap is sent, which then covers it: a client that
    // re-reads the state has it.
    let first = match gap.data["seq"].as_u64() {
        Some(1) => {
            let history = json!({"channel": "blocks:31337"});
            let history = client.request("history", history).await.expect("history");
            history.data["messages"][0].clone()
        }
        _ => {
            let first = client.next_on("blocks:31337").await.expect("block");
            json!({"seq": first.seq, "data": first.data})
        }
    };
    assert_eq!(first["seq"].as_u64(), Some(1));
    assert_eq!(first["data"].get("reorged"), None);
    assert_eq!(first["data"]["hash"], node.hash(10).await);
    let mut ledger = Ledger::default();
    ledger.push(&first["data"]);
    node.mine(5).await;
    ledger.follow(&mut client, &node, "blocks:31337").await;
    ledger.check(&node).await;
}

#[tokio::test]
async fn blocks_mined_during_an_outage_are_published() {
    for over in [Node::ws, Node::http] {
        let mut node = Node::start().await;
        let (_server, mut client, mut ledger) = followed(&over(&node), &node, "").await;
        node.mine(3).await;
        ledger.follow(&mut client, &node, "blocks:31337").await;
        for _ in 0..3 {
            node.stop().await;
            node.resume().await;
            // More blocks than the header tree links at once.
            node.mine(150).await;
            ledger.follow(&mut client, &node, "blocks:31337").await;
        }
        assert!(ledger.reorgs.is_empty());
        assert_eq!(ledger.blocks.len(), 454);
        ledger.check(&node).await;
    }
}

#[tokio::test]
async fn more_missed_blocks_than_the_limit_are_a_gap() {
    let mut node = Node::start().await;
    let (server, mut client, mut ledger) =
        followed(&node.ws(), &node, "reorg_limit = 4\ncatch_up = 50").await;
    node.mine(3).await;
    ledger.follow(&mut client, &node, "blocks:31337").await;
    node.stop().await;
    node.resume().await;
    node.mine(100).await;
    server.log_line("resync: ").await;
    // The server may be connected again before all blocks are mined: the first ones are no gap.
    let mut next = client.next_on("blocks:31337").await;
    while next.kind == "block" {
        ledger.push(&next.data);
        next = client.next_on("blocks:31337").await;
    }
    assert_eq!(next.expect("gap").data["channel"], "blocks:31337");
}

#[tokio::test]
async fn a_transaction_of_both_branches_is_confirmed_in_the_new_one() {
    for depth in [1, 3, 12] {
        let node = Node::start().await;
        node.mine(15).await;
        let rest = "confirmations = 3\nfinality = 64";
        let (_server, mut client, mut ledger) = followed(&node.ws(), &node, rest).await;
        let accounts = node.accounts().await;
        let hash = node.send(&accounts[0], &accounts[1], 5).await;
        let watch = json!({"chain": 31337, "txHash": hash});
        let _ = client.request("watch", watch).await.expect("watching");
        if depth > 1 {
            node.mine(depth - 1).await;
        }
        ledger.follow(&mut client, &node, "blocks:31337").await;
        let raw = node.call("debug_getRawTransaction", json!([hash])).await;
        let before = node.hash(16).await;
        node.call("anvil_reorg", json!([depth, [[raw, 0]]])).await;
        node.mine(4).await;
        let after = node.hash(16).await;
        assert_ne!(before, after);
        // The status moves from the old block to the new one, and is confirmed there.
        let channel = format!("tx:31337:{hash}");
        let mut blocks = Vec::new();
        loop {
            let status = client.next_on(&channel).await.expect("transaction").data;
            let state = status["state"].as_str().unwrap();
            assert!(
                ["pending", "confirming", "confirmed"].contains(&state),
                "{status}"
            );
            blocks.extend(status["blockHash"].as_str().map(str::to_owned));
            if state == "confirmed" && status["blockHash"] == after.as_str() {
                break;
            }
        }
        blocks.dedup();
        assert!(blocks.ends_with(std::slice::from_ref(&after)), "{blocks:?}");
        ledger.follow(&mut client, &node, "blocks:31337").await;
        assert_eq!(ledger.reorgs, [usize::try_from(depth).unwrap()]);
        ledger.check(&node).await;
    }
}
