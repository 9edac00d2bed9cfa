//! A harness that starts the real binary and talks to it as clients do.
//!
//! A test that fails here panics: that is what a test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use std::{net::TcpListener, process::Stdio, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::CloseFrame},
};

/// What hangs is broken: no test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
pub struct Server {
    /// Where it listens, `127.0.0.1:PORT`.
    pub address: String,
    child: Child,
    logs: Lines<BufReader<ChildStderr>>,
    folder: tempfile::TempDir,
}

/// The binary under test.
fn binary() -> String {
    std::env::var("TIDEWIRE_BIN")
        .unwrap_or_else(|_| format!("{}/../target/debug/tidewire", env!("CARGO_MANIFEST_DIR")))
}

impl Server {
    /// Starts `tidewire` with these arguments and this configuration.
    pub async fn start(arguments: &[&str], config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tidewire.toml"), config).unwrap();
        let mut child = Command::new(binary())
            .args(arguments)
            .args(["--config", "tidewire.toml"])
            .current_dir(folder.path())
            .env("TIDEWIRE_SERVER__LISTEN", "127.0.0.1:0")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary is built before the tests run");
        let mut logs = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = timeout(PATIENCE, logs.next_line())
                .await
                .unwrap()
                .unwrap()
                .expect("the server ended");
            if let Some((_, address)) = line.split_once("listens on http://") {
                break address.trim().to_owned();
            }
        };
        Self {
            address,
            child,
            logs,
            folder,
        }
    }

    /// Asks it to stop, and gives its exit code.
    pub async fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().unwrap().to_string();
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .await
            .unwrap();
        while let Ok(Some(_)) = self.logs.next_line().await {}
        timeout(PATIENCE, self.child.wait())
            .await
            .unwrap()
            .unwrap()
            .code()
    }

    /// A token of this server.
    pub async fn token(&self, arguments: &[&str]) -> String {
        let output = Command::new(binary())
            .args(["token", "--config", "tidewire.toml"])
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .await
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Opens a WebSocket; the first message, `welcome`, is still to be read.
    pub async fn connect(&self, token: Option<&str>) -> Client {
        let mut request = format!("ws://{}/v1/ws", self.address)
            .into_client_request()
            .unwrap();
        if let Some(token) = token {
            request
                .headers_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Client(connect_async(request).await.unwrap().0)
    }

    /// Sends an HTTP request and reads until `enough` says so, or to the end.
    pub async fn http(&self, head: &str, body: &str, enough: impl Fn(&str) -> bool) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{head}\r\nHost: {}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}",
            self.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        loop {
            let read = timeout(PATIENCE, stream.read_buf(&mut all))
                .await
                .unwrap()
                .unwrap();
            let text = String::from_utf8_lossy(&all).into_owned();
            if read == 0 || enough(&text) {
                return text;
            }
        }
    }

    /// Calls a unary RPC as JSON. Gives the status line and the answer.
    pub async fn rpc(&self, method: &str, body: &str, token: Option<&str>) -> (String, Value) {
        let bearer = token
            .map(|token| format!("\r\nAuthorization: Bearer {token}"))
            .unwrap_or_default();
        let text = self
            .http(
                &format!("POST /v1/rpc/{method} HTTP/1.1{bearer}"),
                body,
                |_| false,
            )
            .await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (
            head.lines().next().unwrap().to_owned(),
            serde_json::from_str(body).unwrap(),
        )
    }
}

/// A client on a WebSocket.
pub struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    /// Sends any frame.
    pub async fn send(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    /// Sends a text.
    pub async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// The next message.
    pub async fn next(&mut self) -> Value {
        loop {
            let message = timeout(PATIENCE, self.0.next())
                .await
                .unwrap()
                .expect("the connection ended")
                .unwrap();
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// The next message of this type; others are passed over.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// The code that the connection is closed with.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.0.next()).await.unwrap() {
                Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => return code.into(),
                Some(Ok(_)) => {}
                other => panic!("no close frame came: {other:?}"),
            }
        }
    }
}

/// A port where nothing listens.
#[must_use]
pub fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
