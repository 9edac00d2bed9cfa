//! Shared parts of the hub: store, clock, ids, locks, cache and live broadcasts.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tidewire_store::{Batch, Key, KeyPeriods, SharedStore, Table, Value};
use tidewire_stream::SharedClock;
use tokio::sync::Notify;

use crate::{
    EventSink, NotificationConfig, NotificationError, NotificationId,
    admission::Admission,
    broadcast::{self, LiveBroadcasts},
    cache::StateCache,
    hub_time::HubTime,
    id::{IdGenerator, Order},
    inbox::{NEVER_MS, Retention, UserState},
    kind::KindRegistry,
    locks::{self, Locks},
    tables,
    unknown_commits::UnknownCommits,
};

/// Rows in one read of the store.
pub(crate) const PAGE: usize = 1_000;

/// The parts that all operations share.
pub(crate) struct HubCore {
    pub(crate) store: SharedStore,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) clock: SharedClock,
    pub(crate) config: NotificationConfig,
    pub(crate) kinds: KindRegistry,
    pub(crate) ids: IdGenerator,
    pub(crate) key_periods: KeyPeriods,
    pub(crate) realm: u64,
    pub(crate) locks: Locks,
    pub(crate) admission: Admission,
    pub(crate) cache: StateCache,
    live: RwLock<Arc<LiveBroadcasts>>,
    /// Whether the store may have other broadcasts than `live`.
    is_live_unknown: AtomicBool,
    /// Commits that failed, and may be in the store all the same.
    pub(crate) unknown: UnknownCommits,
    /// Broadcasts that left the lists by time, whose records are in the store yet.
    ended: Mutex<Vec<Order>>,
    /// The time until which the background task sleeps.
    wake_at_ms: AtomicI64,
    /// Notified when work is due before that.
    pub(crate) wake: Notify,
    /// Notified when there are new outgoing notifications.
    pub(crate) outgoing: Notify,
}

impl HubCore {
    /// Reads the store, and completes it where it is new.
    pub(crate) async fn open(
        store: SharedStore,
        events: Arc<dyn EventSink>,
        clock: SharedClock,
        config: NotificationConfig,
    ) -> Result<Self, NotificationError> {
        config.check()?;
        let (mut realm, mut newest, mut names) = (None, Order::default(), HashMap::new());
        for (key, value) in scan_all(&store, tables::META, Key::new()).await? {
            let damaged = NotificationError::Damaged("property of the notifications");
            let (kind, rest) = key.split_first().ok_or(damaged.clone())?;
            match *kind {
                tables::KIND => {
                    let number = rest.first_chunk().map(|number| u16::from_be_bytes(*number));
                    let name = String::from_utf8(value).map_err(|_| damaged.clone())?;
                    names.insert(number.ok_or(damaged)?, name);
                }
                tables::NEWEST => newest = newest.max(tables::order(&value).ok_or(damaged)?),
                _ if key == tables::REALM => realm = tables::order(&value),
                _ => {}
            }
        }
        let (kinds, added) = KindRegistry::new(names, &config.types)?;
        let mut batch = Batch::new();
        for (number, name) in added {
            let key = [&[tables::KIND], number.to_be_bytes().as_slice()].concat();
            batch.put(tables::META, key, name);
        }
        let realm = match realm {
            Some(realm) => realm.0,
            None => {
                let realm = rand::random::<u64>();
                batch.put(tables::META, tables::REALM, realm.to_be_bytes());
                realm
            }
        };
        store.commit(batch).await?;
        let live = read_live(&store, &config).await?;
        let unpublished = scan_all(&store, tables::CHANNEL_ROWS, Key::new()).await?;
        let unknown = UnknownCommits::default();
        unknown.add_channels(unpublished.iter().filter_map(|(key, _)| tables::order(key)));
        let key_periods = KeyPeriods::load(&store, tables::KEYS).await?;
        if newest > Order::default() {
            clock.witness(newest.time_ms());
        }
        Ok(Self {
            store,
            events,
            clock,
            kinds,
            ids: IdGenerator::after(newest),
            key_periods,
            realm,
            locks: Locks::default(),
            admission: Admission::default(),
            cache: StateCache::new(config.cache_bytes),
            live: RwLock::new(Arc::new(live)),
            is_live_unknown: AtomicBool::new(false),
            unknown,
            ended: Mutex::default(),
            wake_at_ms: AtomicI64::new(NEVER_MS),
            wake: Notify::new(),
            outgoing: Notify::new(),
            config,
        })
    }

