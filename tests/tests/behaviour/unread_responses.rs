//! Unread responses: a client that reads no response holds a bounded number of bytes, for a
//! bounded time. Over HTTP/2 the client here speaks in frames, and announces its windows itself.

use serde_json::json;
use tidewire_tests::{Server, ServerBuilder, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Frame types of RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bytes of a response of these tests, at least.
const SIZE: usize = 50_000;

/// A frame of HTTP/2.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A client of HTTP/2 whose streams begin without a window.
struct Http2 {
    socket: TcpStream,
    last_stream: u32,
}

impl Http2 {
    async fn connect(server: &Server) -> Self {
        let mut socket = within("a connection", TcpStream::connect(server.address()))
            .await
            .unwrap();
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let mut client = Self {
            socket,
            last_stream: 0,
        };
        // SETTINGS_INITIAL_WINDOW_SIZE
        client.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
        client
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.socket.write_all(&frame).await.unwrap();
    }

    /// Sends a request, and returns its stream.
    async fn request(&mut self, method: &str, path: &str, body: &str) -> u32 {
        let end = if body.is_empty() { END_STREAM } else { 0 };
        let stream = self.head(method, path, end).await;
        if !body.is_empty() {
            self.send(DATA, END_STREAM, stream, body.as_bytes()).await;
        }
        stream
    }

    /// Begins a request whose body is still to come, and returns its stream.
    async fn begin(&mut self, method: &str, path: &str) -> u32 {
        self.head(method, path, 0).await
    }

    async fn head(&mut self, method: &str, path: &str, end: u8) -> u32 {
        let stream = self.last_stream + 1;
        self.last_stream += 2;
        let mut fields = Vec::new();
        for (name, value) in [
            (":method", method),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", path),
            ("content-type", "application/json"),
        ] {
            // A literal field without indexing: RFC 7541, section 6.2.2.
            for text in [name, value] {
                let length = u8::try_from(text.len()).unwrap();
                assert!(length < 0x7f, "a length of one byte");
                if text == name {
                    fields.push(0);
                }
                fields.push(length);
                fields.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS | end, stream, &fields).await;
        stream
    }

    /// Requests a history of more than [`SIZE`] bytes.
    async fn history(&mut self) -> u32 {
        let path = "/v1/rpc/StreamService/GetHistory";
        self.request("POST", path, r#"{"channel":"demo:a"}"#).await
    }

    /// The next frame that is not about the connection.
    async fn next(&mut self) -> Frame {
        loop {
            let mut head = [0; 9];
            let read = self.socket.read_exact(&mut head);
            within("a frame", read).await.unwrap();
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            let read = self.socket.read_exact(&mut payload);
            within("a payload", read).await.unwrap();
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await,
                DATA | HEADERS | RST_STREAM => {
                    let stream = u32::from_be_bytes(stream);
                    return Frame {
                        kind,
                        flags,
                        stream,
                        payload,
                    };
                }
                _ => {}
            }
        }
    }

    /// Opens the window of a stream.
    async fn open_window(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
            .await;
    }
}

/// A server with a history of more than [`SIZE`] bytes, where one response fills a connection.
async fn server_with_history(builder: ServerBuilder) -> Server {
    let server = builder.set("limits", "response_bytes = 4096").start().await;
    server.publish("demo:a", json!("x".repeat(SIZE))).await;
    server
}

/// Waits until no byte waits for a client.
async fn until_nothing_waits(server: &Server) {
    server
        .metric_until("tidewire_outbox_bytes", "", |bytes| bytes == 0.0)
        .await;
}

#[tokio::test]
async fn a_request_waits_until_an_earlier_response_is_read() {
    let server = server_with_history(Server::builder()).await;
    let mut client = Http2::connect(&server).await;
    let first = client.history().await;
    let frame = client.next().await;
    assert_eq!((frame.kind, frame.stream), (HEADERS, first));
    server
        .metric_until("tidewire_outbox_bytes", "", |bytes| bytes >= SIZE as f64)
        .await;
    let second = client.history().await;
    client.open_window(0, 1 << 20).await;
    client.open_window(first, 1 << 20).await;
    let mut bytes = 0;
    loop {
        let frame = client.next().await;
        if frame.stream == second {
            // It came after all bytes of the first response.
            assert!(frame.kind == HEADERS && bytes > SIZE, "{bytes}");
            break;
        }
        assert_eq!((frame.kind, frame.stream), (DATA, first));
        bytes += frame.payload.len();
    }
    client.open_window(second, 1 << 20).await;
    let mut bytes = 0;
    loop {
        let frame = client.next().await;
        if frame.stream == second {
            bytes += frame.payload.len();
            if frame.flags & END_STREAM > 0 {
                break;
            }
        }
    }
    assert!(bytes > SIZE, "{bytes}");
    until_nothing_waits(&server).await;
}

#[tokio::test]
async fn unread_responses_are_reset() {
    let builder = Server::builder().set("limits", "response_timeout = \"300ms\"");
    let server = server_with_history(builder).await;
    let mut client = Http2::connect(&server).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(client.history().await);
    }
    while !open.is_empty() {
        let frame = client.next().await;
        match frame.kind {
            HEADERS => {}
            RST_STREAM => open.retain(|stream| *stream != frame.stream),
            _ => panic!("there is no window: {frame:?}"),
        }
    }
    until_nothing_waits(&server).await;
    // The connection still serves a client that reads.
    let read = client.history().await;
    client.open_window(0, 1 << 20).await;
    client.open_window(read, 1 << 20).await;
    while client.next().await.flags & END_STREAM == 0 {}
}

#[tokio::test]
async fn requests_that_do_not_end_are_bounded_together() {
    const PART: usize = 3_000;
    let server = server_with_history(Server::builder()).await;
    let mut client = Http2::connect(&server).await;
    let path = "/v1/rpc/StreamService/GetHistory";
    let mut open = Vec::new();
    for _ in 0..20 {
        let stream = client.begin("POST", path).await;
        client.send(DATA, 0, stream, &[b' '; PART]).await;
        open.push(stream);
    }
    // Each that exceeds the bound is refused before it ends, and its bytes leave with it.
    let mut waiting = open.split_off(1);
    while !waiting.is_empty() {
        let frame = client.next().await;
        assert!(!open.contains(&frame.stream), "{frame:?}");
        waiting.retain(|stream| *stream != frame.stream);
    }
    server
        .metric_until("tidewire_outbox_bytes", "", |bytes| {
            (PART as f64..4_096.0 + 20.0 * 400.0).contains(&bytes)
        })
        .await;
}

#[tokio::test]
async fn an_unread_event_stream_is_reset() {
    let builder = Server::builder().set("limits", "response_timeout = \"300ms\"");
    let server = server_with_history(builder).await;
    let mut client = Http2::connect(&server).await;
    let stream = client.request("GET", "/v1/sse?channels=demo:a", "").await;
    loop {
        let frame = client.next().await;
        assert_eq!(frame.stream, stream);
        if frame.kind == RST_STREAM {
            break;
        }
        assert_eq!(frame.kind, HEADERS);
    }
    server
        .metric_until("tidewire_connections", "sse", |count| count == 0.0)
        .await;
    until_nothing_waits(&server).await;
}

/// Sends a request over HTTP/1.1 with a small receive buffer.
async fn request_http1(server: &Server, request: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let stream = within("a connection", socket.connect(server.address()));
    let mut stream = stream.await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn an_unread_response_ends_its_http1_connection() {
    const LONG: usize = 4 << 20;
    let server = Server::builder()
        .set("limits", "response_timeout = \"300ms\"")
        .set("limits", &format!("frame_bytes = {}", 2 * LONG))
        .set("limits", &format!("outbox_bytes = {}", 2 * LONG))
        .start()
        .await;
    server.publish("demo:a", json!("x".repeat(LONG))).await;
    let body = r#"{"channel":"demo:a"}"#;
    let request = format!(
        "POST /v1/rpc/StreamService/GetHistory HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut unread = request_http1(&server, &request).await;
    server
        .metric_until("tidewire_outbox_bytes", "", |bytes| bytes > 0.0)
        .await;
    until_nothing_waits(&server).await;
    let mut answer = Vec::new();
    // The end, or a reset.
    let _ = within("the end", unread.read_to_end(&mut answer)).await;
    assert!(answer.len() < LONG, "{}", answer.len());
    // The same for a stream of events.
    let request = "GET /v1/sse?channels=demo:a HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let _unread = request_http1(&server, request).await;
    server
        .metric_until("tidewire_connections", "sse", |count| count == 1.0)
        .await;
    server.publish("demo:a", json!("x".repeat(LONG))).await;
    server
        .metric_until("tidewire_connections", "sse", |count| count == 0.0)
        .await;
}
