//! Sending notifications: permissions, fields, batches, schedules, collapse keys and channels.

use serde_json::{Value, json};
use tidewire_tests::{Server, Token, Transport};

use super::{call, connect, done, in_an_hour, list, listed, note, notify, push, refusal, to_user};

on_every_transport!(a_channel_gets_a_notification);

#[tokio::test]
async fn a_wrong_field_of_a_notification_is_named() {
    let server = Server::start().await;
    let with = |field: &str, value: Value| {
        let mut body = to_user("ada", "Paid");
        body["notification"][field] = value;
        body
    };
    let of = |body: Value| {
        let mut all = json!({"notification": note("Paid")});
        let all_fields = all.as_object_mut().unwrap();
        all_fields.extend(body.as_object().unwrap().clone());
        all
    };
    let link = |url: &str| with("actions", json!([{"label": "Open", "url": url}]));
    for (body, field) in [
        (with("title", json!("")), "`notification.title`"),
        (
            with("title", json!("a".repeat(501))),
            "`notification.title`",
        ),
        (
            with("body", json!("a".repeat(10_001))),
            "`notification.body`",
        ),
        (
            with("data", json!("a".repeat(17_000))),
            "`notification.data`",
        ),
        (with("type", json!("order_shipped")), "`notification.type`"),
        (with("type", Value::Null), "`notification.type`"),
        (link("javascript:alert(1)"), "`notification.actions[0].url`"),
        (with("expiresAt", json!(1)), "`notification.expiresAt`"),
        (json!({"user": "ada"}), "`notification`"),
        (of(json!({})), "`user`"),
        (of(json!({"user": "ada", "everyone": true})), "`user`"),
        (of(json!({"user": "a b"})), "`user`"),
        (of(json!({"users": ["ada", ""]})), "`users[1]`"),
        (of(json!({"user": "ada", "ttlMs": 0})), "`ttlMs`"),
        (
            of(json!({"user": "ada", "idempotencyKey": ""})),
            "`idempotencyKey`",
        ),
        (
            of(json!({"user": "ada", "notBefore": in_an_hour() + 400 * 86_400_000})),
            "`notBefore`",
        ),
        (
            of(json!({"user": "ada", "notBefore": in_an_hour() / 1_000})),
            "`notBefore`: ",
        ),
        (of(json!({"channel": "user:ada"})), "`channel`"),
        (of(json!({"channel": "demo"})), "`channel`"),
    ] {
        let answer = call(&server, "Notify", &body).await;
        let (status, code, text) = refusal(&answer);
        assert_eq!(
            (status, code.as_str()),
            (400, "invalid_argument"),
            "{body}: {text}"
        );
        assert!(text.contains(field), "{body}: {text}");
    }
    let answer = call(&server, "Notify", &with("priority", json!("top"))).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(answer.body.contains("priority"), "{}", answer.body);
    // Nobody was notified.
    let none = done(&server, "ListNotifications", &json!({"user": "ada"})).await;
    assert_eq!(none, json!({"items": [], "unreadCount": 0}));
}

async fn a_channel_gets_a_notification(transport: Transport) {
    let server = Server::builder()
        .namespace("orders", "publish = \"service\"")
        .start()
        .await;
    let mut ada = connect(transport, &server, "ada").await;
    ada.subscribe("orders:1").await;
    let body = json!({"channel": "orders:1", "notification": note("Packed")});
    let sent = done(&server, "Notify", &body).await;
    let pushed = ada.next_on("orders:1").await.expect("notification");
    assert_eq!(pushed.data["id"], sent["id"]);
    assert_eq!(pushed.data["title"], "Packed");
    assert_eq!(
        listed(&list(&mut ada, json!({})).await, "id"),
        [json!(null); 0]
    );
    for (name, code) in [
        ("market:overview", "permission_denied"),
        ("nosuch:1", "not_found"),
    ] {
        let body = json!({"channel": name, "notification": note("No")});
        let (_, refused, text) = refusal(&call(&server, "Notify", &body).await);
        assert_eq!(refused, code, "{text}");
        assert!(text.starts_with("`channel`: "), "{text}");
    }
}

