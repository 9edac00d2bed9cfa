//! Interruptions: callers that stop waiting, and writes whose result is unknown.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use support::{DAY_MS, Recorder, START_MS, World, everyone, keyed, notification, sender, to};
use tidewire_notification::{HubEvent, NotificationConfig, NotificationHub, NotifyOutcome};
use tidewire_proto::v1::{ListNotificationsRequest, NotifyRequest};
use tidewire_store::{Batch, Key, MemoryStore, Store, StoreError, StoreFuture, Table, Value};
use tidewire_stream::ManualClock;
use tokio::sync::Semaphore;

/// A store whose commits wait for a permit. Like the embedded store it writes a batch that it
/// was handed, whether or not the caller still waits.
struct GatedStore {
    inner: Arc<MemoryStore>,
    gate: Arc<Semaphore>,
    /// Whether a commit reports a failure after it has written.
    is_unsure: AtomicBool,
}

impl Store for GatedStore {
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>> {
        self.inner.get(table, key)
    }

    fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
        self.inner.get_many(keys)
    }

    fn get_floor(
        &self,
        table: Table,
        keys: Vec<Key>,
    ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
        self.inner.get_floor(table, keys)
    }

    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>> {
        self.inner.scan(table, prefix, after, limit)
    }

    fn commit(&self, batch: Batch) -> StoreFuture<'_, ()> {
        let (inner, gate) = (self.inner.clone(), self.gate.clone());
        let is_unsure = self.is_unsure.load(Ordering::Acquire);
        Box::pin(async move {
            let written = tokio::spawn(async move {
                gate.acquire().await.unwrap().forget();
                inner.commit(batch).await
            });
            written.await.unwrap()?;
            match is_unsure {
                true => Err(StoreError::Failed("the flush failed".to_owned())),
                false => Ok(()),
            }
        })
    }

    fn failure(&self) -> Option<StoreError> {
        None
    }
}

async fn open() -> (Arc<GatedStore>, NotificationHub) {
    let (store, hub, ..) = open_recorded().await;
    (store, hub)
}

async fn open_recorded() -> (
    Arc<GatedStore>,
    NotificationHub,
    Arc<Recorder>,
    Arc<ManualClock>,
) {
    let store = Arc::new(GatedStore {
        inner: Arc::default(),
        gate: Arc::new(Semaphore::new(1)),
        is_unsure: AtomicBool::new(false),
    });
    let clock = ManualClock::at(START_MS);
    let config = NotificationConfig::default();
    let recorder = Arc::new(Recorder::default());
    let hub = NotificationHub::open(store.clone(), recorder.clone(), clock.clone(), config);
    (store, hub.await.unwrap(), recorder, clock)
}

/// The number of notifications in the list, which the count equals.
async fn listed(hub: &NotificationHub, user: &str) -> usize {
    let query = hub
        .list_query(&ListNotificationsRequest::default())
        .unwrap();
    let page = hub.list(user, &query).await.unwrap();
    let count = hub.unread_count(user).await.unwrap();
    assert_eq!(page.items.len() as u64, count);
    page.items.len()
}

#[tokio::test]
async fn a_caller_that_stops_waiting_leaves_count_and_list_equal() {
    let (store, hub) = open().await;
    for number in 0..5 {
        let stopped = tokio::spawn({
            let hub = hub.clone();
            async move { hub.notify(&sender(), to("ada", &number.to_string())).await }
        });
        // It hands its batch over, and then its connection ends.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        stopped.abort();
        assert!(stopped.await.unwrap_err().is_cancelled());
        store.gate.add_permits(2);
        hub.notify(&sender(), to("ada", "another")).await.unwrap();
        assert_eq!(listed(&hub, "ada").await, 2 * (number + 1));
    }
}

#[tokio::test]
async fn a_write_that_failed_but_is_in_the_store_is_found_there() {
    let (store, hub) = open().await;
    store.gate.add_permits(100);
    hub.notify(&sender(), to("ada", "a")).await.unwrap();
    store.is_unsure.store(true, Ordering::Release);
    hub.notify(&sender(), keyed(to("ada", "b"), "k1"))
        .await
        .unwrap_err();
    hub.notify(&sender(), keyed(everyone("c"), "k2"))
        .await
        .unwrap_err();
    store.is_unsure.store(false, Ordering::Release);
    assert_eq!(listed(&hub, "ada").await, 2);
    hub.step().await.unwrap();
    assert_eq!(listed(&hub, "ada").await, 3);
    // Repeated requests find that they succeeded.
    hub.notify(&sender(), keyed(to("ada", "b"), "k1"))
        .await
        .unwrap();
    hub.notify(&sender(), keyed(everyone("c"), "k2"))
        .await
        .unwrap();
    assert_eq!(listed(&hub, "ada").await, 3);
}

