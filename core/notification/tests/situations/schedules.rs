//! Schedules: notifications that wait for their time.

use crate::support::{DAY_MS, World, sender, to, with};
use tidewire_notification::{NotificationError, ScheduleRef};
use tidewire_proto::v1::{ListNotificationsRequest, NotificationType, NotifyRequest, Preferences};
use tidewire_store::Table;
use tidewire_stream::UserId;

#[tokio::test]
async fn one_that_is_due_while_the_server_is_down_is_delivered_once_at_its_start() {
    let mut world = World::new().await;
    let later = NotifyRequest {
        not_before: Some(world.now_ms() + 5_000),
        idempotency_key: Some("k".to_owned()),
        ..to("ada", "later")
    };
    let outcome = world.send(later.clone()).await;
    assert!(world.titles("ada").await.is_empty());
    world.advance(4_000);
    assert_eq!(world.work().await.unwrap(), world.now_ms() + 1_000);
    // Down from 4 to 8 s. The token of the sender plays no part: it was checked at the request.
    world.advance(4_000);
    world.restart().await;
    world.notify("ada", "newer").await;
    world.work().await.unwrap();
    world.work().await.unwrap();
    world.restart().await;
    world.work().await.unwrap();
    assert_eq!(world.titles("ada").await, ["later", "newer"]);
    let page = world
        .list("ada", &ListNotificationsRequest::default())
        .await;
    assert_eq!(page.items[0].scheduled_id, Some(outcome.id.to_string()));
    assert_eq!(page.items[0].timestamp, world.now_ms());
    // The request repeated later notifies no more.
    world.advance(DAY_MS);
    assert_eq!(world.send(later).await, outcome);
    assert_eq!(world.titles("ada").await.len(), 2);
    assert_eq!(world.store.len(Table("notification.schedules")), 0);
    assert_eq!(world.store.len(Table("notification.slots")), 0);
}

#[tokio::test]
async fn a_scheduled_one_is_cancelled_by_its_sender_and_replaced_by_its_collapse_key() {
    let mut world = World::new().await;
    let due_ms = world.now_ms() + 5_000;
    let later = |title: &str, key: &str| NotifyRequest {
        not_before: Some(due_ms),
        idempotency_key: Some(key.to_owned()),
        ..to("ada", title)
    };
    let cancelled = world.send(later("cancelled", "k1")).await;
    let id = cancelled.id.to_string();
    let other = UserId::new("other");
    for reference in [ScheduleRef::Id(&id), ScheduleRef::Key("k1")] {
        let refused = world
            .hub
            .cancel_scheduled(&other, reference)
            .await
            .unwrap_err();
        assert!(
            matches!(refused, NotificationError::NotScheduled(_)),
            "{refused}"
        );
    }
    world
        .hub
        .cancel_scheduled(&sender(), ScheduleRef::Key("k1"))
        .await
        .unwrap();
    let again = world
        .hub
        .cancel_scheduled(&sender(), ScheduleRef::Id(&id))
        .await
        .unwrap_err();
    assert_eq!(again, NotificationError::NotScheduled(id));
    // A delayed repetition does not bring it back.
    assert_eq!(world.send(later("cancelled", "k1")).await, cancelled);
    let slot = |title, key| {
        with(later(title, key), |of| {
            of.collapse_key = Some("reminder".to_owned())
        })
    };
    world.send(slot("replaced", "k2")).await;
    world.send(slot("replacement", "k3")).await;
    // One without `not_before` is delivered now, and is collapsed at the time of the other.
    world
        .send(NotifyRequest {
            not_before: None,
            ..slot("now", "k4")
        })
        .await;
    assert_eq!(world.titles("ada").await, ["now"]);
    world.advance(5_000);
    world.work().await.unwrap();
    assert_eq!(world.titles("ada").await, ["replacement"]);
}

#[tokio::test]
async fn expiry_and_preferences_are_judged_at_the_time_of_delivery() {
    let mut world = World::new().await;
    let due_ms = world.now_ms() + 5_000;
    let later = |title: &str| NotifyRequest {
        not_before: Some(due_ms),
        ..to("ada", title)
    };
    world
        .send(with(later("expired"), |of| {
            of.expires_at = Some(due_ms + 1_000)
        }))
        .await;
    world
        .send(NotifyRequest {
            ttl_ms: Some(1_000),
            ..later("short")
        })
        .await;
    let muted = Preferences {
        muted_types: vec![NotificationType::PriceAlert.into()],
        ..Preferences::default()
    };
    world.hub.set_preferences("ada", muted).await.unwrap();
    world.events();
    world.advance(7_000);
    world.work().await.unwrap();
    assert!(world.events().is_empty(), "muted ones are not pushed");
    assert!(world.titles("ada").await.is_empty());
    world
        .hub
        .set_preferences("ada", Preferences::default())
        .await
        .unwrap();
    // Its time to live counts from the delivery.
    assert_eq!(world.titles("ada").await, ["short"]);
}

#[tokio::test(start_paused = true)]
async fn the_background_task_delivers_at_its_time() {
    let world = World::new().await;
    let cancel = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn({
        let (hub, cancel) = (world.hub.clone(), cancel.clone());
        async move { hub.run(cancel).await }
    });
    // The task sleeps; a new schedule wakes it.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let due_ms = world.now_ms() + 500;
    world
        .send(NotifyRequest {
            not_before: Some(due_ms),
            ..to("ada", "later")
        })
        .await;
    world.clock.set(due_ms);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(world.titles("ada").await, ["later"]);
    cancel.cancel();
    task.await.unwrap();
}