    /// The ids at these places, as clients read them.
    pub(crate) fn id_texts(&self, orders: &[Order]) -> Vec<String> {
        let ids = orders.iter().map(|order| self.id(*order).to_string());
        ids.collect()
    }

    pub(crate) fn id(&self, order: Order) -> NotificationId {
        NotificationId {
            order,
            realm: self.realm,
        }
    }

    /// The places of ids of this store. Ids of other stores are nobody's.
    pub(crate) fn orders(&self, ids: &[NotificationId]) -> Vec<Order> {
        let own = ids.iter().filter(|id| id.realm == self.realm);
        own.map(|id| id.order).collect()
    }

    pub(crate) fn order(&self, id: NotificationId) -> Option<Order> {
        (id.realm == self.realm).then_some(id.order)
    }

    pub(crate) fn retention(&self) -> Retention {
        Retention {
            max_items: self.config.inbox_items,
            max_age_ms: self.config.max_age_ms,
        }
    }

    /// The first broadcast that is a user's.
    pub(crate) fn floor(&self, state: &UserState) -> Order {
        Order::at(
            state
                .first_contact_ms
                .saturating_sub(self.config.first_contact_window_ms),
        )
    }

    /// The present.
    pub(crate) fn time(&self) -> HubTime {
        HubTime::of(&*self.clock)
    }

    /// The broadcasts in the lists at a time.
    pub(crate) fn live(&self, time: HubTime) -> Arc<LiveBroadcasts> {
        let live = self.live.read().clone();
        if !live.is_due(time) {
            return live;
        }
        self.update_live(|live| {
            let ended = live.expire(time, self.config.broadcast_max_age_ms);
            self.ended.lock().extend(ended);
        })
    }

    /// Changes the broadcasts in the lists.
    pub(crate) fn update_live(
        &self,
        update: impl FnOnce(&mut LiveBroadcasts),
    ) -> Arc<LiveBroadcasts> {
        let mut live = self.live.write();
        update(Arc::make_mut(&mut live));
        live.clone()
    }

    /// Notes that a change of broadcasts failed, and may be in the store all the same.
    pub(crate) fn mark_live_unknown(&self) {
        self.is_live_unknown.store(true, Ordering::Release);
    }

    /// Reads the broadcasts again if a change of them failed.
    pub(crate) async fn reload_live(&self) -> Result<(), NotificationError> {
        if !self.is_live_unknown.load(Ordering::Acquire) {
            return Ok(());
        }
        let _guards = self.locks.lock(&BTreeSet::from([locks::BROADCASTS])).await;
        let stored = read_live(&self.store, &self.config).await?;
        self.update_live(|live| *live = stored);
        self.is_live_unknown.store(false, Ordering::Release);
        Ok(())
    }

    /// Takes the broadcasts that left the lists by time.
    pub(crate) fn take_ended(&self) -> Vec<Order> {
        std::mem::take(&mut *self.ended.lock())
    }

    /// Gives broadcasts back that could not be removed from the store.
    pub(crate) fn put_back_ended(&self, ended: Vec<Order>) {
        self.ended.lock().extend(ended);
    }

    /// Sets the time until which the background task sleeps.
    pub(crate) fn sleep_until(&self, time_ms: i64) {
        self.wake_at_ms.store(time_ms, Ordering::Release);
    }

    /// Wakes the background task if it would sleep past `due_ms`.
    pub(crate) fn wake_for(&self, due_ms: i64) {
        if due_ms < self.wake_at_ms.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
    }
}

/// The broadcasts in the store.
async fn read_live(
    store: &SharedStore,
    config: &NotificationConfig,
) -> Result<LiveBroadcasts, NotificationError> {
    let mut live = LiveBroadcasts::default();
    for (key, record) in scan_all(store, tables::BROADCASTS, Key::new()).await? {
        let order = tables::order(&key).ok_or(NotificationError::Damaged("broadcast"))?;
        let (broadcast, _) = broadcast::decode(order, &record)?;
        live.insert(broadcast, config.broadcast_max_age_ms);
    }
    Ok(live)
}

/// All entries of a table whose keys begin with `prefix`.
pub(crate) async fn scan_all(
    store: &SharedStore,
    table: Table,
    prefix: Key,
) -> Result<Vec<(Key, Value)>, NotificationError> {
    let mut entries: Vec<(Key, Value)> = Vec::new();
    loop {
        let after = entries.last().map(|(key, _)| key.clone());
        let page = store.scan(table, prefix.clone(), after, PAGE).await?;
        let is_last = page.len() < PAGE;
        entries.extend(page);
        if is_last {
            return Ok(entries);
        }
    }
}
