//! Outgoing notifications: the rows for the delivery channels outside of the application.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tidewire_notification::{NotificationConfig, NotificationHub, Outgoing};
use tidewire_proto::v1::{DeliveryFilter, NotifyRequest, Preferences, Priority};
use tidewire_store::{Batch, Key, MemoryStore, Store, StoreError, StoreFuture, Table, Value};
use tidewire_stream::{ManualClock, UserId};

use crate::support::{Recorder, START_MS, World, everyone, sender, to, with};

async fn world() -> World {
    let config = NotificationConfig {
        has_delivery: true,
        ..NotificationConfig::default()
    };
    World::with(config).await
}

async fn rows(world: &World) -> Vec<Outgoing> {
    let mut rows = world.hub.outgoing(100).await.unwrap();
    // New preferences leave one.
    rows.retain(|row| !row.is_review());
    rows
}

fn users(rows: &[Outgoing]) -> Vec<&str> {
    let users = rows.iter().map(|row| row.user.as_ref());
    users
        .map(|user| user.map_or("everyone", |user| user.as_str()))
        .collect()
}

#[tokio::test]
async fn each_recipient_who_sees_it_has_a_row_that_is_stored_with_it() {
    let mut world = world().await;
    let preferences = Preferences {
        min_priority: Some(Priority::Urgent.into()),
        ..Preferences::default()
    };
    let set = world.hub.set_preferences("cleo", preferences);
    set.await.unwrap();
    let request = NotifyRequest {
        users: ["ada", "bob", "cleo"].map(str::to_owned).into(),
        ..to("", "a")
    };
    let request = NotifyRequest {
        user: None,
        ..request
    };
    world.send(request).await;
    world.send(everyone("b")).await;
    world.store.fail_commits();
    let refused = world.hub.notify(&sender(), to("ada", "lost")).await;
    refused.unwrap_err();
    world.store.accept_commits();
    world.restart().await;
    let found = rows(&world).await;
    assert_eq!(users(&found), ["everyone", "ada", "bob"]);
    assert!(
        found
            .iter()
            .all(|row| row.due_ms == world.now_ms() && row.done == 0)
    );
    // Without delivery channels there are none.
    let plain = World::new().await;
    plain.notify("ada", "a").await;
    assert!(rows(&plain).await.is_empty());
}

#[tokio::test]
async fn a_row_moves_and_ends_with_what_is_made_of_it() {
    let world = world().await;
    world.notify("ada", "a").await;
    world.notify("bob", "b").await;
    let found = rows(&world).await;
    let mut batch = Batch::new();
    let later = Outgoing {
        due_ms: world.now_ms() + 1_000,
        done: 3,
        ..found[0].clone()
    };
    found[0].remove(&mut batch);
    later.put(&mut batch);
    world.store.commit(batch).await.unwrap();
    assert_eq!(rows(&world).await, [found[1].clone(), later.clone()]);
    let mut batch = Batch::new();
    later.remove(&mut batch);
    found[1].remove(&mut batch);
    world.store.commit(batch).await.unwrap();
    assert!(rows(&world).await.is_empty());
}

#[tokio::test]
async fn the_rows_of_a_user_that_are_due_at_once_are_next_to_each_other() {
    let world = world().await;
    for user in ["ada", "bob", "ada", "bob", "ada"] {
        world.notify(user, "a").await;
    }
    assert_eq!(
        users(&rows(&world).await),
        ["ada", "ada", "ada", "bob", "bob"]
    );
}

#[tokio::test]
async fn what_was_read_or_is_hidden_or_gone_is_not_sent_any_more() {
    let mut world = world().await;
    for title in ["read", "dismissed", "expires", "hidden", "stays"] {
        let request = with(to("ada", title), |of| {
            of.priority = match title {
                "hidden" => Priority::Low.into(),
                _ => Priority::High.into(),
            }
        });
        let ttl_ms = (title == "expires").then_some(1_000);
        world.send(NotifyRequest { ttl_ms, ..request }).await;
    }
    world.send(everyone("broadcast")).await;
    let found = rows(&world).await;
    let broadcast = found[0].id;
    let found: Vec<_> = found.into_iter().filter(|row| row.user.is_some()).collect();
    let unread = async |world: &World| {
        let mut titles = Vec::new();
        for row in &found {
            let user = row.user.as_ref().unwrap();
            if let Some((item, _)) = world.hub.unread(user, row.id).await.unwrap() {
                titles.push(item.title);
            }
        }
        let user = found[0].user.as_ref().unwrap();
        let item = world.hub.unread(user, broadcast).await.unwrap();
        titles.extend(item.map(|(item, _)| item.title));
        titles
    };
    let all = [
        "read",
        "dismissed",
        "expires",
        "hidden",
        "stays",
        "broadcast",
    ];
    assert_eq!(unread(&world).await, all);
    let ids = |row: &Outgoing| [row.id.to_string()];
    world.hub.mark_read("ada", &ids(&found[0])).await.unwrap();
    world.hub.dismiss("ada", &ids(&found[1])).await.unwrap();
    let preferences = Preferences {
        min_priority: Some(Priority::High.into()),
        ..Preferences::default()
    };
    world.hub.set_preferences("ada", preferences).await.unwrap();
    world.advance(1_000);
    assert_eq!(unread(&world).await, ["stays", "broadcast"]);
    let listed = world.hub.broadcast(broadcast).await.unwrap();
    assert_eq!(listed.unwrap().0.title, "broadcast");
    world
        .hub
        .recall_broadcast(&broadcast.to_string())
        .await
        .unwrap();
    assert_eq!(unread(&world).await, ["stays"]);
    assert_eq!(world.hub.broadcast(broadcast).await.unwrap(), None);
}

