//! Sessions: `welcome`, subscribe, publish, history, ping and visibility.

use serde_json::{Value, json};
use tidewire_tests::{Client, Server, Transport};

on_every_transport!(
    welcome_comes_first,
    each_channel_has_its_result,
    an_empty_request_is_refused,
    publications_have_consecutive_sequence_numbers,
    an_idempotency_key_publishes_once,
    an_unsubscribed_channel_is_silent,
    history_is_read_in_pages,
    each_id_gets_one_reply,
    pings_are_answered,
    background_visibility_holds_updates_until_the_foreground,
);

async fn welcome_comes_first(transport: Transport) {
    let server = Server::start().await;
    let client = Client::connect(transport, &server).await;
    let data = &client.welcome().data;
    assert!(!data["connectionId"].as_str().unwrap().is_empty());
    assert_eq!(data["heartbeatMs"], 2_000);
    assert!(data["serverTime"].as_i64().unwrap() > 1_700_000_000_000);
    assert!(!data["version"].as_str().unwrap().is_empty());
    assert_eq!(data["subscriptions"], json!([]));
    assert_eq!(data["userId"], Value::Null);
    let has_key = data["postKey"].is_string();
    assert_eq!(has_key, transport == Transport::Sse);
}

async fn each_channel_has_its_result(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let channels = json!([
        "demo:a",
        "nope",
        "nope:a",
        "Demo:a",
        "demo:b c",
        {"channel": "demo:b"},
        {"channel": "demo:c", "minIntervalMs": 100},
        "prices:NO-SUCH",
        "market:overview",
    ]);
    let reply = client
        .request("subscribe", json!({"channels": channels}))
        .await;
    let reply = reply.expect("subscribed");
    let results = reply.data["channels"].as_array().unwrap();
    let code = |index: usize| results[index]["error"]["code"].clone();
    for good in [0, 5, 8] {
        let result = &results[good];
        assert!(!result["epoch"].as_str().unwrap().is_empty(), "{result}");
        assert_eq!(
            (&result["seq"], &result["recovered"]),
            (&json!(0), &json!(false))
        );
        assert_eq!(result["error"], Value::Null);
    }
    assert_eq!(results[5]["channel"], "demo:b");
    for malformed in [1, 3, 4, 6] {
        assert_eq!(
            code(malformed),
            "invalid_argument",
            "{}",
            results[malformed]
        );
        assert!(
            !results[malformed]["error"]["message"]
                .as_str()
                .unwrap()
                .is_empty()
        );
    }
    for unknown in [2, 7] {
        assert_eq!(code(unknown), "not_found", "{}", results[unknown]);
    }
    assert_eq!(results.len(), 9);
}

async fn an_empty_request_is_refused(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let reply = client.request("subscribe", json!({"channels": []})).await;
    assert_eq!(reply.error_code(), "invalid_argument");
    // The session continues.
    client.settle().await;
}

