//! Alerts: rules and fires on all transports, delivery, permissions, limits and failures.

mod durability;
mod loading;
mod prices;
mod requests;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_tests::{Client, HttpResponse, Message, Server, ServerBuilder, Token, Transport};

on_every_transport_and_tls!(
    a_rule_lives_and_fires,
    rules_belong_to_their_user,
    a_wrong_field_of_a_rule_is_named,
);

on_every_transport!(
    lists_of_rules_and_fires_have_pages,
    a_kill_keeps_rules_and_fires,
);

/// A server with one symbol that no source trades: `Evaluate` alone gives its price.
fn builder() -> ServerBuilder {
    Server::builder().set("prices", "symbols = [\"BTC-USD\", \"ETH-USD\"]")
}

async fn start() -> Server {
    builder().start().await
}

/// A server whose data is in this folder.
fn builder_in(folder: &TempDir) -> ServerBuilder {
    let path = format!("path = {:?}", folder.path().display().to_string());
    builder().set("store", &path)
}

async fn call(server: &Server, method: &str, body: &Value) -> HttpResponse {
    let method = format!("AlertService/{method}");
    server.call(&method, Some(&Token::service()), body).await
}

/// Calls a method as a back end, and returns the response.
async fn done(server: &Server, method: &str, body: &Value) -> Value {
    let answer = call(server, method, body).await;
    assert_eq!(answer.status, 200, "{method} {body}: {}", answer.body);
    answer.json()
}

/// Registers a rule as a back end, and returns its id.
async fn register(server: &Server, user: &str, rule: Value) -> String {
    let registered = done(
        server,
        "RegisterAlert",
        &json!({"user": user, "rule": rule}),
    )
    .await;
    registered["id"].as_str().unwrap().to_owned()
}

/// Judges a price, and returns how many rules it fired.
async fn evaluate(server: &Server, symbol: &str, price: f64) -> u64 {
    let body =
        json!({"price": {"symbol": symbol, "price": price, "timestamp": 1_750_000_000_000_i64}});
    let evaluated = done(server, "Evaluate", &body).await;
    evaluated["total"].as_u64().unwrap()
}

fn above(threshold: impl Into<Value>) -> Value {
    json!({"condition": {"kind": "price_above", "symbol": "BTC-USD", "threshold": threshold.into()}})
}

async fn connect(transport: Transport, server: &Server, user: &str) -> Client {
    Client::connect_as(transport, server, Some(&Token::of(user).sign())).await
}

/// Checks the error of a session message.
fn assert_refused(refused: &Message, code: &str, text: &str) {
    assert_eq!(refused.error_code(), code, "{}", refused.text);
    assert!(refused.error_message().contains(text), "{}", refused.text);
}

/// The next push of a type on the channel of a user. Others are left out.
async fn push_of(client: &mut Client, user: &str, kind: &str) -> Message {
    loop {
        let pushed = client.next_on(&format!("user:{user}")).await;
        if pushed.kind == kind {
            return pushed;
        }
    }
}

