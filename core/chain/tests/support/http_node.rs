//! HTTP node: answers JSON-RPC by a script, and records what it was asked.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// The id of the chain that every node serves.
pub(crate) const CHAIN: u64 = 7;

/// The response to a request: a status and a body.
type Script = dyn Fn(&Value) -> (u16, Value) + Send + Sync;

/// The status of a response that is never sent.
pub(crate) const NEVER: u16 = 0;

/// A node that serves HTTP by a script, and records the requests but for those of its chain id.
pub(crate) struct HttpNode {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl HttpNode {
    pub(crate) async fn start(
        script: impl Fn(&Value) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, recorded): (Arc<Script>, _) = (Arc::new(script), requests.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, script.clone(), recorded.clone()));
            }
        });
        Self { url, requests }
    }

    /// A node that answers each call by a script, in batches too.
    pub(crate) async fn answering(
        script: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request| (200, each(request, &script))).await
    }

    /// A node that answers each call by a script, and never answers the requests that `hangs`
    /// holds for.
    pub(crate) async fn hanging(
        hangs: impl Fn(&Value) -> bool + Send + Sync + 'static,
        script: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request| match hangs(request) {
            true => (NEVER, Value::Null),
            false => (200, each(request, &script)),
        })
        .await
    }

    pub(crate) fn take_requests(&self) -> Vec<Value> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// The methods of all calls since the last one.
    pub(crate) fn take_methods(&self) -> Vec<String> {
        let requests = self.take_requests().into_iter();
        let calls = requests.flat_map(|request| match request {
            Value::Array(calls) => calls,
            call => vec![call],
        });
        calls
            .map(|call| call["method"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn serve(mut socket: TcpStream, script: Arc<Script>, recorded: Arc<Mutex<Vec<Value>>>) {
    let mut read = Vec::new();
    loop {
        let request = loop {
            let end = read.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            let whole = end.and_then(|end| {
                let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
                let mut lines = head.lines();
                let length = lines.find_map(|line| line.strip_prefix("content-length:"))?;
                let length: usize = length.trim().parse().ok()?;
                (read.len() >= end + 4 + length).then(|| (end + 4, end + 4 + length))
            });
            if let Some((start, end)) = whole {
                let request: Value = serde_json::from_slice(&read[start..end]).unwrap();
                read.drain(..end);
                break request;
            }
            let mut part = [0; 16_384];
            match socket.read(&mut part).await {
                Ok(count) if count > 0 => read.extend_from_slice(&part[..count]),
                _ => return,
            }
        };
        let (status, body) = match request["method"].as_str() {
            Some("eth_chainId") => (200, result(&request, json!(format!("{CHAIN:#x}")))),
            _ => {
                recorded.lock().unwrap().push(request.clone());
                script(&request)
            }
        };
        if status == NEVER {
            std::future::pending::<()>().await;
        }
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let response = [head.as_bytes(), body.as_bytes()].concat();
        if socket.write_all(&response).await.is_err() {
            return;
        }
    }
}

pub(crate) fn each(request: &Value, script: &dyn Fn(&Value) -> Value) -> Value {
    match request {
        Value::Array(calls) => calls.iter().map(script).collect(),
        call => script(call),
    }
}

pub(crate) fn result(call: &Value, result: impl Into<Value>) -> Value {
    let result = result.into();
    json!({"jsonrpc": "2.0", "id": call["id"], "result": result})
}

pub(crate) fn error(call: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}})
}
