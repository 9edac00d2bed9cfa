//! Notifications: inboxes, pushes to all connections of a user, broadcasts, preferences, and
//! failures of the store.

mod broadcasts;
mod delivery;
mod mail;
mod priorities;
mod sending;
mod waking;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidewire_proto::v1::{StreamNotificationsRequest, notify_service_client::NotifyServiceClient};
use tidewire_stream::{Clock as _, SystemClock};
use tidewire_tests::{
    Client, HttpResponse, Message, Server, ServerBuilder, Token, Transport,
    client::grpc::{channel, request},
    eventually, within,
};
use tonic::Code;

on_every_transport_and_tls!(
    all_connections_of_a_user_agree,
    an_inbox_belongs_to_its_user,
    a_kill_loses_nothing,
    a_wrong_field_is_named,
    preferences_hide_and_delete_nothing,
);

on_every_transport!(a_list_has_pages);

/// A time that no test lives to see, in milliseconds since the Unix epoch.
fn in_an_hour() -> i64 {
    SystemClock.now_ms() + 3_600_000
}

/// A request to notify a user.
fn to_user(user: &str, title: &str) -> Value {
    json!({"user": user, "notification": note(title)})
}

fn note(title: &str) -> Value {
    json!({"type": "payment_received", "title": title, "priority": "high"})
}

async fn call(server: &Server, method: &str, body: &Value) -> HttpResponse {
    let method = format!("NotifyService/{method}");
    server.call(&method, Some(&Token::service()), body).await
}

/// Calls a method as a back end, and returns the response.
async fn done(server: &Server, method: &str, body: &Value) -> Value {
    let answer = call(server, method, body).await;
    assert_eq!(answer.status, 200, "{method} {body}: {}", answer.body);
    answer.json()
}

/// Notifies, and returns the id.
async fn notify(server: &Server, body: &Value) -> String {
    let notified = done(server, "Notify", body).await;
    notified["id"].as_str().unwrap().to_owned()
}

/// The status, code and text of a refusal.
fn refusal(answer: &HttpResponse) -> (u16, String, String) {
    let error = answer.json();
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("message"))
}

/// Checks the error of a session message.
fn assert_refused(refused: &Message, code: &str, text: &str) {
    assert_eq!(refused.error_code(), code, "{}", refused.text);
    let message = refused.error_message();
    assert!(message.contains(text), "{}", refused.text);
}

async fn connect(transport: Transport, server: &Server, user: &str) -> Client {
    Client::connect_as(transport, server, Some(&Token::of(user).sign())).await
}

async fn count(client: &mut Client) -> u64 {
    let reply = client.request("unread_count", json!({})).await;
    let reply = reply.expect("unread_count");
    reply.data["unreadCount"].as_u64().unwrap()
}

async fn list(client: &mut Client, query: Value) -> Value {
    let reply = client.request("notifications", query).await;
    reply.expect("notifications").data
}

/// A property of each listed notification.
fn listed(list: &Value, field: &str) -> Vec<Value> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item[field].clone()).collect()
}

/// The next push on the channel of a user.
async fn push(client: &mut Client, user: &str) -> Message {
    client.next_on(&format!("user:{user}")).await
}

/// Whether the replies of a client come on connections of their own. A count is pushed after each
/// of those that carry one.
fn has_pushed_counts(client: &Client) -> bool {
    client.welcome().data["postKey"].is_string()
}

/// The next push of a type that is not a count. Counts are left out: one follows each reply that a
/// push has overtaken.
async fn push_of(client: &mut Client, user: &str, kind: &str) -> Message {
    loop {
        let pushed = push(client, user).await;
        if pushed.kind != "unread_count" {
            return pushed.expect(kind);
        }
    }
}

/// Expects the next push to be this count, after those that follow replies.
async fn expect_count(client: &mut Client, user: &str, count: u64) {
    loop {
        let pushed = push(client, user).await.expect("unread_count");
        if pushed.data["unreadCount"] == count {
            return;
        }
        assert!(has_pushed_counts(client), "{}", pushed.text);
    }
}

/// Expects no further message but counts that follow replies.
fn expect_nothing(client: &Client) {
    let mut unread = client.unread();
    unread.retain(|one| one.kind != "unread_count");
    assert!(unread.is_empty(), "{unread:?}");
}

