//! A graceful stop: everybody is told to come back, and the server ends well.

use serde_json::json;
use tidewire_tests::{Client, Close, Server, Transport};

on_every_transport!(everybody_is_told_to_come_back);

async fn everybody_is_told_to_come_back(transport: Transport) {
    let mut server = Server::start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(transport, &server).await;
        client.subscribe("demo:a").await;
        clients.push(client);
    }
    server.publish("demo:a", json!("the last word")).await;
    server.terminate();
    for client in &mut clients {
        let (messages, close) = client.drain().await;
        // What was published before is not lost; the word may overtake it.
        let find = |kind: &str| messages.iter().find(|message| message.kind == kind);
        assert_eq!(find("message").unwrap().data, "the last word");
        let told = find("reconnect").unwrap();
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(told.data["afterMs"].as_u64().unwrap() < 2_000);
        assert!(!told.data["reason"].as_str().unwrap().is_empty());
        match close {
            Close::WebSocket { code, .. } => assert_eq!(code, 4003),
            Close::Sse => {}
            Close::Grpc { code, .. } => assert_eq!(code, tonic::Code::Unavailable),
            Close::Broken(reason) => panic!("{reason}"),
        }
    }
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
}

#[tokio::test]
async fn a_server_without_clients_stops_at_once() {
    let mut server = Server::builder()
        .set("server", "drain = \"1h\"")
        .start()
        .await;
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_does_not_go_is_cut() {
    let mut server = Server::builder()
        .set("server", "drain = \"200ms\"")
        .start()
        .await;
    // A stream that is open and not read.
    let request = server.http().get(server.url("/v1/sse?channels=demo:a"));
    let response = request.send().await.unwrap();
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
    drop(response);
}
