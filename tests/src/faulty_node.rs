//! A node that lies: it passes calls on to a real node, over WebSocket and HTTP, and a
//! script says what becomes of the answers.

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

/// What becomes of a call.
#[derive(Debug, Clone)]
pub enum Reply {
    /// This answer, with its `result` or its `error`.
    Answer(Value),
    /// A text that may be anything.
    Text(String),
    /// An HTTP status with these further headers; a WebSocket breaks off.
    Status(u16, &'static str),
    /// A WebSocket is closed with this code and reason; HTTP breaks off.
    Close(u16, &'static str),
    /// Nothing, ever.
    Silence,
}

type Script = dyn Fn(&str, &Value, Value) -> Reply + Send + Sync;

/// What all connections share.
struct Shared {
    /// Where its node is, over HTTP and over a WebSocket.
    upstream: Mutex<(String, String)>,
    http: reqwest::Client,
    script: Mutex<Arc<Script>>,
    calls: AtomicUsize,
    pushed: watch::Sender<Option<Value>>,
}

/// A node that lies. Dropped, it is gone.
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

/// What an honest node does.
#[must_use]
pub fn pass_through(_method: &str, _params: &Value, truth: Value) -> Reply {
    Reply::Answer(truth)
}

impl FaultyNode {
    /// A faulty before this node. The script gets the method, the parameters and the true
    /// answer; a head that is pushed is an answer to `newHeads`.
    ///
    /// # Panics
    /// There is no port.
    pub async fn in_front_of(
        node: &Node,
        script: impl Fn(&str, &Value, Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            upstream: Mutex::new((node.http(), node.ws())),
            http: http_client(),
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

    /// Its WebSocket.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Its HTTP side.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lies otherwise from now on.
    pub async fn set_script(
        &self,
        script: impl Fn(&str, &Value, Value) -> Reply + Send + Sync + 'static,
    ) {
        *self.shared.script.lock().await = Arc::new(script);
    }

    /// Passes calls on to this node from now on.
    pub async fn set_upstream(&self, node: &Node) {
        *self.shared.upstream.lock().await = (node.http(), node.ws());
    }

    /// Pushes a head, or what else there is, to whoever subscribed to anything.
    pub fn push(&self, item: Value) {
        self.shared.pushed.send_replace(Some(item));
    }

    /// How many calls came so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn reply(&self, call: &Value) -> Reply {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (upstream, _) = self.upstream.lock().await.clone();
        let truth = self.http.post(upstream).json(call).send().await;
        let truth = match truth {
            Ok(answer) => answer.json().await.unwrap_or(Value::Null),
            Err(_) => Value::Null,
        };
        let script = self.script.lock().await.clone();
        let method = call["method"].as_str().unwrap_or_default();
        script(method, &call["params"], truth)
    }
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>) {
    let mut head = vec![0; 2_048];
    let Ok(count) = socket.peek(&mut head).await else {
        return;
    };
    let text = String::from_utf8_lossy(&head[..count]).to_ascii_lowercase();
    if text.contains("upgrade: websocket") {
        speak_websocket(socket, shared).await;
        return;
    }
    while let Some(body) = read_request(&mut socket).await {
        let Some(answer) = answer_http(&body, &shared).await else {
            return std::future::pending().await;
        };
        if socket.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// One request of HTTP/1.1, as far as its body.
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

/// None for silence.
async fn answer_http(body: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    let asked: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let calls = match &asked {
        Value::Array(calls) => calls.clone(),
        call => vec![call.clone()],
    };
    let mut answers = Vec::with_capacity(calls.len());
    for call in &calls {
        match shared.reply(call).await {
            Reply::Answer(answer) => answers.push(answer),
            Reply::Text(text) => return Some(http(200, "", &text)),
            Reply::Status(status, headers) => return Some(http(status, headers, "no")),
            Reply::Close(..) => return Some(Vec::new()),
            Reply::Silence => return None,
        }
    }
    let text = match (asked.is_array(), answers.first()) {
        (false, Some(answer)) => answer.to_string(),
        _ => Value::Array(answers).to_string(),
    };
    Some(http(200, "", &text))
}

fn http(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

async fn speak_websocket(socket: TcpStream, shared: Arc<Shared>) {
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
                        Reply::Answer(answer) => answer.to_string(),
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

/// Pushes what the real node pushes, as the script has it, and what the test says.
async fn push_heads(
    shared: Arc<Shared>,
    out: mpsc::Sender<String>,
    mut pushed: watch::Receiver<Option<Value>>,
) {
    let (_, address) = shared.upstream.lock().await.clone();
    let Ok((mut upstream, _)) = connect_async(address).await else {
        return;
    };
    let ask = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]});
    if upstream.send(Frame::text(ask.to_string())).await.is_err() {
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
                    Reply::Answer(answer) => head_frame(&answer["result"]),
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