async fn all_connections_of_a_user_agree(transport: Transport) {
    let server = Server::start().await;
    let mut first = connect(transport, &server, "ada").await;
    let mut second = connect(transport, &server, "ada").await;
    let mut body = to_user("ada", "Paid");
    body["notification"]["data"] = json!({"amount": 0.1});
    let paid = notify(&server, &body).await;
    let refund = notify(&server, &to_user("ada", "Refund")).await;
    for client in [&mut first, &mut second] {
        let pushed = push_of(client, "ada", "notification").await;
        assert_eq!((pushed.seq, &pushed.data["id"]), (Some(1), &json!(paid)));
        assert_eq!(pushed.data["title"], "Paid");
        assert_eq!(pushed.data["data"], json!({"amount": 0.1}));
        assert_eq!(pushed.data["type"], "payment_received");
        assert_eq!(pushed.data["priority"], "high");
        assert_eq!(pushed.data["read"], false);
        assert!(pushed.data["timestamp"].as_i64().unwrap() > 1_700_000_000_000);
        let pushed = push_of(client, "ada", "notification").await;
        assert_eq!((pushed.seq, &pushed.data["id"]), (Some(2), &json!(refund)));
        let page = list(client, json!({})).await;
        assert_eq!(listed(&page, "id"), [json!(refund), json!(paid)]);
        assert_eq!(
            (&page["unreadCount"], &page["next"]),
            (&json!(2), &Value::Null)
        );
    }
    // Twice at once: the count drops by one.
    let receipt = json!({"ids": [paid], "unreadCount": 1});
    for client in [&mut first, &mut second] {
        let read = client.request("mark_read", json!({"ids": [paid]})).await;
        assert_eq!(read.expect("read").data, receipt);
    }
    for client in [&mut first, &mut second] {
        let pushed = push_of(client, "ada", "read").await;
        assert_eq!(pushed.data, receipt);
        assert!(pushed.seq >= Some(3));
        assert_eq!(count(client).await, 1);
        let unread = list(client, json!({"unreadOnly": true})).await;
        assert_eq!(listed(&unread, "id"), [json!(refund)]);
    }
    let dismissed = first.request("dismiss", json!({"ids": [refund]})).await;
    let expected = json!({"ids": [refund], "unreadCount": 0});
    assert_eq!(dismissed.expect("dismissed").data, expected);
    let later = notify(&server, &to_user("ada", "Later")).await;
    let all = second.request("mark_all_read", json!({})).await;
    assert_eq!(
        all.expect("read").data,
        json!({"all": true, "unreadCount": 0})
    );
    for client in [&mut first, &mut second] {
        assert_eq!(push_of(client, "ada", "dismissed").await.data, expected);
        let pushed = push_of(client, "ada", "notification").await;
        assert_eq!(pushed.data["id"], later);
        let pushed = push_of(client, "ada", "read").await;
        assert_eq!(pushed.data, json!({"all": true, "unreadCount": 0}));
        assert_eq!(count(client).await, 0);
        let page = list(client, json!({})).await;
        assert_eq!(listed(&page, "id"), [json!(later), json!(paid)]);
        assert_eq!(listed(&page, "read"), [true, true]);
        expect_nothing(client);
    }
}

