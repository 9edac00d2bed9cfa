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

use support::{Recorder, START_MS, everyone, sender, to};
use tidewire_notification::{NotificationConfig, NotificationHub};
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
    let store = Arc::new(GatedStore {
        inner: Arc::default(),
        gate: Arc::new(Semaphore::new(1)),
        is_unsure: AtomicBool::new(false),
    });
    let clock = ManualClock::at(START_MS);
    let config = NotificationConfig::default();
    let hub = NotificationHub::open(store.clone(), Arc::new(Recorder::default()), clock, config);
    (store, hub.await.unwrap())
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
    let keyed = |request, key: &str| NotifyRequest {
        idempotency_key: Some(key.to_owned()),
        ..request
    };
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
