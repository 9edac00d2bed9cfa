//! TLS on the one port: every transport over it, certificates that change, and
//! clients that prove themselves by one of their own.

use std::path::PathBuf;

use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_proto::v1::{GetHistoryRequest, stream_service_client::StreamServiceClient};
use tidewire_tests::{
    KeyPair, KeyProvider, Server, ServerBuilder, Token,
    client::grpc,
    tls::{Authority, Identity},
    within,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message as Frame, client::IntoClientRequest as _},
};
use tonic::transport::{Channel, Endpoint};

/// An authority, and the files of a certificate that it signed for `localhost`.
struct Files {
    authority: Authority,
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            authority: Authority::new(),
            folder: TempDir::new().unwrap(),
        };
        files.renew();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a new certificate.
    fn renew(&self) -> Identity {
        let identity = self.authority.sign(&["localhost"]);
        identity.write(&self.path("cert.pem"), &self.path("key.pem"));
        identity
    }

    fn builder(&self) -> ServerBuilder {
        Server::builder()
            .set("server", &format!("tls_cert = {:?}", self.path("cert.pem")))
            .set("server", &format!("tls_key = {:?}", self.path("key.pem")))
    }

    async fn connect(&self, server: &Server, protocol: &str) -> TlsStream<TcpStream> {
        let connected = self.authority.connect(server, protocol, None).await;
        connected.expect("a TLS connection")
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self, server: &Server) -> CertificateDer<'static> {
        let stream = self.connect(server, "http/1.1").await;
        let (_, connection) = stream.get_ref();
        connection.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    }
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn web_socket(stream: TlsStream<TcpStream>) -> Socket {
    let mut request = "wss://localhost/v1/ws".into_client_request().unwrap();
    let protocol = HeaderValue::from_static("tidewire.v1.json");
    request
        .headers_mut()
        .insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    let (socket, _) = within("a WebSocket", client_async(request, stream))
        .await
        .unwrap();
    socket
}

async fn next(socket: &mut Socket) -> Value {
    loop {
        match within("a frame", socket.next()).await.unwrap().unwrap() {
            Frame::Text(text) => return serde_json::from_str(&text).unwrap(),
            Frame::Ping(_) | Frame::Pong(_) => {}
            other => panic!("text was expected, not {other:?}"),
        }
    }
}

async fn ask(socket: &mut Socket, message: &Value) -> Value {
    socket.send(Frame::text(message.to_string())).await.unwrap();
    next(socket).await
}

