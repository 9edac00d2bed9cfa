//! A sender of webhooks that is paused before it sends.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tidewire_tests::{RedisServer, Server, eventually, tls::Authority, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    servers::server,
    shared_store::{inbox, notify},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The receiver of a webhook, over TLS: a sender that is connected has sent nothing before the
/// handshake.
struct Receiver {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// The authority that senders trust.
    folder: TempDir,
}

impl Receiver {
    async fn new() -> Self {
        let (authority, folder) = (Authority::new(), TempDir::new().expect("a folder"));
        let _ = authority.write(folder.path());
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            acceptor: authority.acceptor(),
            folder,
        }
    }

    /// A server with the store of this Redis, which sends to the webhook.
    async fn sender(&self, redis: &RedisServer) -> Server {
        let port = self.listener.local_addr().expect("an address").port();
        let authority = self.folder.path().join("ca.pem");
        let webhook = format!(
            "[[delivery.webhook]]\nname = \"ops\"\nurl = \"https://127.0.0.1:{port}/hook\"\n\
             allow_private = true\nsecrets = [{SECRET:?}]\n"
        );
        server(redis)
            .set("store", "kind = \"redis\"")
            .set("delivery", &format!("ca_file = {:?}", authority.display()))
            .table(&webhook)
            .start()
            .await
    }

    /// Waits for a sender that has begun the handshake.
    async fn connected(&self) -> TcpStream {
        let accepted = within("a sender", self.listener.accept()).await;
        let (stream, _) = accepted.expect("a connection");
        let read = within("the handshake", stream.peek(&mut [0])).await;
        assert_eq!(read.expect("a handshake"), 1);
        stream
    }

    /// Goes on with the handshake, answers the request, and returns its id and title. None if the
    /// sender sends none.
    async fn answered(&self, stream: TcpStream) -> Option<(String, String)> {
        let mut stream = self.acceptor.accept(stream).await.ok()?;
        let (mut bytes, mut part) = (Vec::new(), [0; 4_096]);
        loop {
            let count = stream
                .read(&mut part)
                .await
                .ok()
                .filter(|count| *count > 0)?;
            bytes.extend_from_slice(&part[..count]);
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let Ok(body) = serde_json::from_str::<Value>(body) else {
                continue;
            };
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let id = lines.filter(|(name, _)| name.eq_ignore_ascii_case("webhook-id"));
            let id = id.map(|(_, id)| id.to_owned()).next().expect("an id");
            let title = &body["data"]["notification"]["title"];
            let title = title.as_str().expect("a title").to_owned();
            let answer = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.ok()?;
            // The sender reads it before the connection ends.
            let _ = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut part)).await;
            return Some((id, title));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_was_paused_before_its_request_repeats_it_at_most_once() {
    let redis = RedisServer::start().await;
    let receiver = Receiver::new().await;
    let a = receiver.sender(&redis).await;
    a.metric_until("tidewire_store_owner", "", |value| value > 0.0)
        .await;
    let b = receiver.sender(&redis).await;
    assert_eq!(notify(&a, "ann", "1").await.status, 200);
    // It has taken the message, and sent nothing yet.
    let late = receiver.connected().await;
    a.pause();
    let mut sent = BTreeMap::<_, usize>::new();
    let by_b = receiver.connected().await;
    let by_b = within("a request", receiver.answered(by_b)).await;
    let first = by_b.expect("the next owner sends it");
    assert_eq!(first.1, "1");
    sent.insert(first.clone(), 1);
    eventually("another server has taken over", async || {
        inbox(&b, "ann").await
    })
    .await;
    a.resume();
    if let Some(repeated) = within("the late sender", receiver.answered(late)).await {
        *sent.entry(repeated).or_default() += 1;
    }
    a.log_line("notifications end with the term").await;
    assert_eq!(notify(&b, "ann", "2").await.status, 200);
    loop {
        let next = receiver.connected().await;
        let next = within("a request", receiver.answered(next)).await;
        let next = next.expect("a request");
        *sent.entry(next.clone()).or_default() += 1;
        if next.1 == "2" {
            break;
        }
    }
    assert_eq!(sent.len(), 2, "one id a message: {sent:?}");
    assert!(sent[&first] <= 2, "{sent:?}");
}