async fn publications_have_consecutive_sequence_numbers(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let subscribed = client.subscribe("demo:a").await;
    for number in 1..=20 {
        let request = json!({"channel": "demo:a", "data": {"n": number}});
        let reply = client.request("publish", request).await.expect("published");
        assert_eq!(reply.data["channel"], "demo:a");
        assert_eq!(reply.data["seq"], number);
        assert_eq!(reply.data["epoch"], subscribed["epoch"]);
    }
    for number in 1..=20 {
        let message = client.next_on("demo:a").await.expect("message");
        assert_eq!(message.seq, Some(number));
        assert_eq!(message.data, json!({"n": number}));
        assert!(message.timestamp.unwrap() > 1_700_000_000_000);
        assert_eq!(message.id, None);
    }
    // Documents pass through unchanged, to the last digit.
    let document = r#"{"amount":1.50,"big":12345678901234567890123,"e":1e2}"#;
    let body = format!(r#"{{"channel":"demo:a","data":{document}}}"#);
    let publish = server
        .http()
        .post(server.url("/v1/rpc/StreamService/Publish"));
    assert_eq!(server.send(publish.body(body)).await.status, 200);
    let message = client.next_on("demo:a").await;
    assert!(message.text.contains(document), "{}", message.text);
}

async fn an_idempotency_key_publishes_once(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    client.subscribe("demo:a").await;
    let publish =
        |data: u64, key: &str| json!({"channel": "demo:a", "data": data, "idempotencyKey": key});
    let first = client
        .request("publish", publish(1, "k1"))
        .await
        .expect("published");
    let again = client
        .request("publish", publish(1, "k1"))
        .await
        .expect("published");
    assert_eq!(first.data, again.data);
    let other = client
        .request("publish", publish(2, "k2"))
        .await
        .expect("published");
    assert_eq!(other.data["seq"], 2);
    assert_eq!(
        client.take("demo:a", 2).await,
        [(1, json!(1)), (2, json!(2))]
    );
}

async fn an_unsubscribed_channel_is_silent(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    client.subscribe("demo:a").await;
    client.subscribe("demo:b").await;
    server.publish("demo:a", json!("heard")).await;
    assert_eq!(client.next_on("demo:a").await.data, "heard");
    let left = client
        .request("unsubscribe", json!({"channels": ["demo:a"]}))
        .await;
    assert_eq!(
        left.expect("unsubscribed").data["channels"],
        json!(["demo:a"])
    );
    server.publish("demo:a", json!("not heard")).await;
    server.publish("demo:b", json!("heard")).await;
    assert_eq!(client.next_on("demo:b").await.data, "heard");
    assert!(client.unread().is_empty(), "{:?}", client.unread());
}

async fn history_is_read_in_pages(transport: Transport) {
    let server = Server::start().await;
    for number in 1..=10 {
        server.publish("demo:a", json!(number)).await;
    }
    let mut client = Client::connect(transport, &server).await;
    let all = client
        .request("history", json!({"channel": "demo:a"}))
        .await
        .expect("history");
    assert_eq!(all.data["seq"], 10);
    assert_eq!(seqs(&all.data), (1..=10).collect::<Vec<_>>());
    let first = &all.data["messages"][0];
    assert_eq!(
        (&first["type"], &first["data"]),
        (&json!("message"), &json!(1))
    );
    assert!(first["timestamp"].is_i64());

    let newest = json!({"channel": "demo:a", "limit": 3});
    let newest = client.request("history", newest).await.expect("history");
    assert_eq!(seqs(&newest.data), [8, 9, 10]);
    let since = json!({"epoch": all.data["epoch"], "seq": 4});
    let page = json!({"channel": "demo:a", "since": since.clone(), "limit": 3});
    let page = client.request("history", page).await.expect("history");
    assert_eq!(seqs(&page.data), [5, 6, 7]);
    // The position alone.
    for ask in [
        json!({"channel": "demo:a"}),
        json!({"channel": "demo:a", "since": since}),
    ] {
        let mut ask = ask;
        ask["limit"] = json!(0);
        let position = client.request("history", ask).await.expect("history");
        assert_eq!(position.data["epoch"], all.data["epoch"]);
        assert_eq!(position.data["seq"], 10);
        assert_eq!(seqs(&position.data), [0; 0]);
    }
    let empty = client
        .request("history", json!({"channel": "demo:none"}))
        .await
        .expect("history");
    assert_eq!(
        (&empty.data["seq"], &empty.data["messages"]),
        (&json!(0), &json!([]))
    );
    let unknown = client
        .request("history", json!({"channel": "nope:a"}))
        .await;
    assert_eq!(unknown.error_code(), "not_found");
}

fn seqs(history: &Value) -> Vec<u64> {
    let messages = history["messages"].as_array().unwrap();
    messages
        .iter()
        .map(|message| message["seq"].as_u64().unwrap())
        .collect()
}

async fn each_id_gets_one_reply(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let requests = [
        json!({"type": "ping", "id": "a"}),
        json!({"type": "subscribe", "id": "b", "data": {"channels": ["demo:a", "nope:a"]}}),
        json!({"type": "publish", "id": "c", "data": {"channel": "demo:a", "data": 1}}),
        json!({"type": "get_price", "id": "d", "data": {"symbol": "NO-SUCH"}}),
        json!({"type": "unread_count", "id": "e"}),
        json!({"type": "history", "id": "f", "data": {"channel": "demo:a"}}),
    ];
    for request in &requests {
        client.send(request).await;
    }
    for id in ["a", "b", "c", "d", "e", "f"] {
        let _ = client.reply(id).await;
    }
    client.settle().await;
    assert_eq!(client.next_on("demo:a").await.data, 1);
    assert!(client.unread().is_empty(), "{:?}", client.unread());
}

async fn pings_are_answered(transport: Transport) {
    let server = Server::start().await;
    let mut client = Client::connect(transport, &server).await;
    let pong = client
        .request("ping", json!({"t": 17.25}))
        .await
        .expect("pong");
    assert_eq!(pong.data["t"], 17.25);
    assert_eq!(pong.data["heartbeatMs"], 2_000);
    assert!(pong.data["serverTime"].as_i64().unwrap() > 1_700_000_000_000);
    let pong = client.request("ping", json!({})).await.expect("pong");
    assert_eq!(pong.data["t"], Value::Null);
}

async fn background_visibility_holds_updates_until_the_foreground(transport: Transport) {
    let server = Server::builder()
        .namespace("state", "class = \"latest\"\npublish = \"public\"")
        .start()
        .await;
    let mut client = Client::connect(transport, &server).await;
    client.subscribe("demo:a").await;
    client.subscribe("state:a").await;
    let hidden = client
        .request("visibility", json!({"state": "background"}))
        .await;
    let hidden = hidden.expect("visibility");
    assert_eq!(hidden.data["state"], "background");
    assert!(hidden.data["heartbeatMs"].as_u64().unwrap() >= 2_000);
    for number in 1..=5 {
        server.publish("demo:a", json!(number)).await;
        server.publish("state:a", json!(number)).await;
    }
    client.settle().await;
    assert!(client.unread().is_empty(), "{:?}", client.unread());
    let seen = client
        .request("visibility", json!({"state": "active"}))
        .await;
    assert_eq!(seen.expect("visibility").data["heartbeatMs"], 2_000);
    let expected: Vec<_> = (1..=5).map(|number| (number, json!(number))).collect();
    assert_eq!(client.take("demo:a", 5).await, expected);
    // On a latest channel only the newest publication counts.
    assert_eq!(client.next_on("state:a").await.data, 5);
    let unclear = client.request("visibility", json!({})).await;
    assert_eq!(unclear.error_code(), "invalid_argument");
}
