//! Outages: a chain that stands still says so, and no key of an endpoint is shown anywhere.

use serde_json::json;
use tidewire_tests::{
    FaultyNode, Node, Server,
    faulty_node::{Reply, pass_through},
    within,
};

use crate::{
    blocks::wait_for_block,
    ledger::{on_chain, on_chain_with},
};

/// A part of a URL that must not be shown.
const KEY: &str = "MARKEDKEY";

#[tokio::test]
async fn a_chain_whose_only_endpoint_fails_is_named() {
    let node = Node::start().await;
    let page = FaultyNode::in_front_of(&node, |_, _, _| {
        Reply::Text("<html>Just a moment</html>".to_owned())
    })
    .await;
    let silent = FaultyNode::in_front_of(&node, |_, _, _| Reply::Silence).await;
    for (endpoint, host, reason) in [
        (
            "http://127.0.0.1:1".to_owned(),
            "http://127.0.0.1:1",
            "refused",
        ),
        ("ws://127.0.0.1:1".to_owned(), "ws://127.0.0.1:1", "refused"),
        (page.http(), "http://127.0.0.1", "invalid response"),
        (silent.http(), "http://127.0.0.1", "no response yet"),
    ] {
        let endpoint = format!("{endpoint}/{KEY}?key={KEY}");
        let server = on_chain(Server::builder(), 31337, &[endpoint])
            .start()
            .await;
        let line = server.log_line("the chain stands still").await;
        for part in ["WARN", "chain=31337", host, reason] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains(KEY), "{line}");
        let request = json!({"chain": 31337});
        let newest = server
            .call("WatchService/GetLatestBlock", None, &request)
            .await;
        assert_eq!(newest.status, 503);
        let said = "none of its endpoints returns usable results";
        assert!(
            newest.body.contains("chain 31337") && newest.body.contains(said),
            "{}",
            newest.body
        );
        let named = "degraded: chain 31337: it stands still, as none of its endpoints returns usable results";
        within("a note about the chain", async {
            while !server.get("/readyz").await.body.contains(named) {}
        })
        .await;
    }
}

#[tokio::test]
async fn a_chain_that_goes_on_is_named_no_more() {
    let node = Node::start().await;
    let faulty = FaultyNode::in_front_of(&node, |_, _, _| Reply::Status(502, "")).await;
    let server = on_chain(Server::builder(), 31337, &[faulty.http()])
        .start()
        .await;
    server.log_line("the chain stands still").await;
    faulty.set_script(pass_through).await;
    wait_for_block(&server, 31337).await;
    server
        .log_line("an endpoint of the chain responds again")
        .await;
    within("a server without notes", async {
        while server.get("/readyz").await.body != "ready\n" {}
    })
    .await;
}

#[tokio::test]
async fn a_chain_with_fewer_endpoints_than_must_agree_is_named() {
    let node = Node::start().await;
    let endpoints = [node.http(), "http://127.0.0.1:1".to_owned()];
    let server = on_chain_with(Server::builder(), 31337, &endpoints, "agreement = 2")
        .start()
        .await;
    let said = "1 of 2 endpoints that must agree responds";
    let line = server.log_line("the chain stands still").await;
    for part in ["WARN", said, ": responds; http://127.0.0.1", "refused"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let request = json!({"chain": 31337});
    let newest = server
        .call("WatchService/GetLatestBlock", None, &request)
        .await;
    assert_eq!(newest.status, 503);
    assert!(newest.body.contains(said), "{}", newest.body);
    let named = format!("degraded: chain 31337: it stands still, as {said}");
    within("a note about the chain", async {
        while !server.get("/readyz").await.body.contains(&named) {}
    })
    .await;
}

#[tokio::test]
async fn no_log_level_metric_or_call_shows_the_key_of_a_url() {
    let node = Node::start().await;
    let faulty = FaultyNode::in_front_of(&node, pass_through).await;
    let marked = |url: String| format!("{url}/{KEY}/v1?key={KEY}");
    let (closed_ws, closed_http) = ("ws://127.0.0.1:1", "http://127.0.0.1:1");
    let endpoints = [
        marked(faulty.http()),
        marked(faulty.ws()),
        marked(closed_http.to_owned()),
        marked(closed_ws.to_owned()),
    ];
    let supply = format!(
        "[prices.supply_source]\nurl = {:?}\n",
        marked(closed_http.to_owned())
    );
    let builder =
        Server::builder().environment("TIDEWIRE_LOG", "trace,tungstenite=trace,hyper=trace");
    let builder = builder
        .set("prices", "symbols = [\"BTC-USD\"]")
        .source("coinbase", "venue", &marked(closed_ws.to_owned()))
        .source("pyth", "oracle", &marked(closed_http.to_owned()))
        .table(&supply);
    let server = on_chain(builder, 31337, &endpoints)
        .without_readiness_check()
        .start()
        .await;
    wait_for_block(&server, 31337).await;
    node.mine(3).await;
    for failure in [
        "cannot reach venue",
        "cannot reach oracle",
        "the supply source failed",
    ] {
        server.log_line(failure).await;
    }
    let mut texts = vec![server.get("/metrics").await.body, server.log()];
    for (method, request) in [
        ("WatchService/GetLatestBlock", json!({"chain": 31337})),
        ("PriceService/ListSources", json!({})),
        ("PriceService/GetPrice", json!({"symbol": "BTC-USD"})),
        ("PriceService/GetMarketOverview", json!({})),
    ] {
        texts.push(server.call(method, None, &request).await.body);
    }
    texts.push(server.get("/readyz").await.body);
    for text in texts {
        assert!(!text.contains(KEY), "{text}");
    }
    assert!(server.log().contains("TRACE") || server.log().contains("DEBUG"));
}
