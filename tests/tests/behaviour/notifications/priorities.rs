//! Priorities: what waits, what goes at once, and what overtakes what.

use super::*;

on_every_transport_and_tls!(
    a_batch_gathers_what_can_wait,
    an_urgent_one_comes_in_the_background,
);

on_every_transport!(
    what_happens_to_a_pending_one_comes_in_order,
    a_broadcast_is_gathered_too,
    mutes_spare_urgent_ones,
    a_channel_gets_each_at_once,
);

fn with_priority(user: &str, title: &str, priority: &str) -> Value {
    let mut body = to_user(user, title);
    body["notification"]["priority"] = json!(priority);
    body
}

fn titles(push: &Message) -> Vec<Value> {
    listed(&push.data, "title")
}

async fn a_batch_gathers_what_can_wait(transport: Transport) {
    let server = Server::start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let requests = json!({"notifications": [
        with_priority("ada", "First", "low"),
        with_priority("ada", "Second", "medium"),
        with_priority("ada", "At once", "high"),
        with_priority("ada", "Third", "low"),
    ]});
    done(&server, "NotifyBatch", &requests).await;
    let pushed = push(&mut ada, "ada").await.expect("notification");
    assert_eq!(pushed.data["title"], "At once");
    assert_eq!(
        (pushed.seq, &pushed.data["unreadCount"]),
        (Some(1), &json!(3))
    );
    let batch = push(&mut ada, "ada").await.expect("notification_batch");
    assert_eq!(titles(&batch), ["First", "Second", "Third"]);
    assert_eq!(
        (batch.seq, &batch.data["unreadCount"]),
        (Some(2), &json!(4))
    );
    assert_eq!(count(&mut ada).await, 4);
    // One alone is a notification.
    notify(&server, &with_priority("ada", "Alone", "low")).await;
    let pushed = push_of(&mut ada, "ada", "notification").await;
    assert_eq!(pushed.data["title"], "Alone");
    assert_eq!(pushed.data["unreadCount"], 5);
}

async fn what_happens_to_a_pending_one_comes_in_order(transport: Transport) {
    let server = Server::start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let mut ids = Vec::new();
    for title in ["First", "Second", "Third"] {
        ids.push(notify(&server, &with_priority("ada", title, "low")).await);
    }
    let read = ada.request("mark_read", json!({"ids": [ids[0]]})).await;
    let _ = read.expect("read");
    let gone = ada.request("dismiss", json!({"ids": [ids[1]]})).await;
    let _ = gone.expect("dismissed");
    // Whether they were pending then or not: the connection ends up with the same.
    let (mut shown, mut unread) = (std::collections::BTreeMap::new(), 0);
    while shown.len() != 2 || unread != 1 {
        let pushed = push(&mut ada, "ada").await;
        let data = &pushed.data;
        let items = match pushed.kind.as_str() {
            "notification" => vec![data.clone()],
            "notification_batch" => data["items"].as_array().unwrap().clone(),
            "read" => {
                if let Some(mark) = shown.get_mut(&ids[0]) {
                    *mark = true;
                }
                Vec::new()
            }
            "dismissed" => {
                shown.remove(&ids[1]);
                Vec::new()
            }
            other => panic!("{other}: {data}"),
        };
        for item in items {
            let id = item["id"].as_str().unwrap().to_owned();
            shown.insert(id, item["read"].as_bool().unwrap());
        }
        unread = data["unreadCount"].as_u64().unwrap();
    }
    assert_eq!(shown.get(&ids[0]), Some(&true));
    assert_eq!(shown.get(&ids[2]), Some(&false));
    assert_eq!(count(&mut ada).await, 1);
}

async fn a_broadcast_is_gathered_too(transport: Transport) {
    let server = Server::start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let mut body = json!({"everyone": true, "notification": note("For all")});
    body["notification"]["priority"] = json!("low");
    done(&server, "Notify", &body).await;
    let mut found = false;
    while !found {
        let pushed = push(&mut ada, "ada").await;
        found = match pushed.kind.as_str() {
            "notification" => pushed.data["title"] == "For all",
            "notification_batch" => titles(&pushed).contains(&json!("For all")),
            _ => false,
        };
    }
    assert_eq!(count(&mut ada).await, 1);
}

