//! Blocks: from every kind of endpoint, to clients on every transport.

use serde_json::{Value, json};
use tidewire_proto::v1::{
    BlocksTarget, WatchRequest, watch_event::Data, watch_request::Target,
    watch_service_client::WatchServiceClient,
};
use tidewire_tests::{Client, Node, Server, Transport, client::grpc::channel, node, within};

use crate::ledger::{Ledger, on_chain};

on_every_transport!(blocks_are_published);

async fn blocks_are_published(transport: Transport) {
    let node = Node::start().await;
    node.mine(3).await;
    let server = on_chain(Server::builder(), 31337, &[node.ws()])
        .start()
        .await;
    let mut client = Client::connect(transport, &server).await;
    wait_for_block(&server, 31337).await;
    let subscribed = client.subscribe("blocks:31337").await;
    assert_eq!(subscribed["recovered"], false);
    // A subscription begins with the newest block.
    let first = client.next_on("blocks:31337").await.expect("block");
    assert_eq!(first.seq, subscribed["seq"].as_u64());
    let newest = node.block(3).await;
    for (ours, theirs) in [("hash", "hash"), ("parentHash", "parentHash")] {
        assert_eq!(first.data[ours], newest[theirs]);
    }
    assert_eq!(first.data["number"], 3);
    assert_eq!(first.data["chain"], 31337);
    assert_eq!(
        first.data["timestamp"].as_u64().unwrap(),
        node::number(&newest["timestamp"]) * 1_000
    );
    assert!(first.data.get("reorged").is_none(), "{}", first.text);

    let mut ledger = Ledger::default();
    ledger.push(&first.data);
    let accounts = node.accounts().await;
    for value in 1..=5 {
        node.send(&accounts[0], &accounts[1], value).await;
    }
    node.mine(20).await;
    ledger.follow(&mut client, &node, "blocks:31337").await;
    ledger.check(&node).await;
    // Several transactions may share a block, and the node may mine more blocks.
    let count = u64::try_from(ledger.blocks.len()).unwrap();
    let last = ledger.blocks.last().expect("a block").0;
    assert_eq!(count, last - 2);
    assert!(last > 23);
    assert!(ledger.reorgs.is_empty());
}

