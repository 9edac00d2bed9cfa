//! Server-Sent Events: the cursor, the POST side and heartbeats.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidewire_tests::{Client, HttpResponse, Refusal, Server, Token, Transport, client::SseStream};

#[tokio::test]
async fn channels_in_the_query_are_subscribed() {
    let server = Server::start().await;
    let mut stream = SseStream::open(&server, "?channels=demo:a,nope:a", &[])
        .await
        .unwrap();
    assert_eq!(stream.next().await.unwrap().kind, "welcome");
    let subscribed = stream.next().await.unwrap().message().expect("subscribed");
    assert_eq!(subscribed.data["channels"][0]["channel"], "demo:a");
    assert_eq!(subscribed.data["channels"][1]["error"]["code"], "not_found");
    server.publish("demo:a", json!({"n": 1})).await;
    let event = stream.next_of("message").await;
    let message = event.message();
    assert_eq!(
        (message.channel.as_deref(), message.seq),
        (Some("demo:a"), Some(1))
    );
    assert!(event.has_id);
}

#[tokio::test]
async fn a_document_with_line_breaks_arrives_whole() {
    let server = Server::start().await;
    let mut stream = SseStream::open(&server, "?channels=demo:a", &[])
        .await
        .unwrap();
    let _ = stream.next_of("subscribed").await;
    let body = "{\"channel\":\"demo:a\",\"data\":{\n  \"a\":\r\n [1,\r2]\n}}";
    let publish = server
        .http()
        .post(server.url("/v1/rpc/StreamService/Publish"));
    assert_eq!(server.send(publish.body(body)).await.status, 200);
    assert_eq!(
        stream.next_of("message").await.message().data,
        json!({"a": [1, 2]})
    );
}

#[tokio::test]
async fn one_channel_recovers_from_its_last_event_id() {
    let server = Server::start().await;
    let mut stream = SseStream::open(&server, "?channels=demo:a", &[])
        .await
        .unwrap();
    let _ = stream.next_of("subscribed").await;
    for number in 1..=3 {
        server.publish("demo:a", json!(number)).await;
    }
    let mut last_id = None;
    for number in 1..=2 {
        let event = stream.next_of("message").await;
        assert!(event.has_id);
        assert_eq!(event.message().data, number);
        last_id = event.last_id;
    }
    drop(stream);
    for number in 4..=5 {
        server.publish("demo:a", json!(number)).await;
    }
    let last_id = last_id.unwrap();
    let query = format!("?channels=demo:a&lastEventId={last_id}");
    let headers = [("last-event-id", last_id.as_str())];
    for (query, headers) in [("?channels=demo:a", &headers[..]), (&query, &[])] {
        let mut stream = SseStream::open(&server, query, headers).await.unwrap();
        let subscribed = stream.next_of("subscribed").await.message();
        assert_eq!(subscribed.data["channels"][0]["recovered"], true);
        for number in 3..=5 {
            assert_eq!(stream.next_of("message").await.message().data, number);
        }
    }
}

