//! Endpoint limits: rate limits, silent subscriptions, and endpoints that change to another chain.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tidewire_tests::{
    Client, FaultyNode, Node, Server, Transport,
    faulty_node::{Reply, pass_through},
    within,
};

use crate::{
    blocks::wait_for_block,
    ledger::{Ledger, on_chain, on_chain_with},
};

const CHANNEL: &str = "blocks:31337";

/// A client that follows blocks.
async fn following(server: &Server) -> (Client, Ledger) {
    wait_for_block(server, 31337).await;
    let mut client = Client::connect(Transport::WebSocketJson, server).await;
    client.subscribe(CHANNEL).await;
    (client, Ledger::default())
}

fn closed_for_its_rate(method: &str, _params: &Value, truth: Value) -> Reply {
    match method {
        "eth_chainId" => Reply::Response(truth),
        _ => Reply::Close(1008, "rate limit exceeded"),
    }
}

#[tokio::test]
async fn a_websocket_closed_for_its_rate_is_retried_with_growing_pauses() {
    let node = Node::start().await;
    let faulty = FaultyNode::in_front_of(&node, closed_for_its_rate).await;
    let endpoints = [faulty.ws(), node.http()];
    let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
    let (mut client, mut ledger) = following(&server).await;
    for _ in 0..60 {
        node.mine(1).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
    }
    ledger.check(&node).await;
    // An answer to the first call of a connection does not reset the pause.
    let label = format!("endpoint=\"{}\"", faulty.ws());
    let connects = server.metric("tidewire_chain_connects_total", &label).await;
    assert!((1.0..=12.0).contains(&connects), "{connects}");
}

