//! Identity provider: an HTTP stand-in that serves one key set, for tests of `jwks_url`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{tls::Authority, within};

/// A running identity provider. It stops on drop.
#[derive(Debug)]
pub struct IdentityProvider {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    /// The key set. None: every request fails with status 503.
    document: Mutex<Option<String>>,
    requests: watch::Sender<usize>,
    /// Whether requests wait for their response.
    is_held: watch::Sender<bool>,
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl IdentityProvider {
    /// A provider with these keys.
    pub async fn start(keys: &[Value]) -> Self {
        Self::listen(keys, None).await
    }

    /// A provider with these keys, over TLS.
    pub async fn start_tls(keys: &[Value], authority: &Authority) -> Self {
        Self::listen(keys, Some(authority.acceptor())).await
    }

    async fn listen(keys: &[Value], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let task = tokio::spawn(serve(listener, tls, state.clone())).abort_handle();
        let provider = Self {
            address,
            scheme,
            state,
            task,
        };
        provider.set_keys(keys);
        provider
    }

    /// The URL of the key set.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "{}://localhost:{}/keys.json",
            self.scheme,
            self.address.port()
        )
    }

    /// Serves these keys from now on.
    ///
    /// # Panics
    /// Never.
    pub fn set_keys(&self, keys: &[Value]) {
        *self.state.document.lock().expect("no panics") = Some(json!({"keys": keys}).to_string());
    }

    /// Fails every request with status 503 from now on.
    ///
    /// # Panics
    /// Never.
    pub fn set_unavailable(&self) {
        *self.state.document.lock().expect("no panics") = None;
    }

    /// Accepts requests and does not respond, until [`release`](Self::release).
    pub fn hold(&self) {
        self.state.is_held.send_replace(true);
    }

    /// Responds to the requests that wait, and to later ones.
    pub fn release(&self) {
        self.state.is_held.send_replace(false);
    }

    /// The number of requests so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.state.requests.borrow()
    }

    /// Waits until there were `count` requests.
    ///
    /// # Panics
    /// They do not come.
    pub async fn requested(&self, count: usize) {
        let mut requests = self.state.requests.subscribe();
        let requested = within(
            "a request for the keys",
            requests.wait_for(|all| *all >= count),
        );
        let _ = requested.await.expect("the provider lives");
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        match tls.clone() {
            None => drop(tokio::spawn(respond(stream, state))),
            Some(tls) => drop(tokio::spawn(async move {
                if let Ok(stream) = tls.accept(stream).await {
                    respond(stream, state).await;
                }
            })),
        }
    }
}

/// Responds to one request, on any path.
async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<State>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    state.requests.send_modify(|count| *count += 1);
    // Fails only if the provider was dropped.
    let _ = state.is_held.subscribe().wait_for(|held| !held).await;
    let document = state.document.lock().expect("no panics").clone();
    let (status, body) = match document {
        Some(document) => ("200 OK", document),
        None => ("503 Service Unavailable", String::new()),
    };
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // The client may have disconnected.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}
