//! Broadcasts: who gets one, and when; recalling one.

use super::*;

on_every_transport_and_tls!(a_broadcast_reaches_connected_and_later_users);

on_every_transport!(
    a_broadcast_that_a_user_missed_is_no_silent_gap,
    a_user_with_a_history_recovers_a_broadcast_and_its_recall,
);

async fn a_broadcast_reaches_connected_and_later_users(transport: Transport) {
    let server = Server::start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let mut other = connect(transport, &server, "ada").await;
    let mut bob = connect(transport, &server, "bob").await;
    let mut muted = connect(transport, &server, "cleo").await;
    let mute = json!({"mutedTypes": ["system_announcement"]});
    let set = muted.request("preferences", mute).await;
    let _ = set.expect("preferences");
    let mut body = json!({"everyone": true, "notification": note("Hello")});
    body["notification"]["type"] = json!("system_announcement");
    let sent = done(&server, "Notify", &body).await;
    assert_eq!(sent["recipients"], 0);
    let id = sent["id"].clone();
    for (client, user) in [(&mut ada, "ada"), (&mut other, "ada"), (&mut bob, "bob")] {
        let pushed = push_of(client, user, "notification").await;
        assert_eq!(pushed.data["id"], id);
        assert_eq!(pushed.data["unreadCount"], 1);
        assert_eq!(count(client).await, 1);
    }
    // Of a hidden one, the count alone is pushed.
    expect_count(&mut muted, "cleo", 0).await;
    // The next push is another one: each user gets a broadcast once.
    for user in ["ada", "bob", "cleo"] {
        notify(&server, &to_user(user, "Next")).await;
    }
    for (client, user) in [
        (&mut ada, "ada"),
        (&mut other, "ada"),
        (&mut bob, "bob"),
        (&mut muted, "cleo"),
    ] {
        let pushed = push_of(client, user, "notification").await;
        assert_eq!(pushed.data["title"], "Next", "{user}");
    }
    assert_eq!(count(&mut muted).await, 1);
    let mut late = connect(transport, &server, "dan").await;
    let page = list(&mut late, json!({})).await;
    assert_eq!(listed(&page, "id"), std::slice::from_ref(&id));
    assert_eq!(page["unreadCount"], 1);
    let read = late.request("mark_read", json!({"ids": [id]})).await;
    assert_eq!(read.expect("read").data["unreadCount"], 0);
    // One user's mark is no other's.
    assert_eq!(count(&mut bob).await, 2);

    let recalled = done(&server, "RecallBroadcast", &json!({"id": id})).await;
    assert_eq!(recalled["id"], id);
    for (client, user) in [(&mut ada, "ada"), (&mut other, "ada"), (&mut bob, "bob")] {
        expect_count(client, user, 1).await;
        let page = list(client, json!({})).await;
        assert_eq!(listed(&page, "title"), ["Next"]);
    }
    let again = call(&server, "RecallBroadcast", &json!({"id": id})).await;
    assert_eq!(refusal(&again).1, "not_found");
}

/// Waits until a user has no connection.
async fn gone(server: &Server, user: &str) {
    eventually("the end of the connection", async || {
        let method = "AdminService/ListConnections";
        let list = server.call(method, None, &json!({"user": user})).await;
        let list = list.json();
        list["connections"]
            .as_array()
            .is_none_or(Vec::is_empty)
            .then_some(())
    })
    .await;
}

/// Waits until something was published on the channel of a user after `seq`.
async fn published_after(server: &Server, user: &str, seq: Option<u64>) {
    let (token, channel) = (Token::of(user).sign(), format!("user:{user}"));
    eventually("a publication", async || {
        let body = json!({"channel": channel, "limit": 0});
        let history = server.call("StreamService/GetHistory", Some(&token), &body);
        (history.await.json()["seq"].as_u64() > seq).then_some(())
    })
    .await;
}

/// A broadcast is published on the channels of users who are away if these have a history: a
/// client of theirs recovers, and must not miss it.
async fn a_user_with_a_history_recovers_a_broadcast_and_its_recall(transport: Transport) {
    let server = Server::start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let position = ada.welcome().data["subscriptions"][0].clone();
    let epoch = position["epoch"].as_str().unwrap().to_owned();
    notify(&server, &to_user("ada", "Before")).await;
    let before = push_of(&mut ada, "ada", "notification").await;
    drop(ada);
    gone(&server, "ada").await;
    let body = json!({"everyone": true, "notification": note("Hello")});
    let id = notify(&server, &body).await;
    published_after(&server, "ada", before.seq).await;
    let mut ada = connect(transport, &server, "ada").await;
    let resumed = ada.resume("user:ada", &epoch, before.seq.unwrap()).await;
    assert_eq!(resumed["recovered"], true);
    let batch = push_of(&mut ada, "ada", "notification_batch").await;
    assert_eq!(listed(&batch.data, "title"), ["Hello"]);
    assert_eq!(batch.data["unreadCount"], 2);
    drop(ada);
    gone(&server, "ada").await;
    let _ = done(&server, "RecallBroadcast", &json!({"id": id})).await;
    published_after(&server, "ada", batch.seq).await;
    let mut ada = connect(transport, &server, "ada").await;
    let resumed = ada.resume("user:ada", &epoch, batch.seq.unwrap()).await;
    assert_eq!(resumed["recovered"], true);
    let batch = push_of(&mut ada, "ada", "notification_batch").await;
    assert_eq!(batch.data["items"], json!([]));
    assert_eq!(batch.data["unreadCount"], 1);
}

/// A broadcast is not published on the channels of users who are away and have no history: none
/// of them is recovered past it.
async fn a_broadcast_that_a_user_missed_is_no_silent_gap(transport: Transport) {
    let server = Server::start().await;
    let ada = connect(transport, &server, "ada").await;
    let position = ada.welcome().data["subscriptions"][0].clone();
    let (epoch, seq) = (position["epoch"].as_str(), position["seq"].as_u64());
    drop(ada);
    gone(&server, "ada").await;
    let mut bob = connect(transport, &server, "bob").await;
    let body = json!({"everyone": true, "notification": note("Hello")});
    notify(&server, &body).await;
    let pushed = push_of(&mut bob, "bob", "notification").await;
    assert_eq!(pushed.data["unreadCount"], 1);
    let mut ada = connect(transport, &server, "ada").await;
    let resumed = ada.resume("user:ada", epoch.unwrap(), seq.unwrap()).await;
    assert_eq!(resumed["recovered"], false);
    assert_eq!(count(&mut ada).await, 1);
    let page = list(&mut ada, json!({})).await;
    assert_eq!(listed(&page, "title"), ["Hello"]);
}

/// A server whose data is in this folder.

#[tokio::test]
async fn references_to_broadcasts_and_schedules_are_explained() {
    let server = Server::start().await;
    let id = "06c9d4f1x00003m5q8r2t7w9y1";
    for (method, body, code, text) in [
        (
            "CancelScheduled",
            json!({}),
            "invalid_argument",
            "neither `id` nor `idempotencyKey` is given",
        ),
        (
            "CancelScheduled",
            json!({"id": id}),
            "not_found",
            "never existed",
        ),
        (
            "RecallBroadcast",
            json!({}),
            "invalid_argument",
            "`id` is missing",
        ),
        (
            "RecallBroadcast",
            json!({"id": id}),
            "not_found",
            "never existed",
        ),
    ] {
        let (_, found, message) = refusal(&call(&server, method, &body).await);
        assert_eq!(found, code, "{method}: {message}");
        assert!(message.contains(text), "{method}: {message}");
    }
}
