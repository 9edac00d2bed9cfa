//! Broadcasts: one record for all users, and its ends.

use crate::support::{DAY_MS, World, everyone, with};
use tidewire_notification::{HubEvent, NotificationConfig, NotificationError};
use tidewire_proto::v1::NotifyRequest;
use tidewire_store::Table;
use tidewire_stream::UserId;

#[tokio::test]
async fn a_user_who_was_never_seen_has_the_broadcasts_of_the_last_30_days() {
    let config = NotificationConfig {
        broadcast_max_age_ms: 100 * DAY_MS,
        ..NotificationConfig::default()
    };
    let mut world = World::with(config).await;
    world.send(everyone("old")).await;
    world.advance(DAY_MS);
    world.send(everyone("recent")).await;
    // Ada is seen at once, Bob 30 days later.
    assert_eq!(world.titles("ada").await, ["recent", "old"]);
    world.advance(30 * DAY_MS);
    assert_eq!(world.titles("bob").await, ["recent"]);
    assert_eq!(world.count("bob").await, 1);
    // The first contact is remembered, also across a restart.
    world.advance(30 * DAY_MS);
    world.restart().await;
    assert_eq!(world.titles("bob").await, ["recent"]);
    assert_eq!(world.titles("ada").await, ["recent", "old"]);
    assert!(world.titles("eve").await.is_empty());
}