async fn an_inbox_belongs_to_its_user(transport: Transport) {
    let server = Server::start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let mut bob = connect(transport, &server, "bob").await;
    let id = notify(&server, &to_user("ada", "For Ada")).await;
    // Ids of another user are like unknown ones. `read` omits an empty list.
    let read = bob.request("mark_read", json!({"ids": [id]})).await;
    assert_eq!(read.expect("read").data, json!({"unreadCount": 0}));
    let gone = bob.request("dismiss", json!({"ids": [id]})).await;
    assert_eq!(
        gone.expect("dismissed").data,
        json!({"ids": [], "unreadCount": 0})
    );
    assert_eq!(
        listed(&list(&mut bob, json!({})).await, "id"),
        [json!(null); 0]
    );
    assert_eq!(count(&mut ada).await, 1);
    // A message may name its own user, and no other.
    let own = ada.request("unread_count", json!({"user": "ada"})).await;
    assert_eq!(own.expect("unread_count").data["unreadCount"], 1);
    for (kind, data) in [
        ("notifications", json!({"user": "ada"})),
        ("mark_read", json!({"user": "ada", "ids": [id]})),
        ("dismiss", json!({"user": "ada", "ids": [id]})),
        ("mark_all_read", json!({"user": "ada"})),
        ("unread_count", json!({"user": "ada"})),
        ("preferences", json!({"user": "ada"})),
        ("preferences", json!({"user": "ada", "mutedTypes": []})),
    ] {
        let refused = bob.request(kind, data).await;
        assert_refused(&refused, "permission_denied", "`user`");
    }
    // A back end may name any user. Its preferences are not those of the user.
    let service = Token::service();
    let mut shop = Client::connect_as(transport, &server, Some(&service)).await;
    let named = shop.request("unread_count", json!({"user": "ada"})).await;
    assert_eq!(named.expect("unread_count").data["unreadCount"], 1);
    let mute = json!({"user": "ada", "mutedTypes": ["price_alert"]});
    let set = shop.request("preferences", mute).await;
    let muted = json!({"mutedTypes": ["price_alert"]});
    assert_eq!(set.expect("preferences").data, muted);
    let of_ada = ada.request("preferences", json!({})).await;
    assert_eq!(of_ada.expect("preferences").data, muted);
    let own = shop.request("preferences", json!({})).await;
    assert_eq!(own.expect("preferences").data, json!({}));
    assert_eq!(count(&mut shop).await, 0);
    // Without a user there is no inbox.
    let mut anonymous = Client::connect(transport, &server).await;
    for kind in [
        "notifications",
        "mark_all_read",
        "unread_count",
        "preferences",
    ] {
        let refused = anonymous.request(kind, json!({})).await;
        assert_refused(&refused, "permission_denied", "token");
    }
    assert_eq!(count(&mut ada).await, 1);
    assert_eq!(
        push_of(&mut ada, "ada", "notification").await.data["id"],
        id
    );
    expect_nothing(&bob);
}

fn builder(folder: &TempDir) -> ServerBuilder {
    let path = format!("path = {:?}", folder.path().display().to_string());
    Server::builder().set("store", &path)
}

async fn a_kill_loses_nothing(transport: Transport) {
    let folder = TempDir::new().unwrap();
    let mut first = builder(&folder).start().await;
    let mut keyed = to_user("ada", "Keyed");
    keyed["idempotencyKey"] = json!("order-7");
    let id = notify(&first, &keyed).await;
    assert_eq!(notify(&first, &keyed).await, id);
    let read = notify(&first, &to_user("ada", "Read")).await;
    let gone = notify(&first, &to_user("ada", "Gone")).await;
    let everyone = json!({"everyone": true, "notification": note("All")});
    let broadcast = notify(&first, &everyone).await;
    let mut planned = to_user("ada", "Planned");
    planned["notBefore"] = json!(in_an_hour());
    let planned = notify(&first, &planned).await;
    let mut ada = connect(transport, &first, "ada").await;
    let _ = ada.request("mark_read", json!({"ids": [read]})).await;
    let _ = ada.request("dismiss", json!({"ids": [gone]})).await;
    let wishes =
        json!({"quietHours": {"start": "22:00", "end": "07:00", "timeZone": "Europe/Vienna"}});
    let set = ada.request("preferences", wishes).await;
    let preferences = set.expect("preferences").data;
    let before = list(&mut ada, json!({})).await;
    assert_eq!(
        listed(&before, "id"),
        [json!(broadcast), json!(read), json!(id)]
    );
    assert_eq!(before["unreadCount"], 2);
    first.kill().await;

    let second = builder(&folder).start().await;
    let mut ada = connect(transport, &second, "ada").await;
    assert_eq!(list(&mut ada, json!({})).await, before);
    assert_eq!(count(&mut ada).await, 2);
    let kept = ada.request("preferences", json!({})).await;
    assert_eq!(kept.expect("preferences").data, preferences);
    // A repeated request notifies once.
    assert_eq!(notify(&second, &keyed).await, id);
    assert_eq!(count(&mut ada).await, 2);
    keyed["notification"]["title"] = json!("Another");
    let refused = call(&second, "Notify", &keyed).await;
    let (status, code, text) = refusal(&refused);
    assert_eq!(
        (status, code.as_str()),
        (400, "failed_precondition"),
        "{text}"
    );
    assert!(text.contains("order-7"), "{text}");
    let cancelled = done(&second, "CancelScheduled", &json!({"id": planned})).await;
    assert_eq!(cancelled["id"], planned);
}

