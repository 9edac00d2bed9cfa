//! Requests that need the shared store, sent to a server that does not own it.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};
use tidewire_proto::v1::{ListNotificationsRequest, notify_service_client::NotifyServiceClient};
use tidewire_tests::{
    Client, HttpResponse, RedisServer, Server, Token, Transport,
    client::grpc::{channel, request},
    eventually, on_every_transport, within,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    servers::server,
    shared_store::{inbox, notify},
};

on_every_transport!(a_session_uses_its_inbox_and_its_rules_on_another_server);

const EMAIL: &str = "[delivery.email]\nhost = \"127.0.0.1\"\nport = 1\nencryption = \"none\"\n\
    from = \"notify@example.com\"\nunsubscribe_url = \"https://example.com/v1/unsubscribe\"\n\
    unsubscribe_secrets = [\"0123456789abcdef0123456789abcdef\"]\n";

const PUSH: &str = "[delivery.push]\n\
    vapid_private_key = \"IQ9Ur0ykXoHS9gzfYX0aBjy9lvdrjx_PFUXmie9YRcY\"\n\
    subject = \"mailto:ops@example.com\"\n";

/// A server with delivery channels and the store of this Redis.
async fn start(redis: &RedisServer) -> Server {
    let builder = server(redis).set("store", "kind = \"redis\"");
    builder.table(PUSH).table(EMAIL).start().await
}

/// The owner of the store, and another server.
async fn pair(redis: &RedisServer) -> (Server, Server) {
    let owner = start(redis).await;
    owner
        .metric_until("tidewire_store_owner", "", |value| value > 0.0)
        .await;
    (owner, start(redis).await)
}

