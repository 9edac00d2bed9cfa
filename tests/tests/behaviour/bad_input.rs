//! Invalid client input, and the replies to it.

use bytes::Bytes;
use serde_json::json;
use tidewire_tests::{
    Client, Refusal, Server, Token, Transport,
    client::{RawSocket, SocketRequest},
};
use tokio_tungstenite::tungstenite::{
    Message as Frame,
    protocol::frame::{
        Frame as RawFrame,
        coding::{Data, OpCode},
    },
};

on_every_transport!(a_long_id_is_refused);

async fn a_long_id_is_refused(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let longest = "i".repeat(255);
    client.send(&json!({"type": "ping", "id": longest})).await;
    let _ = client.reply(&longest).await.expect("pong");
    for message in [
        json!({"type": "ping", "id": "i".repeat(256)}),
        json!({"type": "subscribe", "id": "i".repeat(60_000), "data": {"channels": ["demo:a"]}}),
    ] {
        client.send(&message).await;
        let refused = client.next_of("error").await;
        assert_eq!(refused.error_code(), "invalid_argument");
        assert_eq!(refused.id, None);
        let text = refused.error_message();
        assert!(text.contains("expected at most 255"), "{text}");
    }
    client.subscribe("demo:a").await;
}

on_every_transport!(an_error_does_not_repeat_a_long_text);

/// An error repeats what it refuses, and stays short.
async fn an_error_does_not_repeat_a_long_text(transport: Transport) {
    let server = Server::start().await;
    let token = Token::of("ada").sign();
    let mut client = Client::connect(transport, &server).await;
    let _ = client
        .request("auth", json!({"token": token}))
        .await
        .expect("authenticated");
    // A text that grows when it is quoted.
    let long = "\u{7f}".repeat(60_000);
    let messages = [
        ("get_price", json!({"symbol": long})),
        ("get_candles", json!({"symbol": long, "interval": "1m"})),
        (
            "get_candles",
            json!({"symbol": "BTC-USD", "interval": long}),
        ),
        ("dismiss", json!({"ids": [long]})),
        ("mark_all_read", json!({"upTo": long})),
        ("notifications", json!({"before": long})),
        ("preferences", json!({"mutedTypes": [long]})),
        ("alert_delete", json!({"id": long})),
        (
            "alert_register",
            json!({"condition": {"kind": "price_above", "symbol": long, "threshold": 1}}),
        ),
    ];
    for (kind, data) in messages {
        let refused = client.request(kind, data).await;
        assert_ne!(refused.error_code(), "", "{kind}");
        let length = refused.error_message().len();
        assert!(length <= 2_048, "{kind}: {length} bytes");
    }
}

async fn json_socket(server: &Server) -> RawSocket {
    let (mut socket, _) = SocketRequest::default().open(server).await.unwrap();
    let _ = socket.next().await.expect("welcome");
    socket
}

async fn proto_socket(server: &Server) -> RawSocket {
    let request = SocketRequest::offering("tidewire.v1.proto");
    let (mut socket, _) = request.open(server).await.unwrap();
    let _ = socket.next().await.expect("welcome");
    socket
}

