//! Lifetime: connections that are over lose their rights and end, however slowly their clients
//! read.

use std::time::Duration;

use serde_json::{Value, json};
use tidewire_tests::{
    Server, Token, eventually,
    raw_socket::{send, silent_socket},
};
use tokio::{
    io::AsyncReadExt as _,
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    task::AbortHandle,
};

const CHANNEL: &str = "demo:big";

/// Publications of 60 KB each: more than the kernel's buffers and an outbox hold.
const PUBLISHED: usize = 100;

async fn server() -> Server {
    let logs = "publish = \"authenticated\"";
    Server::builder().namespace("log", logs).start().await
}

/// A WebSocket that takes a few hundred bytes at a time, and so never stops to read. Stops on
/// drop.
struct SlowSocket {
    write: OwnedWriteHalf,
    reader: AbortHandle,
}

impl Drop for SlowSocket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl SlowSocket {
    /// A socket whose server has much more to send.
    async fn behind(server: &Server, token: Option<&str>) -> Self {
        let socket = silent_socket(server, token).await;
        let (read, mut write) = socket.into_split();
        let subscribe = json!({"type": "subscribe", "data": {"channels": [CHANNEL]}});
        send(&mut write, &subscribe.to_string()).await.unwrap();
        subscribers(server, 1).await;
        for _ in 0..PUBLISHED {
            server.publish(CHANNEL, json!("x".repeat(60_000))).await;
        }
        Self {
            write,
            reader: tokio::spawn(read_slowly(read)).abort_handle(),
        }
    }
}

async fn read_slowly(mut read: OwnedReadHalf) {
    let mut part = [0; 256];
    let mut pauses = tokio::time::interval(Duration::from_millis(100));
    while let Ok(1..) = read.read(&mut part).await {
        pauses.tick().await;
    }
}

/// Waits until the channel has this number of subscribers.
async fn subscribers(server: &Server, count: usize) {
    let wanted = json!({"channel": CHANNEL});
    eventually(format!("{count} subscribers"), async || {
        let all = server.call("AdminService/ListConnections", None, &wanted);
        let listed = all.await.json()["connections"].as_array().unwrap().len();
        (listed == count).then_some(())
    })
    .await;
}

/// Publications of a channel.
async fn history(server: &Server, channel: &str) -> Vec<Value> {
    let wanted = json!({"channel": channel, "limit": 10_000});
    let history = server.call("StreamService/GetHistory", None, &wanted).await;
    history.json()["messages"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_slow_reader_loses_its_rights_with_its_token() {
    let server = server().await;
    let token = Token::of("eve").expires_in(4).sign();
    server.publish("demo:clock", json!(0)).await;
    let now_ms = &history(&server, "demo:clock").await[0]["timestamp"];
    let expires_at = now_ms.as_i64().unwrap() + 4_000;
    let mut socket = SlowSocket::behind(&server, Some(&token)).await;
    // The client publishes for as long as it is connected.
    let publish = json!({"type": "publish", "data": {"channel": "log:a", "data": 1}});
    eventually("the end of the connection", async || {
        send(&mut socket.write, &publish.to_string()).await.err()
    })
    .await;
    let published = history(&server, "log:a").await;
    assert!(!published.is_empty());
    for one in published {
        // The last command may have begun before.
        let at = one["timestamp"].as_i64().unwrap();
        assert!(at <= expires_at + 1_000, "{at} {expires_at}");
    }
}

#[tokio::test]
async fn a_connection_that_closes_runs_no_command_and_ends() {
    let server = server().await;
    let mut socket = SlowSocket::behind(&server, None).await;
    let everyone = json!({});
    let all = server.call("AdminService/ListConnections", None, &everyone);
    let id = all.await.json()["connections"][0]["connectionId"].clone();
    let target = json!({"connectionId": id});
    let ended = server.call("AdminService/Disconnect", None, &target).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    for _ in 0..100 {
        send(&mut socket.write, r#"{"type": "ping", "id": "1"}"#)
            .await
            .unwrap();
    }
    let is_none = |count| count == 0.0;
    server
        .metric_until("tidewire_connections", "websocket", is_none)
        .await;
    let pings = server.metric("tidewire_messages_total", "ping").await;
    assert_eq!(pings, 0.0);
}