#[tokio::test]
async fn sending_needs_the_service_scope() {
    let server = Server::start().await;
    let user = Token::of("ada").sign();
    let admin = Token::of("root").scope("admin").sign();
    let batch = json!({"notifications": [to_user("ada", "Paid")]});
    for (method, body) in [
        ("Notify", to_user("ada", "Paid")),
        ("NotifyBatch", batch),
        ("CancelScheduled", json!({"idempotencyKey": "k"})),
        ("RecallBroadcast", json!({"id": "0".repeat(26)})),
    ] {
        let method = format!("NotifyService/{method}");
        for token in [&user, &admin] {
            let answer = server.call(&method, Some(token), &body).await;
            let (status, code, text) = refusal(&answer);
            assert_eq!(
                (status, code.as_str()),
                (403, "permission_denied"),
                "{method}: {text}"
            );
            assert!(text.contains("`service`"), "{text}");
        }
    }
    // The user of the server's own machine needs no token to send, and reads no inbox.
    let local = server
        .call("NotifyService/Notify", None, &to_user("ada", "Paid"))
        .await;
    assert_eq!(local.status, 200, "{}", local.body);
    let body = json!({"user": "ada"});
    let read = server
        .call("NotifyService/ListNotifications", None, &body)
        .await;
    assert_eq!(refusal(&read).1, "permission_denied");
}

#[tokio::test]
async fn a_batch_has_a_result_for_each() {
    let server = Server::start().await;
    let body = json!({"notifications": [
        to_user("ada", "One"),
        to_user("ada", ""),
        {"channel": "nosuch:1", "notification": note("No")},
        {"users": ["ada", "bob", "ada"], "notification": note("Two")},
        {"channel": "demo:a", "notification": note("Channel")},
    ]});
    let answer = done(&server, "NotifyBatch", &body).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 5, "{answer}");
    let recipients = |place: usize| results[place]["notified"]["recipients"].clone();
    let code = |place: usize| results[place]["error"]["code"].clone();
    assert_eq!(
        (recipients(0), recipients(3), recipients(4)),
        (json!(1), json!(2), json!(0))
    );
    assert_eq!(
        (code(1), code(2)),
        (json!("invalid_argument"), json!("not_found"))
    );
    let list = done(&server, "ListNotifications", &json!({"user": "ada"})).await;
    assert_eq!(listed(&list, "title"), ["Two", "One"]);
    // Without any, the field is probably misspelled.
    for none in [json!({}), json!({"notifications": []})] {
        let (_, code, text) = refusal(&call(&server, "NotifyBatch", &none).await);
        assert_eq!(code, "invalid_argument");
        assert!(text.contains("`notifications` is missing"), "{text}");
    }
}

#[tokio::test]
async fn a_scheduled_notification_waits_and_can_be_cancelled() {
    let server = Server::start().await;
    let mut body = to_user("ada", "Later");
    body["notBefore"] = json!(in_an_hour());
    body["idempotencyKey"] = json!("later");
    let id = notify(&server, &body).await;
    let list = done(&server, "ListNotifications", &json!({"user": "ada"})).await;
    assert_eq!(list, json!({"items": [], "unreadCount": 0}));
    let by_key = json!({"idempotencyKey": "later"});
    let other = Token::of("other-backend").scope("service").sign();
    let refused = server
        .call("NotifyService/CancelScheduled", Some(&other), &by_key)
        .await;
    assert_eq!(refusal(&refused).1, "not_found");
    let cancelled = done(&server, "CancelScheduled", &by_key).await;
    assert_eq!(cancelled["id"], id);
    let again = call(&server, "CancelScheduled", &json!({"id": id})).await;
    assert_eq!(refusal(&again).1, "not_found");
    let nothing = call(&server, "CancelScheduled", &json!({})).await;
    let (_, code, text) = refusal(&nothing);
    assert_eq!(code, "invalid_argument");
    assert!(text.contains("`id`"), "{text}");
    // A time in the past is now.
    let mut body = to_user("ada", "Now");
    body["notBefore"] = json!(in_an_hour() - 7_200_000);
    notify(&server, &body).await;
    let count = done(&server, "GetUnreadCount", &json!({"user": "ada"})).await;
    assert_eq!(count["unreadCount"], 1);
}

#[tokio::test]
async fn a_collapsed_notification_replaces_and_pushes_the_count() {
    let server = Server::start().await;
    let mut ada = connect(Transport::WebSocketJson, &server, "ada").await;
    let mut body = to_user("ada", "1 new message");
    body["notification"]["collapseKey"] = json!("chat");
    let mut replaced = Value::Null;
    for title in ["1 new message", "2 new messages"] {
        body["notification"]["title"] = json!(title);
        notify(&server, &body).await;
        let pushed = push(&mut ada, "ada").await.expect("notification").data;
        assert_eq!(pushed["title"], title);
        assert_eq!(pushed["replaces"], replaced);
        replaced = json!([pushed["id"]]);
        let count = push(&mut ada, "ada").await.expect("unread_count");
        assert_eq!(count.data["unreadCount"], 1);
    }
    let page = list(&mut ada, json!({})).await;
    assert_eq!(listed(&page, "title"), ["2 new messages"]);
}