#[tokio::test]
async fn malformed_text_gets_an_error_and_the_connection_stays() {
    let server = Server::start().await;
    let mut socket = json_socket(&server).await;
    for text in [
        "{",
        "",
        "nonsense",
        "[]",
        "42",
        "{\"type\":\"ping\"} x",
        "\"ping\"",
    ] {
        socket.send(Frame::text(text)).await;
        let reply = socket.next().await;
        assert_eq!(reply.error_code(), "invalid_argument", "{text}");
        assert_eq!(reply.id, None, "{text}");
        assert!(!reply.error_message().is_empty());
    }
    socket
        .send(Frame::text(r#"{"type":"ping","id":"1"}"#))
        .await;
    assert_eq!(socket.next().await.expect("pong").id.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_missing_field_is_named_as_missing() {
    let server = Server::start().await;
    let token = Token::of("shop").scope("service admin").sign();
    for (method, body, part) in [
        (
            "PriceService/GetPrice",
            json!({"sym": "BTC-USD"}),
            "`symbol` is missing, expected a symbol",
        ),
        (
            "PriceService/GetCandles",
            json!({"interval": "1m"}),
            "`symbol` is missing, expected a symbol",
        ),
        (
            "PriceService/GetCandles",
            json!({"symbol": "BTC-USD"}),
            "`interval` is missing, expected one of 1m, 5m, 1h, 1d",
        ),
        (
            "PriceService/AddSource",
            json!({}),
            "`kind` is missing, expected one of binance",
        ),
        (
            "PriceService/RemoveSource",
            json!({}),
            "`name` is missing, expected the name of a source",
        ),
        (
            "StreamService/SendToUser",
            json!({"data": 1}),
            "`user` is missing, expected the user who",
        ),
        (
            "WatchService/GetTransactionStatus",
            json!({"chain": 1}),
            "`txHash` is missing, expected 32 bytes",
        ),
        (
            "WatchService/GetLatestBlock",
            json!({}),
            "there is no chain 0 (`chain` is 0 or missing)",
        ),
    ] {
        let refused = server.call(method, Some(&token), &body).await;
        assert!(
            refused.status >= 400 && refused.body.contains(part),
            "{method}: {}",
            refused.body
        );
    }
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    for (kind, part) in [
        ("get_price", "`symbol` is missing"),
        ("get_candles", "`symbol` is missing"),
        ("get_candels", "expected one of auth, subscribe,"),
    ] {
        let refused = client.request(kind, json!({})).await;
        let text = refused.error_message();
        assert!(text.contains(part), "{kind}: {text}");
    }
    let nowhere = server.get("/v1/see").await;
    assert!(
        nowhere.body.contains("expected one of /v1/ws, /v1/sse,"),
        "{}",
        nowhere.body
    );
}

#[tokio::test]
async fn an_unknown_type_is_unimplemented() {
    let server = Server::start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client
        .send(&json!({"type": "nope", "id": "7", "data": {}}))
        .await;
    let reply = client.reply("7").await;
    assert_eq!(reply.error_code(), "unimplemented");
    assert!(reply.error_message().contains("nope"), "{}", reply.text);
    client.send(&json!({"type": "nope"})).await;
    assert_eq!(client.next().await.error_code(), "unimplemented");
    client.settle().await;
}

#[tokio::test]
async fn a_missing_field_is_named() {
    let server = Server::start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    for (kind, data, code, text) in [
        ("auth", json!({}), "unauthenticated", "`token` is missing"),
        (
            "subscribe",
            json!({"channel": "demo:a"}),
            "invalid_argument",
            "`channels` is missing",
        ),
    ] {
        let refused = client.request(kind, data).await;
        assert_eq!(refused.error_code(), code, "{}", refused.text);
        assert!(
            refused.error_message().starts_with(text),
            "{}",
            refused.text
        );
    }
}

#[tokio::test]
async fn an_error_names_the_invalid_field() {
    let server = Server::start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    let since = |epoch, seq| json!({"channels": [{"channel": "demo:a", "since": {"epoch": epoch, "seq": seq}}]});
    let cases = [
        ("subscribe", json!({"channels": "demo:a"}), "channels"),
        ("subscribe", json!({"channels": [1]}), "channels[0]"),
        (
            "subscribe",
            since(json!("e"), json!("1")),
            "channels[0].since.seq",
        ),
        (
            "subscribe",
            since(json!("e"), json!(-1)),
            "channels[0].since.seq",
        ),
        (
            "subscribe",
            since(json!(1), json!(1)),
            "channels[0].since.epoch",
        ),
        ("publish", json!({"channel": 1, "data": 1}), "channel"),
        // A misspelt `data` must not publish `null`.
        ("publish", json!({"channel": "demo:a"}), "data"),
        (
            "history",
            json!({"channel": "demo:a", "limit": 1.5}),
            "limit",
        ),
        ("visibility", json!({"state": "asleep"}), "state"),
        ("ping", json!({"t": "now"}), "t"),
        ("auth", json!({"token": {}}), "token"),
    ];
    for (kind, data, field) in cases {
        let reply = client.request(kind, data.clone()).await;
        assert_eq!(reply.error_code(), "invalid_argument", "{kind} {data}");
        assert!(
            reply.error_message().contains(field),
            "{field} is not in {}",
            reply.text
        );
    }
    // Unknown fields are reserved for later versions.
    client
        .send(&json!({"type": "ping", "id": "x", "data": {"later": 1}, "further": []}))
        .await;
    let _ = client.reply("x").await.expect("pong");
}

#[tokio::test]
async fn a_message_needs_a_text_id_and_a_type() {
    let server = Server::start().await;
    let mut socket = json_socket(&server).await;
    for text in [
        r#"{"type":"ping","id":7}"#,
        r#"{"id":"7"}"#,
        r#"{"type":5,"id":"7"}"#,
    ] {
        socket.send(Frame::text(text)).await;
        assert_eq!(
            socket.next().await.error_code(),
            "invalid_argument",
            "{text}"
        );
    }
}

#[tokio::test]
async fn unbuilt_messages_are_unimplemented() {
    let server = Server::start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    // Once implemented, these may reply otherwise. Every reply carries the request's id.
    for kind in [
        "unread_count",
        "alerts",
        "alert_log",
        "get_block",
        "preferences",
    ] {
        let reply = client.request(kind, json!({})).await;
        if reply.kind == "error" {
            assert!(!reply.error_message().is_empty());
        }
    }
}

#[tokio::test]
async fn an_oversized_message_closes_with_1009() {
    let server = Server::builder()
        .set("limits", "frame_bytes = 2048")
        .start()
        .await;
    let fits = json!({"type": "ping", "id": "1", "data": {"filler": "x".repeat(1_900)}});
    let mut socket = json_socket(&server).await;
    socket.send(Frame::text(fits.to_string())).await;
    assert_eq!(socket.next().await.expect("pong").id.as_deref(), Some("1"));
    socket.send(Frame::text("x".repeat(2_049))).await;
    assert_eq!(socket.close_code().await, 1009);

    let mut socket = proto_socket(&server).await;
    socket.send(Frame::Binary(vec![0; 2_049].into())).await;
    assert_eq!(socket.close_code().await, 1009);
}

#[tokio::test]
async fn an_oversized_fragmented_message_closes_with_1009() {
    let server = Server::builder()
        .set("limits", "frame_bytes = 2048")
        .start()
        .await;
    let mut socket = json_socket(&server).await;
    let part = |opcode, text: &str, is_last| {
        Frame::Frame(RawFrame::message(
            Bytes::from(text.to_owned()),
            OpCode::Data(opcode),
            is_last,
        ))
    };
    socket
        .send(part(Data::Text, &" ".repeat(1_500), false))
        .await;
    socket
        .send(part(Data::Continue, &" ".repeat(1_500), true))
        .await;
    assert_eq!(socket.close_code().await, 1009);
}

#[tokio::test]
async fn messages_may_be_fragmented() {
    let server = Server::start().await;
    let mut socket = json_socket(&server).await;
    let part = |opcode, text: &'static [u8], is_last| {
        Frame::Frame(RawFrame::message(
            Bytes::from_static(text),
            OpCode::Data(opcode),
            is_last,
        ))
    };
    socket.send(part(Data::Text, b"{\"type\":", false)).await;
    socket
        .send(Frame::Ping(Bytes::from_static(b"between")))
        .await;
    socket.send(part(Data::Continue, b"\"ping\",", false)).await;
    socket
        .send(part(Data::Continue, b"\"id\":\"1\"}", true))
        .await;
    // The pong and the reply may come in either order.
    let mut frames = [socket.frame().await, socket.frame().await];
    frames.sort_by_key(Frame::is_text);
    assert_eq!(frames[0], Frame::Pong(Bytes::from_static(b"between")));
    let reply = frames[1].to_text().unwrap();
    assert!(reply.contains("\"id\":\"1\""), "{reply}");
}

#[tokio::test]
async fn text_that_is_not_utf8_closes_with_1007() {
    let server = Server::start().await;
    let mut socket = json_socket(&server).await;
    let bytes = Bytes::from_static(b"{\"type\":\"\xff\"}");
    socket
        .send(Frame::Frame(RawFrame::message(
            bytes,
            OpCode::Data(Data::Text),
            true,
        )))
        .await;
    assert_eq!(socket.close_code().await, 1007);
}

#[tokio::test]
async fn the_wrong_kind_of_frame_closes_with_1003() {
    let server = Server::start().await;
    let mut socket = json_socket(&server).await;
    socket.send(Frame::Binary(Bytes::from_static(b"{}"))).await;
    assert_eq!(socket.close_code().await, 1003);
    let mut socket = proto_socket(&server).await;
    socket.send(Frame::text("{}")).await;
    assert_eq!(socket.close_code().await, 1003);
}

#[tokio::test]
async fn bytes_that_are_no_message_get_an_error() {
    let server = Server::start().await;
    let mut socket = proto_socket(&server).await;
    socket
        .send(Frame::Binary(Bytes::from_static(b"\xff\xff\xff")))
        .await;
    assert_eq!(socket.next().await.error_code(), "invalid_argument");
    // A message of a later version has no meaning here.
    socket.send(Frame::Binary(Bytes::new())).await;
    assert_eq!(socket.next().await.error_code(), "unimplemented");
}

#[tokio::test]
async fn a_client_close_is_acknowledged() {
    let server = Server::start().await;
    let mut socket = json_socket(&server).await;
    socket.send(Frame::Close(None)).await;
    assert!(matches!(socket.frame().await, Frame::Close(_)));
}

#[tokio::test]
async fn an_unknown_subprotocol_is_refused() {
    let server = Server::start().await;
    let refused = SocketRequest::offering("tidewire.v9")
        .open(&server)
        .await
        .unwrap_err();
    assert!(matches!(refused, Refusal::Http(400, _)), "{refused:?}");
    let mut request = SocketRequest::offering("tidewire.v9");
    request.protocols.push("tidewire.v1.json".to_owned());
    let (_, chosen) = request.open(&server).await.unwrap();
    assert_eq!(chosen.as_deref(), Some("tidewire.v1.json"));
    let (_, chosen) = SocketRequest::default().open(&server).await.unwrap();
    assert_eq!(chosen, None);
}

#[tokio::test]
async fn other_origins_are_refused() {
    let server = Server::builder()
        .set("server", "allowed_origins = [\"https://app.example.com\"]")
        .start()
        .await;
    let open = async |origin: &str| {
        let request = SocketRequest {
            origin: Some(origin.to_owned()),
            ..SocketRequest::default()
        };
        request.open(&server).await.map(drop)
    };
    assert_eq!(open("https://app.example.com").await, Ok(()));
    assert_eq!(open("http://localhost:3000").await, Ok(()));
    assert!(matches!(
        open("https://evil.example.com").await,
        Err(Refusal::Http(403, _))
    ));
    assert!(matches!(open("null").await, Err(Refusal::Http(403, _))));
}

#[tokio::test]
async fn a_document_is_validated_as_a_whole() {
    let server = Server::start().await;
    let mut client = Client::connect(Transport::WebSocketJson, &server).await;
    client
        .send_text(
            r#"{"type":"publish","id":"1","data":{"channel":"demo:a","data":{"a":}}}"#.to_owned(),
        )
        .await;
    assert_eq!(client.next().await.error_code(), "invalid_argument");
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    client
        .send_text(format!(
            r#"{{"type":"publish","id":"2","data":{{"channel":"demo:a","data":{deep}}}}}"#
        ))
        .await;
    assert_eq!(client.next().await.error_code(), "invalid_argument");
    client.settle().await;
}
