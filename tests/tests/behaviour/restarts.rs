//! Restarts: a graceful stop loses no recovery, and no kind of stop reuses a sequence number.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Client, Server, Token, Transport};

on_every_transport_and_tls!(a_graceful_stop_loses_no_recovery);

/// Starts a server whose data is in this folder.
async fn server(folder: &TempDir) -> Server {
    let path = format!("path = {:?}", folder.path().display().to_string());
    Server::builder().set("store", &path).start().await
}

async fn publish(server: &Server, numbers: std::ops::RangeInclusive<u64>) -> String {
    let mut epoch = String::new();
    for number in numbers {
        let position = server.publish("demo:a", json!(number)).await;
        assert_eq!(position["seq"], number);
        position["epoch"].as_str().unwrap().clone_into(&mut epoch);
    }
    epoch
}

async fn stop(mut server: Server) {
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0), "{}", server.log());
}

async fn a_graceful_stop_loses_no_recovery(transport: Transport) {
    let folder = TempDir::new().unwrap();
    let first = server(&folder).await;
    let mut client = Client::connect(transport, &first).await;
    let quiet = client.subscribe("demo:quiet").await;
    client.subscribe("demo:a").await;
    let epoch = publish(&first, 1..=5).await;
    client.take("demo:a", 5).await;
    stop(first).await;

    let second = server(&folder).await;
    let mut client = Client::connect(transport, &second).await;
    let resumed = client.resume("demo:a", &epoch, 2).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
    assert_eq!(publish(&second, 6..=7).await, epoch);
    let expected: Vec<_> = (3..=7).map(|number| (number, json!(number))).collect();
    assert_eq!(client.take("demo:a", 5).await, expected);
    // The same holds for a channel without publications.
    let quiet_epoch = quiet["epoch"].as_str().unwrap();
    let resumed = client.resume("demo:quiet", quiet_epoch, 0).await;
    assert_eq!(resumed["recovered"], true, "{resumed}");
}

#[tokio::test]
async fn an_idempotency_key_holds_across_a_restart() {
    let folder = TempDir::new().unwrap();
    let asked = |data: u64| json!({"channel": "demo:a", "data": data, "idempotencyKey": "k"});
    let first = server(&folder).await;
    let mut client = Client::connect(Transport::WebSocketJson, &first).await;
    let before = client
        .request("publish", asked(1))
        .await
        .expect("published");
    stop(first).await;

    let second = server(&folder).await;
    let mut client = Client::connect(Transport::WebSocketJson, &second).await;
    let after = client
        .request("publish", asked(1))
        .await
        .expect("published");
    assert_eq!(after.data, before.data);
    let refused = client.request("publish", asked(2)).await;
    assert_eq!(refused.error_code(), "failed_precondition");
    assert_eq!(second.publish("demo:a", json!(2)).await["seq"], 2);
}

/// Returns the subscription result of a client that recovers after the second publication of
/// an epoch.
async fn resumed(server: &Server, epoch: &str) -> Value {
    let mut client = Client::connect(Transport::WebSocketJson, server).await;
    client.resume("demo:a", epoch, 2).await
}

#[tokio::test]
async fn a_killed_server_starts_a_new_epoch() {
    let folder = TempDir::new().unwrap();
    let first = server(&folder).await;
    let epoch = publish(&first, 1..=3).await;
    stop(first).await;
    // The server loads the saved state, publishes more, and is killed. The saved state is then
    // older than the published one.
    let mut second = server(&folder).await;
    assert_eq!(publish(&second, 4..=5).await, epoch);
    second.kill().await;
    let third = server(&folder).await;
    let refused = resumed(&third, &epoch).await;
    assert_eq!(refused["recovered"], false, "{refused}");
    assert_ne!(refused["epoch"], epoch);
    assert_ne!(publish(&third, 1..=1).await, epoch);
}

#[tokio::test]
async fn two_servers_do_not_share_a_store() {
    let folder = TempDir::new().unwrap();
    let first = server(&folder).await;
    let second = server(&folder).await;
    second.log_line("there is no store").await;
    let epoch = publish(&first, 1..=3).await;
    stop(second).await;
    stop(first).await;
    let third = server(&folder).await;
    assert_eq!(resumed(&third, &epoch).await["recovered"], true);
}

#[tokio::test]
async fn revocations_survive_a_kill() {
    let folder = TempDir::new().unwrap();
    let mut first = server(&folder).await;
    for asked in [json!({"jti": "stolen"}), json!({"user": "bob"})] {
        let answer = first.call("AdminService/Revoke", None, &asked).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    first.kill().await;
    let second = server(&folder).await;
    let comes = async |token: &str| {
        let transport = Transport::WebSocketJson;
        let client = Client::open(transport, &second, Some(token)).await;
        client.is_ok()
    };
    assert!(!comes(&Token::of("ada").id("stolen").sign()).await);
    assert!(!comes(&Token::of("bob").sign()).await);
    assert!(comes(&Token::of("ada").id("own").sign()).await);
}
