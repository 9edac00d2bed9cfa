//! Slow readers: what a client leaves unread arrives when it reads on, without a further
//! message that would push it.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tidewire_proto::v1::{
    ChannelSubscription, SubscribeRequest, server_message::Data,
    stream_service_client::StreamServiceClient,
};
use tidewire_tests::{Server, Token, client::grpc, tls, within};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpSocket,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message as Frame};

on_tcp_and_tls!(
    a_websocket_gets_all_of_a_burst,
    an_event_stream_gets_all_of_a_burst,
    a_call_gets_all_of_a_burst,
    a_long_message_counts_until_it_is_read,
    an_urgent_notification_passes_over_what_waits,
);

/// Numbers of publications in a burst. With 8 KB each, the bursts end at many places within
/// the buffers of the kernel and of TLS.
const BURSTS: [u64; 8] = [4, 10, 13, 16, 19, 22, 28, 40];

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects with a small receive buffer.
async fn dial(server: &Server) -> Box<dyn Duplex> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let stream = within("a connection", socket.connect(server.address()));
    let stream = stream.await.unwrap();
    match server.authority() {
        Some(authority) => {
            let config = authority.client_config("http/1.1", None);
            let stream = within("a TLS handshake", tls::handshake(stream, config));
            Box::new(stream.await.unwrap())
        }
        None => Box::new(stream),
    }
}

async fn publish(server: &Server, channel: &str, burst: u64) {
    for number in 1..=burst {
        let data = json!({"n": number, "filler": "x".repeat(8_000)});
        assert_eq!(server.publish(channel, data).await["seq"], number);
    }
}

type Socket = WebSocketStream<Box<dyn Duplex>>;

/// Opens a WebSocket that is subscribed to a channel.
async fn subscribed_socket(server: &Server, channel: &str) -> Socket {
    let stream = dial(server).await;
    let opening = client_async("ws://127.0.0.1/v1/ws", stream);
    let (mut socket, _) = within("a WebSocket", opening).await.unwrap();
    let subscribe = json!({"type": "subscribe", "id": "1", "data": {"channels": [channel]}});
    socket
        .send(Frame::text(subscribe.to_string()))
        .await
        .unwrap();
    while next_frame(&mut socket).await["type"] != "subscribed" {}
    socket
}

async fn next_frame(socket: &mut Socket) -> Value {
    match within("a frame", socket.next()).await.unwrap().unwrap() {
        Frame::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("the server waited until it had to send {other:?}"),
    }
}

async fn a_websocket_gets_all_of_a_burst() {
    let server = Server::start().await;
    for burst in BURSTS {
        let channel = format!("demo:{burst}");
        let mut socket = subscribed_socket(&server, &channel).await;
        publish(&server, &channel, burst).await;
        for number in 1..=burst {
            let message = next_frame(&mut socket).await;
            assert_eq!(
                (&message["seq"], &message["data"]["n"]),
                (&json!(number), &json!(number))
            );
        }
    }
}

async fn an_urgent_notification_passes_over_what_waits() {
    const BURST: u64 = 120;
    let server = Server::start().await;
    let mut socket = subscribed_socket(&server, "demo:slow").await;
    let auth = json!({"type": "auth", "id": "2", "data": {"token": Token::of("ada").sign()}});
    socket.send(Frame::text(auth.to_string())).await.unwrap();
    while next_frame(&mut socket).await["type"] != "authenticated" {}
    publish(&server, "demo:slow", BURST).await;
    for title in ["First", "Second"] {
        let body = json!({"user": "ada", "notification": {
            "type": "security_warning", "title": title, "priority": "urgent",
        }});
        let token = Token::service();
        let sent = server
            .call("NotifyService/Notify", Some(&token), &body)
            .await;
        assert_eq!(sent.status, 200, "{}", sent.body);
    }
    let (mut numbers, mut before) = (Vec::new(), Vec::new());
    while numbers.len() < BURST as usize {
        let frame = next_frame(&mut socket).await;
        match frame["channel"].as_str() {
            Some("demo:slow") => numbers.push(frame["seq"].as_u64().unwrap()),
            Some("user:ada") => before.push((frame["seq"].clone(), numbers.len())),
            _ => {}
        }
    }
    // The socket has as many as its buffers hold. All others come later, and none is lost.
    assert_eq!(numbers, (1..=BURST).collect::<Vec<_>>());
    let [(first, passed), (second, again)] = &before[..] else {
        panic!("{before:?}");
    };
    assert_eq!((first, second), (&json!(1), &json!(2)));
    assert!(passed <= again && *again < 100, "{before:?}");
}

/// A message that is longer than an outbox, and than the buffers of a socket.
const LONG: usize = 1 << 20;

async fn a_long_message_counts_until_it_is_read() {
    let server = Server::builder()
        .set("limits", &format!("frame_bytes = {}", 2 * LONG))
        .start()
        .await;
    let mut socket = subscribed_socket(&server, "demo:a").await;
    let long = Value::from("x".repeat(LONG));
    server.publish("demo:a", long.clone()).await;
    // The outbox is empty: the bytes wait where the kernel has no room for them.
    let is_most = |bytes: f64| bytes > LONG as f64 / 2.0;
    server
        .metric_until("tidewire_outbox_bytes", "", is_most)
        .await;
    assert_eq!(next_frame(&mut socket).await["data"], long);
    let is_none = |bytes: f64| bytes == 0.0;
    server
        .metric_until("tidewire_outbox_bytes", "", is_none)
        .await;
}

async fn an_event_stream_gets_all_of_a_burst() {
    let server = Server::start().await;
    for burst in BURSTS {
        let channel = format!("demo:{burst}");
        let mut stream = dial(&server).await;
        let request = format!("GET /v1/sse?channels={channel} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut line_of = async |text: &str| {
            within(format!("{text} of {burst}"), async {
                loop {
                    let line = lines.next_line().await.unwrap().unwrap();
                    if line.contains(text) {
                        return line;
                    }
                }
            })
            .await
        };
        line_of("\"subscribed\"").await;
        publish(&server, &channel, burst).await;
        for number in 1..=burst {
            let line = line_of("\"message\"").await;
            assert!(line.contains(&format!("\"seq\":{number},")), "{line:.200}");
        }
    }
}

async fn a_call_gets_all_of_a_burst() {
    let server = Server::start().await;
    for burst in BURSTS {
        let channel = format!("demo:{burst}");
        let mut client = StreamServiceClient::new(grpc::channel(&server).await);
        let subscribe = SubscribeRequest {
            channels: vec![ChannelSubscription {
                channel: channel.clone(),
                ..Default::default()
            }],
        };
        let stream = client.subscribe(grpc::request(subscribe, None)).await;
        let mut stream = stream.unwrap().into_inner();
        let mut next = async || {
            let message = within(format!("a message of {burst}"), stream.message()).await;
            message.unwrap().expect("the stream goes on")
        };
        while !matches!(next().await.data, Some(Data::Subscribed(_))) {}
        publish(&server, &channel, burst).await;
        let mut number = 0;
        while number < burst {
            let message = next().await;
            if message.channel.is_some() {
                number += 1;
                assert_eq!(message.seq, Some(number));
            }
        }
    }
}
