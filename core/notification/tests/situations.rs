//! Situations that users of other notification systems reported.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{DAY_MS, HOUR_MS, World, everyone, notification, sender, to, with};
use tidewire_notification::{HubEvent, NotificationConfig, NotificationError, ScheduleRef};
use tidewire_proto::v1::{
    ListNotificationsRequest, NotificationType, NotifyRequest, Preferences, Priority,
};
use tidewire_store::Table;
use tidewire_stream::UserId;

/// The counts of the events that change a user's count by themselves.
fn pushed_counts(world: &World) -> Vec<u64> {
    let events = world.events().into_iter();
    let count = |event| match event {
        HubEvent::UnreadCount { unread_count, .. } => Some(unread_count),
        _ => None,
    };
    events.filter_map(count).collect()
}

#[tokio::test]
async fn marking_one_three_times_at_once_drops_the_count_by_one() {
    let world = World::new().await;
    let id = world.notify("ada", "a").await;
    world.notify("ada", "b").await;
    world.events();
    let ids = [id.clone()];
    let mark = || world.hub.mark_read("ada", &ids);
    let receipts = tokio::join!(mark(), mark(), mark());
    for receipt in [receipts.0, receipts.1, receipts.2] {
        let receipt = receipt.unwrap();
        assert_eq!((receipt.ids, receipt.unread_count), (vec![id.clone()], 1));
    }
    assert_eq!(world.count("ada").await, 1);
    // Only the first changed something, so only that is pushed.
    assert_eq!(world.events().len(), 1);
}

#[tokio::test]
async fn dismissal_expiry_collapse_and_retention_keep_count_and_list_equal() {
    let config = NotificationConfig {
        inbox_items: 4,
        ..NotificationConfig::default()
    };
    let mut world = World::with(config).await;
    let dismissed = world.notify("ada", "dismissed").await;
    world
        .send(NotifyRequest {
            ttl_ms: Some(1_000),
            ..to("ada", "expires")
        })
        .await;
    let collapsing = |title| {
        with(to("ada", title), |of| {
            of.collapse_key = Some("eth".to_owned())
        })
    };
    world.send(collapsing("old price")).await;
    world.notify("ada", "oldest in the end").await;
    assert_eq!(
        world.titles("ada").await,
        ["oldest in the end", "old price", "expires", "dismissed"]
    );
    world.hub.dismiss("ada", &[dismissed]).await.unwrap();
    assert_eq!(
        world.titles("ada").await,
        ["oldest in the end", "old price", "expires"]
    );
    world.send(collapsing("new price")).await;
    assert_eq!(
        world.titles("ada").await,
        ["new price", "oldest in the end", "expires"]
    );
    world.events();
    // It expires without a request: other tabs get the count.
    world.advance(1_000);
    let due_ms = world.work().await.unwrap();
    assert_eq!(pushed_counts(&world), [2]);
    assert!(due_ms > world.now_ms() + DAY_MS, "nothing else is due soon");
    assert_eq!(
        world.titles("ada").await,
        ["new price", "oldest in the end"]
    );
    for title in ["1", "2", "3"] {
        world.notify("ada", title).await;
    }
    assert_eq!(world.titles("ada").await, ["3", "2", "1", "new price"]);
    world.advance(90 * DAY_MS);
    world.events();
    world.work().await.unwrap();
    assert_eq!(pushed_counts(&world), [0]);
    assert!(world.titles("ada").await.is_empty());
    // The texts go a little later, since a list may be reading them.
    world.advance(2 * HOUR_MS);
    world.work().await.unwrap();
    assert_eq!(world.store.len(Table("notification.bodies")), 0);
}

#[tokio::test]
async fn a_read_expires_what_is_due_before_the_background_does() {
    let mut world = World::new().await;
    world
        .send(NotifyRequest {
            ttl_ms: Some(1_000),
            ..to("ada", "a")
        })
        .await;
    world.advance(999);
    assert_eq!(world.count("ada").await, 1);
    world.advance(1);
    assert_eq!(world.count("ada").await, 0);
}

#[tokio::test]
async fn every_device_gets_what_another_changed() {
    let world = World::new().await;
    let first = world.notify("ada", "a").await;
    let second = world.notify("ada", "b").await;
    world.events();
    world
        .hub
        .mark_read("ada", std::slice::from_ref(&first))
        .await
        .unwrap();
    world.hub.dismiss("ada", &[second]).await.unwrap();
    world.notify("ada", "c").await;
    world.hub.mark_all_read("ada", None).await.unwrap();
    let counts = world.events().into_iter().map(|event| match event {
        HubEvent::Read { receipt, .. } => receipt.unread_count,
        HubEvent::Dismissed { dismissed, .. } => dismissed.unread_count,
        HubEvent::Notification { unread_count, .. } => unread_count,
        other => panic!("{other:?}"),
    });
    assert_eq!(counts.collect::<Vec<_>>(), [1, 0, 1, 0]);
    // A list with a filter has the same count.
    world.notify("ada", "d").await;
    let filter = ListNotificationsRequest {
        types: vec![NotificationType::SecurityWarning.into()],
        ..ListNotificationsRequest::default()
    };
    let page = world.list("ada", &filter).await;
    assert_eq!((page.items.len(), page.unread_count), (0, 1));
}

