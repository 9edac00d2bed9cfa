//! A device that wakes: a summary of what it missed, in one frame.

use tidewire_tests::client::SseStream;

use super::*;

on_every_transport_and_tls!(a_thousand_missed_come_as_one_batch);

on_every_transport!(
    a_summary_has_what_was_read_and_dismissed,
    messages_keep_their_place,
);

/// Messages for a user's channel that came so far, up to a last one that is sent now.
async fn all_on(client: &mut Client, server: &Server, user: &str) -> Vec<Message> {
    notify(server, &to_user(user, "Last")).await;
    let mut all = Vec::new();
    loop {
        let pushed = push(client, user).await;
        if pushed.data["title"] == "Last" {
            return all;
        }
        all.push(pushed);
    }
}

/// The epoch of a user's channel.
async fn epoch(client: &mut Client, user: &str) -> String {
    let history = client
        .request("history", json!({"channel": format!("user:{user}")}))
        .await;
    let history = history.expect("history");
    history.data["epoch"].as_str().unwrap().to_owned()
}

async fn notify_many(server: &Server, user: &str, titles: impl Iterator<Item = String>) {
    let requests: Vec<_> = titles.map(|title| to_user(user, &title)).collect();
    let sent = done(server, "NotifyBatch", &json!({"notifications": requests})).await;
    assert_eq!(sent["results"].as_array().unwrap().len(), requests.len());
}

async fn a_thousand_missed_come_as_one_batch(transport: Transport) {
    let server = Server::start().await;
    let mut away = connect(transport, &server, "ada").await;
    let epoch = epoch(&mut away, "ada").await;
    drop(away);
    for part in 0..10_u32 {
        let numbers = (1..=100).map(|number| (100 * part + number).to_string());
        notify_many(&server, "ada", numbers).await;
    }
    let mut ada = connect(transport, &server, "ada").await;
    let result = ada.resume("user:ada", &epoch, 0).await;
    assert_eq!(
        (&result["recovered"], &result["seq"]),
        (&json!(true), &json!(1_000))
    );
    let missed = all_on(&mut ada, &server, "ada").await;
    assert_eq!(missed.len(), 1, "{missed:?}");
    let batch = missed[0].clone().expect("notification_batch");
    assert_eq!(
        (batch.seq, &batch.data["unreadCount"]),
        (Some(1_000), &json!(1_000))
    );
    let titles = listed(&batch.data, "title");
    let expected: Vec<_> = (951..=1_000)
        .map(|number| json!(number.to_string()))
        .collect();
    assert_eq!(titles, expected);
    // The list goes on where the batch begins.
    let next = batch.data["next"].clone();
    assert_eq!(next, batch.data["items"][0]["id"]);
    let page = list(&mut ada, json!({"before": next, "limit": 1})).await;
    assert_eq!(listed(&page, "title"), ["950"]);
    // From here on, nothing is repeated.
    let result = ada.resume("user:ada", &epoch, 1_001).await;
    assert_eq!(result["recovered"], true);
    let mut repeated = all_on(&mut ada, &server, "ada").await;
    // The count that follows the list's reply may have been missed: a batch without items.
    let is_count = |one: &Message| one.kind == "unread_count" || one.data["items"] == json!([]);
    repeated.retain(|one| !is_count(one) || !has_pushed_counts(&ada));
    assert_eq!(repeated.len(), 0, "{repeated:?}");
}

async fn a_summary_has_what_was_read_and_dismissed(transport: Transport) {
    let server = Server::start().await;
    let mut first = connect(transport, &server, "ada").await;
    let mut second = connect(transport, &server, "ada").await;
    let epoch = epoch(&mut first, "ada").await;
    let mut ids = Vec::new();
    for title in ["Read before", "Gone before", "Stays"] {
        ids.push(notify(&server, &to_user("ada", title)).await);
        let _ = push(&mut first, "ada").await.expect("notification");
    }
    drop(first);
    for title in ["Read", "Gone", "Unread"] {
        ids.push(notify(&server, &to_user("ada", title)).await);
    }
    let read = json!({"ids": [ids[0], ids[3]]});
    let _ = second.request("mark_read", read).await.expect("read");
    let gone = json!({"ids": [ids[1], ids[4]]});
    let _ = second.request("dismiss", gone).await.expect("dismissed");
    let mut first = connect(transport, &server, "ada").await;
    assert_eq!(first.resume("user:ada", &epoch, 3).await["recovered"], true);
    let missed = all_on(&mut first, &server, "ada").await;
    assert_eq!(missed.len(), 1, "{missed:?}");
    let batch = missed[0].clone().expect("notification_batch").data;
    assert_eq!(listed(&batch, "title"), ["Read", "Unread"]);
    assert_eq!(listed(&batch, "read"), [true, false]);
    assert_eq!(batch["unreadCount"], 2);
    assert_eq!(batch["read"], json!({"ids": [ids[0]], "unreadCount": 2}));
    assert_eq!(
        batch["dismissed"],
        json!({"ids": [ids[1], ids[4]], "unreadCount": 2})
    );
    assert_eq!(batch["next"], Value::Null);
    // The history is as it was.
    let history = first
        .request("history", json!({"channel": "user:ada"}))
        .await;
    let history = history.expect("history").data;
    let kinds = listed(&json!({"items": history["messages"]}), "type");
    let expected = [
        vec!["notification"; 6],
        vec!["read", "dismissed", "notification"],
    ]
    .concat();
    assert_eq!(kinds, expected);
}

async fn messages_keep_their_place(transport: Transport) {
    let server = Server::start().await;
    let mut away = connect(transport, &server, "ada").await;
    let epoch = epoch(&mut away, "ada").await;
    drop(away);
    for (before, text) in [("One", "first"), ("Two", "second")] {
        notify(&server, &to_user("ada", before)).await;
        notify(&server, &to_user("ada", before)).await;
        let body = json!({"user": "ada", "data": text});
        let sent = server
            .call("StreamService/SendToUser", Some(&Token::service()), &body)
            .await;
        assert_eq!(sent.status, 200, "{}", sent.body);
    }
    let mut ada = connect(transport, &server, "ada").await;
    assert_eq!(ada.resume("user:ada", &epoch, 0).await["recovered"], true);
    let missed = all_on(&mut ada, &server, "ada").await;
    let places: Vec<_> = missed
        .iter()
        .map(|one| (one.kind.as_str(), one.seq))
        .collect();
    let expected = [
        ("notification_batch", Some(2)),
        ("message", Some(3)),
        ("notification_batch", Some(5)),
        ("message", Some(6)),
    ];
    assert_eq!(places, expected);
    assert_eq!(missed[2].data["unreadCount"], 4);
}

#[tokio::test]
async fn an_event_stream_continues_from_its_cursor_with_one_batch() {
    let server = Server::start().await;
    let query = format!("?token={}", Token::of("ada").sign());
    let mut stream = SseStream::open(&server, &query, &[]).await.unwrap();
    let welcome = stream.next_of("welcome").await;
    let cursor = welcome.last_id.unwrap();
    drop(stream);
    notify_many(&server, "ada", (1..=200).map(|number| number.to_string())).await;
    let headers = [("last-event-id", cursor.as_str())];
    let mut stream = SseStream::open(&server, &query, &headers).await.unwrap();
    let batch = stream.next_of("notification_batch").await.message();
    assert_eq!(
        (batch.seq, &batch.data["unreadCount"]),
        (Some(200), &json!(200))
    );
    assert_eq!(batch.data["items"].as_array().unwrap().len(), 50);
}
