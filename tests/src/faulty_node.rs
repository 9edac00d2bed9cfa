//! Faulty node: a proxy before a real node, whose script may change every response.
//!
//! It serves WebSocket and HTTP. The script sees each call with the real response, and chooses
//! the client's response: that response, another one, an error, or nothing.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
};
use tokio_tungstenite::{
    accept_async, connect_async,
    tungstenite::{Message as Frame, protocol::CloseFrame},
};

use crate::{Node, http_client};

/// The decision of a script about one call.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A JSON-RPC response, with its `result` or its `error`.
    Response(Value),
    /// Any text instead of a response.
    Text(String),
    /// An HTTP status with these further headers. A WebSocket is cut.
    Status(u16, &'static str),
    /// A WebSocket close with this code and reason. HTTP is cut.
    Close(u16, &'static str),
    /// No response, ever.
    Silence,
}

type Script = dyn Fn(&str, &Value, Value) -> Reply + Send + Sync;

/// The state that all connections share.
struct Shared {
    /// The URLs of the real node, over HTTP and over a WebSocket.
    upstream: Mutex<(String, String)>,
    http: reqwest::Client,
    script: Mutex<Arc<Script>>,
    calls: AtomicUsize,
    pushed: watch::Sender<Option<Value>>,
}

/// A running faulty node. It stops on drop.
pub struct FaultyNode {
    port: u16,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

impl std::fmt::Debug for FaultyNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyNode")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// The script of an honest node: every response is passed through.
#[must_use]
pub fn pass_through(_method: &str, _params: &Value, response: Value) -> Reply {
    Reply::Response(response)
}

impl FaultyNode {
    /// A faulty node before this real node. The script receives the method, the parameters and
    /// the real response. A pushed head is passed as a response to `newHeads`.
    ///
    /// # Panics
    /// No port is free.
    pub async fn in_front_of(
        node: &Node,
        script: impl Fn(&str, &Value, Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            upstream: Mutex::new((node.http(), node.ws())),
            http: http_client(None),
            script: Mutex::new(Arc::new(script)),
            calls: AtomicUsize::new(0),
            pushed: watch::channel(None).0,
        });
        let mut connections = JoinSet::new();
        let serving = shared.clone();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                open.spawn(serve(socket, serving.clone()));
            }
        });
        Self {
            port,
            shared,
            _connections: connections,
        }
    }

    /// The WebSocket URL.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// The HTTP URL.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Uses this script from now on.
    pub async fn set_script(
        &self,
        script: impl Fn(&str, &Value, Value) -> Reply + Send + Sync + 'static,
    ) {
        *self.shared.script.lock().await = Arc::new(script);
    }

    /// Forwards calls to this real node from now on.
    pub async fn set_upstream(&self, node: &Node) {
        *self.shared.upstream.lock().await = (node.http(), node.ws());
    }

    /// Pushes an item to all subscriptions, for example a head.
    pub fn push(&self, item: Value) {
        self.shared.pushed.send_replace(Some(item));
    }

    /// The number of calls so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn reply(&self, call: &Value) -> Reply {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (upstream, _) = self.upstream.lock().await.clone();
        let response = self.http.post(upstream).json(call).send().await;
        let response = match response {
            Ok(response) => response.json().await.unwrap_or(Value::Null),
            Err(_) => Value::Null,
        };
        let script = self.script.lock().await.clone();
        let method = call["method"].as_str().unwrap_or_default();
        script(method, &call["params"], response)
    }
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>) {
    let mut head = vec![0; 2_048];
    let Ok(count) = socket.peek(&mut head).await else {
        return;
    };
    let text = String::from_utf8_lossy(&head[..count]).to_ascii_lowercase();
    if text.contains("upgrade: websocket") {
        serve_websocket(socket, shared).await;
        return;
    }
    while let Some(body) = read_request(&mut socket).await {
        let Some(response) = respond_http(&body, &shared).await else {
            return std::future::pending().await;
        };
        if socket.write_all(&response).await.is_err() {
            return;
        }
    }
}

