//! Native gRPC and gRPC-Web: unary calls, streams, health, reflection.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tidewire_proto::{
    prost::Message as _,
    v1::{
        ChannelSubscription, GetHistoryRequest, GetLatestBlockRequest, GetMarketOverviewRequest,
        GetPriceRequest, ListAlertsRequest, ListSourcesRequest, ListSourcesResponse, Position,
        PublishBatchRequest, PublishRequest, ServerMessage, SubscribeRequest,
        alert_service_client::AlertServiceClient, price_service_client::PriceServiceClient,
        publish_result, server_message::Data, stream_service_client::StreamServiceClient,
        watch_service_client::WatchServiceClient,
    },
};
use tidewire_tests::{
    Client, Close, Message, Server, Token, Transport,
    client::grpc::{channel, request},
    within,
};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

fn publication(channel: &str, data: &'static str) -> PublishRequest {
    PublishRequest {
        channel: channel.to_owned(),
        data: Bytes::from_static(data.as_bytes()),
        idempotency_key: None,
    }
}

#[tokio::test]
async fn the_stream_service_replies() {
    let server = Server::builder()
        .namespace("orders", "publish = \"service\"")
        .start()
        .await;
    let mut client = StreamServiceClient::new(channel(&server).await);
    let published = client
        .publish(publication("demo:a", "{\"n\":1}"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((published.channel.as_str(), published.seq), ("demo:a", 1));
    let batch = PublishBatchRequest {
        publications: vec![
            publication("demo:a", "2"),
            publication("nope:a", "3"),
            publication("demo:a", "{not json"),
            publication("orders:a", "4"),
        ],
    };
    let results = client
        .publish_batch(batch)
        .await
        .unwrap()
        .into_inner()
        .results;
    let codes: Vec<_> = results
        .iter()
        .map(|result| match result.result.as_ref().unwrap() {
            publish_result::Result::Published(published) => format!("seq {}", published.seq),
            publish_result::Result::Error(error) => format!("{:?}", error.code()),
        })
        .collect();
    assert_eq!(
        codes,
        ["seq 2", "NotFound", "InvalidArgument", "PermissionDenied"]
    );
    let order = request(publication("orders:a", "4"), Some(&Token::service()));
    assert_eq!(client.publish(order).await.unwrap().into_inner().seq, 1);
    let refused = client
        .publish(publication("orders:a", "4"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let since = Some(Position {
        epoch: published.epoch.clone(),
        seq: 1,
    });
    let asked = GetHistoryRequest {
        channel: "demo:a".to_owned(),
        since,
        limit: None,
    };
    let history = client.get_history(asked).await.unwrap().into_inner();
    assert_eq!((history.seq, history.messages.len()), (2, 1));
    assert_eq!(
        history.messages[0].data,
        Some(Data::Message(Bytes::from_static(b"2")))
    );
}

#[tokio::test]
async fn an_oversized_message_is_invalid() {
    let server = Server::builder()
        .set("limits", "frame_bytes = 2048")
        .start()
        .await;
    let mut client = StreamServiceClient::new(channel(&server).await);
    let publication = PublishRequest {
        channel: "demo:a".to_owned(),
        data: Bytes::from(format!("{:?}", "x".repeat(3_000))),
        idempotency_key: None,
    };
    let subscription = ChannelSubscription {
        channel: "x".repeat(3_000),
        ..ChannelSubscription::default()
    };
    let subscribe = SubscribeRequest {
        channels: vec![subscription],
    };
    for status in [
        client.publish(publication.clone()).await.unwrap_err(),
        client.subscribe(subscribe).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(
            status.message().contains("at most 2048 bytes"),
            "{status:?}"
        );
    }
    let message = publication.encode_to_vec();
    let answer = web(&server, "/tidewire.v1.StreamService/Publish", &message).await;
    assert_eq!(answer.status, Some(Code::InvalidArgument as i32));
    // A message of a stream ends it.
    let mut stream = Client::connect(Transport::Grpc, &server).await;
    let long = json!({"channel": "demo:a", "data": "x".repeat(3_000)});
    stream.send(&json!({"type": "publish", "data": long})).await;
    let (messages, close) = stream.drain().await;
    let last = messages.last().expect("an error message");
    assert_eq!(last.error_code(), "invalid_argument");
    let is_invalid = matches!(&close, Close::Grpc { code, .. } if *code == Code::InvalidArgument);
    assert!(is_invalid, "{close:?}");
    // The longest message that is allowed.
    let fits = PublishRequest {
        data: Bytes::from(format!("{:?}", "x".repeat(2_048 - 8 - 3 - 2))),
        ..publication
    };
    assert_eq!(fits.encoded_len(), 2_048);
    client.publish(fits).await.unwrap();
}

#[tokio::test]
async fn a_malformed_request_is_the_clients_fault() {
    let server = Server::start().await;
    let publish = "/tidewire.v1.StreamService/Publish";
    // A field of six bytes with three, and a field without an end.
    for message in [&b"\x0a\x06dem"[..], &[0xff; 4]] {
        let answer = web(&server, publish, message).await;
        assert_eq!(answer.status, Some(Code::InvalidArgument as i32));
    }
    let connect = "/tidewire.v1.StreamService/Subscribe";
    let answer = web(&server, connect, &[0xff; 4]).await;
    assert_eq!(answer.status, Some(Code::InvalidArgument as i32));
}

#[tokio::test]
async fn the_price_service_replies() {
    let server = Server::builder()
        .set("prices", "symbols = [\"BTC-USD\"]")
        .source("coinbase", "coinbase", "ws://127.0.0.1:1")
        .start()
        .await;
    let mut client = PriceServiceClient::new(channel(&server).await);
    let btc = GetPriceRequest {
        symbol: "BTC-USD".to_owned(),
    };
    let price = client.get_price(btc).await.unwrap().into_inner();
    // Without data, no value is invented.
    assert_eq!(
        (price.price.is_none(), price.stale, price.sources),
        (true, true, 0)
    );
    assert_eq!(price.source_details.len(), 1);
    let typo = GetPriceRequest {
        symbol: "BTC-USB".to_owned(),
    };
    let unknown = client.get_price(typo).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    // A client reads 8 KiB of metadata by default, and takes a longer error for another one.
    let long = GetPriceRequest {
        symbol: "A".repeat(60_000),
    };
    let unknown = client.get_price(long).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().len() <= 2_048);
    assert!(
        unknown.message().contains("BTC-USD"),
        "{}",
        unknown.message()
    );
    let overview = client
        .get_market_overview(GetMarketOverviewRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(overview.coverage.unwrap().symbols, 1);
    let sources = client
        .list_sources(ListSourcesRequest {})
        .await
        .unwrap()
        .into_inner()
        .sources;
    assert_eq!(sources[0].url, "ws://127.0.0.1:1");
}

#[tokio::test]
async fn subscribe_begins_with_welcome_and_recovers() {
    let server = Server::start().await;
    let epoch = server.publish("demo:a", json!(1)).await["epoch"]
        .as_str()
        .unwrap()
        .to_owned();
    for number in 2..=5 {
        server.publish("demo:a", json!(number)).await;
    }
    let mut client = StreamServiceClient::new(channel(&server).await);
    let wanted = SubscribeRequest {
        channels: vec![ChannelSubscription {
            channel: "demo:a".to_owned(),
            since: Some(Position { epoch, seq: 3 }),
            min_interval_ms: None,
        }],
    };
    let mut stream = client.subscribe(wanted).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.kind, "welcome");
    let subscribed = next(&mut stream).await.expect("subscribed");
    assert_eq!(subscribed.data["channels"][0]["recovered"], true);
    server.publish("demo:a", json!(6)).await;
    for number in 4..=6 {
        let message = next(&mut stream).await;
        assert_eq!((message.seq, &message.data), (Some(number), &json!(number)));
    }
}

async fn next(stream: &mut Streaming<ServerMessage>) -> Message {
    let message = within("a message", stream.message())
        .await
        .unwrap()
        .expect("a message");
    Message::from_proto(&message)
}

#[tokio::test]
async fn unbuilt_methods_are_unimplemented() {
    let server = Server::start().await;
    let channel = channel(&server).await;
    let token = Token::of("operator").scope("admin service").sign();
    let token = Some(token.as_str());
    // Each may be implemented later and reply otherwise. The call itself always works.
    let chain = GetLatestBlockRequest::default();
    let statuses = [
        WatchServiceClient::new(channel.clone())
            .get_latest_block(request(chain, token))
            .await
            .err(),
        AlertServiceClient::new(channel)
            .list_alerts(request(ListAlertsRequest::default(), token))
            .await
            .err(),
    ];
    for status in statuses.into_iter().flatten() {
        let is_an_answer = matches!(
            status.code(),
            Code::Unimplemented | Code::InvalidArgument | Code::NotFound
        );
        assert!(is_an_answer, "{status:?}");
    }
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let server = Server::start().await;
    for path in [
        "/tidewire.v1.StreamService/NoSuch",
        "/tidewire.v1.WatchService/NoSuch",
    ] {
        let response = web(&server, path, &[]).await;
        assert_eq!(response.status, Some(Code::Unimplemented as i32), "{path}");
    }
}

#[tokio::test]
async fn grpc_health_lists_the_services() {
    let server = Server::start().await;
    let mut client = HealthClient::new(channel(&server).await);
    for service in ["", "tidewire.v1.StreamService", "tidewire.v1.PriceService"] {
        let asked = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = client.check(asked).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let asked = HealthCheckRequest {
        service: "no.such.Service".to_owned(),
    };
    assert_eq!(
        client.check(asked).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let server = Server::start().await;
    let mut client = ServerReflectionClient::new(channel(&server).await);
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = futures::stream::once(async { asked });
    let mut answers = client
        .server_reflection_info(asked)
        .await
        .unwrap()
        .into_inner();
    let answer = within("an answer", answers.message())
        .await
        .unwrap()
        .unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for service in ["Stream", "Price", "Watch", "Notify", "Alert", "Admin"] {
        let name = format!("tidewire.v1.{service}Service");
        assert!(names.contains(&name.as_str()), "{name} is not in {names:?}");
    }
}

/// A gRPC-Web response.
#[derive(Debug)]
pub(crate) struct WebAnswer {
    pub(crate) messages: Vec<Bytes>,
    pub(crate) status: Option<i32>,
}

impl WebAnswer {
    /// Consumes complete frames: a flag, a length, and a message or trailers.
    fn read(&mut self, buffer: &mut BytesMut) {
        while buffer.len() >= 5 {
            let length = u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize;
            if buffer.len() < 5 + length {
                return;
            }
            let is_trailer = buffer[0] & 0x80 != 0;
            buffer.advance(5);
            let frame = buffer.split_to(length).freeze();
            if !is_trailer {
                self.messages.push(frame);
                continue;
            }
            let trailers = String::from_utf8(frame.to_vec()).unwrap();
            let status = trailers
                .lines()
                .find_map(|line| line.strip_prefix("grpc-status:"));
            self.status = status.map(|status| status.trim().parse().unwrap());
        }
    }
}

/// Starts a gRPC-Web call on HTTP/1.1.
async fn begin(server: &Server, path: &str, message: &[u8]) -> reqwest::Response {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap());
    body.put_slice(message);
    let request = server.http().post(server.url(path));
    let request = request
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .header("origin", "http://localhost:3000");
    let response = within("an answer", request.body(body.freeze()).send())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let allowed = &response.headers()["access-control-allow-origin"];
    assert_eq!(allowed, "http://localhost:3000");
    response
}

/// Makes a gRPC-Web call and reads the whole response.
pub(crate) async fn web(server: &Server, path: &str, message: &[u8]) -> WebAnswer {
    let response = begin(server, path, message).await;
    let header = response.headers().get("grpc-status");
    let status = header.map(|status| status.to_str().unwrap().parse().unwrap());
    let mut answer = WebAnswer {
        messages: Vec::new(),
        status,
    };
    let mut body = BytesMut::from(&within("the body", response.bytes()).await.unwrap()[..]);
    answer.read(&mut body);
    assert!(body.is_empty(), "a frame is cut off");
    answer
}

#[tokio::test]
async fn browsers_call_over_grpc_web() {
    let server = Server::start().await;
    let asked = publication("demo:a", "1").encode_to_vec();
    let answer = web(&server, "/tidewire.v1.StreamService/Publish", &asked).await;
    assert_eq!((answer.messages.len(), answer.status), (1, Some(0)));
    let answer = web(&server, "/tidewire.v1.PriceService/ListSources", &[]).await;
    ListSourcesResponse::decode(answer.messages[0].clone()).unwrap();
    let unknown = GetPriceRequest {
        symbol: "NO-SUCH".to_owned(),
    }
    .encode_to_vec();
    let answer = web(&server, "/tidewire.v1.PriceService/GetPrice", &unknown).await;
    assert_eq!(
        (answer.messages.len(), answer.status),
        (0, Some(Code::NotFound as i32))
    );
}

#[tokio::test]
async fn browsers_subscribe_over_grpc_web() {
    let server = Server::start().await;
    let wanted = SubscribeRequest {
        channels: vec![ChannelSubscription {
            channel: "demo:a".to_owned(),
            ..ChannelSubscription::default()
        }],
    };
    let path = "/tidewire.v1.StreamService/Subscribe";
    let response = begin(&server, path, &wanted.encode_to_vec()).await;
    let mut chunks = response.bytes_stream();
    let mut buffer = BytesMut::new();
    let mut answer = WebAnswer {
        messages: Vec::new(),
        status: None,
    };
    let mut read = async |count: usize| {
        while answer.messages.len() < count {
            let chunk = within("a chunk", chunks.next()).await.unwrap().unwrap();
            buffer.extend_from_slice(&chunk);
            answer.read(&mut buffer);
        }
        Message::decode(&answer.messages[count - 1])
    };
    assert_eq!(read(1).boxed().await.kind, "welcome");
    assert_eq!(read(2).boxed().await.kind, "subscribed");
    for number in 1..=3 {
        server.publish("demo:a", json!(number)).await;
        assert_eq!(read(2 + number).boxed().await.data, number);
    }
}

/// Status at the end of a stream.
async fn end_of<T>(mut stream: Streaming<T>) -> Status {
    loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "the end has a status"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn a_deadline_ends_a_stream() {
    let server = Server::start().await;
    let mut client = StreamServiceClient::new(channel(&server).await);
    let subscribe = SubscribeRequest {
        channels: vec![ChannelSubscription {
            channel: "demo:a".to_owned(),
            ..ChannelSubscription::default()
        }],
    };
    // Long enough for a response on a busy machine: the client gives up without one.
    const TIMEOUT: Duration = Duration::from_secs(3);
    let mut call = request(subscribe, None);
    call.set_timeout(TIMEOUT);
    let messages = client.subscribe(call).await.unwrap().into_inner();
    let mut health = HealthClient::new(channel(&server).await);
    let mut call = request(HealthCheckRequest::default(), None);
    call.set_timeout(TIMEOUT);
    let changes = health.watch(call).await.unwrap().into_inner();
    let ends = futures::future::join(end_of(messages), end_of(changes));
    let (stream, watch) = within("the deadlines", ends).await;
    assert_eq!(stream.code(), Code::DeadlineExceeded, "{stream:?}");
    assert_eq!(watch.code(), Code::DeadlineExceeded, "{watch:?}");
    let is_none = |connections: f64| connections == 0.0;
    server
        .metric_until("tidewire_connections", "grpc", is_none)
        .await;
}

#[tokio::test]
async fn a_subscribe_without_a_channel_left_ends_with_the_status() {
    let server = Server::start().await;
    let mut client = StreamServiceClient::new(channel(&server).await);
    let subscribe = |names: &[&str]| SubscribeRequest {
        channels: names
            .iter()
            .map(|name| ChannelSubscription {
                channel: (*name).to_owned(),
                ..ChannelSubscription::default()
            })
            .collect(),
    };
    let refused = client.subscribe(subscribe(&["nope:a"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert!(refused.message().contains("nope"), "{refused:?}");
    let refused = client.subscribe(subscribe(&[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let partly = client.subscribe(subscribe(&["nope:a", "demo:a"])).await;
    assert!(partly.is_ok(), "one channel is left");
}