async fn a_wrong_field_is_named(transport: Transport) {
    let server = Server::start().await;
    let mut ada = connect(transport, &server, "ada").await;
    for (kind, data, field) in [
        ("notifications", json!({"limit": 0}), "`limit`"),
        ("notifications", json!({"before": "n-1"}), "`before`"),
        (
            "notifications",
            json!({"types": ["order_shipped"]}),
            "`types[0]`",
        ),
        ("mark_read", json!({"ids": []}), "`ids`"),
        ("mark_read", json!({"ids": ["n-1"]}), "`ids[0]`"),
        ("dismiss", json!({"ids": ["n-1"]}), "`ids[0]`"),
        ("mark_all_read", json!({"upTo": "n-1"}), "`upTo`"),
        (
            "preferences",
            json!({"quietHours": {"start": "25:00", "end": "07:00", "timeZone": "UTC"}}),
            "`quietHours.start`",
        ),
        (
            "preferences",
            json!({"quietHours": {"start": "22:00", "end": "07:00", "timeZone": "Atlantis"}}),
            "`quietHours.timeZone`",
        ),
        (
            "preferences",
            json!({"mutedTypes": ["order_shipped"]}),
            "`mutedTypes[0]`",
        ),
    ] {
        let refused = ada.request(kind, data.clone()).await;
        assert_refused(&refused, "invalid_argument", field);
    }
    // The connection goes on.
    assert_eq!(count(&mut ada).await, 0);
}

async fn preferences_hide_and_delete_nothing(transport: Transport) {
    let server = Server::builder()
        .set("notifications", "types = [\"order_shipped\"]")
        .start()
        .await;
    let mut ada = connect(transport, &server, "ada").await;
    let mut other = connect(transport, &server, "ada").await;
    let read = ada.request("preferences", json!({})).await;
    assert_eq!(read.expect("preferences").data, json!({}));
    let mut shipped = to_user("ada", "Shipped");
    shipped["notification"]["type"] = json!("order_shipped");
    let id = notify(&server, &shipped).await;
    for client in [&mut ada, &mut other] {
        let pushed = push_of(client, "ada", "notification").await;
        assert_eq!(pushed.data["type"], "order_shipped");
    }
    let mute = json!({"mutedTypes": ["order_shipped"]});
    let set = ada.request("preferences", mute.clone()).await;
    assert_eq!(set.expect("preferences").data, mute);
    for client in [&mut ada, &mut other] {
        expect_count(client, "ada", 0).await;
        let page = list(client, json!({})).await;
        assert_eq!(page, json!({"items": [], "unreadCount": 0}));
    }
    // A hidden one is not pushed either.
    notify(&server, &shipped).await;
    let urgent = json!({"type": "order_shipped", "title": "Now", "priority": "urgent"});
    notify(&server, &json!({"user": "ada", "notification": urgent})).await;
    let pushed = push_of(&mut other, "ada", "notification").await;
    assert_eq!(pushed.data["title"], "Now");
    // No data and no known field read. A field writes, also an empty list.
    for read in [json!({}), json!({"later": true})] {
        let read = ada.request("preferences", read).await;
        assert_eq!(read.expect("preferences").data, mute);
    }
    let shown = ada.request("preferences", json!({"mutedTypes": []})).await;
    assert_eq!(
        shown.expect("preferences").data,
        json!({"minPriority": "low"})
    );
    expect_count(&mut other, "ada", 3).await;
    let page = list(&mut ada, json!({"types": ["order_shipped"]})).await;
    assert_eq!(listed(&page, "title"), ["Now", "Shipped", "Shipped"]);
    assert_eq!(page["items"][2]["id"], id);
}

