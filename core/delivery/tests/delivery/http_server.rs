//! HTTP server of the tests: returns scripted responses, and keeps the requests.

use std::collections::HashMap;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// By name in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A server. It ends on drop.
pub(crate) struct HttpServer {
    pub(crate) port: u16,
    requests: mpsc::UnboundedReceiver<Request>,
    _tasks: JoinSet<()>,
}

impl HttpServer {
    /// A server that returns the head and body that `script` gives for the number of the request,
    /// from 0. `None` never responds.
    pub(crate) async fn start(
        script: impl Fn(usize) -> Option<String> + Send + Clone + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (script, sender, count) = (script.clone(), sender.clone(), count.clone());
                connections.spawn(async move {
                    let mut socket = BufReader::new(socket);
                    while let Some(request) = read(&mut socket).await {
                        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        let _ = sender.send(request);
                        match script(number) {
                            Some(response) => {
                                let _ = socket.write_all(response.as_bytes()).await;
                            }
                            None => std::future::pending().await,
                        }
                    }
                });
            }
        });
        Self {
            port,
            requests,
            _tasks: tasks,
        }
    }

    /// A server that always returns this status line with these headers, and this body.
    pub(crate) async fn always(head: &str, body: &str) -> Self {
        let response = response(head, body);
        Self::start(move |_| Some(response.clone())).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook/key", self.port)
    }

    /// The next request.
    pub(crate) async fn request(&mut self) -> Request {
        self.requests.recv().await.unwrap()
    }

    /// Whether no further request came.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.requests.try_recv().is_err()
    }
}

/// A response: `429 Slow down\r\nretry-after: 7` and a body.
pub(crate) fn response(head: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn read(socket: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if socket.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        socket.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some(Request {
        path,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
