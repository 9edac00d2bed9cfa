//! Health: `status` to clients, `/readyz`, and what keeps silent connections open.

use futures::StreamExt as _;
use serde_json::json;
use tidewire_tests::{
    Client, Server, Transport, VenueKind, VenueStandIn, client::SocketRequest, eventually,
    venue::Trade, within,
};

const SYMBOL: &str = "ETH-BTC";

async fn trade(venue: &VenueStandIn) {
    venue.wait_subscribed(1).await;
    venue.trade(&Trade {
        symbol: SYMBOL,
        id: 1,
        price: "0.05",
    });
}

/// Waits until the server is ready with data. The counts of venues are taken from time to time.
async fn has_data(server: &Server) {
    eventually("a server with data", async || {
        let ready = server.get("/readyz").await;
        (ready.body == "ready\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_client_hears_once_that_the_server_is_degraded_and_that_it_is_well() {
    let mut venue = VenueStandIn::start(VenueKind::Coinbase).await;
    let server = Server::builder()
        .set("prices", &format!("symbols = [{SYMBOL:?}]"))
        .source("coinbase", "coinbase", &venue.url())
        .start()
        .await;
    trade(&venue).await;
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        clients.push(Client::connect(transport, &server).await);
    }
    has_data(&server).await;
    venue.stop().await;
    for client in &mut clients {
        let status = client.next_of("status").await;
        assert_eq!(status.data["state"], "degraded");
        let reason = status.data["reason"].as_str().unwrap();
        assert!(reason.contains("venues"), "{reason}");
    }
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 200, "a degraded server accepts clients");
    assert!(ready.body.contains("degraded: venues"), "{}", ready.body);
    let listed = server.get("/readyz?verbose").await.json();
    assert_eq!(listed["state"], "degraded");
    let parts = listed["parts"].as_array().unwrap();
    let venues = parts.iter().find(|one| one["part"] == "venues").unwrap();
    assert_eq!(venues["state"], "degraded");
    assert!(venues["since"].as_i64().unwrap() > 1_700_000_000_000);
    assert!(venues["reason"].is_string());
    assert!(server.metric("tidewire_part_degraded", "venues").await > 0.0);
    // A client that comes now hears it after `welcome`.
    for transport in Transport::ALL {
        let mut client = Client::connect(transport, &server).await;
        let status = client.next().await.expect("status");
        assert_eq!(status.data["state"], "degraded");
        clients.push(client);
    }
    venue.restart().await;
    trade(&venue).await;
    for client in &mut clients {
        let status = client.next_of("status").await;
        assert_eq!(status.data, json!({"state": "ok"}));
        assert!(client.unread().is_empty(), "{:?}", client.unread());
    }
    has_data(&server).await;
    assert_eq!(server.metric("tidewire_part_degraded", "venues").await, 0.0);
}

#[tokio::test]
async fn the_parts_of_a_healthy_server_are_listed() {
    let chain = "[[chain]]\nid = 5\nendpoints = [\"http://127.0.0.1:9\"]\n";
    let server = Server::builder().table(chain).start().await;
    let listed = eventually("the first look", async || {
        let listed = server.get("/readyz?verbose").await.json();
        (listed["parts"] != json!([])).then_some(listed)
    })
    .await;
    assert_eq!(listed["state"], "ok");
    let parts = listed["parts"].as_array().unwrap();
    let chain = parts.iter().find(|one| one["part"] == "chain 5").unwrap();
    assert_eq!(
        (&chain["state"], &chain["reason"]),
        (&json!("ok"), &json!(null))
    );
}

#[tokio::test]
async fn a_silent_client_is_pinged_after_the_keep_alive() {
    let server = Server::builder()
        .set("server", "keepalive = \"1s\"")
        .start()
        .await;
    let request = SocketRequest::offering("tidewire.v1.json");
    let (mut socket, _) = request.open(&server).await.unwrap();
    let _ = socket.next().await.expect("welcome");
    // The client answers pings while it reads, and nothing else arrives.
    let reading = async { socket.frame().await };
    let pinged = server.metric_until("tidewire_round_trip_seconds_count", "", |count| {
        count >= 1.0
    });
    tokio::select! {
        frame = reading => panic!("no frame was expected: {frame:?}"),
        _ = pinged => {}
    }
}

#[tokio::test]
async fn an_event_stream_has_comments_between_rare_heartbeats() {
    let server = Server::builder()
        .set("server", "keepalive = \"1s\"")
        .start()
        .await;
    let request = server.http().get(server.url("/v1/sse?heartbeatMs=60000"));
    let response = within("an event stream", request.send()).await.unwrap();
    let mut body = response.bytes_stream();
    let mut text = String::new();
    while text.matches("\n:\n\n").count() < 2 {
        let chunk = within("a comment", body.next()).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.starts_with("event: welcome\n"), "{text}");
    assert!(!text.contains("event: ping"), "{text}");
}
