//! Scopes: each call that the documentation ties to a scope, by callers with and without it, on
//! loopback and through a proxy.

use serde_json::{Value, json};
use tidewire_tests::{Server, Token};

/// The callers that may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// The scope `service`, also on loopback.
    BackEnd,
    /// The scope `service`, or a local request without any token.
    Sender,
    /// The scope `admin`, or a local request.
    Operator,
    /// One of the two scopes, or a local request.
    Either,
}

/// A caller: its place, and the scope of its token. No token if the user is missing.
#[derive(Debug, Clone, Copy)]
struct Caller {
    is_local: bool,
    user: Option<&'static str>,
    scope: &'static str,
}

impl Right {
    fn permits(self, caller: Caller) -> bool {
        let Caller {
            is_local,
            user,
            scope,
        } = caller;
        match self {
            Self::BackEnd => scope == "service",
            Self::Sender => scope == "service" || is_local && user.is_none(),
            Self::Operator => scope == "admin" || is_local,
            Self::Either => scope == "service" || scope == "admin" || is_local,
        }
    }
}

/// All callers of a server on loopback.
fn callers() -> Vec<Caller> {
    let tokens = [
        (None, ""),
        (Some("bob"), ""),
        (Some("shop"), "service"),
        (Some("grace"), "admin"),
    ];
    let places = [true, false].into_iter();
    let all = places.flat_map(|is_local| {
        tokens.map(|(user, scope)| Caller {
            is_local,
            user,
            scope,
        })
    });
    all.collect()
}

const WALLET: &str = "0xd8da6bf26964af9d7eed9e03e53415d37aa96045";
const ID: &str = "06c9d4f1x00003m5q8r2t7w9y1";

/// The calls of the documentation's table of scopes. Each body passes as far as the check of the
/// rights, and most of them no further.
fn calls() -> Vec<(Right, &'static str, Value)> {
    let wallet = json!({"user": "ada", "address": WALLET});
    let watched = json!({"chain": 1, "txHash": format!("0x{}", "1".repeat(64))});
    vec![
        (
            Right::BackEnd,
            "StreamService/SendToUser",
            json!({"user": "ada", "data": 1}),
        ),
        (Right::BackEnd, "WatchService/LinkWallet", wallet.clone()),
        (Right::BackEnd, "WatchService/UnlinkWallet", wallet),
        (
            Right::BackEnd,
            "WatchService/WatchTransaction",
            watched.clone(),
        ),
        (Right::BackEnd, "WatchService/Unwatch", watched),
        (
            Right::BackEnd,
            "NotifyService/SetEmail",
            json!({"user": "ada", "address": "ada@example.org"}),
        ),
        (
            Right::BackEnd,
            "NotifyService/GetEmail",
            json!({"user": "ada"}),
        ),
        (
            Right::BackEnd,
            "NotifyService/RetryDeadLetter",
            json!({"id": ID}),
        ),
        (
            Right::Sender,
            "NotifyService/Notify",
            json!({"user": "ada"}),
        ),
        (Right::Sender, "NotifyService/NotifyBatch", json!({})),
        (
            Right::Sender,
            "NotifyService/CancelScheduled",
            json!({"id": ID}),
        ),
        (
            Right::Sender,
            "NotifyService/RecallBroadcast",
            json!({"id": ID}),
        ),
        (Right::Sender, "AlertService/Evaluate", json!({})),
        (Right::Operator, "AdminService/ListConnections", json!({})),
        (
            Right::Operator,
            "AdminService/Disconnect",
            json!({"user": "nobody"}),
        ),
        (
            Right::Operator,
            "AdminService/SubscribeUser",
            json!({"user": "nobody", "channel": "demo:a"}),
        ),
        (
            Right::Operator,
            "AdminService/UnsubscribeUser",
            json!({"user": "nobody", "channel": "demo:a"}),
        ),
        (
            Right::Operator,
            "AdminService/Revoke",
            json!({"jti": "none"}),
        ),
        (Right::Operator, "AdminService/GetServerSeries", json!({})),
        (Right::Operator, "AdminService/ListDeadLetters", json!({})),
        (Right::Either, "PriceService/AddSource", json!({})),
        (Right::Either, "PriceService/RemoveSource", json!({})),
    ]
}