async fn a_rule_lives_and_fires(transport: Transport) {
    let server = start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let mut other = connect(transport, &server, "ada").await;
    let rule = json!({
        "name": "BTC high",
        "condition": {"kind": "price_above", "symbol": "btc-usd", "threshold": 0.000_000_001_72},
        "repeat": "recurring",
        "priority": "urgent",
        "template": "{symbol} passed {threshold}: {price}",
    });
    let registered = ada.request("alert_register", rule).await;
    let registered = registered.expect("alert_registered").data;
    let id = registered["id"].as_str().unwrap().to_owned();
    assert_eq!(registered["version"], 1);
    assert_eq!(
        (&registered["state"], &registered["enabled"]),
        (&json!("pending"), &json!(true))
    );
    assert_eq!(registered["condition"]["symbol"], "BTC-USD");
    assert_eq!(evaluate(&server, "BTC-USD", 0.000_000_001_71).await, 0);
    assert_eq!(evaluate(&server, "BTC-USD", 0.000_000_001_72).await, 1);
    let mut fire = Value::Null;
    for client in [&mut ada, &mut other] {
        let alert = push_of(client, "ada", "alert").await;
        assert!(alert.text.contains("0.00000000172"), "{}", alert.text);
        assert_eq!(
            (&alert.data["alertId"], &alert.data["ruleVersion"]),
            (&json!(id), &json!(1))
        );
        assert_eq!(
            (&alert.data["symbol"], &alert.data["sources"]),
            (&json!("BTC-USD"), &json!(["evaluate"]))
        );
        assert_eq!(alert.data["rule"]["state"], "firing");
        let notification = push_of(client, "ada", "notification").await.data;
        assert_eq!(notification["type"], "price_alert");
        assert_eq!(
            (&notification["title"], &notification["priority"]),
            (&json!("BTC high"), &json!("urgent"))
        );
        assert_eq!(
            notification["body"],
            "BTC-USD passed 0.00000000172: 0.00000000172"
        );
        assert_eq!(notification["data"]["fireId"], alert.data["id"]);
        assert_eq!(notification["data"]["alertId"], id);
        fire = alert.data["id"].clone();
    }
    let explained = ada.request("alert_explain", json!({"id": id})).await;
    let explained = explained.expect("alert_explained").data;
    assert_eq!(
        (&explained["decision"], &explained["ruleVersion"]),
        (&json!("fired"), &json!(1))
    );
    assert!(explained["reason"].as_str().unwrap().len() > 10);
    assert_eq!(explained["tick"]["sources"], json!(["evaluate"]));
    // A change of the name keeps the rest.
    let change = json!({"id": id, "name": "Renamed", "cooldownMs": 60_000});
    let updated = other.request("alert_update", change).await;
    let updated = updated.expect("alert_updated").data;
    assert_eq!(
        (&updated["version"], &updated["name"]),
        (&json!(2), &json!("Renamed"))
    );
    assert_eq!(updated["template"], registered["template"]);
    let listed = ada.request("alerts", json!({})).await.expect("alerts").data;
    assert_eq!(listed["items"], json!([updated]));
    let log = ada
        .request("alert_log", json!({}))
        .await
        .expect("alert_log")
        .data;
    assert_eq!(log["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&log["items"][0]["id"], &log["items"][0]["rule"]["name"]),
        (&fire, &json!("BTC high"))
    );
    let deleted = ada.request("alert_delete", json!({"id": id})).await;
    assert_eq!(deleted.expect("alert_deleted").data, json!({"id": id}));
    evaluate(&server, "BTC-USD", 0.000_000_000_1).await;
    assert_eq!(evaluate(&server, "BTC-USD", 1.0).await, 0);
    let listed = ada.request("alerts", json!({})).await.expect("alerts").data;
    assert_eq!(listed, json!({"items": []}));
    // The log outlives the rule.
    let log = ada.request("alert_log", json!({"alertId": id})).await;
    assert_eq!(
        log.expect("alert_log").data["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

async fn rules_belong_to_their_user(transport: Transport) {
    let server = start().await;
    let id = register(&server, "ada", above(100)).await;
    let mut bob = connect(transport, &server, "bob").await;
    for kind in ["alert_delete", "alert_explain", "alert_update"] {
        let refused = bob.request(kind, json!({"id": id})).await;
        assert_refused(&refused, "not_found", &id);
        let named = bob.request(kind, json!({"id": id, "user": "ada"})).await;
        assert_refused(&named, "permission_denied", "`user`");
    }
    let listed = bob.request("alerts", json!({})).await;
    assert_eq!(listed.expect("alerts").data, json!({"items": []}));
    for kind in ["alerts", "alert_log"] {
        let refused = bob.request(kind, json!({"user": "ada"})).await;
        assert_refused(&refused, "permission_denied", "`user`");
    }
    assert_eq!(evaluate(&server, "BTC-USD", 101.0).await, 1);
    let log = bob.request("alert_log", json!({})).await;
    assert_eq!(log.expect("alert_log").data, json!({"items": []}));
    // A back end names the user, and sees whose rule it is.
    let mut shop = Client::connect_as(transport, &server, Some(&Token::service())).await;
    let listed = shop.request("alerts", json!({"user": "ada"})).await;
    assert_eq!(listed.expect("alerts").data["items"][0]["user"], "ada");
    let mut rule = above(7);
    rule["user"] = json!("bob");
    rule["idempotencyKey"] = json!("k");
    let first = shop.request("alert_register", rule.clone()).await;
    let again = shop.request("alert_register", rule).await;
    assert_eq!(
        first.expect("alert_registered").data["id"],
        again.expect("alert_registered").data["id"]
    );
    let mut own = bob.request("alerts", json!({})).await.expect("alerts").data;
    let item = own["items"][0].take();
    assert_eq!((&item["user"], &item["version"]), (&Value::Null, &json!(1)));
    // Without a user there are no rules.
    let mut anonymous = Client::connect(transport, &server).await;
    for kind in ["alerts", "alert_log"] {
        let refused = anonymous.request(kind, json!({})).await;
        assert_refused(&refused, "permission_denied", "token");
    }
}

async fn a_wrong_field_of_a_rule_is_named(transport: Transport) {
    let server = start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let with = |field: &str, value: Value| {
        let mut rule = above(100);
        rule[field] = value;
        rule
    };
    let condition = |condition: Value| json!({"condition": condition});
    let mut deep = json!({"kind": "price_above", "symbol": "BTC-USD", "threshold": 1});
    for _ in 0..4 {
        deep = json!({"kind": "all", "conditions": [deep]});
    }
    for (rule, text) in [
        (json!({}), "`condition`: missing"),
        (
            condition(json!({"kind": "price_above", "symbol": "BTC-US", "threshold": 1})),
            "did you mean BTC-USD?",
        ),
        (
            above(-1),
            "`condition.threshold`: -1, expected a number above 0",
        ),
        (
            condition(
                json!({"kind": "percent_change", "symbol": "BTC-USD", "percent": 5, "windowMs": 0}),
            ),
            "`condition.windowMs`",
        ),
        (
            condition(
                json!({"kind": "price_channel", "symbol": "BTC-USD", "low": 5, "high": 4, "on": "enter"}),
            ),
            "`condition.",
        ),
        (condition(deep), "nested deeper than 3 levels"),
        (
            condition(json!({"kind": "all", "conditions": []})),
            "empty, expected at least one",
        ),
        (
            with("expiresAt", json!(1_000)),
            "`expiresAt`: 1000 is in the past",
        ),
        (
            with("template", json!("{nonsense}")),
            "`template`: unknown field",
        ),
        (with("repeat", json!({"times": 0})), "`repeat.times`"),
        (with("id", json!("x")), "`id`: given"),
        (
            condition(json!({"kind": "gas_above", "chain": 5, "gwei": 1})),
            "`condition.chain`: unknown chain 5",
        ),
    ] {
        let refused = ada.request("alert_register", rule).await;
        assert_refused(&refused, "invalid_argument", text);
    }
    for (kind, data, text) in [
        ("alerts", json!({"limit": 0}), "`limit`"),
        ("alerts", json!({"after": "a-1"}), "`after`"),
        ("alert_log", json!({"before": "a-1"}), "`before`"),
        ("alert_log", json!({"alertId": "?"}), "`alertId`"),
        ("alert_update", json!({"name": "x"}), "`id`"),
    ] {
        assert_refused(&ada.request(kind, data).await, "invalid_argument", text);
    }
    let unknown = ada.request("alert_delete", json!({"id": "nothing"})).await;
    assert_refused(&unknown, "not_found", "nothing");
    let listed = ada.request("alerts", json!({})).await;
    assert_eq!(listed.expect("alerts").data, json!({"items": []}));
}

async fn lists_of_rules_and_fires_have_pages(transport: Transport) {
    let server = start().await;
    let mut ada = connect(transport, &server, "ada").await;
    for threshold in 1..=5 {
        let registered = ada.request("alert_register", above(threshold)).await;
        let _ = registered.expect("alert_registered");
    }
    assert_eq!(evaluate(&server, "BTC-USD", 5.0).await, 5);
    for (kind, field) in [("alerts", "after"), ("alert_log", "before")] {
        let (mut query, mut sizes, mut ids) = (json!({"limit": 2}), Vec::new(), Vec::new());
        loop {
            let page = ada.request(kind, query.clone()).await.expect(kind).data;
            let items = page["items"].as_array().unwrap();
            sizes.push(items.len());
            ids.extend(items.iter().map(|item| item["id"].to_string()));
            if page["next"].is_null() {
                break;
            }
            query[field] = page["next"].clone();
        }
        assert_eq!(sizes, [2, 2, 1], "{kind}");
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 5, "{kind}");
    }
}

async fn a_kill_keeps_rules_and_fires(transport: Transport) {
    let folder = TempDir::new().unwrap();
    let mut first = builder_in(&folder).start().await;
    let fired = register(&first, "ada", above(100)).await;
    let armed = register(&first, "ada", above(200)).await;
    assert_eq!(evaluate(&first, "BTC-USD", 101.0).await, 1);
    let mut ada = connect(transport, &first, "ada").await;
    let before = ada.request("alerts", json!({})).await.expect("alerts").data;
    let log = ada
        .request("alert_log", json!({}))
        .await
        .expect("alert_log")
        .data;
    first.kill().await;
    let second = builder_in(&folder).start().await;
    let mut ada = connect(transport, &second, "ada").await;
    let after = ada.request("alerts", json!({})).await.expect("alerts").data;
    let states = |list: &Value| -> Vec<(Value, Value)> {
        let items = list["items"].as_array().unwrap();
        let pair = |item: &Value| (item["id"].clone(), item["fires"].clone());
        items.iter().map(pair).collect()
    };
    assert_eq!(states(&after), states(&before));
    assert_eq!(after["items"][0]["state"], "exhausted");
    let again = ada.request("alert_log", json!({})).await;
    assert_eq!(again.expect("alert_log").data, log);
    assert_eq!(evaluate(&second, "BTC-USD", 201.0).await, 1);
    let log = ada
        .request("alert_log", json!({}))
        .await
        .expect("alert_log")
        .data;
    let fires: Vec<_> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["alertId"].clone())
        .collect();
    assert_eq!(fires, [json!(armed), json!(fired)]);
}
