//! Memory: the resident size of the server stays within its budgets, whatever clients send,
//! and whatever they do not read.

use std::io;

use serde_json::json;
use tidewire_tests::{Client, Server, Transport};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

on_every_transport!(a_subscribe_with_thousands_of_names_is_refused);

const MIB: usize = 1 << 20;

/// Memory that a server may take beside its budgets: buffers, threads, and pages that the
/// allocator has not given back.
const SLACK: usize = 24 * MIB;

async fn a_subscribe_with_thousands_of_names_is_refused(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let names = vec!["q:"; 10_000];
    let reply = client.request("subscribe", json!({"channels": names}));
    let reply = reply.await;
    assert_eq!(reply.kind, "error", "{reply:?}");
    assert_eq!(reply.data["code"], "invalid_argument");
    let message = reply.data["message"].as_str().unwrap();
    assert!(
        message.contains("subscribe in several messages"),
        "{message}"
    );
    client.subscribe("demo:a").await;
}

/// Resident memory of the server, in bytes.
fn resident(server: &Server) -> usize {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1_024
}

/// A WebSocket with a small receive buffer that is never read after its handshake.
pub(crate) async fn silent_socket(server: &Server, token: Option<&str>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(server.address()).await.unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    let head = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{token}\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 101");
    socket
}

/// Sends a text frame, masked with zeros.
pub(crate) async fn send(socket: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()).unwrap() {
        short @ 0..126 => frame.push(0x80 | short.to_be_bytes()[1]),
        long => {
            frame.push(0xfe);
            frame.extend(long.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    socket.write_all(&frame).await
}

/// Clients that do not read.
const SILENT: usize = 100;

#[tokio::test]
async fn unread_replies_are_counted_and_bounded() {
    const OUTBOX: usize = 256 << 10;
    let server = Server::start().await;
    for _ in 0..20 {
        server.publish("demo:h", json!("x".repeat(60_000))).await;
    }
    let before = resident(&server);
    let mut sockets = Vec::new();
    for _ in 0..SILENT {
        let mut socket = silent_socket(&server, None).await;
        for id in 0..8 {
            let data = json!({"channel": "demo:h", "limit": 10_000});
            let message = json!({"type": "history", "id": id.to_string(), "data": data});
            send(&mut socket, &message.to_string()).await.unwrap();
        }
        sockets.push(socket);
    }
    let waiting = server
        .metric_until("tidewire_outbox_bytes", "", |waiting| {
            waiting > (SILENT * OUTBOX / 4) as f64
        })
        .await;
    // An outbox, and the write that the socket did not accept.
    assert!(waiting <= (SILENT * 2 * OUTBOX) as f64, "{waiting}");
    let grown = resident(&server).saturating_sub(before);
    assert!(grown <= SILENT * 2 * OUTBOX + SLACK, "{} MiB", grown / MIB);
    drop(sockets);
}

/// Budget of histories, in bytes. Five times as much is published.
const HISTORIES: usize = 32 * MIB;

#[tokio::test]
async fn histories_take_their_budget_with_every_encoding() {
    const LENGTH: usize = 20_000;
    const BATCH: usize = 40;
    let server = Server::builder()
        .set("limits", &format!("history_bytes = {HISTORIES}"))
        .set("limits", "frame_bytes = 1048576")
        .set("limits", "outbox_bytes = 1048576")
        .start()
        .await;
    let channels: Vec<String> = (0..20).map(|index| format!("demo:{index}")).collect();
    let mut readers = tokio::task::JoinSet::new();
    for transport in Transport::ALL {
        let mut client = Client::connect(transport, &server).await;
        for channel in &channels {
            client.subscribe(channel).await;
        }
        // Reads until the test ends, so that each form of a publication is made.
        readers.spawn(async move {
            loop {
                client.next().await;
            }
        });
    }
    let before = resident(&server);
    let calls = 5 * HISTORIES / (BATCH * LENGTH);
    for number in 0..calls {
        let publications = (0..BATCH).map(|index| {
            let channel = &channels[(number * BATCH + index) % channels.len()];
            json!({"channel": channel, "data": "x".repeat(LENGTH)})
        });
        let body = json!({"publications": publications.collect::<Vec<_>>()});
        let call = server.call("StreamService/PublishBatch", None, &body);
        assert_eq!(call.await.status, 200);
    }
    let counted = server
        .metric_until("tidewire_history_bytes", "", |counted| {
            counted <= HISTORIES as f64
        })
        .await;
    assert!(
        counted > HISTORIES as f64 / 2.0,
        "the histories are full: {counted}"
    );
    let grown = resident(&server).saturating_sub(before);
    let most = HISTORIES + HISTORIES / 4 + SLACK;
    assert!(grown <= most, "{} MiB", grown / MIB);
    readers.abort_all();
}
