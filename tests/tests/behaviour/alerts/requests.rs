//! Requests of back ends and gRPC clients: values, manual fires, backtests, streams, limits.

use futures::future::join_all;
use serde_json::{Value, json};
use tidewire_proto::v1::{AlertRequest, alert_service_client::AlertServiceClient};
use tidewire_tests::{
    Server, Token, Transport,
    client::grpc::{channel, request},
    within,
};
use tonic::Code;

use super::{
    above, assert_refused, builder, call, connect, done, evaluate, push_of, register, start,
};

#[tokio::test]
async fn fires_are_streamed_over_grpc() {
    let server = start().await;
    let mut client = AlertServiceClient::new(channel(&server).await);
    let about = |user: Option<&str>| AlertRequest {
        user: user.map(str::to_owned),
    };
    let (ada, service) = (Token::of("ada").sign(), Token::service());
    let own = client.alert(request(about(None), Some(&ada)));
    let mut own = own.await.unwrap().into_inner();
    let named = client.alert(request(about(Some("ada")), Some(&service)));
    let mut named = named.await.unwrap().into_inner();
    for (user, token, code) in [
        (Some("bob"), Some(&ada), Code::PermissionDenied),
        (None, Some(&service), Code::InvalidArgument),
        (Some("a b"), Some(&service), Code::InvalidArgument),
        (Some("ada"), None, Code::PermissionDenied),
    ] {
        let token = token.map(String::as_str);
        let refused = client.alert(request(about(user), token)).await;
        assert_eq!(refused.unwrap_err().code(), code, "{user:?}");
    }
    register(&server, "bob", above(100)).await;
    let id = register(&server, "ada", above(100)).await;
    assert_eq!(evaluate(&server, "BTC-USD", 101.0).await, 2);
    for stream in [&mut own, &mut named] {
        let next = within("a fire", stream.message()).await;
        let event = next.unwrap().unwrap();
        assert_eq!((event.alert_id, event.rule_version), (id.clone(), Some(1)));
    }
}

#[tokio::test]
async fn values_need_the_service_scope() {
    let server = start().await;
    let price = json!({"price": {"symbol": "BTC-USD", "price": 1, "timestamp": 1}});
    let portfolio = json!({"portfolio": {"user": "ada", "id": "main", "value": 5, "currency": "USD", "timestamp": 1}});
    let ada = Token::of("ada").sign();
    for body in [&price, &portfolio] {
        let refused = server.call("AlertService/Evaluate", Some(&ada), body).await;
        assert_eq!(refused.status, 403, "{}", refused.body);
        // A local request without a token may, as with `Notify`.
        let local = server.call("AlertService/Evaluate", None, body).await;
        assert_eq!(local.status, 200, "{}", local.body);
    }
    for (body, text) in [
        (json!({}), "`price`: missing"),
        (
            json!({"price": {"symbol": "BTC-US", "price": 1, "timestamp": 1}}),
            "did you mean BTC-USD?",
        ),
        (
            json!({"price": {"symbol": "BTC-USD", "price": 0, "timestamp": 1}}),
            "`price.price`: 0, expected",
        ),
        (
            json!({"price": {"symbol": "BTC-USD", "timestamp": 1}}),
            "`price.price`: missing",
        ),
        (
            json!({"portfolio": {"user": "ada", "id": "main", "value": 5, "currency": "ZZZ", "timestamp": 1}}),
            "`portfolio.currency`: unknown currency",
        ),
        (
            json!({"portfolio": {"user": "ada", "id": "", "value": 5, "currency": "USD", "timestamp": 1}}),
            "`portfolio.id`: missing",
        ),
    ] {
        let refused = call(&server, "Evaluate", &body).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.body.contains(text), "{text}: {}", refused.body);
    }
}

#[tokio::test]
async fn a_portfolio_is_judged_by_its_users_rules() {
    let server = start().await;
    let rule =
        json!({"condition": {"kind": "portfolio_below", "portfolio": "main", "threshold": 1000}});
    let id = register(&server, "ada", rule.clone()).await;
    register(&server, "bob", rule).await;
    let value = |value: f64| json!({"portfolio": {"user": "ada", "id": "main", "value": value, "currency": "EUR", "timestamp": 1}});
    let none = done(&server, "Evaluate", &value(1000.5)).await;
    assert_eq!(none, json!({"fired": [], "total": 0}));
    let one = done(&server, "Evaluate", &value(999.5)).await;
    assert_eq!(
        (&one["total"], &one["fired"][0]["alertId"]),
        (&json!(1), &json!(id))
    );
    assert_eq!(one["fired"][0]["value"], 999.5);
}

