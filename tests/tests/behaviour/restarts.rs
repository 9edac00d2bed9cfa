//! Restarts: a graceful stop loses no recovery, and no kind of stop reuses a sequence number.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{
    Client, Server, ServerBuilder, Token, Transport, client::grpc::channel, eventually,
    refused_start,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

on_every_transport_and_tls!(a_graceful_stop_loses_no_recovery);

/// A server whose data is in this folder.
fn builder(folder: &TempDir) -> ServerBuilder {
    let path = format!("path = {:?}", folder.path().display().to_string());
    Server::builder().set("store", &path)
}

/// Starts a server whose data is in this folder.
async fn server(folder: &TempDir) -> Server {
    builder(folder).start().await
}

/// The error of a server whose data is in this folder, and which does not start.
async fn refusal(folder: &TempDir) -> String {
    let elsewhere = TempDir::new().unwrap();
    let error = refused_start(elsewhere.path(), &builder(folder).toml()).await;
    let file = folder.path().join("store.redb");
    assert!(error.contains(&file.display().to_string()), "{error}");
    error
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
    let error = refusal(&folder).await;
    assert!(error.contains("open in another process"), "{error}");
    assert!(error.contains("store.path"), "{error}");
    let epoch = publish(&first, 1..=3).await;
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
    assert!(!accepts(&second, &Token::of("ada").id("stolen").sign()).await);
    assert!(!accepts(&second, &Token::of("bob").sign()).await);
    assert!(accepts(&second, &Token::of("ada").id("own").sign()).await);
}

/// Whether the server accepts a token.
async fn accepts(server: &Server, token: &str) -> bool {
    let body = json!({"channel": "demo:a"});
    let answer = server
        .call("StreamService/GetHistory", Some(token), &body)
        .await;
    answer.status == 200
}

#[tokio::test]
async fn a_server_with_a_damaged_store_does_not_start() {
    let folder = TempDir::new().unwrap();
    let first = server(&folder).await;
    let answer = revoke(&first, "stolen").await;
    assert_eq!(answer, (200, String::new()));
    stop(first).await;
    let file = folder.path().join("store.redb");
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[..64].fill(0);
    std::fs::write(&file, &damaged).unwrap();
    let error = refusal(&folder).await;
    assert!(error.contains("is damaged"), "{error}");
    assert!(error.contains("put copies of all files back"), "{error}");
    std::fs::write(&file, &whole).unwrap();
    let second = server(&folder).await;
    assert!(!accepts(&second, &Token::of("ada").id("stolen").sign()).await);
}

/// Revokes a token. Returns the status and the error code.
async fn revoke(server: &Server, id: &str) -> (u16, String) {
    let body = json!({"jti": id});
    let answer = server.call("AdminService/Revoke", None, &body).await;
    let code = answer.json()["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    (answer.status, code)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_used_again_when_it_has_room() {
    let folder = TempDir::new().unwrap();
    let mut first = builder(&folder).start().await;
    assert_eq!(revoke(&first, "before").await.0, 200);
    first.limit_files(Some(0));
    assert_eq!(
        revoke(&first, "meanwhile").await,
        (503, "unavailable".to_owned())
    );
    // The folder stays its own, although the files are closed.
    let error = refusal(&folder).await;
    assert!(error.contains("open in another process"), "{error}");
    // The revocation is in force, and the server names its trouble.
    assert!(!accepts(&first, &Token::of("ada").id("meanwhile").sign()).await);
    let ready = first.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert!(ready.body.contains("the store"), "{}", ready.body);
    assert_eq!(first.get("/healthz").await.status, 200);
    eventually("a degraded store in the list of parts", async || {
        let is_store = |part: &Value| part["part"] == "store" && part["state"] == "degraded";
        let list = first.get("/readyz?verbose").await.json();
        let parts = list["parts"].as_array().unwrap();
        parts.iter().any(is_store).then_some(())
    })
    .await;
    let mut health = HealthClient::new(channel(&first).await);
    let mut grpc_status = async || {
        let checked = health.check(HealthCheckRequest::default()).await.unwrap();
        checked.into_inner().status()
    };
    eventually("a gRPC health service that is not ready", async || {
        (grpc_status().await == ServingStatus::NotServing).then_some(())
    })
    .await;
    first.limit_files(None);
    eventually("a ready server", async || {
        (first.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    eventually("a gRPC health service that is ready", async || {
        (grpc_status().await == ServingStatus::Serving).then_some(())
    })
    .await;
    first
        .log_line("revocations that could not be stored are stored now")
        .await;
    assert_eq!(revoke(&first, "after").await.0, 200);
    first.kill().await;
    let second = server(&folder).await;
    for id in ["before", "meanwhile", "after"] {
        let token = Token::of("ada").id(id).sign();
        assert!(!accepts(&second, &token).await, "{id}");
    }
}

#[tokio::test]
async fn a_replay_without_a_store_says_that_it_forgets_a_revocation() {
    let folder = TempDir::new().unwrap();
    // Where the store of a replay would be.
    std::fs::write(folder.path().join("sample"), "in the way").unwrap();
    let server = builder(&folder)
        .arguments(&["replay", "--loop"])
        .start()
        .await;
    assert_eq!(
        revoke(&server, "stolen").await,
        (503, "unavailable".to_owned())
    );
    assert!(!accepts(&server, &Token::of("ada").id("stolen").sign()).await);
}

#[tokio::test]
async fn a_stop_saves_thousands_of_channels() {
    let folder = TempDir::new().unwrap();
    let first = server(&folder).await;
    let mut epoch = Value::Null;
    for part in 0..20 {
        let publications: Vec<_> = (0..1_000)
            .map(|number| json!({"channel": format!("demo:{part}-{number}"), "data": "news"}))
            .collect();
        let batch = json!({"publications": publications});
        let answer = first
            .call(
                "StreamService/PublishBatch",
                Some(&Token::service()),
                &batch,
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        epoch = answer.json()["results"][0]["published"]["epoch"].clone();
    }
    stop(first).await;
    let second = server(&folder).await;
    for channel in ["demo:0-0", "demo:9-500", "demo:19-999"] {
        let position = second.publish(channel, json!("more")).await;
        assert_eq!((&position["epoch"], &position["seq"]), (&epoch, &json!(2)));
    }
}
