//! Move of what users have on one server into the store that several servers share.

use std::{path::Path, process::Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_store::{Batch, EmbeddedStore, Store as _, Table};
use tidewire_tests::{RedisServer, Server, ServerBuilder, Token, command, eventually, within};

use crate::{
    servers::server,
    shared_store::{inbox, notify},
};

const HOUR_MS: u128 = 60 * 60 * 1_000;

/// A server with a symbol that no venue has, and with mails, which nobody gets within this test.
fn with_mails(builder: ServerBuilder) -> ServerBuilder {
    let builder = builder.set("prices", "symbols = [\"BTC-USD\"]").source(
        "binance",
        "binance",
        "ws://127.0.0.1:1",
    );
    builder.table(
        "[delivery.email]\nhost = \"localhost\"\nport = 1\nfrom = \"notify@example.com\"\ndelay = \"1h\"\n\
         unsubscribe_url = \"https://app.example.com/v1/unsubscribe\"\n\
         unsubscribe_secrets = [\"0123456789abcdef0123456789abcdef\"]\n",
    )
}

/// A node whose folder has the store of one server.
fn node(redis: &RedisServer, folder: &Path) -> ServerBuilder {
    with_mails(server(redis))
        .set("store", "kind = \"redis\"")
        .set("store", &format!("path = {folder:?}"))
}

/// The result of the command with the configuration of this node.
async fn moved(node: &ServerBuilder) -> Output {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidewire.toml");
    std::fs::write(&file, node.toml()).unwrap();
    let arguments = ["move-store", "--config", file.to_str().unwrap()];
    within("the move", command(folder.path(), &arguments).output())
        .await
        .unwrap()
}

async fn succeeds(node: &ServerBuilder) -> String {
    let output = moved(node).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

async fn fails(node: &ServerBuilder) -> String {
    let output = moved(node).await;
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

async fn done(server: &Server, method: &str, body: Value) -> Value {
    let token = Token::service();
    let answer = server.call(method, Some(&token), &body).await;
    assert_eq!(answer.status, 200, "{method}: {}", answer.body);
    answer.json()
}

/// All that the test asks for, of one user.
async fn of_ada(server: &Server) -> Value {
    let user = json!({"user": "ada"});
    let of = async |method: &str| done(server, method, user.clone()).await;
    json!({
        "inbox": of("NotifyService/ListNotifications").await,
        "unread": of("NotifyService/GetUnreadCount").await,
        "preferences": of("NotifyService/GetPreferences").await,
        "email": of("NotifyService/GetEmail").await,
        "alerts": of("AlertService/ListAlerts").await,
    })
}

/// Fills a folder by a server of its own, and returns what one user has then.
async fn fill(folder: &Path) -> Value {
    let builder = with_mails(Server::builder()).set("store", &format!("path = {folder:?}"));
    let mut single = builder.start().await;
    for title in ["One", "Two", "Three"] {
        let sent = notify(&single, "ada", title).await;
        assert_eq!(sent.status, 200, "{}", sent.body);
    }
    let listed = done(
        &single,
        "NotifyService/ListNotifications",
        json!({"user": "ada"}),
    )
    .await;
    let read = json!({"user": "ada", "ids": [listed["items"][0]["id"]]});
    done(&single, "NotifyService/MarkRead", read).await;
    let preferences = json!({"digest": true});
    let preferences = json!({"user": "ada", "preferences": preferences});
    done(&single, "NotifyService/SetPreferences", preferences).await;
    let address = json!({"user": "ada", "address": "ada@example.com"});
    done(&single, "NotifyService/SetEmail", address).await;
    let condition = json!({"kind": "price_above", "symbol": "BTC-USD", "threshold": 7});
    let rule = json!({"user": "ada", "rule": {"condition": condition}});
    done(&single, "AlertService/RegisterAlert", rule).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let later = u64::try_from(now + HOUR_MS).unwrap();
    let scheduled = json!({
        "user": "ada",
        "notification": {"type": "system_announcement", "title": "Later"},
        "notBefore": later,
        "idempotencyKey": "later",
    });
    done(&single, "NotifyService/Notify", scheduled).await;
    let had = of_ada(&single).await;
    single.terminate();
    single.ended().await;
    had
}

#[tokio::test]
async fn a_folder_is_moved_into_the_shared_store_and_nodes_say_what_is_not() {
    let folder = TempDir::new().unwrap();
    let had = fill(folder.path()).await;
    assert_eq!(had["unread"]["unreadCount"], 2, "{had}");
    let redis = RedisServer::start().await;
    let node = node(&redis, folder.path());
    // A node that is started first says what nobody reads.
    let mut early = node.clone().start().await;
    let line = early.log_line("the shared store does not").await;
    for part in [
        "WARN",
        "1 inbox",
        "1 alert rule",
        "1 mail address",
        "move-store",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    early
        .metric_until("tidewire_store_owner", "", |value| value > 0.0)
        .await;
    let error = fails(&node).await;
    assert!(error.contains("open in another process"), "{error}");
    let elsewhere = TempDir::new().unwrap();
    fill(elsewhere.path()).await;
    let other = self::node(&redis, elsewhere.path());
    let error = fails(&other).await;
    assert!(
        error.contains("owns the shared store: stop all nodes"),
        "{error}"
    );
    early.terminate();
    early.ended().await;
    let text = succeeds(&node).await;
    for part in [
        "1 inbox",
        "1 set of preferences",
        "1 schedule",
        "1 alert rule",
        "1 mail address",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let error = fails(&other).await;
    assert!(error.contains("expected an empty one"), "{error}");
    let a = node.clone().start().await;
    let b = with_mails(server(&redis).set("store", "kind = \"redis\""))
        .start()
        .await;
    for node in [&a, &b] {
        eventually("an owner", async || inbox(node, "ada").await).await;
        assert_eq!(of_ada(node).await, had);
    }
    assert!(
        !a.log().contains("the shared store does not"),
        "{}",
        a.log()
    );
    let cancelled = json!({"idempotencyKey": "later"});
    done(&b, "NotifyService/CancelScheduled", cancelled).await;
    // It goes on from there.
    let sent = notify(&b, "ada", "Four").await;
    assert_eq!(sent.status, 200, "{}", sent.body);
    let (titles, unread) = inbox(&a, "ada").await.unwrap();
    assert_eq!((titles.len(), unread), (4, 3), "{titles:?}");
    // Back to the folder for a while, and forward again: what came meanwhile is not in the shared store.
    let mut a = a;
    a.terminate();
    a.ended().await;
    let alone = with_mails(Server::builder()).set("store", &format!("path = {:?}", folder.path()));
    let mut single = alone.start().await;
    let sent = notify(&single, "ada", "Five").await;
    assert_eq!(sent.status, 200, "{}", sent.body);
    single.terminate();
    single.ended().await;
    let forward = node.clone().start().await;
    forward.log_line("the shared store does not").await;
}

#[tokio::test]
async fn an_interrupted_move_is_refused_by_nodes_and_run_again() {
    const MARKS: Table = Table("move");
    let folder = TempDir::new().unwrap();
    let had = fill(folder.path()).await;
    // As after a move that was killed: the marks, and a part of the rows.
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(MARKS, b"source".as_slice(), b"this one".as_slice());
    store.commit(batch).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let redis = RedisServer::start().await;
    for (table, key, value) in [
        ("move", "source", "this one"),
        ("notification.states", "zoe", "half a row"),
    ] {
        let values = format!("test:{{store}}:values:{table}");
        redis.command(&["HSET", &values, key, value]).await;
        let order = format!("test:{{store}}:order:{table}");
        redis.command(&["ZADD", &order, "0", key]).await;
    }
    let node = node(&redis, folder.path());
    let mut early = node.clone().start().await;
    early
        .log_line("a move into the shared store was interrupted")
        .await;
    let refused = notify(&early, "ada", "No").await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    early.terminate();
    early.ended().await;
    succeeds(&node).await;
    let a = node.start().await;
    eventually("an owner", async || inbox(&a, "ada").await).await;
    assert_eq!(of_ada(&a).await, had);
    let (titles, _) = inbox(&a, "zoe").await.unwrap();
    assert!(titles.is_empty(), "{titles:?}");
}