fn to_channel(title: &str) -> NotifyRequest {
    NotifyRequest {
        channel: Some("orders:1".to_owned()),
        notification: Some(notification(title)),
        ..NotifyRequest::default()
    }
}

/// An event in brief: its kind, its subject, and the count.
fn brief(event: &HubEvent) -> String {
    match event {
        HubEvent::Notification {
            user,
            notification,
            unread_count,
            ..
        } => format!("{} {} {unread_count}", user.as_str(), notification.title),
        HubEvent::Broadcast { notification, .. } => format!("all {}", notification.title),
        HubEvent::Channel {
            channel,
            notification,
        } => format!("{channel} {}", notification.title),
        HubEvent::Read { user, receipt } => {
            format!("{} read {}", user.as_str(), receipt.unread_count)
        }
        HubEvent::Dismissed { user, dismissed } => {
            format!("{} dismissed {}", user.as_str(), dismissed.unread_count)
        }
        HubEvent::UnreadCount { user, unread_count } => {
            format!("{} {unread_count}", user.as_str())
        }
        HubEvent::BroadcastRemoval { .. } => "recall".to_owned(),
        HubEvent::Preferences { user, .. } => format!("{} preferences", user.as_str()),
        HubEvent::Gap { user } => format!("{} gap", user.as_str()),
        HubEvent::GapForAll => "gap".to_owned(),
    }
}

/// Connected clients learn of all that the store has, whatever the request returned: each change
/// once, in its order.
#[tokio::test]
async fn clients_learn_of_what_a_failed_flush_has_written() {
    let (store, hub, recorder, _) = open_recorded().await;
    store.gate.add_permits(1_000);
    hub.notify(&sender(), to("ada", "a")).await.unwrap();
    let second = hub.notify(&sender(), to("bob", "b")).await.unwrap();
    let third = hub.notify(&sender(), to("cleo", "c")).await.unwrap();
    let old = hub.notify(&sender(), everyone("old")).await.unwrap();
    let ids = |outcome: NotifyOutcome| [outcome.id.to_string()];
    recorder.take();

    store.is_unsure.store(true, Ordering::Release);
    let requests = [
        keyed(to("ada", "paid"), "k1"),
        keyed(everyone("news"), "k2"),
        keyed(to_channel("shipped"), "k3"),
    ];
    for request in &requests {
        hub.notify(&sender(), request.clone()).await.unwrap_err();
    }
    hub.mark_read("bob", &ids(second)).await.unwrap_err();
    hub.dismiss("cleo", &ids(third)).await.unwrap_err();
    hub.recall_broadcast(&old.id.to_string()).await.unwrap_err();
    assert!(recorder.take().is_empty());

    store.is_unsure.store(false, Ordering::Release);
    // The senders may be before the background task.
    for request in &requests {
        hub.notify(&sender(), request.clone()).await.unwrap();
    }
    assert!(recorder.take().is_empty());
    hub.step().await.unwrap();
    let events: Vec<_> = recorder.take().iter().map(brief).collect();
    let expected = [
        "ada paid 3",
        "ada 3",
        "all news",
        "orders:1 shipped",
        "bob read 1",
        "bob 1",
        "cleo dismissed 1",
        "cleo 1",
        "recall",
    ];
    assert_eq!(events, expected);
    hub.step().await.unwrap();
    assert!(recorder.take().is_empty());
}

#[tokio::test]
async fn clients_learn_of_scheduled_notifications_whose_delivery_a_failed_flush_has_written() {
    let (store, hub, recorder, clock) = open_recorded().await;
    store.gate.add_permits(1_000);
    for request in [to("ada", "a"), everyone("b"), to_channel("c")] {
        let request = NotifyRequest {
            not_before: Some(START_MS + DAY_MS),
            ..request
        };
        hub.notify(&sender(), request).await.unwrap();
    }
    clock.set(START_MS + DAY_MS);
    let mut events = Vec::new();
    for _ in 0..3 {
        // A step ends at the first failure.
        store.is_unsure.store(true, Ordering::Release);
        hub.step().await.unwrap_err();
        assert!(recorder.take().is_empty());
        store.is_unsure.store(false, Ordering::Release);
        hub.settle_unknown().await.unwrap();
        events.extend(recorder.take().iter().map(brief));
    }
    assert_eq!(events, ["ada a 1", "ada 1", "all b", "orders:1 c"]);
}