#[tokio::test]
async fn a_rule_is_fired_by_hand() {
    let server = start().await;
    let id = register(&server, "ada", above(100)).await;
    let mut ada = connect(Transport::WebSocketJson, &server, "ada").await;
    let fired = done(&server, "TriggerAlert", &json!({"user": "ada", "id": id})).await;
    assert_eq!(fired["event"]["manual"], true);
    let pushed = push_of(&mut ada, "ada", "alert").await;
    assert_eq!(pushed.data["id"], fired["event"]["id"]);
    let notified = push_of(&mut ada, "ada", "notification").await;
    assert_eq!(notified.data["data"]["manual"], true);
    // Its own condition still fires it.
    assert_eq!(evaluate(&server, "BTC-USD", 101.0).await, 1);
    let other = call(&server, "TriggerAlert", &json!({"user": "bob", "id": id})).await;
    assert_eq!(other.status, 404);
}

#[tokio::test]
async fn a_backtest_fires_as_the_engine_does() {
    let server = start().await;
    let price = |price: f64, second: i64| json!({"symbol": "BTC-USD", "price": price, "timestamp": second * 1_000});
    let mut rule = json!({"condition": {"kind": "price_crosses", "symbol": "BTC-USD", "threshold": 100, "direction": "up"}});
    rule["repeat"] = json!("recurring");
    let values = [99.0, 101.0, 99.0, 100.0, 101.0];
    let prices: Vec<_> = (0_i64..)
        .zip(values)
        .map(|(at, value)| price(value, at + 1))
        .collect();
    let tested = done(
        &server,
        "Backtest",
        &json!({"rule": rule, "prices": prices}),
    )
    .await;
    let fires = tested["fired"].as_array().unwrap();
    let seen: Vec<_> = fires
        .iter()
        .map(|fire| (fire["value"].clone(), fire["timestamp"].clone()))
        .collect();
    assert_eq!(
        seen,
        [(json!(101), json!(2_000)), (json!(100), json!(4_000))]
    );
    register(&server, "ada", rule.clone()).await;
    let mut live = 0;
    for value in values {
        live += evaluate(&server, "BTC-USD", value).await;
    }
    assert_eq!(live, 2);
    for (body, text) in [
        (
            json!({"rule": rule, "prices": []}),
            "`prices`: 0 prices, expected 1 to 10000",
        ),
        (json!({"prices": [price(1.0, 1)]}), "`rule`: missing"),
        (
            json!({"rule": rule, "prices": [price(1.0, 2), price(1.0, 1)]}),
            "`prices[1].timestamp`",
        ),
        (
            json!({"rule": rule, "prices": [price(-1.0, 2)]}),
            "`prices[0].price`",
        ),
        (
            json!({"rule": above(0), "prices": [price(1.0, 2)]}),
            "`rule.condition.threshold`",
        ),
    ] {
        let refused = call(&server, "Backtest", &body).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.body.contains(text), "{text}: {}", refused.body);
    }
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_rules() {
    let server = builder().set("alerts", "rules_per_user = 2").start().await;
    let mut ada = connect(Transport::WebSocketJson, &server, "ada").await;
    for threshold in [1, 2] {
        let registered = ada.request("alert_register", above(threshold)).await;
        let _ = registered.expect("alert_registered");
    }
    let refused = ada.request("alert_register", above(3)).await;
    assert_refused(&refused, "resource_exhausted", "expected at most 2");
    register(&server, "bob", above(3)).await;
    assert_eq!(server.metric("tidewire_alerts_rules", "").await, 3.0);
}

#[tokio::test]
async fn a_storm_of_fires_shares_a_notification() {
    let server = builder()
        .set("alerts", "fires_per_minute = 2")
        .start()
        .await;
    for threshold in 1..=5 {
        register(&server, "ada", above(threshold)).await;
    }
    let mut ada = connect(Transport::WebSocketJson, &server, "ada").await;
    assert_eq!(evaluate(&server, "BTC-USD", 5.0).await, 5);
    for _ in 0..5 {
        push_of(&mut ada, "ada", "alert").await;
    }
    server
        .metric_until("tidewire_alerts_fired_total", "", |count| count == 5.0)
        .await;
    assert_eq!(
        server.metric("tidewire_alerts_summarised_total", "").await,
        3.0
    );
}

