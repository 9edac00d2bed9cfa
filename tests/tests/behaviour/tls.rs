//! TLS: every transport on the one port, certificate reload, and client certificates.

use std::path::PathBuf;

use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, header};
use hyper_util::rt::TokioIo;
use rustls::{HandshakeKind, pki_types::CertificateDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_proto::v1::{GetHistoryRequest, stream_service_client::StreamServiceClient};
use tidewire_tests::{
    IdentityProvider, KeyPair, Server, ServerBuilder, Token,
    client::grpc,
    tls::{self, Authority, Identity},
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

/// An authority, and the files of a certificate that it issued for `localhost`.
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

    /// Returns the certificate presented to a new connection.
    async fn presented_certificate(&self, server: &Server) -> CertificateDer<'static> {
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

/// Sends an HTTP/1.1 request and returns the whole response.
async fn exchange(mut stream: TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The peer may close without a TLS close notification. The received bytes count.
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

/// Builds a gRPC channel over an existing connection.
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
async fn plain_http_on_a_tls_port_gets_an_explanation() {
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
    server.log_line("reloaded the TLS certificate").await;
    assert_eq!(
        files.presented_certificate(&server).await,
        *renewed.certificate()
    );
    let ping = json!({"type": "ping", "id": "1"});
    assert_eq!(ask(&mut socket, &ping).await["type"], "pong");

    // An unusable certificate changes nothing.
    std::fs::write(files.path("key.pem"), "nonsense").unwrap();
    server.hang_up();
    server.log_line("certificate cannot be reloaded").await;
    assert_eq!(
        files.presented_certificate(&server).await,
        *renewed.certificate()
    );
    assert_eq!(ask(&mut socket, &ping).await["type"], "pong");
}

#[tokio::test]
async fn a_certificate_changed_on_disk_is_reloaded() {
    let files = Files::new();
    let server = files.builder().start().await;
    let renewed = files.renew();
    server.log_line("reloaded the TLS certificate").await;
    // The server may have read the key a moment after the certificate.
    within("the new certificate", async {
        while files.presented_certificate(&server).await != *renewed.certificate() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_returning_client_resumes_its_session() {
    let server = Server::builder().with_tls().start().await;
    let authority = server.authority().unwrap();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = authority.client_config_of(&[version], "http/1.1", None);
        let visit = async || {
            let connecting = tls::connect(server.address(), config.clone());
            let mut stream = within("a TLS handshake", connecting).await.unwrap();
            let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            // The ticket comes before the response.
            let read = within("an answer", stream.read(&mut [0; 1_024])).await;
            assert!(read.unwrap() > 0);
            stream.get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(visit().await, HandshakeKind::Full, "{version:?}");
        assert_eq!(visit().await, HandshakeKind::Resumed, "{version:?}");
    }
}

#[tokio::test]
async fn a_stalled_handshake_is_closed() {
    let files = Files::new();
    let server = files
        .builder()
        .set("limits", "handshake_timeout = \"300ms\"")
        .start()
        .await;
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    let mut half = TcpStream::connect(server.address()).await.unwrap();
    // The head of a TLS record whose body never comes.
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
        .await
        .unwrap();
    let mut unasking = files.connect(&server, "http/1.1").await;
    let mut unasking_h2 = files.connect(&server, "h2").await;
    let mut nothing = Vec::new();
    for stream in [&mut silent, &mut half] {
        // Closed or reset.
        let _ = within("the end", stream.read_to_end(&mut nothing)).await;
    }
    for stream in [&mut unasking, &mut unasking_h2] {
        let _ = within("the end", stream.read_to_end(&mut nothing)).await;
    }
}

#[tokio::test]
async fn a_client_certificate_grants_the_service_scope() {
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
    // A client certificate is optional, and without one it grants nothing.
    let answer = publish(None).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = publish(Some(&clients.sign(&["billing.internal"]))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // A certificate of another authority gets no connection, or no response on it.
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
async fn provider_keys_load_over_tls() {
    let authority = Authority::new();
    let folder = TempDir::new().unwrap();
    let keys = [KeyPair::P256.web_key("k")];
    let provider = IdentityProvider::start_tls(&keys, &authority).await;
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
    // Without a configured authority no certificate is trusted, and the log reports it.
    let server = start(None).await;
    server.log_line("the key set cannot be fetched").await;
    let answer = server
        .call("StreamService/Publish", Some(&token), &body)
        .await;
    // The token is good, so it is not called bad.
    assert_eq!(answer.status, 503, "{}", answer.body);
}