/// Reads one HTTP/1.1 request and returns its body.
async fn read_request(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    let mut part = vec![0; 16_384];
    loop {
        let count = socket
            .read(&mut part)
            .await
            .ok()
            .filter(|count| *count > 0)?;
        read.extend_from_slice(&part[..count]);
        let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok())?;
        let mut body = read.split_off(end + 4);
        while body.len() < length {
            let count = socket
                .read(&mut part)
                .await
                .ok()
                .filter(|count| *count > 0)?;
            body.extend_from_slice(&part[..count]);
        }
        return Some(body);
    }
}

/// The HTTP response to one or several calls. None: no response is sent.
async fn respond_http(body: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    let request: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let calls = match &request {
        Value::Array(calls) => calls.clone(),
        call => vec![call.clone()],
    };
    let mut responses = Vec::with_capacity(calls.len());
    for call in &calls {
        match shared.reply(call).await {
            Reply::Response(response) => responses.push(response),
            Reply::Text(text) => return Some(http(200, "", &text)),
            Reply::Status(status, headers) => return Some(http(status, headers, "no")),
            Reply::Close(..) => return Some(Vec::new()),
            Reply::Silence => return None,
        }
    }
    let text = match (request.is_array(), responses.first()) {
        (false, Some(response)) => response.to_string(),
        _ => Value::Array(responses).to_string(),
    };
    Some(http(200, "", &text))
}

fn http(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

async fn serve_websocket(socket: TcpStream, shared: Arc<Shared>) {
    let Ok(socket) = accept_async(socket).await else {
        return;
    };
    let (mut sink, mut stream) = socket.split();
    let (out, mut texts) = mpsc::channel::<String>(64);
    let mut heads = JoinSet::new();
    loop {
        tokio::select! {
            frame = stream.next() => {
                let Some(Ok(frame)) = frame else { return };
                let Frame::Text(text) = frame else { continue };
                let call: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                let text = if call["method"] == "eth_subscribe" {
                    let pushed = shared.pushed.subscribe();
                    heads.spawn(push_heads(shared.clone(), out.clone(), pushed));
                    json!({"jsonrpc": "2.0", "id": call["id"], "result": "0x5"}).to_string()
                } else {
                    match shared.reply(&call).await {
                        Reply::Response(response) => response.to_string(),
                        Reply::Text(text) => text,
                        Reply::Status(..) => return,
                        Reply::Close(code, reason) => {
                            let (code, reason) = (code.into(), reason.into());
                            let frame = Frame::Close(Some(CloseFrame { code, reason }));
                            let _ = sink.send(frame).await;
                            return;
                        }
                        Reply::Silence => continue,
                    }
                };
                if sink.send(Frame::text(text)).await.is_err() {
                    return;
                }
            }
            Some(text) = texts.recv() => {
                if sink.send(Frame::text(text)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Pushes the heads of the real node, as the script changes them, and the items of the test.
async fn push_heads(
    shared: Arc<Shared>,
    out: mpsc::Sender<String>,
    mut pushed: watch::Receiver<Option<Value>>,
) {
    let (_, address) = shared.upstream.lock().await.clone();
    let Ok((mut upstream, _)) = connect_async(address).await else {
        return;
    };
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]});
    if upstream
        .send(Frame::text(subscribe.to_string()))
        .await
        .is_err()
    {
        return;
    }
    loop {
        let text = tokio::select! {
            frame = upstream.next() => {
                let Some(Ok(Frame::Text(text))) = frame else { return };
                let head: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                let Some(head) = head["params"].get("result").cloned() else { continue };
                let script = shared.script.lock().await.clone();
                match script("newHeads", &Value::Null, json!({ "result": head })) {
                    Reply::Response(response) => head_frame(&response["result"]),
                    Reply::Text(text) => text,
                    Reply::Status(..) | Reply::Close(..) => return,
                    Reply::Silence => continue,
                }
            }
            changed = pushed.changed() => {
                if changed.is_err() {
                    return;
                }
                let head = pushed.borrow_and_update().clone();
                head_frame(&head.unwrap_or(Value::Null))
            }
        };
        if out.send(text).await.is_err() {
            return;
        }
    }
}

fn head_frame(head: &Value) -> String {
    json!({
        "jsonrpc": "2.0",
        "method": "eth_subscription",
        "params": {"subscription": "0x5", "result": head},
    })
    .to_string()
}