#[tokio::test]
async fn a_muted_type_is_logged_and_pushed_as_an_alert_alone() {
    let server = start().await;
    register(&server, "ada", above(100)).await;
    let mut ada = connect(Transport::WebSocketJson, &server, "ada").await;
    let muted = ada
        .request("preferences", json!({"mutedTypes": ["price_alert"]}))
        .await;
    let _ = muted.expect("preferences");
    assert_eq!(evaluate(&server, "BTC-USD", 101.0).await, 1);
    push_of(&mut ada, "ada", "alert").await;
    let log = ada
        .request("alert_log", json!({}))
        .await
        .expect("alert_log")
        .data;
    assert_eq!(log["items"].as_array().unwrap().len(), 1);
    // The notification is in the inbox, hidden until the type is shown again.
    let listed = ada
        .request("notifications", json!({}))
        .await
        .expect("notifications")
        .data;
    assert_eq!(listed["items"], json!([]));
    let shown = ada.request("preferences", json!({"mutedTypes": []})).await;
    let _ = shown.expect("preferences");
    tidewire_tests::eventually("the notification", async || {
        let listed = ada
            .request("notifications", json!({}))
            .await
            .expect("notifications")
            .data;
        (listed["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn alerts_can_be_disabled_and_a_replay_without_a_store_has_none() {
    let disabled = builder().set("alerts", "enabled = false").start().await;
    let refused = call(&disabled, "ListAlerts", &json!({"user": "ada"})).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.body.contains("alerts.enabled"), "{}", refused.body);
    let folder = tempfile::TempDir::new().unwrap();
    // Where the store of a replay would be.
    std::fs::write(folder.path().join("sample"), "in the way").unwrap();
    let replay = Server::builder()
        .arguments(&["replay", "--speed", "max"])
        .set("store", &format!("path = {:?}", folder.path()))
        .start()
        .await;
    let refused = call(&replay, "ListAlerts", &json!({"user": "ada"})).await;
    assert!(refused.body.contains("replay"), "{}", refused.body);
}

#[tokio::test]
async fn backtests_of_one_user_delay_no_other() {
    let server = start().await;
    let start_ms = 1_750_000_000_000_i64;
    let prices = |count: i64| -> Vec<Value> {
        let price = |place: i64| json!({"symbol": "BTC-USD", "price": 99 + place % 3, "timestamp": start_ms + place * 660});
        (0..count).map(price).collect()
    };
    let averages: Vec<_> = (0..8)
        .map(|place| {
            json!({"kind": "moving_average_cross", "symbol": "BTC-USD",
                "fastMs": 1_000 + place * 10, "slowMs": 2_000 + place * 10})
        })
        .collect();
    let long = json!({"rule": {"condition": {"kind": "any", "conditions": averages}}, "prices": prices(300)});
    let short = json!({"rule": above(100), "prices": prices(3)});
    let [mallory, bob] = ["mallory", "bob"].map(|user| Token::of(user).sign());
    let call = |token: &str, body: &Value| {
        let (token, body) = (token.to_owned(), body.clone());
        let server = &server;
        async move {
            server
                .call("AlertService/Backtest", Some(&token), &body)
                .await
        }
    };
    let many = join_all((0..12).map(|_| call(&mallory, &long)));
    let (many, one) = tokio::join!(many, async {
        // Behind them, if there were no turns.
        call(&mallory, &long).await;
        call(&bob, &short).await
    });
    assert_eq!(one.status, 200, "{}", one.body);
    assert_eq!(one.json()["total"], 1);
    let refused: Vec<_> = many.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty());
    assert!(
        refused[0].body.contains("backtests of this client"),
        "{}",
        refused[0].body
    );
}

#[tokio::test]
async fn all_users_test_windows_of_common_lengths() {
    let server = start().await;
    let register = |user: String, window_ms: u64| {
        let rule = json!({"condition": {"kind": "percent_change", "symbol": "BTC-USD", "percent": 99, "windowMs": window_ms}});
        let body = json!({"user": user, "rule": rule});
        let server = &server;
        async move { call(server, "RegisterAlert", &body).await }
    };
    for number in 0..64 {
        let registered = register(format!("user-{}", number / 8), 600_000_001 + number).await;
        assert_eq!(registered.status, 200, "{}", registered.body);
    }
    let refused = register("ada".to_owned(), 600_000_100).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(refused.body.contains("or a window of"), "{}", refused.body);
    let registered = register("ada".to_owned(), 3_600_000).await;
    assert_eq!(registered.status, 200, "{}", registered.body);
}
