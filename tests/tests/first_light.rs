//! What every client relies on, on the real binary over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};
use tidewire_proto::v1::{
    PublishRequest, SubscribeRequest, server_message::Data,
    stream_service_client::StreamServiceClient,
};
use tidewire_tests::Server;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data as Opcode, OpCode},
    },
};
use tonic::transport::Channel;

const SAMPLE: &[&str] = &["replay", "--loop"];

async fn subscribe(client: &mut tidewire_tests::Client, channels: Value) -> Value {
    client
        .say(&json!({"type": "subscribe", "id": "s", "data": {"channels": channels}}).to_string())
        .await;
    client.next_of("subscribed").await["data"]["channels"].take()
}

async fn publish(server: &Server, channel: &str, data: u64) -> Value {
    let body = json!({"channel": channel, "data": data}).to_string();
    server.rpc("StreamService/Publish", &body, None).await.1
}

#[tokio::test]
async fn messages_come_in_order_and_are_recovered_whole() {
    let server = Server::start(SAMPLE, "").await;
    let mut client = server.connect(None).await;
    assert_eq!(client.next().await["type"], "welcome");
    let joined = subscribe(&mut client, json!(["demo:a", "nope", "nope:a"])).await;
    assert_eq!(joined[0]["seq"], 0);
    assert_eq!(joined[1]["error"]["code"], "invalid_argument");
    assert_eq!(joined[2]["error"]["code"], "not_found");
    for number in 1..=3 {
        assert_eq!(publish(&server, "demo:a", number).await["seq"], number);
        let message = client.next_of("message").await;
        assert_eq!(
            (&message["seq"], &message["data"]),
            (&json!(number), &json!(number))
        );
    }
    let epoch = joined[0]["epoch"].clone();
    drop(client);
    for number in 4..=60 {
        publish(&server, "demo:a", number).await;
    }
    let mut client = server.connect(None).await;
    let since = json!([{"channel": "demo:a", "since": {"epoch": epoch, "seq": 3}}]);
    let again = subscribe(&mut client, since).await;
    assert_eq!(
        (&again[0]["recovered"], &again[0]["seq"]),
        (&json!(true), &json!(60))
    );
    for number in 4..=60 {
        assert_eq!(client.next_of("message").await["seq"], number);
    }
    let lost = subscribe(
        &mut client,
        json!([{"channel": "demo:a", "since": {"epoch": "other", "seq": 3}}]),
    )
    .await;
    assert_eq!(lost[0]["recovered"], false);
}