/// If a batch was not written, clients hear nothing of it. If another operation came between, they
/// read again.
#[tokio::test]
async fn clients_hear_nothing_of_what_was_not_written() {
    let world = World::new().await;
    world.notify("ada", "a").await;
    world.notify("bob", "b").await;
    world.events();
    world.store.fail_commits();
    for request in [to("ada", "lost"), to("bob", "lost"), everyone("lost")] {
        world.hub.notify(&sender(), request).await.unwrap_err();
    }
    let lost = keyed(to_channel("lost"), "k");
    world.hub.notify(&sender(), lost.clone()).await.unwrap_err();
    world.store.accept_commits();
    // The repetition of a channel's notification is the one that counts.
    world.send(lost).await;
    world.notify("bob", "next").await;
    let events: Vec<_> = world.events().iter().map(brief).collect();
    assert_eq!(events, ["orders:1 lost", "bob next 2"]);
    world.work().await.unwrap();
    let events: Vec<_> = world.events().iter().map(brief).collect();
    assert_eq!(events, ["bob gap"]);
    assert_eq!(world.titles("bob").await, ["next", "b"]);
}

/// Notifications to channels wait in the store, and not in memory.
#[tokio::test]
async fn notifications_to_channels_have_no_bound_in_memory() {
    let (store, hub, recorder, _) = open_recorded().await;
    store.gate.add_permits(1_000_000);
    store.is_unsure.store(true, Ordering::Release);
    // 16 KiB at most is the data of one.
    let large = format!("\"{}\"", "x".repeat(16_000));
    for number in 0..600 {
        let mut request = to_channel(&number.to_string());
        if let Some(one) = &mut request.notification {
            one.data = large.clone().into();
        }
        hub.notify(&sender(), request).await.unwrap_err();
    }
    store.is_unsure.store(false, Ordering::Release);
    recorder.take();
    hub.step().await.unwrap();
    let events: Vec<_> = recorder.take().iter().map(brief).collect();
    let expected: Vec<_> = (0..600)
        .map(|number| format!("orders:1 {number}"))
        .collect();
    assert_eq!(events, expected);
}

/// The place of a notification to a channel that its subscribers may not have yet is the store.
#[tokio::test]
async fn a_notification_to_a_channel_is_published_until_that_is_confirmed() {
    let mut world = World::new().await;
    let ids = [
        world.send(to_channel("a")).await.id,
        world.send(keyed(to_channel("b"), "k")).await.id,
        world.send(to_channel("c")).await.id,
    ];
    let events = async |world: &World| {
        let events = world.events();
        events.iter().map(brief).collect::<Vec<_>>()
    };
    assert_eq!(
        events(&world).await,
        ["orders:1 a", "orders:1 b", "orders:1 c"]
    );
    world.hub.channel_published(&ids[..1]).await.unwrap();
    world.work().await.unwrap();
    assert!(events(&world).await.is_empty());
    // As after a kill.
    world.restart().await;
    world.work().await.unwrap();
    assert_eq!(events(&world).await, ["orders:1 b", "orders:1 c"]);
    world.hub.publish_channels_again(&ids[1..2]);
    world.work().await.unwrap();
    assert_eq!(events(&world).await, ["orders:1 b"]);
    world.hub.channel_published(&ids[1..]).await.unwrap();
    world.restart().await;
    world.work().await.unwrap();
    assert!(events(&world).await.is_empty());
}

/// The memory for such events has a bound. Beyond it, all clients read again.
#[tokio::test]
async fn too_many_unknown_commits_end_in_a_gap_for_all() {
    let world = World::new().await;
    world.store.fail_commits();
    for chunk in 0..10 {
        let users = (0..2_000).map(|number| format!("u{}", chunk * 2_000 + number));
        let request = NotifyRequest {
            users: users.collect(),
            notification: Some(notification("a")),
            ..NotifyRequest::default()
        };
        world.hub.notify(&sender(), request).await.unwrap_err();
    }
    world.store.accept_commits();
    world.hub.step().await.unwrap();
    assert!(world.events().contains(&HubEvent::GapForAll));
    world.hub.step().await.unwrap();
    assert!(world.events().is_empty());
}