#[tokio::test]
async fn several_channels_recover_from_a_cursor() {
    let server = Server::start().await;
    let channels = "?channels=demo:a,demo:b,demo:c";
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut cursor: Option<String> = None;
    let mut published = 0;
    for _ in 0..5 {
        let headers: Vec<_> = cursor
            .iter()
            .map(|cursor| ("last-event-id", cursor.as_str()))
            .collect();
        let mut stream = SseStream::open(&server, channels, &headers).await.unwrap();
        let subscribed = stream.next_of("subscribed").await.message();
        if cursor.is_some() {
            for result in subscribed.data["channels"].as_array().unwrap() {
                assert_eq!(result["recovered"], true, "{result}");
            }
        }
        for _ in 0..4 {
            published += 1;
            for channel in ["demo:a", "demo:b", "demo:c"] {
                server.publish(channel, json!(published)).await;
            }
        }
        // Waits for a cursor after the newest publication. Later publications may arrive
        // twice.
        let mut last_cursor = None;
        while seen.len() < 3
            || seen.values().any(|seq| *seq < published - 1)
            || last_cursor.is_none()
        {
            let event = stream.next().await.unwrap();
            match event.kind.as_str() {
                "cursor" => last_cursor = event.last_id,
                "message" => {
                    let message = event.message();
                    let seq = message.seq.unwrap();
                    let last = seen.entry(message.channel.unwrap()).or_default();
                    assert!(seq <= *last + 1, "{} was lost", *last + 1);
                    assert_eq!(message.data, seq);
                    *last = seq.max(*last);
                }
                _ => {}
            }
        }
        cursor = last_cursor;
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_user_channel_recovers_after_reconnecting() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", Token::of("ada").sign());
    let authorization = ("authorization", bearer.as_str());
    let send = async |number: u64| {
        let body = json!({"user": "ada", "data": number});
        server
            .call("StreamService/SendToUser", Some(&Token::service()), &body)
            .await
    };
    let mut stream = SseStream::open(&server, "", &[authorization])
        .await
        .unwrap();
    let _ = stream.next_of("welcome").await;
    send(1).await;
    let event = stream.next_of("message").await;
    drop(stream);
    send(2).await;
    let last_id = event.last_id.unwrap();
    let headers = [authorization, ("last-event-id", &last_id)];
    let mut stream = SseStream::open(&server, "", &headers).await.unwrap();
    assert_eq!(stream.next_of("message").await.message().data, 2);
}

/// Status and error of a stream that the server refuses.
async fn refusal(server: &Server, query: &str) -> (u16, Value) {
    match SseStream::open(server, query, &[]).await.err() {
        Some(Refusal::Http(status, body)) => (status, serde_json::from_str(&body).unwrap()),
        other => panic!("{query} is not refused over HTTP: {other:?}"),
    }
}

#[tokio::test]
async fn a_bad_cursor_is_refused() {
    let server = Server::start().await;
    for cursor in ["%25", "nonsense", "aGVsbG8", &"A".repeat(100)] {
        let query = format!("?channels=demo:a&lastEventId={cursor}");
        let (status, error) = refusal(&server, &query).await;
        assert_eq!((status, &error["code"]), (400, &json!("invalid_argument")));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("Last-Event-ID"), "{message}");
    }
}

#[tokio::test]
async fn silence_ends_with_a_heartbeat() {
    let server = Server::start().await;
    let mut stream = SseStream::open(&server, "", &[]).await.unwrap();
    let _ = stream.next_of("welcome").await;
    let ping = stream.next().await.unwrap();
    assert_eq!(ping.kind, "ping");
    assert!(ping.message().data["serverTime"].is_i64());
    assert!(!ping.has_id);
}

#[tokio::test]
async fn a_client_can_request_a_longer_heartbeat() {
    let server = Server::start().await;
    let mut stream = SseStream::open(&server, "?heartbeatMs=15000", &[])
        .await
        .unwrap();
    let welcome = stream.next_of("welcome").await.message();
    assert_eq!(welcome.data["heartbeatMs"], 15_000);
}

/// Posts a ping to a connection.
async fn post(server: &Server, connection: &str, query: &str, token: Option<&str>) -> HttpResponse {
    let url = server.url(&format!("/v1/sse/{connection}{query}"));
    let mut request = server
        .http()
        .post(url)
        .json(&json!({"type": "ping", "id": "1"}));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    server.send(request).await
}