/// Requests of a user `?`, whose rule is `RULE` once it is registered.
const REQUESTS: &str = r#"
NotifyService/Notify {"user": "?", "notification": {"type": "system_announcement", "title": "T"}, "idempotencyKey": "?"}
NotifyService/Notify {"user": "?", "notification": {"type": "system_announcement", "title": "T"}, "idempotencyKey": "?"}
NotifyService/Notify {"user": "?", "notification": {"type": "system_announcement", "title": "U"}, "idempotencyKey": "?"}
NotifyService/Notify {"user": "?", "notification": {"type": "none"}}
NotifyService/Notify {"user": "?", "notification": {"title": ""}}
NotifyService/Notify {"channel": "nosuch:x", "notification": {"type": "system_announcement", "title": "T"}}
NotifyService/Notify {"channel": "demo:x", "notification": {"type": "system_announcement", "title": "T"}}
NotifyService/NotifyBatch {}
NotifyService/NotifyBatch {"notifications": [{"user": "?", "notification": {"type": "system_announcement", "title": "V"}}, {"user": "?"}, {"channel": "user:x"}]}
NotifyService/ListNotifications {"user": "?", "limit": 10}
NotifyService/ListNotifications {"user": "?", "limit": 0}
NotifyService/ListNotifications {}
NotifyService/MarkRead {"user": "?", "ids": ["x"]}
NotifyService/MarkRead {"user": "?", "ids": []}
NotifyService/MarkAllRead {"user": "?", "upTo": "x"}
NotifyService/GetUnreadCount {"user": "?"}
NotifyService/MarkAllRead {"user": "?"}
NotifyService/Dismiss {"user": "?", "ids": ["x"]}
NotifyService/SetPreferences {"user": "?", "preferences": {"minPriority": "high"}}
NotifyService/SetPreferences {"user": "?", "preferences": {"user": "x"}}
NotifyService/SetPreferences {"user": "?"}
NotifyService/SetPreferences {"user": "?", "preferences": {"minPriority": "low"}}
NotifyService/GetPreferences {"user": "?"}
NotifyService/RegisterPush {"user": "?", "subscription": {"endpoint": "https://push.example.com/1", "keys": {"p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", "auth": "BTBZMqHH6r4Tts7J_aSIgg"}}}
NotifyService/RegisterPush {"user": "?", "subscription": {"endpoint": "x"}}
NotifyService/UnregisterPush {"user": "?", "id": "x"}
NotifyService/UnregisterPush {"user": "?"}
NotifyService/GetPushKey {}
NotifyService/SetEmail {"user": "?", "address": "a@example.com"}
NotifyService/SetEmail {"user": "?", "address": "a"}
NotifyService/SetEmail {"user": "?"}
NotifyService/GetEmail {"user": "?"}
NotifyService/GetEmail {}
NotifyService/RetryDeadLetter {"id": "x"}
NotifyService/CancelScheduled {"id": "x"}
NotifyService/CancelScheduled {"idempotencyKey": "none"}
NotifyService/CancelScheduled {}
NotifyService/RecallBroadcast {"id": "x"}
NotifyService/RecallBroadcast {}
AlertService/RegisterAlert {"user": "?", "rule": {"condition": {"kind": "portfolio_above", "portfolio": "p", "threshold": 5}}, "idempotencyKey": "?"}
AlertService/RegisterAlert {"user": "?", "rule": {"condition": {"kind": "portfolio_above", "portfolio": "p", "threshold": 6}}, "idempotencyKey": "?"}
AlertService/RegisterAlert {"user": "?", "rule": {"condition": {"kind": "portfolio_above", "portfolio": "p"}}}
AlertService/RegisterAlert {"user": "?", "rule": {"condition": {"kind": "none"}}}
AlertService/RegisterAlert {"user": "?", "rule": {"id": "x", "user": "y"}}
AlertService/RegisterAlert {"user": "?"}
AlertService/ListAlerts {"user": "?"}
AlertService/ListAlerts {"user": "?", "limit": 0}
AlertService/UpdateAlert {"user": "?", "rule": {"id": "RULE", "condition": {"kind": "portfolio_above", "portfolio": "p", "threshold": 7}}}
AlertService/UpdateAlert {"user": "?", "rule": {"id": "x", "condition": {"kind": "portfolio_above", "portfolio": "p", "threshold": 7}}}
AlertService/UpdateAlert {"user": "?"}
AlertService/ExplainAlert {"user": "?", "id": "RULE"}
AlertService/ExplainAlert {"user": "?", "id": "x"}
AlertService/Evaluate {"portfolio": {"user": "?", "id": "p", "value": 6, "currency": "EUR", "timestamp": 1}}
AlertService/Evaluate {"portfolio": {"user": "?", "id": "p", "value": 6, "currency": "ZZZ", "timestamp": 1}}
AlertService/Evaluate {}
AlertService/TriggerAlert {"user": "?", "id": "RULE"}
AlertService/TriggerAlert {"user": "?", "id": "x"}
AlertService/ListFires {"user": "?"}
AlertService/DeleteAlert {"user": "?", "id": "RULE"}
AlertService/DeleteAlert {"user": "?", "id": "RULE"}
AlertService/Backtest {"rule": {"condition": {"kind": "price_above", "symbol": "BTC-USD", "threshold": 5}}, "prices": [{"symbol": "BTC-USD", "price": 1, "timestamp": 1000}, {"symbol": "BTC-USD", "price": 9, "timestamp": 2000}]}
AlertService/Backtest {"rule": {"condition": {"kind": "price_above", "symbol": "BTC-USD", "threshold": 5}}}
AdminService/ListDeadLetters {}
AdminService/ListDeadLetters {"limit": 0}
"#;