#[tokio::test]
async fn a_filter_of_a_channel_lets_the_urgent_and_security_pass() {
    let world = world().await;
    for priority in [Priority::Medium, Priority::Urgent] {
        let request = with(to("ada", "a"), |of| of.priority = priority.into());
        world.send(request).await;
    }
    let filter = DeliveryFilter {
        min_priority: Some(Priority::High.into()),
        ..DeliveryFilter::default()
    };
    let mut passes = Vec::new();
    for row in rows(&world).await {
        let user = row.user.clone().unwrap();
        let (_, class) = world.hub.unread(&user, row.id).await.unwrap().unwrap();
        assert!(world.hub.passes(None, class));
        passes.push(world.hub.passes(Some(&filter), class));
    }
    assert_eq!(passes, [false, true]);
}

/// A store that counts the rows of inboxes that it reads.
struct Counting(MemoryStore, AtomicUsize);

impl Store for Counting {
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>> {
        self.0.get(table, key)
    }

    fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
        self.0.get_many(keys)
    }

    fn get_floor(
        &self,
        table: Table,
        keys: Vec<Key>,
    ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
        self.0.get_floor(table, keys)
    }

    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>> {
        Box::pin(async move {
            let rows = self.0.scan(table, prefix, after, limit).await?;
            if table == Table("notification.blocks") {
                self.1.fetch_add(rows.len(), Ordering::Relaxed);
            }
            Ok(rows)
        })
    }

    fn commit(&self, batch: Batch) -> StoreFuture<'_, ()> {
        self.0.commit(batch)
    }

    fn failure(&self) -> Option<StoreError> {
        self.0.failure()
    }
}

#[tokio::test]
async fn one_of_a_large_inbox_is_found_without_a_walk_through_it() {
    let store = Arc::new(Counting(MemoryStore::new(), AtomicUsize::new(0)));
    let hub = NotificationHub::open(
        store.clone(),
        Arc::new(Recorder::default()),
        ManualClock::at(START_MS),
        NotificationConfig {
            has_delivery: true,
            ..NotificationConfig::default()
        },
    );
    let hub = hub.await.unwrap();
    let mut ids = Vec::new();
    let mut add = async |count: usize| {
        let requests = (0..count).map(|_| to("ada", "a")).collect();
        for result in hub.notify_batch(&sender(), requests).await {
            ids.push(result.unwrap().id);
        }
        ids.clone()
    };
    let ada = UserId::new("ada");
    let read = |expected: usize| assert_eq!(store.1.swap(0, Ordering::Relaxed), expected);
    let old = add(5_000).await;
    read(0);
    // Each alone: one block at most.
    for place in [0, 1, 2_500, 4_999] {
        let found = hub.unread_among(&ada, &old[place..=place]).await.unwrap();
        assert_eq!(found[0].id, old[place]);
    }
    assert!(store.1.swap(0, Ordering::Relaxed) <= 4);
    // Many: each of their blocks once, about.
    let found = hub.unread_among(&ada, &old[1_000..1_256]).await.unwrap();
    let found: Vec<_> = found.iter().map(|item| item.id).collect();
    assert_eq!(found, old[1_000..1_256]);
    assert!(store.1.swap(0, Ordering::Relaxed) <= 2 * 256 / 16);
    // None that the watermark covers is looked for.
    hub.mark_all_read("ada", None).await.unwrap();
    store.1.store(0, Ordering::Relaxed);
    let all = add(300).await;
    assert!(hub.unread_among(&ada, &old).await.unwrap().is_empty());
    read(0);
    let found = hub.unread_among(&ada, &all[4_990..]).await.unwrap();
    assert_eq!(found.len(), 300);
    assert!(store.1.swap(0, Ordering::Relaxed) <= 2 * 300 / 16);
    // Those that were read or dismissed one by one are not found.
    let text = |place: usize| all[place].to_string();
    hub.mark_read("ada", &[text(5_001)]).await.unwrap();
    hub.dismiss("ada", &[text(5_002)]).await.unwrap();
    let found = hub.unread_among(&ada, &all[5_000..5_004]).await.unwrap();
    let found: Vec<_> = found.iter().map(|item| item.id).collect();
    assert_eq!(found, [all[5_000], all[5_003]]);
}
