//! Sending: idempotency keys, batches and channels.

use crate::support::{DAY_MS, World, notification, sender, to, with};
use tidewire_notification::HubEvent;
use tidewire_proto::v1::NotifyRequest;
use tidewire_store::Table;
use tidewire_stream::UserId;

#[tokio::test]
async fn twenty_repetitions_at_once_notify_once() {
    let world = World::new().await;
    let request = NotifyRequest {
        idempotency_key: Some("k".to_owned()),
        ..to("ada", "a")
    };
    let from = sender();
    let calls = (0..20).map(|_| {
        let (hub, from, request) = (world.hub.clone(), from.clone(), request.clone());
        tokio::spawn(async move { hub.notify(&from, request).await.unwrap() })
    });
    let mut outcomes = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        outcomes.push(call.await.unwrap());
    }
    outcomes.dedup();
    assert_eq!(outcomes.len(), 1);
    assert_eq!(world.titles("ada").await, ["a"]);
    // Twice in one batch.
    let batch = vec![request.clone(), to("ada", "b"), request.clone()];
    let results = world.hub.notify_batch(&from, batch).await;
    assert_eq!(results[0], Ok(outcomes[0]));
    assert_eq!(results[2], Ok(outcomes[0]));
    let other = NotifyRequest {
        idempotency_key: Some("k".to_owned()),
        ..to("ada", "other")
    };
    let refused = world.hub.notify(&from, other.clone()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the idempotency key \"k\" was used with another request, expected the same request or a new key"
    );
    // The server ignores what it sets itself.
    let ignored = with(request, |of| {
        of.id = "x".to_owned();
        of.timestamp = 1_750_000_000_000;
        of.read = true;
        of.seen = Some(true);
        of.scheduled_id = Some("x".to_owned());
        of.replaces = vec!["x".to_owned()];
        of.unread_count = Some(7);
    });
    assert_eq!(world.hub.notify(&from, ignored).await, Ok(outcomes[0]));
    // Another sender's keys are its own.
    world
        .hub
        .notify(&UserId::new("other"), other)
        .await
        .unwrap();
    assert_eq!(world.titles("ada").await, ["other", "b", "a"]);
}

#[tokio::test]
async fn idempotency_keys_are_known_for_a_day_and_removed_after_two() {
    let mut world = World::new().await;
    let request = NotifyRequest {
        idempotency_key: Some("k".to_owned()),
        ..to("ada", "a")
    };
    let first = world.send(request.clone()).await;
    world.advance(DAY_MS);
    world.restart().await;
    world.work().await.unwrap();
    assert_eq!(world.send(request.clone()).await, first);
    world.advance(DAY_MS);
    world.work().await.unwrap();
    assert_eq!(world.store.len(Table("notification.keys")), 0);
    assert_ne!(world.send(request).await, first);
}

#[tokio::test]
async fn a_batch_has_a_result_for_each_and_keeps_the_order_of_a_user() {
    let world = World::new().await;
    let several = NotifyRequest {
        users: ["ada", "bob", "ada"].map(str::to_owned).into(),
        notification: Some(notification("several")),
        ..NotifyRequest::default()
    };
    let batch = vec![
        to("ada", "1"),
        to("ada", ""),
        to("bob", "2"),
        several,
        to("ada", "3"),
    ];
    let results = world.hub.notify_batch(&sender(), batch).await;
    let recipients: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().ok().map(|outcome| outcome.recipients))
        .collect();
    assert_eq!(recipients, [Some(1), None, Some(1), Some(2), Some(1)]);
    assert!(
        results[1]
            .as_ref()
            .unwrap_err()
            .to_string()
            .starts_with("`notification.title`: empty")
    );
    assert_eq!(world.titles("ada").await, ["3", "several", "1"]);
    assert_eq!(world.titles("bob").await, ["several", "2"]);
    let titles = world.events().into_iter().filter_map(|event| match event {
        HubEvent::Notification {
            user,
            notification,
            unread_count,
            ..
        } if user.as_str() == "ada" => Some((notification.title.clone(), unread_count)),
        _ => None,
    });
    let expected =
        [("1", 1), ("several", 2), ("3", 3)].map(|(title, count)| (title.to_owned(), count));
    assert_eq!(titles.collect::<Vec<_>>(), expected);
    // The shared text stays until both have dismissed it.
    let id = results[3].as_ref().unwrap().id.to_string();
    world
        .hub
        .dismiss("ada", std::slice::from_ref(&id))
        .await
        .unwrap();
    world.work().await.unwrap();
    assert_eq!(world.titles("bob").await, ["several", "2"]);
    world.hub.dismiss("bob", &[id]).await.unwrap();
    world.work().await.unwrap();
    assert_eq!(world.titles("bob").await, ["2"]);
    assert_eq!(world.store.len(Table("notification.garbage")), 0);
}

#[tokio::test]
async fn a_channel_gets_an_event_and_no_inbox_anything() {
    let world = World::new().await;
    let request = NotifyRequest {
        channel: Some("demo:room".to_owned()),
        notification: Some(notification("a")),
        ..NotifyRequest::default()
    };
    assert_eq!(world.send(request).await.recipients, 0);
    assert!(
        matches!(world.events().as_slice(), [HubEvent::Channel { channel, .. }] if channel.as_str() == "demo:room")
    );
    assert_eq!(world.store.len(Table("notification.bodies")), 0);
}