/// The status and the body of a response, without what differs from one request to the next: ids and
/// times.
fn comparable(response: &HttpResponse) -> (u16, Value) {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                let is_time = |name: &str| name.ends_with("At") || name == "timestamp";
                for (name, value) in fields {
                    match name == "id" || is_time(name) {
                        true => *value = Value::Null,
                        false => strip(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut body = serde_json::from_str(&response.body).unwrap_or(json!(response.body));
    strip(&mut body);
    (response.status, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_gets_the_answer_of_the_owner() {
    let redis = RedisServer::start().await;
    let (owner, other) = pair(&redis).await;
    let service = Token::service();
    let operator = Token::of("operator").scope("admin").sign();
    // One user each, so that both begin with nothing.
    let users = ["user-1", "user-2"];
    let mut rules = ["none-yet".to_owned(), "none-yet".to_owned()];
    for line in REQUESTS.trim().lines() {
        let (method, body) = line.split_once(' ').expect("a method and a body");
        let token = match method.starts_with("Admin") {
            true => &operator,
            false => &service,
        };
        let mut answers = Vec::new();
        let servers = [&owner, &other].into_iter().zip(users);
        for ((server, user), rule) in servers.zip(&mut rules) {
            let body = body.replace("\"?\"", &format!("{user:?}"));
            let body = serde_json::from_str(&body.replace("RULE", rule)).expect("JSON");
            let answer = server.call(method, Some(token), &body).await;
            assert_ne!(answer.status, 503, "{method} {}", answer.body);
            if method == "AlertService/RegisterAlert" && answer.status == 200 {
                let id = answer.json()["id"].clone();
                *rule = id.as_str().expect("an id").to_owned();
            }
            let (status, answer) = comparable(&answer);
            let answer = answer.to_string().replace(&**rule, "RULE");
            answers.push((status, answer.replace(user, "?")));
        }
        assert_eq!(answers[0], answers[1], "{line}");
        // Refusals are equal too: without a token, of another user, and of an operator.
        let body = serde_json::from_str(body).expect("JSON");
        let mallory = Token::of("mallory").sign();
        for token in [None, Some(&mallory), Some(&operator)] {
            let mut refusals = Vec::new();
            for server in [&owner, &other] {
                let answer = server
                    .call(method, token.map(|token| &**token), &body)
                    .await;
                refusals.push(comparable(&answer));
            }
            assert_eq!(refusals[0], refusals[1], "{line}");
        }
    }
    // What one server stored, the other reads.
    for (user, from) in [("user-1", &other), ("user-2", &owner)] {
        let (titles, _) = inbox(from, user).await.expect("an inbox");
        let two = ["V".to_owned(), "T".to_owned()];
        assert!(titles.ends_with(&two), "{titles:?}");
    }
    for server in [&owner, &other] {
        let url = server.url("/v1/unsubscribe?token=x");
        let forged = server.http().post(url).send().await.expect("an answer");
        assert_eq!(forged.status(), 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_has_the_status_of_the_owner() {
    let redis = RedisServer::start().await;
    let (owner, other) = pair(&redis).await;
    assert_eq!(notify(&other, "ann", "1").await.status, 200);
    let mut answers = Vec::new();
    for server in [&owner, &other] {
        let mut client = NotifyServiceClient::new(channel(server).await);
        let list = |limit| {
            let message = ListNotificationsRequest {
                limit: Some(limit),
                ..ListNotificationsRequest::default()
            };
            request(message, Some(&Token::of("ann").sign()))
        };
        let listed = client.list_notifications(list(10)).await;
        let refused = client.list_notifications(list(0)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        answers.push((
            listed.expect("a list").into_inner(),
            refused.message().to_owned(),
        ));
    }
    assert_eq!(answers[0].0.items.len(), 1);
    assert_eq!(answers[0], answers[1]);
}

async fn a_session_uses_its_inbox_and_its_rules_on_another_server(transport: Transport) {
    let redis = RedisServer::start().await;
    let (owner, other) = pair(&redis).await;
    let token = Token::of("ann").sign();
    let mut client = Client::connect_as(transport, &other, Some(&token)).await;
    assert_eq!(notify(&owner, "ann", "1").await.status, 200);
    assert_eq!(notify(&other, "ann", "2").await.status, 200);
    let listed = client.request("notifications", json!({})).await.data;
    assert_eq!(listed["unreadCount"], 2);
    let titles = listed["items"].as_array().expect("items").iter();
    let titles: Vec<_> = titles.map(|one| one["title"].clone()).collect();
    assert_eq!(titles, ["2", "1"]);
    let id = listed["items"][0]["id"].clone();
    let read = client.request("mark_read", json!({"ids": [id]})).await.data;
    assert_eq!(read, json!({"ids": [id], "unreadCount": 1}));
    let read = client
        .request("mark_all_read", json!({"upTo": id}))
        .await
        .data;
    assert_eq!(read, json!({"all": true, "unreadCount": 0, "upTo": id}));
    let gone = client.request("dismiss", json!({"ids": [id]})).await.data;
    assert_eq!(gone, json!({"ids": [id], "unreadCount": 0}));
    let count = client.request("unread_count", json!({})).await.data;
    assert_eq!(count["unreadCount"], 0);
    let set = json!({"minPriority": "high"});
    let preferences = client.request("preferences", set.clone()).await.data;
    assert_eq!(preferences, set);
    let rule = json!({"condition": {"kind": "portfolio_above", "portfolio": "p", "threshold": 5}});
    let registered = client.request("alert_register", rule).await.data;
    assert_eq!(registered["condition"]["threshold"], 5);
    let mut changed = json!({"id": registered["id"]});
    changed["condition"] = json!({"kind": "portfolio_above", "portfolio": "p", "threshold": -6});
    // The error names the field as it is in the message.
    let refused = client.request("alert_update", changed.clone()).await.data;
    let text = refused["message"].as_str().expect("a message");
    assert!(text.contains("`condition"), "{text}");
    changed["condition"]["threshold"] = json!(6);
    let updated = client.request("alert_update", changed).await.data;
    assert_eq!(updated["condition"]["threshold"], 6);
    let rules = client.request("alerts", json!({})).await.data;
    assert_eq!(rules["items"].as_array().map(Vec::len), Some(1));
    let id = json!({"id": registered["id"]});
    let explained = client.request("alert_explain", id.clone()).await.data;
    assert!(explained.get("code").is_none(), "{explained}");
    let deleted = client.request("alert_delete", id.clone()).await.data;
    assert_eq!(deleted, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_during_a_takeover_are_answered_or_refused_and_never_done_twice() {
    let redis = RedisServer::start().await;
    let (mut owner, other) = pair(&redis).await;
    let third = Arc::new(start(&redis).await);
    let other = Arc::new(other);
    for server in [&other, &third] {
        assert!(inbox(server, "ann").await.is_some());
    }
    let mut sending = JoinSet::new();
    // Half of them have keys, by which they may be repeated.
    for task in 0..8 {
        let server = [&other, &third][task % 2].clone();
        let has_key = task < 4;
        sending.spawn(async move {
            let mut sent = Vec::new();
            // Until the takeover is over: a request then takes next to no time.
            for number in 0..150 {
                let title = format!("{task}.{number}");
                let note = json!({"type": "system_announcement", "title": title});
                let mut body = json!({"user": "ann", "notification": note});
                if has_key {
                    body["idempotencyKey"] = json!(title);
                }
                let token = Token::service();
                let answer = server
                    .call("NotifyService/Notify", Some(&token), &body)
                    .await;
                sent.push((title, answer.status, answer.body));
            }
            sent
        });
    }
    eventually("some are stored", async || {
        (inbox(&other, "ann").await?.0.len() > 20).then_some(())
    })
    .await;
    owner.kill().await;
    let mut all = Vec::new();
    while let Some(sent) = within("the senders", sending.join_next()).await {
        all.extend(sent.expect("a sender ends"));
    }
    let (titles, unread) = inbox(&other, "ann").await.expect("an inbox");
    let stored: BTreeSet<_> = titles.iter().cloned().collect();
    assert_eq!(stored.len(), titles.len(), "one was carried out twice");
    assert_eq!(unread, titles.len() as u64);
    for (title, status, body) in &all {
        match status {
            200 => assert!(stored.contains(title), "{title} is lost"),
            // In doubt, which must be said, or refused and not stored.
            503 if body.contains("it is not known whether") => {}
            503 => assert!(!stored.contains(title), "{title} is stored: {body}"),
            _ => panic!("{title}: {status} {body}"),
        }
    }
    let acknowledged = all.iter().filter(|one| one.1 == 200).count();
    assert!(acknowledged > all.len() / 2, "{acknowledged}");
    assert_eq!(inbox(&third, "ann").await.expect("an inbox").1, unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_stopped_keeps_nobody_waiting() {
    let redis = RedisServer::start().await;
    let (owner, other) = pair(&redis).await;
    let other = Arc::new(other);
    assert_eq!(notify(&other, "ann", "1").await.status, 200);
    owner.pause();
    let mut waiting = JoinSet::new();
    for number in 0..4 {
        let other = other.clone();
        waiting.spawn(async move {
            let note = json!({"type": "system_announcement", "title": format!("x{number}")});
            let body = json!({"user": "ann", "notification": note});
            let token = Token::service();
            let sent = other
                .call("NotifyService/Notify", Some(&token), &body)
                .await;
            (sent, inbox(&other, "ann").await)
        });
    }
    while let Some(answers) = within("the answers", waiting.join_next()).await {
        let (sent, listed) = answers.expect("answers");
        // They were in the socket of the owner, and had no key.
        assert_eq!(sent.status, 503, "{}", sent.body);
        assert!(
            sent.body.contains("it is not known whether"),
            "{}",
            sent.body
        );
        assert!(sent.body.contains("retryAfterMs"), "{}", sent.body);
        assert_eq!(listed.expect("an inbox").0, ["1"]);
    }
    // The old owner finds them when it goes on, and may not carry them out.
    owner.resume();
    owner.log_line("end with the term").await;
    let listed = eventually("the old owner asks the new one", async || {
        inbox(&owner, "ann").await
    });
    assert_eq!(listed.await.0, ["1"]);
    assert_eq!(notify(&owner, "ann", "2").await.status, 200);
    assert_eq!(inbox(&other, "ann").await.expect("an inbox").0, ["2", "1"]);
}
