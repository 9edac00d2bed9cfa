//! Nodes whose configurations differ.

use serde_json::Value;
use tidewire_tests::{Client, RedisServer, Server, Transport, eventually};

use crate::servers::server;

/// The part `settings` of a server, as an operator reads it.
async fn part(server: &Server) -> Option<Value> {
    let listed = server.get("/readyz?verbose").await.json();
    let mut parts = listed["parts"].as_array()?.iter();
    parts.find(|one| one["part"] == "settings").cloned()
}

async fn part_is(server: &Server, state: &str) -> Value {
    eventually(format!("the settings are {state}"), async || {
        let part = part(server).await?;
        (part["state"] == state).then_some(part)
    })
    .await
}

#[tokio::test]
async fn a_node_with_other_settings_is_named_until_it_agrees_and_stays_ready() {
    let redis = RedisServer::start().await;
    let a = server(&redis).start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &a).await;
    let mut b = server(&redis)
        .set("broker", "share_prices = true")
        .set(
            "auth",
            "hmac_secret = \"another secret of 32 bytes or more\"",
        )
        .set("auth", "issuer = \"elsewhere\"")
        .namespace("orders", "history_size = 7")
        .start()
        .await;
    for node in [&a, &b] {
        let line = node.log_line("another node has other settings").await;
        for setting in [
            "auth.hmac_secret",
            "auth.issuer",
            "broker.share_prices",
            "namespace orders",
        ] {
            assert!(line.contains(setting), "{setting}: {line}");
        }
        assert!(!line.contains("another secret of"), "{line}");
        let part = part_is(node, "degraded").await;
        let reason = part["reason"].as_str().expect("a reason");
        assert!(reason.contains("auth.issuer is "), "{reason}");
        // It serves clients as before.
        assert_eq!(node.get("/readyz").await.status, 200);
        let differing = node.metric("tidewire_broker_differing_nodes", "").await;
        assert!((differing - 1.0).abs() < f64::EPSILON, "{differing}");
    }
    // The address of the other node tells operators which one it is.
    let address = b.address().to_string();
    assert!(a.log().contains(&address), "{address}");
    let request = a.http().get(a.url("/readyz?verbose"));
    let open = a
        .send(request.header("x-forwarded-for", "203.0.113.7"))
        .await;
    assert!(open.body.contains("other nodes have other settings"));
    assert!(!open.body.contains("auth.issuer"), "{}", open.body);
    client.settle().await;
    let told = client.unread().iter().any(|one| one.kind == "status");
    assert!(!told, "{:?}", client.unread());
    b.terminate();
    b.ended().await;
    let c = server(&redis).start().await;
    a.log_line("all nodes have the same settings").await;
    part_is(&a, "ok").await;
    part_is(&c, "ok").await;
}