/// Waits until the server has read a block, and returns it.
pub(crate) async fn wait_for_block(server: &Server, chain: u64) -> Value {
    within("a block", async {
        loop {
            let request = json!({ "chain": chain });
            let answer = server
                .call("WatchService/GetLatestBlock", None, &request)
                .await;
            if answer.status == 200 {
                return answer.json();
            }
            // A client that asks this often is also told to slow down.
            assert!([429, 503].contains(&answer.status), "{}", answer.body);
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Follows a chain through mining and a reorg.
async fn follows_a_chain(node: &Node, endpoints: &[String]) {
    let server = on_chain(Server::builder(), 31337, endpoints).start().await;
    wait_for_block(&server, 31337).await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client.subscribe("blocks:31337").await;
    let mut ledger = Ledger::default();
    for _ in 0..5 {
        node.mine(7).await;
        ledger.follow(&mut client, node, "blocks:31337").await;
    }
    node.reorg(2).await;
    ledger.follow(&mut client, node, "blocks:31337").await;
    assert_eq!(ledger.reorgs, [2]);
    ledger.check(node).await;
    assert_eq!(ledger.blocks.len(), 36);
}

#[tokio::test]
async fn a_websocket_endpoint_is_followed() {
    let node = Node::start().await;
    follows_a_chain(&node, &[node.ws()]).await;
}

#[tokio::test]
async fn an_http_endpoint_is_followed() {
    let node = Node::start().await;
    follows_a_chain(&node, &[node.http()]).await;
}

#[tokio::test]
async fn an_ipc_endpoint_is_followed() {
    let node = Node::start().await;
    follows_a_chain(&node, &[node.ipc()]).await;
}

#[tokio::test]
async fn several_endpoints_of_one_node_are_followed_as_one() {
    let node = Node::start().await;
    follows_a_chain(&node, &[node.http(), node.ws(), node.ipc()]).await;
}

#[tokio::test]
async fn a_session_requests_the_newest_block() {
    let node = Node::start().await;
    let server = on_chain(Server::builder(), 31337, &[node.ws()])
        .start()
        .await;
    let newest = wait_for_block(&server, 31337).await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let reply = client.request("get_block", json!({"chain": 31337})).await;
    assert_eq!(reply.expect("block").data, newest);
    let refused = client.request("get_block", json!({"chain": 5})).await;
    assert_eq!(refused.error_code(), "not_found");
    assert_eq!(
        refused.error_message(),
        "there is no chain 5, expected 31337"
    );
    for channel in ["blocks:5", "blocks:x", "blocks:031337"] {
        let result = client.subscribe(channel).await;
        assert_eq!(result["error"]["code"], "not_found", "{result}");
    }
}

#[tokio::test]
async fn a_chain_without_a_node_is_unavailable_until_the_node_answers() {
    let mut node = Node::start().await;
    node.mine(2).await;
    node.stop().await;
    let server = on_chain(Server::builder(), 31337, &[node.ws()])
        .start()
        .await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let refused = client.request("get_block", json!({"chain": 31337})).await;
    assert_eq!(refused.error_code(), "unavailable");
    assert_eq!(client.subscribe("blocks:31337").await["seq"], 0);
    node.resume().await;
    let mut ledger = Ledger::default();
    ledger.follow(&mut client, &node, "blocks:31337").await;
    node.mine(3).await;
    ledger.follow(&mut client, &node, "blocks:31337").await;
    ledger.check(&node).await;
}

#[tokio::test]
async fn blocks_are_watched_over_grpc() {
    let node = Node::start().await;
    let server = on_chain(Server::builder(), 31337, &[node.ws()])
        .start()
        .await;
    wait_for_block(&server, 31337).await;
    let mut client = WatchServiceClient::new(channel(&server).await);
    let blocks = |chain| WatchRequest {
        target: Some(Target::Blocks(BlocksTarget { chain })),
        since: None,
    };
    let refused = client.watch(blocks(5)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    let mut events = client.watch(blocks(31337)).await.unwrap().into_inner();
    node.mine(3).await;
    for number in 0..=3 {
        let event = within("an event", events.message()).await.unwrap().unwrap();
        assert_eq!(event.channel, "blocks:31337");
        assert_eq!(event.seq, number + 1);
        match event.data {
            Some(Data::Block(block)) => assert_eq!(block.number, number),
            other => panic!("{other:?}"),
        }
    }
    let nothing = client.watch(WatchRequest::default()).await;
    assert_eq!(nothing.unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn two_chains_are_followed_at_once() {
    let (one, other) = (
        Node::start().await,
        Node::start_with(&["--chain-id", "10"]).await,
    );
    let builder = on_chain(Server::builder(), 31337, &[one.ws()]);
    let server = on_chain(builder, 10, &[other.http()]).start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    for (node, chain) in [(&one, 31337), (&other, 10)] {
        let newest = wait_for_block(&server, chain).await;
        assert_eq!(newest["hash"], node.hash(0).await);
        client.subscribe(&format!("blocks:{chain}")).await;
    }
    let (mut first, mut second) = (Ledger::default(), Ledger::default());
    for _ in 0..3 {
        one.mine(3).await;
        other.mine(5).await;
        first.follow(&mut client, &one, "blocks:31337").await;
        second.follow(&mut client, &other, "blocks:10").await;
    }
    first.check(&one).await;
    second.check(&other).await;
}

#[tokio::test]
async fn an_endpoint_of_another_chain_is_ignored() {
    let (right, wrong) = (
        Node::start().await,
        Node::start_with(&["--chain-id", "10"]).await,
    );
    wrong.mine(50).await;
    for endpoints in [[wrong.ws(), right.http()], [wrong.http(), right.ws()]] {
        let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
        wait_for_block(&server, 31337).await;
        let line = server.log_line("another chain").await;
        assert!(line.contains("10") && line.contains("31337"), "{line}");
        right.mine(1).await;
        let mut client = Client::connect(Transport::WebSocketJson, &server).await;
        client.subscribe("blocks:31337").await;
        let mut ledger = Ledger::default();
        ledger.follow(&mut client, &right, "blocks:31337").await;
        ledger.check(&right).await;
    }
}
