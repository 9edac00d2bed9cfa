//! Graceful stop: every client gets a `reconnect`, and the server exits with success.

use std::collections::BTreeSet;

use serde_json::json;
use tempfile::TempDir;
use tidewire_tests::{Client, Close, Server, Transport, client::grpc::channel, eventually, within};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

on_every_transport_and_tls!(every_client_gets_a_reconnect_on_drain);

async fn every_client_gets_a_reconnect_on_drain(transport: Transport) {
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
        // No earlier publication is lost. The `reconnect` may arrive before it.
        let find = |kind: &str| messages.iter().find(|message| message.kind == kind);
        assert_eq!(find("message").unwrap().data, "the last word");
        let Some(reconnect) = find("reconnect") else {
            panic!("{close:?} after {messages:?}, and no word of it");
        };
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(reconnect.data["afterMs"].as_u64().unwrap() < 2_000);
        assert!(!reconnect.data["reason"].as_str().unwrap().is_empty());
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
async fn a_client_that_ignores_the_drain_is_disconnected() {
    let mut server = Server::builder()
        .set("server", "drain = \"200ms\"")
        .start()
        .await;
    // An open stream that the client does not read.
    let request = server.http().get(server.url("/v1/sse?channels=demo:a"));
    let response = request.send().await.unwrap();
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
    drop(response);
}

/// Connections per transport.
const EACH: usize = 60;

/// Maximum number of publications during the stop.
const MOST: usize = 400;

/// A client after the stop: the epoch, and the last sequence number it received.
struct Gone {
    transport: Transport,
    epoch: String,
    seen: u64,
}

#[tokio::test]
async fn hundreds_drain_while_others_publish() {
    let folder = TempDir::new().unwrap();
    let mut server = server_in(&folder).await;
    let mut clients = Vec::new();
    for transport in Transport::ALL {
        for _ in 0..EACH {
            let mut client = Client::connect(transport, &server).await;
            let subscribed = client.subscribe("demo:a").await;
            let epoch = subscribed["epoch"].as_str().unwrap().to_owned();
            clients.push((transport, epoch, client));
        }
    }
    let publisher = Client::connect(Transport::WebSocketJson, &server).await;
    let (sender, published) = tokio::sync::watch::channel(0);
    let publishing = tokio::spawn(publish_to_the_end(publisher, sender));
    wait_for(published.clone(), 20).await;
    server.terminate();

    let mut returns = BTreeSet::new();
    let mut gone = Vec::new();
    for (transport, epoch, mut client) in clients {
        let (messages, close) = client.drain().await;
        let reconnects: Vec<_> = messages
            .iter()
            .filter(|message| message.kind == "reconnect")
            .collect();
        let [reconnect] = reconnects[..] else {
            panic!("{transport:?} gets one reconnect, not {}", reconnects.len());
        };
        let after_ms = reconnect.data["afterMs"].as_u64().unwrap();
        assert!(after_ms < 2_000, "within the window");
        returns.insert(after_ms);
        match close {
            Close::WebSocket { code, .. } => assert_eq!(code, 4003),
            Close::Sse => {}
            Close::Grpc { code, .. } => assert_eq!(code, tonic::Code::Unavailable),
            Close::Broken(reason) => panic!("{transport:?}: {reason}"),
        }
        // The messages before the close arrived without gaps.
        let seqs: Vec<_> = messages.iter().filter_map(|message| message.seq).collect();
        let expected: Vec<_> = (1..=seqs.len() as u64).collect();
        assert_eq!(seqs, expected, "{transport:?}");
        assert!(
            seqs.len() >= 20,
            "{transport:?} has what was published before"
        );
        gone.push(Gone {
            transport,
            epoch,
            seen: seqs.len() as u64,
        });
    }
    // Of 240 delays within 2,000 ms some coincide.
    assert!(returns.len() > 2 * EACH, "{} times", returns.len());
    publishing.await.unwrap();
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(!server.log().contains("are cut"), "{}", server.log());

    // A returning client gets all missed publications, once and in order.
    let server = server_in(&folder).await;
    for gone in gone {
        let mut client = Client::connect(gone.transport, &server).await;
        let resumed = client.resume("demo:a", &gone.epoch, gone.seen).await;
        assert_eq!(resumed["recovered"], true, "{resumed}");
        let top = resumed["seq"].as_u64().unwrap();
        let missed = usize::try_from(top - gone.seen).unwrap();
        let seqs = client.take("demo:a", missed).await.into_iter();
        let expected: Vec<_> = (gone.seen + 1..=top).collect();
        assert_eq!(seqs.map(|(seq, _)| seq).collect::<Vec<_>>(), expected);
    }
}

/// Starts a server whose data is in this folder.
async fn server_in(folder: &TempDir) -> Server {
    let path = format!("path = {:?}", folder.path().display().to_string());
    Server::builder().set("store", &path).start().await
}

/// Publishes fewer messages than a history holds, until the server closes the publisher's
/// connection too.
async fn publish_to_the_end(mut client: Client, published: tokio::sync::watch::Sender<u64>) {
    for _ in 0..MOST {
        let data = json!({"channel": "demo:a", "data": "news"});
        let Some(reply) = client.try_request("publish", data).await else {
            return;
        };
        let seq = reply.expect("published").data["seq"].as_u64().unwrap();
        published.send_replace(seq);
    }
    client.drain().await;
}

async fn wait_for(mut published: tokio::sync::watch::Receiver<u64>, count: u64) {
    let reached = published.wait_for(|seq| *seq >= count);
    let _ = within("publications", reached).await.unwrap();
}

#[tokio::test]
async fn a_server_that_drains_says_so_to_everyone_who_asks() {
    let server = Server::builder()
        .set("server", "drain = \"60s\"")
        .start()
        .await;
    // Sessions leave in steps over half of the drain: with these it takes long enough.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(Transport::WebSocketJson, &server).await);
    }
    server.terminate();
    // Each request opens a connection: the server closes those that are idle.
    let get = async |path: &str| {
        let request = tidewire_tests::http_client(server.authority()).get(server.url(path));
        server.send(request).await
    };
    let refused = eventually("the end of readiness", async || {
        Some(get("/readyz").await).filter(|answer| answer.status != 200)
    })
    .await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["code"], "unavailable");
    assert_eq!(get("/healthz").await.status, 200);
    let mut health = HealthClient::new(channel(&server).await);
    for service in ["", "tidewire.v1.StreamService"] {
        let service = service.to_owned();
        let checked = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(checked.into_inner().status(), ServingStatus::NotServing);
    }
    // A client that comes now hears that it should come back.
    let mut late = Client::connect(Transport::WebSocketJson, &server).await;
    let (messages, close) = late.drain().await;
    assert_eq!(messages[0].kind, "reconnect", "{messages:?}");
    assert!(
        matches!(close, Close::WebSocket { code: 4003, .. }),
        "{close:?}"
    );
}