#[tokio::test]
async fn only_the_owner_can_post_for_a_connection() {
    let server = Server::start().await;
    let ada = Token::of("ada").sign();
    let client = Client::connect_as(Transport::Sse, &server, Some(&ada)).await;
    let text = |name: &str| client.welcome().data[name].as_str().unwrap().to_owned();
    let (connection, key) = (text("connectionId"), text("postKey"));
    let good = post(&server, &connection, &format!("?key={key}"), None).await;
    assert_eq!(
        (good.status, good.content_type.as_str()),
        (200, "application/json")
    );
    assert_eq!(good.json()["type"], "pong");
    assert_eq!(good.json()["id"], "1");
    assert_eq!(post(&server, &connection, "", Some(&ada)).await.status, 200);

    let bob = Token::of("bob").sign();
    let refused = [
        post(&server, &connection, "", None).await,
        post(&server, &connection, "?key=", None).await,
        post(&server, &connection, "?key=wrong", None).await,
        post(&server, &connection, "", Some(&bob)).await,
        post(&server, &connection, "?key=wrong", Some(&bob)).await,
    ];
    for answer in refused {
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (403, &json!("permission_denied"))
        );
    }
    let gone = post(&server, "nobody", &format!("?key={key}"), None).await;
    assert_eq!(
        (gone.status, &gone.json()["code"]),
        (404, &json!("not_found"))
    );
    // A WebSocket has no POST side.
    let other = Client::connect(Transport::WebSocketJson, &server).await;
    let id = other.welcome().data["connectionId"].as_str().unwrap();
    assert_eq!(
        post(&server, id, &format!("?key={key}"), None).await.status,
        404
    );
}

#[tokio::test]
async fn an_anonymous_connection_needs_its_post_key() {
    let server = Server::start().await;
    let client = Client::connect(Transport::Sse, &server).await;
    let connection = client.welcome().data["connectionId"].as_str().unwrap();
    assert_eq!(post(&server, connection, "", None).await.status, 403);
}