#[tokio::test]
async fn after_a_rate_limit_the_only_endpoint_is_used_again() {
    let limits: [fn(&str, &Value, Value) -> Reply; 3] = [
        |_, _, _| Reply::Status(429, "retry-after: 1\r\n"),
        |_, _, truth| {
            let error = json!({"code": -32005, "message": "limit exceeded"});
            Reply::Response(json!({"jsonrpc": "2.0", "id": truth["id"], "error": error}))
        },
        |_, _, _| Reply::Close(1013, "try again later"),
    ];
    for (limit, over) in
        limits
            .into_iter()
            .zip([FaultyNode::http, FaultyNode::http, FaultyNode::ws])
    {
        let node = Node::start().await;
        let faulty = FaultyNode::in_front_of(&node, pass_through).await;
        let endpoints = [over(&faulty)];
        let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
        let (mut client, mut ledger) = following(&server).await;
        node.mine(3).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
        let limited = Arc::new(AtomicUsize::new(0));
        let count = limited.clone();
        faulty
            .set_script(move |method, params, truth| {
                count.fetch_add(1, Ordering::Relaxed);
                limit(method, params, truth)
            })
            .await;
        node.mine(3).await;
        within("a limit that is met", async {
            while limited.load(Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        faulty.set_script(pass_through).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
        ledger.check(&node).await;
        assert!(server.metric("tidewire_chain_limits_total", "31337").await >= 1.0);
    }
}

#[tokio::test]
async fn after_a_subscription_falls_silent_other_endpoints_are_polled() {
    let node = Node::start().await;
    let is_mute = Arc::new(AtomicBool::new(false));
    let script = {
        let is_mute = is_mute.clone();
        move |method: &str, params: &Value, truth: Value| {
            // Heads are neither pushed nor returned.
            let is_head = method == "newHeads" || params[0] == "latest";
            if is_head && is_mute.load(Ordering::Relaxed) {
                return Reply::Silence;
            }
            Reply::Response(truth)
        }
    };
    let faulty = FaultyNode::in_front_of(&node, script).await;
    let endpoints = [faulty.ws(), node.http()];
    let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
    let (mut client, mut ledger) = following(&server).await;
    for _ in 0..5 {
        node.mine(1).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
    }
    is_mute.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        node.mine(1).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
    }
    is_mute.store(false, Ordering::Relaxed);
    // A reorg to the same height is published, though a rarely polled endpoint still reports the
    // old block.
    node.mine(1).await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    node.reorg(1).await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    assert_eq!(ledger.reorgs, [1]);
    ledger.check(&node).await;
}

#[tokio::test]
async fn beside_a_subscription_that_keeps_up_others_are_polled_rarely() {
    let node = Node::start().await;
    let polls = Arc::new(AtomicUsize::new(0));
    let count = polls.clone();
    let faulty = FaultyNode::in_front_of(&node, move |method, params, truth| {
        if method == "eth_getBlockByNumber" && params[0] == "latest" {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Reply::Response(truth)
    })
    .await;
    let endpoints = [node.ws(), faulty.http()];
    let server = on_chain(Server::builder(), 31337, &endpoints).start().await;
    let (mut client, mut ledger) = following(&server).await;
    let mut blocks = 0;
    // At the full rate this takes a few blocks.
    while polls.load(Ordering::Relaxed) < 4 {
        node.mine(1).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
        blocks += 1;
    }
    assert!(blocks > 100, "{blocks}");
}

#[tokio::test]
async fn an_endpoint_that_changes_to_another_chain_is_ignored() {
    for is_alone in [false, true] {
        let node = Node::start().await;
        let other = Node::start_with(&["--chain-id", "10"]).await;
        other.mine(500).await;
        let faulty = FaultyNode::in_front_of(&node, pass_through).await;
        let mut endpoints = vec![faulty.http()];
        if !is_alone {
            endpoints.push(node.http());
        }
        let rest = "reorg_limit = 4\ncatch_up = 10";
        let server = on_chain_with(Server::builder(), 31337, &endpoints, rest);
        let server = server.start().await;
        let (mut client, mut ledger) = following(&server).await;
        node.mine(8).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
        // The address now leads to another chain.
        faulty.set_upstream(&other).await;
        let line = server.log_line("serves another chain").await;
        assert!(line.contains("found=10"), "{line}");
        if is_alone {
            client.settle().await;
            assert!(client.unread().is_empty());
        } else {
            node.mine(3).await;
            ledger.follow(&mut client, &node, CHANNEL).await;
        }
        ledger.check(&node).await;
        assert!(ledger.reorgs.is_empty());
    }
}

#[tokio::test]
async fn event_filters_count_towards_the_channels_of_a_connection() {
    let node = Node::start().await;
    let builder = Server::builder().set("limits", "channels_per_connection = 3");
    let endpoints = [node.ws()];
    let server = on_chain(builder, 31337, &endpoints).start().await;
    wait_for_block(&server, 31337).await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let watch = |number: u64| {
        let address = format!("0x{number:040x}");
        json!({"chain": 31337, "events": {"addresses": [address]}})
    };
    for number in 1..=3 {
        let reply = client.request("watch", watch(number)).await;
        let _ = reply.expect("watching");
    }
    let refused = client.request("watch", watch(4)).await;
    assert_eq!(
        refused.error_code(),
        "resource_exhausted",
        "{}",
        refused.text
    );
    // A repeated filter does not count, and an unwatched one makes room.
    let _ = client.request("watch", watch(3)).await.expect("watching");
    let _ = client
        .request("unwatch", watch(1))
        .await
        .expect("unwatched");
    let _ = client.request("watch", watch(4)).await.expect("watching");
}

#[tokio::test]
async fn with_agreement_a_chain_waits_for_absent_endpoints() {
    let node = Node::start().await;
    let faulty = FaultyNode::in_front_of(&node, pass_through).await;
    let endpoints = [node.ws(), faulty.http()];
    let rest = "agreement = 2\ncall_timeout_ms = 300";
    let server = on_chain_with(Server::builder(), 31337, &endpoints, rest);
    let server = server.start().await;
    let (mut client, mut ledger) = following(&server).await;
    node.mine(3).await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    faulty.set_script(|_, _, _| Reply::Silence).await;
    let failures = "tidewire_chain_call_failures_total";
    let before = server.metric(failures, &faulty.http()).await;
    node.mine(3).await;
    within("calls that are not answered", async {
        while server.metric(failures, &faulty.http()).await < before + 2.0 {}
    })
    .await;
    client.settle().await;
    assert!(client.unread().is_empty());
    faulty.set_script(pass_through).await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    ledger.check(&node).await;
}

#[tokio::test]
async fn a_reorg_past_the_limit_is_a_gap_beside_a_rarely_polled_endpoint() {
    let node = Node::start().await;
    let endpoints = [node.ws(), node.http()];
    let server = on_chain_with(Server::builder(), 31337, &endpoints, "reorg_limit = 4");
    let server = server.start().await;
    let (mut client, mut ledger) = following(&server).await;
    for _ in 0..5 {
        node.mine(2).await;
        ledger.follow(&mut client, &node, CHANNEL).await;
    }
    node.reorg(8).await;
    node.mine(1).await;
    server.log_line("resync: ").await;
    let gap = client.next_on(CHANNEL).await.expect("gap");
    assert_eq!(gap.data["channel"], CHANNEL);
    let mut ledger = Ledger::default();
    node.mine(5).await;
    ledger.follow(&mut client, &node, CHANNEL).await;
    ledger.check(&node).await;
    assert!(
        !server.log().contains("returned an invalid response"),
        "{}",
        server.log()
    );
}