async fn an_urgent_one_comes_in_the_background(transport: Transport) {
    let server = Server::builder()
        .namespace("orders", "publish = \"service\"")
        .start()
        .await;
    let mut ada = connect(transport, &server, "ada").await;
    ada.subscribe("orders:1").await;
    let state = ada
        .request("visibility", json!({"state": "background"}))
        .await;
    let _ = state.expect("visibility");
    server.publish("orders:1", json!({"n": 1})).await;
    notify(&server, &with_priority("ada", "Now", "urgent")).await;
    let pushed = push(&mut ada, "ada").await.expect("notification");
    assert_eq!(pushed.data["title"], "Now");
    // On a channel that pauses, what was held back of it comes first.
    let mut body = json!({"channel": "orders:1", "notification": note("Hurry")});
    body["notification"]["priority"] = json!("urgent");
    done(&server, "Notify", &body).await;
    let held = ada.next_on("orders:1").await.expect("message");
    assert_eq!((held.seq, &held.data["n"]), (Some(1), &json!(1)));
    let pushed = ada.next_on("orders:1").await.expect("notification");
    assert_eq!(
        (pushed.seq, &pushed.data["title"]),
        (Some(2), &json!("Hurry"))
    );
    server.publish("orders:1", json!({"n": 3})).await;
    ada.settle().await;
    assert!(ada.unread().is_empty(), "{:?}", ada.unread());
    let state = ada.request("visibility", json!({"state": "active"})).await;
    let _ = state.expect("visibility");
    assert_eq!(ada.next_on("orders:1").await.expect("message").seq, Some(3));
}

async fn mutes_spare_urgent_ones(transport: Transport) {
    let server = Server::start().await;
    let mut ada = connect(transport, &server, "ada").await;
    let mute = json!({"minPriority": "high", "mutedTypes": ["payment_received"]});
    let _ = ada.request("preferences", mute).await.expect("preferences");
    for priority in ["low", "medium", "high"] {
        notify(&server, &with_priority("ada", "Hidden", priority)).await;
    }
    notify(&server, &with_priority("ada", "Shown", "urgent")).await;
    let pushed = push(&mut ada, "ada").await.expect("notification");
    assert_eq!(pushed.data["title"], "Shown");
    assert_eq!(
        (pushed.seq, &pushed.data["unreadCount"]),
        (Some(1), &json!(1))
    );
    assert_eq!(count(&mut ada).await, 1);
}

async fn a_channel_gets_each_at_once(transport: Transport) {
    let server = Server::builder()
        .namespace("orders", "publish = \"service\"")
        .start()
        .await;
    let mut ada = connect(transport, &server, "ada").await;
    ada.subscribe("orders:1").await;
    for priority in ["low", "medium", "high", "urgent"] {
        let mut body = json!({"channel": "orders:1", "notification": note(priority)});
        body["notification"]["priority"] = json!(priority);
        done(&server, "Notify", &body).await;
        server.publish("orders:1", json!(priority)).await;
    }
    for (number, priority) in ["low", "medium", "high", "urgent"].iter().enumerate() {
        let pushed = ada.next_on("orders:1").await.expect("notification");
        assert_eq!(pushed.data["title"], *priority);
        assert_eq!(pushed.seq, Some(2 * number as u64 + 1));
        assert_eq!(
            ada.next_on("orders:1").await.expect("message").data,
            *priority
        );
    }
}

#[tokio::test]
async fn a_stop_pushes_what_is_pending() {
    let mut server = Server::builder()
        .set("server", "drain = \"2s\"")
        .start()
        .await;
    let mut ada = connect(Transport::WebSocketJson, &server, "ada").await;
    notify(&server, &with_priority("ada", "First", "low")).await;
    notify(&server, &with_priority("ada", "Second", "low")).await;
    server.terminate();
    let (messages, _) = ada.drain().await;
    let on_channel = |message: &&Message| message.channel.as_deref() == Some("user:ada");
    let mut titles_of = Vec::new();
    for message in messages.iter().filter(on_channel) {
        match message.kind.as_str() {
            "notification" => titles_of.push(message.data["title"].clone()),
            "notification_batch" => titles_of.extend(titles(message)),
            other => panic!("{other}"),
        }
    }
    assert_eq!(titles_of, ["First", "Second"]);
    let order = |kind: &str| messages.iter().position(|message| message.kind == kind);
    let last = messages.iter().rposition(|message| on_channel(&message));
    assert!(last < order("reconnect"), "{messages:?}");
    assert!(server.ended().await.success());
}
