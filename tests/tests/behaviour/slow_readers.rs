//! Slow readers: what a client leaves unread arrives when it reads on, without a further
//! message that would push it.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tidewire_proto::v1::{
    ChannelSubscription, SubscribeRequest, server_message::Data,
    stream_service_client::StreamServiceClient,
};
use tidewire_tests::{
    Server,
    client::grpc,
    tls::{self, over_tls},
    within,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpSocket,
};
use tokio_tungstenite::{client_async, tungstenite::Message as Frame};

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

#[tokio::test]
async fn a_websocket_gets_all_of_a_burst() {
    a_websocket_reads_a_burst_late().await;
}

#[tokio::test]
async fn a_websocket_over_tls_gets_all_of_a_burst() {
    over_tls(a_websocket_reads_a_burst_late()).await;
}

async fn a_websocket_reads_a_burst_late() {
    let server = Server::start().await;
    for burst in BURSTS {
        let channel = format!("demo:{burst}");
        let stream = dial(&server).await;
        let (mut socket, _) = within("a WebSocket", client_async("ws://127.0.0.1/v1/ws", stream))
            .await
            .unwrap();
        let subscribe = json!({"type": "subscribe", "id": "1", "data": {"channels": [channel]}});
        socket
            .send(Frame::text(subscribe.to_string()))
            .await
            .unwrap();
        let mut next = async || {
            let frame = within(format!("a frame of {burst}"), socket.next()).await;
            match frame.unwrap().unwrap() {
                Frame::Text(text) => serde_json::from_str::<Value>(&text).unwrap(),
                other => panic!("the server waited until it had to send {other:?}"),
            }
        };
        while next().await["type"] != "subscribed" {}
        publish(&server, &channel, burst).await;
        for number in 1..=burst {
            let message = next().await;
            assert_eq!(
                (&message["seq"], &message["data"]["n"]),
                (&json!(number), &json!(number))
            );
        }
    }
}

#[tokio::test]
async fn an_event_stream_gets_all_of_a_burst() {
    an_event_stream_reads_a_burst_late().await;
}

#[tokio::test]
async fn an_event_stream_over_tls_gets_all_of_a_burst() {
    over_tls(an_event_stream_reads_a_burst_late()).await;
}

async fn an_event_stream_reads_a_burst_late() {
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

#[tokio::test]
async fn a_call_gets_all_of_a_burst() {
    a_call_reads_a_burst_late().await;
}

#[tokio::test]
async fn a_call_over_tls_gets_all_of_a_burst() {
    over_tls(a_call_reads_a_burst_late()).await;
}

async fn a_call_reads_a_burst_late() {
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