#[tokio::test]
async fn a_broadcast_is_one_record_and_one_event() {
    let world = World::new().await;
    for number in 0..100 {
        world.notify(&format!("u{number}"), "a").await;
    }
    world.events();
    let before = world.store.len(Table("notification.states"));
    let outcome = world.send(everyone("b")).await;
    assert_eq!(outcome.recipients, 0);
    assert_eq!(world.store.len(Table("notification.broadcasts")), 1);
    assert_eq!(world.store.len(Table("notification.states")), before);
    assert!(matches!(
        world.events().as_slice(),
        [HubEvent::Broadcast { .. }]
    ));
    assert_eq!(world.titles("u7").await, ["b", "a"]);
    // Reading and dismissing it are each user's own.
    let ids = [outcome.id.to_string()];
    world.hub.mark_read("u7", &ids).await.unwrap();
    world.hub.dismiss("u8", &ids).await.unwrap();
    assert_eq!(
        (
            world.count("u7").await,
            world.count("u8").await,
            world.count("u9").await
        ),
        (1, 1, 2)
    );
    assert_eq!(world.titles("u8").await, ["a"]);
    assert_eq!(
        world.hub.dismiss("u8", &ids).await.unwrap().ids,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_fan_out_publishes_what_a_user_has_now_and_then_the_count() {
    let world = World::new().await;
    world.notify("ada", "direct").await;
    let collapsing = |title| with(everyone(title), |of| of.collapse_key = Some("k".to_owned()));
    let old = world.send(collapsing("old")).await.id.to_string();
    let new = world.send(collapsing("new")).await.id.to_string();
    let mut broadcasts = Vec::new();
    let mut order = Vec::new();
    for event in world.events() {
        match event {
            HubEvent::Broadcast {
                notification,
                class,
            } => {
                order.push(notification.id.clone());
                broadcasts.push((notification, class));
            }
            HubEvent::BroadcastRemoval { ids } => order.push(format!("-{}", ids[0])),
            _ => {}
        }
    }
    // The newcomer comes before the end of the one that it replaces: whoever counts is right.
    assert_eq!(order, [old.clone(), new.clone(), format!("-{old}")]);
    let fan_out = async |number: usize| {
        let (notification, class) = &broadcasts[number];
        let ada = [UserId::new("ada")];
        let unreached = world.hub.publish_broadcast(&ada, notification, *class);
        assert_eq!(unreached.await, []);
        let events = world.events().into_iter().map(|event| match event {
            HubEvent::Notification {
                notification,
                unread_count,
                ..
            } => format!(
                "{} {} {unread_count}",
                notification.title, notification.read
            ),
            HubEvent::UnreadCount { unread_count, .. } => unread_count.to_string(),
            HubEvent::Dismissed { dismissed, .. } => {
                assert_eq!(dismissed.ids, broadcasts[number].0.replaces);
                format!("dismissed {}", dismissed.unread_count)
            }
            other => panic!("{other:?}"),
        });
        events.collect::<Vec<_>>()
    };
    assert_eq!(broadcasts[1].0.replaces, [old]);
    // It is replaced already.
    assert_eq!(fan_out(0).await, ["2"]);
    assert_eq!(fan_out(1).await, ["new false 2"]);
    world.hub.mark_all_read("ada", None).await.unwrap();
    world.events();
    assert_eq!(fan_out(1).await, ["new true 0"]);
    world.hub.dismiss("ada", &[new]).await.unwrap();
    world.events();
    // The one that it replaced is not in the list any more either.
    assert_eq!(fan_out(1).await, ["dismissed 0"]);
}

#[tokio::test]
async fn a_recalled_broadcast_leaves_all_lists_and_counts() {
    let mut world = World::new().await;
    let id = world.send(everyone("a")).await.id.to_string();
    assert_eq!(world.count("ada").await, 1);
    world.events();
    world.hub.recall_broadcast(&id).await.unwrap();
    assert!(
        matches!(world.events().as_slice(), [HubEvent::BroadcastRemoval { ids }] if ids.len() == 1)
    );
    assert!(world.titles("ada").await.is_empty());
    let error = world.hub.recall_broadcast(&id).await.unwrap_err();
    assert_eq!(error, NotificationError::NoBroadcast(id.clone()));
    world.restart().await;
    assert!(world.titles("bob").await.is_empty());
    // One that still waits is cancelled, by the same call.
    let later = NotifyRequest {
        not_before: Some(world.now_ms() + 1_000),
        ..everyone("later")
    };
    let id = world.send(later.clone()).await.id.to_string();
    world.hub.recall_broadcast(&id).await.unwrap();
    world.advance(1_000);
    world.work().await.unwrap();
    assert!(world.titles("ada").await.is_empty());
    // One that was delivered is found by the id of its request too.
    let later = NotifyRequest {
        not_before: Some(world.now_ms() + 1_000),
        ..everyone("later")
    };
    let id = world.send(later).await.id.to_string();
    world.advance(1_000);
    world.work().await.unwrap();
    assert_eq!(world.titles("ada").await, ["later"]);
    world.hub.recall_broadcast(&id).await.unwrap();
    assert!(world.titles("ada").await.is_empty());
}

#[tokio::test]
async fn broadcasts_end_by_expiry_age_number_and_collapse_key() {
    let config = NotificationConfig {
        max_broadcasts: 3,
        ..NotificationConfig::default()
    };
    let mut world = World::with(config).await;
    world
        .send(NotifyRequest {
            ttl_ms: Some(1_000),
            ..everyone("expires")
        })
        .await;
    let collapsing = |title| with(everyone(title), |of| of.collapse_key = Some("k".to_owned()));
    world.send(collapsing("old")).await;
    world.send(collapsing("new")).await;
    assert_eq!(world.titles("ada").await, ["new", "expires"]);
    world.advance(1_000);
    assert_eq!(world.titles("ada").await, ["new"]);
    world.events();
    world.work().await.unwrap();
    assert!(matches!(
        world.events().as_slice(),
        [HubEvent::BroadcastRemoval { .. }]
    ));
    for title in ["1", "2", "3"] {
        world.send(everyone(title)).await;
    }
    assert_eq!(world.titles("ada").await, ["3", "2", "1"]);
    world.advance(30 * DAY_MS);
    world.work().await.unwrap();
    assert!(world.titles("ada").await.is_empty());
    assert_eq!(world.store.len(Table("notification.broadcasts")), 0);
}