#[tokio::test]
async fn one_that_arrives_between_list_and_mark_all_stays_unread() {
    let world = World::new().await;
    for number in 0..40 {
        world.notify("ada", &number.to_string()).await;
    }
    world.send(everyone("broadcast")).await;
    let page = world
        .list("ada", &ListNotificationsRequest::default())
        .await;
    let newest = page.items[0].id.clone();
    let newcomer = world.notify("ada", "newcomer").await;
    world.send(everyone("new broadcast")).await;
    let receipt = world.hub.mark_all_read("ada", Some(&newest)).await.unwrap();
    assert_eq!((receipt.unread_count, receipt.all), (2, true));
    assert_eq!(receipt.up_to.as_deref(), Some(newest.as_str()));
    assert_eq!(world.count("ada").await, 2);
    // Later single marks count as ever.
    let receipt = world
        .hub
        .mark_read("ada", &[newcomer, newest])
        .await
        .unwrap();
    assert_eq!((receipt.ids.len(), receipt.unread_count), (2, 1));
    // An older place moves nothing back.
    let old = page.items[30].id.clone();
    let receipt = world.hub.mark_all_read("ada", Some(&old)).await.unwrap();
    assert_eq!(receipt.unread_count, 1);
    assert_eq!(world.titles("ada").await.len(), 43);
}

#[tokio::test]
async fn pages_stay_stable_while_new_ones_arrive() {
    let world = World::new().await;
    for number in 0..50 {
        match number % 10 {
            9 => drop(world.send(everyone(&number.to_string())).await),
            _ => drop(world.notify("ada", &number.to_string()).await),
        }
    }
    let mut request = ListNotificationsRequest {
        limit: Some(20),
        ..ListNotificationsRequest::default()
    };
    let mut titles = Vec::new();
    loop {
        let page = world.list("ada", &request).await;
        titles.extend(page.items.into_iter().map(|item| item.title));
        for number in 0..10 {
            world.notify("ada", &format!("new {number}")).await;
        }
        match page.next {
            Some(next) => request.before = Some(next.to_string()),
            None => break,
        }
    }
    let expected: Vec<_> = (0..50)
        .rev()
        .map(|number: u32| number.to_string())
        .collect();
    assert_eq!(titles, expected);
}

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

#[tokio::test]
async fn a_muted_type_is_hidden_from_list_count_and_push_and_comes_back() {
    let world = World::new().await;
    let warning = |of: &mut tidewire_proto::v1::Notification| {
        of.r#type = NotificationType::SecurityWarning.into()
    };
    let muted = Preferences {
        muted_types: vec![
            NotificationType::PriceAlert.into(),
            NotificationType::SecurityWarning.into(),
        ],
        ..Preferences::default()
    };
    world.notify("ada", "before").await;
    world.hub.set_preferences("ada", muted).await.unwrap();
    assert_eq!(pushed_counts(&world), [0]);
    for title in ["1", "2", "3"] {
        world.notify("ada", title).await;
    }
    world.send(everyone("broadcast")).await;
    assert!(world.titles("ada").await.is_empty());
    let is_push = |event: &HubEvent| matches!(event, HubEvent::Notification { .. });
    assert!(!world.events().iter().any(is_push));
    // Security warnings and urgent ones are never hidden.
    world.send(with(to("ada", "warning"), warning)).await;
    world
        .send(with(to("ada", "urgent"), |of| {
            of.priority = Priority::Urgent.into()
        }))
        .await;
    assert_eq!(world.titles("ada").await, ["urgent", "warning"]);
    assert_eq!(
        world.events().iter().filter(|event| is_push(event)).count(),
        2
    );
    world
        .hub
        .set_preferences("ada", Preferences::default())
        .await
        .unwrap();
    assert_eq!(pushed_counts(&world), [7]);
    assert_eq!(world.titles("ada").await.len(), 7);
    // A lowest priority hides in the same way.
    let high = Preferences {
        min_priority: Some(Priority::Urgent.into()),
        ..Preferences::default()
    };
    world
        .hub
        .set_preferences("ada", high.clone())
        .await
        .unwrap();
    assert_eq!(world.titles("ada").await, ["urgent", "warning"]);
    assert_eq!(world.hub.preferences("ada").await.unwrap(), high);
}

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
        } if user.as_str() == "ada" => Some((notification.title, unread_count)),
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

#[tokio::test]
async fn a_user_neither_reads_nor_marks_what_another_has() {
    let world = World::new().await;
    let id = world.notify("ada", "a").await;
    let ids = [id];
    for user in ["bob", "adam"] {
        let receipt = world.hub.mark_read(user, &ids).await.unwrap();
        assert_eq!((receipt.ids.len(), receipt.unread_count), (0, 0));
        assert!(world.hub.dismiss(user, &ids).await.unwrap().ids.is_empty());
        world.hub.mark_all_read(user, None).await.unwrap();
        assert!(world.titles(user).await.is_empty());
    }
    assert_eq!(world.titles("ada").await, ["a"]);
    assert_eq!(world.count("ada").await, 1);
}

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
    world.store.accept_commits();
    world.notify("ada", "d").await;
    assert_eq!(world.titles("ada").await, ["d", "a"]);
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
async fn a_type_of_the_configuration_is_named_in_lists_and_filters() {
    let config = NotificationConfig {
        types: vec!["order_shipped".to_owned()],
        ..NotificationConfig::default()
    };
    let mut world = World::with(config).await;
    let custom = |title| {
        with(to("ada", title), |of| {
            of.r#type = 0;
            of.custom_type = "order_shipped".to_owned();
        })
    };
    world.notify("ada", "a").await;
    world.send(custom("b")).await;
    let filter = ListNotificationsRequest {
        custom_types: vec!["order_shipped".to_owned()],
        ..ListNotificationsRequest::default()
    };
    let page = world.list("ada", &filter).await;
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].custom_type, "order_shipped");
    // Without the type in the configuration old ones stay, and new ones are refused.
    world.config.types.clear();
    world.restart().await;
    let page = world
        .list("ada", &ListNotificationsRequest::default())
        .await;
    assert_eq!(page.items[0].custom_type, "order_shipped");
    world.hub.notify(&sender(), custom("c")).await.unwrap_err();
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