#[tokio::test]
async fn bad_input_is_answered_and_the_connection_stays() {
    let server = Server::start(SAMPLE, "").await;
    let mut client = server.connect(None).await;
    for (text, code, id) in [
        ("{", "invalid_argument", Value::Null),
        (r#"{"type":"nope","id":"1"}"#, "unimplemented", json!("1")),
        (
            r#"{"type":"subscribe","id":"2","data":{"channels":7}}"#,
            "invalid_argument",
            json!("2"),
        ),
        (
            r#"{"type":"watch","id":"3","data":{"chain":1}}"#,
            "unimplemented",
            json!("3"),
        ),
        (
            r#"{"type":"publish","id":"4","data":{"channel":"prices:BTC-USD","data":1}}"#,
            "permission_denied",
            json!("4"),
        ),
    ] {
        client.say(text).await;
        let error = client.next_of("error").await;
        assert_eq!(
            (&error["data"]["code"], &error["id"]),
            (&json!(code), &id),
            "{text}"
        );
    }
    client
        .say(r#"{"type":"ping","id":"5","data":{"t":1.5}}"#)
        .await;
    assert_eq!(client.next_of("pong").await["data"]["t"], 1.5);
}

#[tokio::test]
async fn broken_frames_close_with_their_code() {
    let server = Server::start(SAMPLE, "").await;
    let invalid = Frame::message(vec![0xff, 0xfe], OpCode::Data(Opcode::Text), true);
    let cases = [
        (Message::binary(vec![1]), 1003),
        (Message::text("x".repeat(70_000)), 1009),
        (Message::Frame(invalid), 1007),
    ];
    for (message, code) in cases {
        let mut client = server.connect(None).await;
        client.next_of("welcome").await;
        client.send(message).await;
        assert_eq!(client.closed().await, code);
    }
}

#[tokio::test]
async fn tokens_decide_who_reads_and_who_publishes() {
    let server = Server::start(SAMPLE, "[[namespace]]\nname = \"orders\"").await;
    let (ada, service) = (
        server.token(&["--user", "ada"]).await,
        server.token(&["--user", "s", "--scope", "service"]).await,
    );
    let body = r#"{"channel":"orders:1","data":{}}"#;
    assert!(
        server
            .rpc("StreamService/Publish", body, None)
            .await
            .0
            .contains("403")
    );
    assert!(
        server
            .rpc("StreamService/Publish", body, Some(&ada))
            .await
            .0
            .contains("403")
    );
    assert!(
        server
            .rpc("StreamService/Publish", body, Some(&service))
            .await
            .0
            .contains("200")
    );
    assert!(
        server
            .rpc("StreamService/Publish", body, Some("bad"))
            .await
            .0
            .contains("401")
    );
    let mut client = server.connect(Some(&ada)).await;
    let welcome = client.next().await;
    assert_eq!(welcome["data"]["userId"], "ada");
    assert_eq!(welcome["data"]["subscriptions"][0]["channel"], "user:ada");
    server
        .rpc(
            "StreamService/SendToUser",
            r#"{"user":"ada","data":"hi"}"#,
            Some(&service),
        )
        .await;
    assert_eq!(client.next_of("message").await["data"], "hi");
    let other = subscribe(&mut client, json!(["user:bob"])).await;
    assert_eq!(other[0]["error"]["code"], "permission_denied");
}

#[tokio::test]
async fn prices_are_the_same_on_every_transport() {
    let server = Server::start(&["replay", "--speed", "max"], "").await;
    let price = loop {
        let (_, price) = server
            .rpc("PriceService/GetPrice", r#"{"symbol":"BTC-USD"}"#, None)
            .await;
        let (_, sources) = server.rpc("PriceService/ListSources", "", None).await;
        let frames: u64 = sources["sources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["frames"].as_u64().unwrap())
            .sum();
        if frames == 1_758 {
            break price["price"].clone();
        }
    };
    let mut client = server.connect(None).await;
    subscribe(&mut client, json!(["prices:BTC-USD"])).await;
    let pushed = client.next_of("price").await;
    assert_eq!(
        (&pushed["data"]["price"], &pushed["data"]["sample"]),
        (&price, &json!(true))
    );
    let events = server
        .http("GET /v1/sse?channels=prices:BTC-USD HTTP/1.1", "", |text| {
            text.contains("event: price")
        })
        .await;
    assert!(events.contains(&format!("\"price\":{price}")), "{events}");
    let channel = Channel::from_shared(format!("http://{}", server.address))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let request = SubscribeRequest {
        channels: vec![tidewire_proto::v1::ChannelSubscription {
            channel: "prices:BTC-USD".into(),
            ..Default::default()
        }],
    };
    let mut stream = StreamServiceClient::new(channel)
        .subscribe(request)
        .await
        .unwrap()
        .into_inner();
    let grpc = loop {
        if let Some(Data::Price(update)) = stream.message().await.unwrap().unwrap().data {
            break update.price.unwrap().value;
        }
    };
    assert_eq!(grpc, price.to_string());
}

#[tokio::test]
async fn grpc_publishes_and_sse_resumes() {
    let server = Server::start(SAMPLE, "").await;
    let channel = Channel::from_shared(format!("http://{}", server.address))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut grpc = StreamServiceClient::new(channel);
    for number in 1..=3 {
        let request = PublishRequest {
            channel: "demo:b".into(),
            data: number.to_string().into(),
            ..Default::default()
        };
        assert_eq!(
            grpc.publish(request).await.unwrap().into_inner().seq,
            number
        );
    }
    let head = "GET /v1/sse?channels=demo:b HTTP/1.1";
    let first = server
        .http(head, "", |text| text.contains("event: subscribed"))
        .await;
    assert!(!first.contains("event: message"));
    let bad = server
        .http(
            "GET /v1/sse?channels=demo:b&lastEventId=!! HTTP/1.1",
            "",
            |_| false,
        )
        .await;
    assert!(
        bad.contains("400") && bad.contains("invalid_argument"),
        "{bad}"
    );
}

#[tokio::test]
async fn a_stop_tells_everyone_to_come_back() {
    let server = Server::start(SAMPLE, "[server]\ndrain = \"1s\"").await;
    let mut client = server.connect(None).await;
    client.next_of("welcome").await;
    let (code, closed) = tokio::join!(server.stop(), async {
        let reconnect = client.next_of("reconnect").await;
        assert!(reconnect["data"]["afterMs"].is_u64());
        client.closed().await
    });
    assert_eq!((code, closed), (Some(0), 4003));
}