/// Calls about the data of a user, which only that user and a back end may make.
fn personal_calls() -> Vec<(&'static str, Value)> {
    let of_ada = json!({"user": "ada"});
    let with = |field: &str, value: Value| {
        let mut body = of_ada.clone();
        body[field] = value;
        body
    };
    vec![
        ("NotifyService/ListNotifications", of_ada.clone()),
        ("NotifyService/MarkRead", with("ids", json!([ID]))),
        ("NotifyService/Dismiss", with("ids", json!([ID]))),
        ("NotifyService/MarkAllRead", of_ada.clone()),
        ("NotifyService/GetUnreadCount", of_ada.clone()),
        ("NotifyService/GetPreferences", of_ada.clone()),
        (
            "NotifyService/SetPreferences",
            with("preferences", json!({})),
        ),
        (
            "NotifyService/RegisterPush",
            with("subscription", json!({})),
        ),
        ("NotifyService/UnregisterPush", with("id", json!("p"))),
        ("AlertService/ListAlerts", of_ada.clone()),
        ("AlertService/ListFires", of_ada.clone()),
        ("AlertService/DeleteAlert", with("id", json!(ID))),
        ("AlertService/ExplainAlert", with("id", json!(ID))),
    ]
}

/// Whether a server lets a caller make a call, whatever comes of it then.
async fn is_permitted(server: &Server, caller: Caller, method: &str, body: &Value) -> bool {
    let url = server.url(&format!("/v1/rpc/{method}"));
    let mut request = server.http().post(url).json(body);
    if !caller.is_local {
        request = request.header("via", "1.1 proxy");
    }
    if let Some(user) = caller.user {
        request = request.bearer_auth(Token::of(user).scope(caller.scope).sign());
    }
    let answer = server.send(request).await;
    let code = answer.json()["code"].clone();
    match answer.status {
        403 => assert_eq!(code, "permission_denied", "{method}: {}", answer.body),
        _ => assert_ne!(code, "permission_denied", "{method}: {}", answer.body),
    }
    answer.status != 403
}

#[tokio::test]
async fn each_call_needs_the_scope_that_the_documentation_names() {
    let server = Server::start().await;
    let personal = personal_calls().into_iter();
    let personal = personal.map(|(method, body)| (Right::BackEnd, method, body));
    for (right, method, body) in calls().into_iter().chain(personal) {
        for caller in callers() {
            let found = is_permitted(&server, caller, method, &body).await;
            assert_eq!(found, right.permits(caller), "{method}: {caller:?}");
        }
    }
}

/// The table of scopes and the list of local rights name the calls, and no other ones.
#[test]
fn the_documentation_names_the_calls_of_each_scope() {
    let page = include_str!("../../../docs/security.md");
    let row = |scope: &str| {
        let mut rows = page.lines();
        let row = rows.find(|line| line.starts_with(&format!("| `{scope}`, for")));
        row.unwrap()
    };
    let local = page.split("### Without a token").nth(1).unwrap();
    let local = local.split("is *local*").next().unwrap();
    for (right, method, _) in calls() {
        let (service, name) = method.split_once('/').unwrap();
        let is_named = |text: &str| {
            text.contains(&format!("`{name}`")) || text.contains(&format!("`{service}`"))
        };
        let found = (
            is_named(row("service")),
            is_named(row("admin")),
            is_named(local),
        );
        let expected = match right {
            Right::BackEnd => (true, false, false),
            Right::Sender => (true, false, true),
            Right::Operator => (false, true, true),
            Right::Either => (true, true, true),
        };
        assert_eq!(found, expected, "{method}");
    }
}