/// Sends a request by HTTP/1.1 and gives the whole answer.
async fn exchange(mut stream: TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The peer may close without a word of TLS: what came counts.
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

/// A gRPC channel over a connection that is there already.
async fn channel(stream: TlsStream<TcpStream>) -> Channel {
    let mut stream = Some(TokioIo::new(stream));
    let endpoint = Endpoint::from_static("http://localhost");
    let connector = tower::service_fn(move |_| {
        let stream = stream
            .take()
            .ok_or_else(|| std::io::Error::other("used already"));
        async move { stream }
    });
    endpoint.connect_with_connector(connector).await.unwrap()
}

#[tokio::test]
async fn every_transport_runs_over_tls() {
    let files = Files::new();
    let server = files.builder().start().await;

    let mut socket = web_socket(files.connect(&server, "http/1.1").await).await;
    assert_eq!(next(&mut socket).await["type"], "welcome");
    let subscribe = json!({"type": "subscribe", "id": "1", "data": {"channels": ["demo:a"]}});
    assert_eq!(ask(&mut socket, &subscribe).await["type"], "subscribed");

    let mut events = files.connect(&server, "http/1.1").await;
    let request = "GET /v1/sse?channels=demo:a HTTP/1.1\r\nhost: localhost\r\n\r\n";
    events.write_all(request.as_bytes()).await.unwrap();
    let mut events = BufReader::new(events).lines();
    let mut line_of = async |text: &str| loop {
        let line = within(text, events.next_line()).await.unwrap().unwrap();
        if line.contains(text) {
            return line;
        }
    };
    line_of("200 OK").await;
    line_of("\"subscribed\"").await;

    let mut client = StreamServiceClient::new(channel(files.connect(&server, "h2").await).await);
    let publish = tidewire_proto::v1::PublishRequest {
        channel: "demo:a".to_owned(),
        data: "7".into(),
        ..Default::default()
    };
    client.publish(grpc::request(publish, None)).await.unwrap();
    line_of("\"message\"").await;
    let message = next(&mut socket).await;
    assert_eq!(
        (&message["type"], &message["data"]),
        (&json!("message"), &json!(7))
    );
    let history = GetHistoryRequest {
        channel: "demo:a".to_owned(),
        ..Default::default()
    };
    let history = client
        .get_history(grpc::request(history, None))
        .await
        .unwrap();
    assert_eq!(history.into_inner().seq, 1);
}

#[tokio::test]
async fn plain_http_is_told_that_this_is_tls() {
    let files = Files::new();
    let server = files.builder().start().await;
    let url = format!("http://{}/healthz", server.address());
    let answer = server.send(server.http().get(url)).await;
    assert_eq!(answer.status, 400);
    let body = answer.json();
    assert_eq!(body["code"], "invalid_argument");
    assert!(
        body["message"].as_str().unwrap().contains("https://"),
        "{body}"
    );
}

#[tokio::test]
async fn a_new_certificate_drops_no_connection() {
    let files = Files::new();
    let server = files.builder().start().await;
    let mut socket = web_socket(files.connect(&server, "http/1.1").await).await;
    next(&mut socket).await;

    let renewed = files.renew();
    server.hang_up();
    server.log_line("certificate was read again").await;
    assert_eq!(files.shown(&server).await, *renewed.certificate());
    let ping = json!({"type": "ping", "id": "1"});
    assert_eq!(ask(&mut socket, &ping).await["type"], "pong");

    // What cannot be used changes nothing.
    std::fs::write(files.path("key.pem"), "nonsense").unwrap();
    server.hang_up();
    server.log_line("cannot be read again").await;
    assert_eq!(files.shown(&server).await, *renewed.certificate());
    assert_eq!(ask(&mut socket, &ping).await["type"], "pong");
}

#[tokio::test]
async fn a_certificate_that_changes_on_disk_is_read_unasked() {
    let files = Files::new();
    let server = files.builder().start().await;
    let renewed = files.renew();
    server.log_line("certificate was read again").await;
    // The key may have been read a moment later than the certificate.
    within("the new certificate", async {
        while files.shown(&server).await != *renewed.certificate() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_cut() {
    let files = Files::new();
    let server = files
        .builder()
        .set("limits", "handshake_timeout = \"300ms\"")
        .start()
        .await;
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    let mut half = TcpStream::connect(server.address()).await.unwrap();
    // The head of a TLS record that never comes.
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
        .await
        .unwrap();
    let mut unasking = files.connect(&server, "http/1.1").await;
    let mut unasking_h2 = files.connect(&server, "h2").await;
    let mut nothing = Vec::new();
    for stream in [&mut silent, &mut half] {
        // Closed or reset: it is over.
        let _ = within("the end", stream.read_to_end(&mut nothing)).await;
    }
    for stream in [&mut unasking, &mut unasking_h2] {
        let _ = within("the end", stream.read_to_end(&mut nothing)).await;
    }
}

#[tokio::test]
async fn a_client_certificate_is_a_back_end() {
    let files = Files::new();
    let clients = Authority::new();
    let ca = clients.write(files.folder.path());
    let server = files
        .builder()
        .set("server", &format!("tls_client_ca = {ca:?}"))
        .namespace("orders", "publish = \"service\"")
        .start()
        .await;
    let body = r#"{"channel":"orders:1","data":1}"#;
    let request = format!(
        "POST /v1/rpc/StreamService/Publish HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let publish = async |identity: Option<&Identity>| {
        let stream = files
            .authority
            .connect(&server, "http/1.1", identity)
            .await
            .unwrap();
        exchange(stream, &request).await
    };
    // Nobody needs a certificate, and without one nothing is allowed by it.
    let answer = publish(None).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = publish(Some(&clients.sign(&["billing.internal"]))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // One of another authority gets no connection, or no answer on it.
    let stranger = files.authority.sign(&["billing.internal"]);
    if let Ok(stream) = files
        .authority
        .connect(&server, "http/1.1", Some(&stranger))
        .await
    {
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = write.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = within("the end", read.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn keys_can_come_over_tls() {
    let authority = Authority::new();
    let folder = TempDir::new().unwrap();
    let keys = [KeyPair::P256.web_key("k")];
    let provider = KeyProvider::start_tls(&keys, &authority).await;
    let start = async |jwks_ca: Option<PathBuf>| {
        let builder = Server::builder().set("auth", &format!("jwks_url = {:?}", provider.url()));
        match jwks_ca {
            Some(path) => builder.set("auth", &format!("jwks_ca = {path:?}")),
            None => builder,
        }
        .start()
        .await
    };
    let token = Token::of("ada").sign_as(KeyPair::P256, Some("k"));
    let body = json!({"channel": "demo:a", "data": 1});
    let server = start(Some(authority.write(folder.path()))).await;
    let answer = server
        .call("StreamService/Publish", Some(&token), &body)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // An authority that nobody knows is not trusted, and the server says so.
    let server = start(None).await;
    server.log_line("the key set cannot be had").await;
    let answer = server
        .call("StreamService/Publish", Some(&token), &body)
        .await;
    assert_eq!(answer.status, 401, "{}", answer.body);
}