#[tokio::test]
async fn a_bad_post_gets_the_error_in_its_response() {
    let server = Server::start().await;
    let client = Client::connect(Transport::Sse, &server).await;
    let text = |name: &str| client.welcome().data[name].as_str().unwrap().to_owned();
    let url = server.url(&format!(
        "/v1/sse/{}?key={}",
        text("connectionId"),
        text("postKey")
    ));
    let cases = [
        ("{", "invalid_argument", Value::Null),
        (r#"{"type":"nope","id":"1"}"#, "unimplemented", json!("1")),
        (
            r#"{"type":"subscribe","id":"2","data":{"channels":7}}"#,
            "invalid_argument",
            json!("2"),
        ),
    ];
    for (body, code, id) in cases {
        let answer = server.send(server.http().post(&url).body(body)).await;
        let reply = answer.json();
        assert_eq!(
            (&reply["type"], &reply["data"]["code"]),
            (&json!("error"), &json!(code))
        );
        assert_eq!(reply["id"], id);
    }
}

#[tokio::test]
async fn a_refused_channel_is_an_event_of_its_own() {
    let server = Server::start().await;
    let mut stream = SseStream::open(&server, "?channels=demo:a,nope:a", &[])
        .await
        .unwrap();
    let refused = stream.next_of("server_error").await.message();
    assert_eq!(refused.channel.as_deref(), Some("nope:a"));
    assert_eq!(refused.data["code"], "not_found");
    server.publish("demo:a", json!(1)).await;
    assert_eq!(stream.next_of("message").await.message().data, 1);
}

#[tokio::test]
async fn a_stream_without_a_channel_left_is_refused() {
    let server = Server::start().await;
    for (query, status, code, named) in [
        ("?channels=nope:a,demo", 404, "not_found", "nope"),
        ("?channels=user:ada", 403, "permission_denied", "user:ada"),
        ("?channel=demo:a", 400, "invalid_argument", "`channel`"),
        (
            "?channels=demo:a&heartbeatMs=x",
            400,
            "invalid_argument",
            "`heartbeatMs` is \"x\", expected a whole number of milliseconds",
        ),
        (
            "?channels=demo:a&chanels=demo:b",
            400,
            "invalid_argument",
            "expected one of `channels`, `token`, `lastEventId`, `heartbeatMs`",
        ),
        (
            "?channels=demo:a&channels=demo:b",
            400,
            "invalid_argument",
            "`channels` is there twice",
        ),
    ] {
        let (found, error) = refusal(&server, query).await;
        assert_eq!(
            (found, &error["code"]),
            (status, &json!(code)),
            "{query}: {error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(named), "{message}");
    }
}

#[tokio::test]
async fn welcome_has_an_id_to_resume_from() {
    let server = Server::start().await;
    for query in ["?channels=demo:a", "?channels=demo:a,demo:b"] {
        let mut stream = SseStream::open(&server, query, &[]).await.unwrap();
        let welcome = stream.next_of("welcome").await;
        assert!(welcome.has_id, "{query}");
        drop(stream);
        // Nothing else arrived, and this was missed.
        let missed = server.publish("demo:a", json!("missed")).await;
        let id = welcome.last_id.unwrap();
        let headers = [("last-event-id", id.as_str())];
        let mut stream = SseStream::open(&server, query, &headers).await.unwrap();
        let message = stream.next_of("message").await.message();
        assert_eq!(
            (message.data, message.seq),
            (json!("missed"), missed["seq"].as_u64())
        );
    }
}

/// A server with a chain whose node cannot be reached: it has wallet channels.
async fn server_with_wallets() -> Server {
    let chain = "[[chain]]\nid = 1\nendpoints = [\"http://127.0.0.1:9\"]\n";
    Server::builder().table(chain).start().await
}

#[tokio::test]
async fn a_cursor_resumes_a_channel_under_any_case_of_its_name() {
    let server = server_with_wallets().await;
    let address = format!("0x{}", "ab".repeat(20));
    let query = format!("?channels=wallet:{address}");
    let mut stream = SseStream::open(&server, &query, &[]).await.unwrap();
    let id = stream.next_of("welcome").await.last_id.unwrap();
    for address in [address.clone(), format!("0x{}", "aB".repeat(20))] {
        let query = format!("?channels=wallet:{address}");
        let headers = [("last-event-id", id.as_str())];
        let mut stream = SseStream::open(&server, &query, &headers).await.unwrap();
        let subscribed = stream.next_of("subscribed").await.message();
        assert_eq!(
            subscribed.data["channels"][0]["recovered"], true,
            "{address}"
        );
    }
}

#[tokio::test]
async fn a_cursor_of_many_channels_is_accepted_as_a_header() {
    let server = server_with_wallets().await;
    for count in [60, 300] {
        let channels: Vec<_> = (0..count)
            .map(|one| format!("wallet:0x{one:040x}"))
            .collect();
        let query = format!("?channels={}", channels.join(","));
        let mut stream = SseStream::open(&server, &query, &[]).await.unwrap();
        let id = stream.next_of("welcome").await.last_id.unwrap();
        assert!(id.len() > 5_000, "{}", id.len());
        let headers = [("last-event-id", id.as_str())];
        let mut stream = SseStream::open(&server, &query, &headers).await.unwrap();
        let subscribed = stream.next_of("subscribed").await.message();
        let results = subscribed.data["channels"].as_array().unwrap();
        assert!(
            results.iter().all(|one| one["recovered"] == true),
            "{}",
            results[0]
        );
        // Another message still fits beside the head.
        stream.next_of("ping").await;
    }
}

#[tokio::test]
async fn an_empty_list_of_channels_is_refused_by_name() {
    let server = Server::start().await;
    for query in ["?channels=", "?channels=,"] {
        let refused = server.get(&format!("/v1/sse{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
        let part = "`channels` is empty, expected names";
        assert!(refused.body.contains(part), "{}", refused.body);
    }
    // A client that subscribes by POST names none.
    let mut stream = SseStream::open(&server, "", &[]).await.unwrap();
    assert_eq!(stream.next().await.unwrap().kind, "welcome");
}