async fn a_list_has_pages(transport: Transport) {
    // A page has no more than half of the outbox.
    let server = Server::builder()
        .set("limits", "outbox_bytes = 8192")
        .start()
        .await;
    let mut ada = connect(transport, &server, "ada").await;
    let mut ids = Vec::new();
    for number in 0..7 {
        let mut body = to_user("ada", &format!("Number {number}"));
        body["notification"]["body"] = json!("b".repeat(1_000));
        ids.insert(0, json!(notify(&server, &body).await));
    }
    let mut seen = Vec::new();
    let mut query = json!({"limit": 5});
    loop {
        let page = list(&mut ada, query.clone()).await;
        let items = listed(&page, "id");
        assert!((1..=3).contains(&items.len()), "{page}");
        seen.extend(items);
        // One that arrives meanwhile moves nothing.
        notify(&server, &to_user("ada", "Newer")).await;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        query["before"] = json!(next);
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn requests_about_a_user_name_it_as_their_token_allows() {
    let server = Server::start().await;
    let id = notify(&server, &to_user("ada", "Paid")).await;
    let user = Token::of("ada").sign();
    for (method, rest) in [
        ("ListNotifications", json!({})),
        ("MarkRead", json!({"ids": [id]})),
        ("MarkAllRead", json!({})),
        ("Dismiss", json!({"ids": [id]})),
        ("GetUnreadCount", json!({})),
        ("GetPreferences", json!({})),
        ("SetPreferences", json!({"preferences": {}})),
    ] {
        let code = async |token: &str, user: Option<&str>| {
            let mut body = rest.clone();
            if let Some(user) = user {
                body["user"] = json!(user);
            }
            let name = format!("NotifyService/{method}");
            let answer = server.call(&name, Some(token), &body).await;
            match answer.status {
                200 => String::new(),
                _ => refusal(&answer).1,
            }
        };
        assert_eq!(code(&user, None).await, "", "{method}");
        assert_eq!(code(&user, Some("ada")).await, "", "{method}");
        assert_eq!(
            code(&user, Some("bob")).await,
            "permission_denied",
            "{method}"
        );
        let service = Token::service();
        assert_eq!(code(&service, Some("ada")).await, "", "{method}");
        assert_eq!(code(&service, None).await, "invalid_argument", "{method}");
    }
    let required = Server::builder()
        .set("auth", "anonymous = false")
        .start()
        .await;
    let body = json!({"user": "ada"});
    let answer = required
        .call("NotifyService/GetUnreadCount", None, &body)
        .await;
    let (_, code, text) = refusal(&answer);
    assert_eq!(code, "unauthenticated");
    assert!(text.contains("`Authorization: Bearer"), "{text}");
    // A local request may notify users, and publishes to no channel.
    let sent = required
        .call("NotifyService/Notify", None, &to_user("ada", "Paid"))
        .await;
    assert_eq!(sent.status, 200, "{}", sent.body);
    let body = json!({"channel": "demo:a", "notification": note("No")});
    let refused = required.call("NotifyService/Notify", None, &body).await;
    assert_eq!(refusal(&refused).1, "unauthenticated");
}

#[tokio::test]
async fn notifications_are_streamed_over_grpc() {
    let server = Server::start().await;
    let mut client = NotifyServiceClient::new(channel(&server).await);
    let about = |user: Option<&str>| StreamNotificationsRequest {
        user: user.map(str::to_owned),
    };
    let (ada, service) = (Token::of("ada").sign(), Token::service());
    let own = client.stream_notifications(request(about(None), Some(&ada)));
    let mut own = own.await.unwrap().into_inner();
    let named = client.stream_notifications(request(about(Some("ada")), Some(&service)));
    let mut named = named.await.unwrap().into_inner();
    for (user, token, code) in [
        (Some("bob"), Some(&ada), Code::PermissionDenied),
        (None, Some(&service), Code::InvalidArgument),
        (Some("a b"), Some(&service), Code::InvalidArgument),
        (Some("ada"), None, Code::PermissionDenied),
    ] {
        let token = token.map(String::as_str);
        let refused = client.stream_notifications(request(about(user), token));
        assert_eq!(refused.await.unwrap_err().code(), code, "{user:?}");
    }
    let message = json!({"user": "ada", "data": "no notification"});
    let sent = server
        .call("StreamService/SendToUser", Some(&service), &message)
        .await;
    assert_eq!(sent.status, 200, "{}", sent.body);
    notify(&server, &to_user("backend", "Not Ada's")).await;
    let paid = notify(&server, &to_user("ada", "Paid")).await;
    let everyone = json!({"everyone": true, "notification": note("All")});
    let all = notify(&server, &everyone).await;
    for stream in [&mut own, &mut named] {
        for id in [&paid, &all] {
            let next = within("a notification", stream.message()).await;
            assert_eq!(next.unwrap().unwrap().id, *id);
        }
    }
}

#[tokio::test]
async fn requests_to_notify_are_counted() {
    let server = Server::start().await;
    let refused = to_user("ada", "");
    assert_eq!(call(&server, "Notify", &refused).await.status, 400);
    notify(&server, &to_user("ada", "One")).await;
    let everyone = json!({"everyone": true, "notification": note("All")});
    let batch = json!({"notifications": [to_user("bob", "Two"), refused, everyone]});
    let _ = done(&server, "NotifyBatch", &batch).await;
    let sent = "tidewire_notifications_total";
    assert_eq!(server.metric(sent, "target=\"user\"").await, 2.0);
    assert_eq!(server.metric(sent, "target=\"everyone\"").await, 1.0);
    assert_eq!(server.metric(sent, "priority=\"high\"").await, 3.0);
    let refusals = "tidewire_notification_refusals_total";
    assert_eq!(
        server.metric(refusals, "code=\"invalid_argument\"").await,
        2.0
    );
    let cached = server.metric("tidewire_notification_cache_bytes", "").await;
    assert!(cached > 0.0, "{cached}");
}

#[tokio::test]
async fn preferences_of_a_request_have_their_user_beside_them() {
    let server = Server::start().await;
    let body = json!({"user": "ada", "preferences": {"user": "bob"}});
    let (status, code, text) = refusal(&call(&server, "SetPreferences", &body).await);
    assert_eq!((status, code.as_str()), (400, "invalid_argument"), "{text}");
    assert!(text.starts_with("`preferences.user`: given"), "{text}");
}

#[tokio::test]
async fn a_replay_without_a_store_has_no_notifications() {
    let folder = tempfile::TempDir::new().unwrap();
    // Where the store of a replay would be.
    std::fs::write(folder.path().join("sample"), "in the way").unwrap();
    let server = Server::builder()
        .arguments(&["replay", "--speed", "max"])
        .set("store", &format!("path = {:?}", folder.path()))
        .start()
        .await;
    let answer = call(&server, "Notify", &to_user("ada", "Paid")).await;
    let (status, code, text) = refusal(&answer);
    assert_eq!((status, code.as_str()), (503, "unavailable"), "{text}");
    assert!(text.contains("replay"), "{text}");
    let mut ada = connect(Transport::WebSocketJson, &server, "ada").await;
    let refused = ada.request("unread_count", json!({})).await;
    assert_eq!(refused.error_code(), "unavailable");
    server.publish("demo:a", json!(1)).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_stops_notifications_alone() {
    let folder = TempDir::new().unwrap();
    let mut first = builder(&folder).start().await;
    let mut ada = connect(Transport::WebSocketJson, &first, "ada").await;
    notify(&first, &to_user("ada", "Before")).await;
    first.limit_files(Some(0));
    let mut keyed = to_user("ada", "Meanwhile");
    keyed["idempotencyKey"] = json!("k");
    let (status, code, text) = refusal(&call(&first, "Notify", &keyed).await);
    assert_eq!((status, code.as_str()), (503, "unavailable"), "{text}");
    // All the rest goes on.
    ada.subscribe("demo:a").await;
    first.publish("demo:a", json!(1)).await;
    assert_eq!(ada.next_on("demo:a").await.data, 1);
    first.limit_files(None);
    eventually("a store with room", async || {
        let answer = call(&first, "Notify", &keyed).await;
        (answer.status == 200).then_some(())
    })
    .await;
    for title in ["Before", "Meanwhile"] {
        assert_eq!(
            push_of(&mut ada, "ada", "notification").await.data["title"],
            title
        );
    }
    first.kill().await;
    let second = builder(&folder).start().await;
    let list = done(&second, "ListNotifications", &json!({"user": "ada"})).await;
    assert_eq!(listed(&list, "title"), ["Meanwhile", "Before"]);
}
