//! Inboxes: counts, lists and marks, whichever device changes them.

use crate::support::{DAY_MS, HOUR_MS, World, everyone, sender, to, with};
use tidewire_notification::{HubEvent, NotificationConfig};
use tidewire_proto::v1::{
    ListNotificationsRequest, NotificationType, NotifyRequest, Preferences, Priority,
};
use tidewire_store::Table;

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
async fn a_notification_names_the_one_that_it_replaced_for_each_user() {
    let world = World::new().await;
    let keyed = |mut request: NotifyRequest, key: &str| {
        request.notification.as_mut().unwrap().collapse_key = Some(key.to_owned());
        request
    };
    let old = world
        .send(keyed(to("ada", "old"), "k"))
        .await
        .id
        .to_string();
    world.send(keyed(everyone("broadcast"), "k")).await;
    world.send(keyed(to("ada", "other"), "another")).await;
    world.events();
    let both = NotifyRequest {
        user: None,
        users: vec!["ada".to_owned(), "bob".to_owned()],
        // A sender does not choose what it replaces.
        ..with(keyed(to("", "new"), "k"), |of| {
            of.replaces = vec!["x".to_owned()];
        })
    };
    world.send(both).await;
    let replaced = world.events().into_iter().filter_map(|event| match event {
        HubEvent::Notification {
            user, notification, ..
        } => Some((user.as_str().to_owned(), notification.replaces.clone())),
        _ => None,
    });
    let expected = [("ada".to_owned(), vec![old]), ("bob".to_owned(), vec![])];
    assert_eq!(replaced.collect::<Vec<_>>(), expected);
    let page = world
        .list("ada", &ListNotificationsRequest::default())
        .await;
    assert_eq!(page.items.len(), 3);
    assert!(page.items.iter().all(|item| item.replaces.is_empty()));
}

/// Kinds and counts of the events that one user's connections get.
fn pushed(world: &World) -> Vec<(&'static str, u64)> {
    let events = world.events().into_iter().map(|event| match event {
        HubEvent::Notification { unread_count, .. } => ("notification", unread_count),
        HubEvent::UnreadCount { unread_count, .. } => ("unread_count", unread_count),
        HubEvent::Dismissed { dismissed, .. } => ("dismissed", dismissed.unread_count),
        other => panic!("{other:?}"),
    });
    events.collect()
}

#[tokio::test]
async fn a_hidden_one_that_replaces_a_visible_one_removes_it_from_the_application() {
    let world = World::new().await;
    let collapsing = |priority: Priority| {
        with(to("ada", "a"), |of| {
            of.collapse_key = Some("eth".to_owned());
            of.priority = priority.into();
        })
    };
    let preferences = Preferences {
        min_priority: Some(Priority::High.into()),
        ..Preferences::default()
    };
    let set = world.hub.set_preferences("ada", preferences);
    set.await.unwrap();
    world.events();
    world.send(collapsing(Priority::High)).await;
    assert_eq!(pushed(&world), [("notification", 1), ("unread_count", 1)]);
    world.send(collapsing(Priority::Low)).await;
    assert_eq!(pushed(&world), [("dismissed", 0)]);
    assert!(world.titles("ada").await.is_empty());
    // One hidden one for another is nothing to see, and one id that nobody knows.
    world.send(collapsing(Priority::Low)).await;
    assert_eq!(pushed(&world), [("dismissed", 0)]);
    world.send(collapsing(Priority::High)).await;
    assert_eq!(pushed(&world), [("notification", 1), ("unread_count", 1)]);
}

#[tokio::test]
async fn a_full_inbox_that_drops_unread_ones_pushes_the_count() {
    let config = NotificationConfig {
        inbox_items: 40,
        ..NotificationConfig::default()
    };
    let world = World::with(config).await;
    for count in 1..=40 {
        world.notify("ada", "a").await;
        assert_eq!(pushed(&world), [("notification", count)]);
    }
    // A twentieth makes room.
    world.notify("ada", "a").await;
    assert_eq!(pushed(&world), [("notification", 38), ("unread_count", 38)]);
    world.notify("ada", "a").await;
    assert_eq!(pushed(&world), [("notification", 39)]);
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
    // Clients compare ids as texts: they receive it as the server writes it.
    let capitals = newest.to_uppercase();
    let receipt = world
        .hub
        .mark_all_read("ada", Some(&capitals))
        .await
        .unwrap();
    assert_eq!(receipt.up_to.as_deref(), Some(newest.as_str()));
    // One of another store tells nothing: its place is in another order.
    let foreign = "7zzzzzzzzzzzzzzzzzzzzzzzzz";
    let refused = world
        .hub
        .mark_all_read("ada", Some(foreign))
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("`upTo`: {foreign:?} is the id of another server, expected one of this server")
    );
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
