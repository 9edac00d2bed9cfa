//! Failures of the store and the clock, and the bound of the memory.

use crate::support::{HOUR_MS, World, everyone, notification, sender, to};
use tidewire_notification::{NotificationConfig, NotificationError};
use tidewire_proto::v1::{ListNotificationsRequest, NotifyRequest};
use tidewire_store::Table;

#[tokio::test]
async fn a_full_disk_gives_a_clear_error_and_changes_nothing() {
    let world = World::new().await;
    let id = world.notify("ada", "a").await;
    world.events();
    world.store.fail_commits();
    let refused = world
        .hub
        .notify(&sender(), to("ada", "b"))
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("notifications are unavailable, try again"),
        "{refused}"
    );
    let results = world
        .hub
        .notify_batch(&sender(), vec![to("ada", "b"), to("ada", "")])
        .await;
    assert!(matches!(results[0], Err(NotificationError::Unavailable(_))));
    assert!(matches!(results[1], Err(NotificationError::Invalid { .. })));
    world
        .hub
        .notify(&sender(), everyone("c"))
        .await
        .unwrap_err();
    world
        .hub
        .mark_read("ada", std::slice::from_ref(&id))
        .await
        .unwrap_err();
    world.hub.mark_all_read("ada", None).await.unwrap_err();
    world.hub.dismiss("ada", &[id]).await.unwrap_err();
    assert!(world.events().is_empty());
    // A user who was seen can be read all the time.
    assert_eq!(world.titles("ada").await, ["a"]);
    // One who was not, too: the first contact is stored later.
    assert!(world.titles("bob").await.is_empty());
    assert_eq!(world.count("bob").await, 0);
    world.store.accept_commits();
    world.notify("bob", "e").await;
    assert_eq!(world.titles("bob").await, ["e"]);
    world.notify("ada", "d").await;
    assert_eq!(world.titles("ada").await, ["d", "a"]);
}

#[tokio::test]
async fn a_store_that_has_ended_answers_no_reads() {
    let world = World::new().await;
    world.notify("ada", "a").await;
    world.store.end();
    let query = world.hub.list_query(&ListNotificationsRequest::default());
    let listed = world.hub.list("bob", &query.unwrap()).await;
    assert!(matches!(listed, Err(NotificationError::Unavailable(_))));
}

#[tokio::test]
async fn ids_increase_across_a_restart_with_the_clock_set_back() {
    let mut world = World::new().await;
    let before = world.send(to("ada", "a")).await.id;
    let broadcast = world.send(everyone("b")).await.id;
    world.advance(-HOUR_MS);
    world.restart().await;
    let after = world.send(to("ada", "c")).await.id;
    assert!(
        before < broadcast && broadcast < after,
        "{before} {broadcast} {after}"
    );
    assert_eq!(world.titles("ada").await, ["c", "b", "a"]);
    world.hub.mark_all_read("ada", None).await.unwrap();
    world.notify("ada", "d").await;
    assert_eq!(world.count("ada").await, 1);
}

#[tokio::test]
async fn a_place_that_a_failed_write_gave_back_is_unread_for_the_next() {
    let mut world = World::new().await;
    world.notify("ada", "a").await;
    world.store.fail_commits();
    let refused = world.hub.notify(&sender(), to("bob", "lost")).await;
    refused.unwrap_err();
    world.store.accept_commits();
    world.hub.mark_all_read("ada", None).await.unwrap();
    // The clock stands: the next process gives the place out again.
    world.restart().await;
    world.notify("ada", "b").await;
    assert_eq!(world.count("ada").await, 1);
    assert_eq!(world.titles("ada").await, ["b", "a"]);
}

#[tokio::test]
async fn memory_does_not_grow_with_users_who_are_away() {
    let config = NotificationConfig {
        cache_bytes: 64 << 10,
        ..NotificationConfig::default()
    };
    let world = World::with(config).await;
    for chunk in 0..20 {
        let users = (0..500).map(|number| format!("u{}", chunk * 500 + number));
        let request = NotifyRequest {
            users: users.collect(),
            notification: Some(notification("a")),
            ..NotifyRequest::default()
        };
        world.send(request).await;
        world.events();
    }
    assert!(
        world.hub.cache_bytes() <= 64 << 10,
        "{}",
        world.hub.cache_bytes()
    );
    assert_eq!(world.store.len(Table("notification.states")), 10_000);
    // One text for all of a request.
    assert!(world.store.len(Table("notification.bodies")) <= 20);
    assert_eq!(world.count("u9999").await, 1);
}
