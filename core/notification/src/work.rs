//! Unit of work: inboxes that an operation loads under its locks, and the writes and events that
//! it stages. One commit stores all of it, or nothing; then the cache changes, then the events
//! are published.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use prost::Message as _;
use tidewire_proto::v1::{Dismissed, Notification};
use tidewire_store::{Batch, Key, StoreError, Table, Value};
use tidewire_stream::UserId;

use crate::{
    Audience, HubEvent, NotificationError,
    broadcast::{Broadcast, LiveBroadcasts},
    counts,
    hub_core::{HubCore, scan_all},
    hub_time::HubTime,
    id::Order,
    inbox::{Block, Entry, Inbox, NEVER_MS, Retention, UserState},
    kind::Class,
    locks::{Guards, Stripe},
    outgoing::Outgoing,
    record::{self, Body},
    tables::{self, DueWork},
    unknown_commits::StateChange,
};

/// An inbox, with the form in which it is stored.
struct LoadedInbox {
    inbox: Inbox,
    /// The stored state. None for a user who was never seen.
    stored: Option<Arc<[u8]>>,
    /// The time of the inbox in the table of due work.
    stored_due_ms: i64,
}

/// The changes of one operation.
pub(crate) struct Work<'a> {
    core: &'a Arc<HubCore>,
    guards: Guards,
    pub(crate) now_ms: i64,
    pub(crate) time: HubTime,
    pub(crate) live: Arc<LiveBroadcasts>,
    inboxes: HashMap<UserId, LoadedInbox>,
    pub(crate) bodies: Vec<Body>,
    pub(crate) batch: Batch,
    pub(crate) events: Vec<HubEvent>,
    /// Places that no other operation takes, as a range.
    reserved: Range<u64>,
    /// The place that was given out last, and the first stripe that the operation holds.
    newest: Option<Order>,
    stripe: Option<Stripe>,
    added: Vec<Broadcast>,
    removed: Vec<Order>,
    /// The earliest time of staged due work.
    due_ms: i64,
    has_outgoing: bool,
}

impl<'a> Work<'a> {
    /// An operation that holds these locks.
    pub(crate) async fn lock(core: &'a Arc<HubCore>, stripes: &BTreeSet<Stripe>) -> Self {
        let guards = core.locks.lock(stripes).await;
        let time = core.time();
        Self {
            core,
            guards,
            now_ms: time.now_ms,
            time,
            live: core.live(time),
            inboxes: HashMap::new(),
            bodies: Vec::new(),
            batch: Batch::new(),
            events: Vec::new(),
            reserved: 0..0,
            newest: None,
            stripe: stripes.first().copied(),
            added: Vec::new(),
            removed: Vec::new(),
            due_ms: NEVER_MS,
            has_outgoing: false,
        }
    }

    /// Takes places for as many notifications, so that these follow each other and their texts
    /// share chunks.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.reserved = self.core.ids.take(self.now_ms, count);
    }

    /// A new place. Its stripe stores it, so that no later process gives it out again.
    pub(crate) fn next_order(&mut self) -> Order {
        let order = match self.reserved.next() {
            Some(order) => Order(order),
            None => self.core.ids.next(self.now_ms),
        };
        self.newest = Some(order);
        order
    }

    /// Loads the inboxes of users, and reads `keys` beside them. Expires what is due.
    pub(crate) async fn load(
        &mut self,
        users: impl IntoIterator<Item = &UserId>,
        mut keys: Vec<(Table, Key)>,
    ) -> Result<Vec<Option<Value>>, NotificationError> {
        let requested = keys.len();
        let mut missing = Vec::new();
        for user in users {
            if self.inboxes.contains_key(user) {
                continue;
            }
            match self.core.cache.get(user) {
                Some(state) => self.add_inbox(user, Some(state))?,
                None => {
                    keys.push((tables::STATES, user.as_str().into()));
                    missing.push(user);
                }
            }
        }
        if keys.is_empty() {
            self.settle().await?;
            return Ok(Vec::new());
        }
        let mut values = self.core.store.get_many(keys).await?;
        let states = values.split_off(requested);
        for (user, state) in missing.into_iter().zip(states) {
            let state: Option<Arc<[u8]>> = state.map(Into::into);
            if let Some(state) = &state {
                self.core.cache.put(user, state.clone());
            }
            self.add_inbox(user, state)?;
        }
        self.settle().await?;
        Ok(values)
    }

    fn add_inbox(
        &mut self,
        user: &UserId,
        stored: Option<Arc<[u8]>>,
    ) -> Result<(), NotificationError> {
        let mut state = match &stored {
            Some(stored) => record::decode_state(stored)?,
            None => UserState::new(self.time.retention_ms),
        };
        state.correct_first_contact(self.now_ms);
        let loaded = LoadedInbox {
            stored_due_ms: state.next_due_ms,
            inbox: Inbox::new(state),
            stored,
        };
        self.inboxes.insert(user.clone(), loaded);
        Ok(())
    }

    /// Expires what is due in the loaded inboxes. Entries that have expired by a clock that is in
    /// doubt stay, and are hidden.
    async fn settle(&mut self) -> Result<(), NotificationError> {
        let due = self.inboxes.iter();
        let due = due.filter(|(_, loaded)| loaded.inbox.state.next_due_ms <= self.now_ms);
        let users: Vec<_> = due.map(|(user, _)| user.clone()).collect();
        for user in users {
            self.load_blocks(&user).await?;
            let before = self.unread(&user);
            let retention = self.core.retention();
            let retention_ms = self.time.retention_ms;
            self.inbox(&user).expire(retention_ms, retention);
            self.push_count_if_changed(&user, before);
        }
        Ok(())
    }

    /// Publishes a user's count if it is not `before`.
    pub(crate) fn push_count_if_changed(&mut self, user: &UserId, before: u64) {
        let unread_count = self.unread(user);
        if unread_count != before {
            self.events.push(HubEvent::UnreadCount {
                user: user.clone(),
                unread_count,
            });
        }
    }

    /// A loaded inbox. Callers load it first; an inbox that was not loaded is a new user's.
    pub(crate) fn inbox(&mut self, user: &UserId) -> &mut Inbox {
        let first_contact_ms = self.time.retention_ms;
        let loaded = self
            .inboxes
            .entry(user.clone())
            .or_insert_with(|| LoadedInbox {
                inbox: Inbox::new(UserState::new(first_contact_ms)),
                stored: None,
                stored_due_ms: NEVER_MS,
            });
        &mut loaded.inbox
    }

    /// Adds a notification to a loaded inbox, and stages the events of what the user sees of it.
    pub(crate) fn insert(
        &mut self,
        user: &UserId,
        entry: Entry,
        retention: Retention,
        mut notification: Notification,
    ) {
        let (order, class, collapses) = (entry.order, entry.class, entry.collapse.is_some());
        let expires_at_ms = entry.expires_at_ms;
        let live = self.live.clone();
        let (core, time) = (self.core, self.time);
        let inbox = self.inbox(user);
        let floor = core.floor(&inbox.state);
        let unread = |inbox: &Inbox| {
            counts::unread(&inbox.state, &live, floor).saturating_sub(inbox.hidden_unread(time))
        };
        let before = unread(inbox);
        let removed = inbox.removed.len();
        let replaced = inbox.insert(entry, retention);
        let is_shown = inbox.state.visibility().shows(class);
        let unread_count = unread(inbox);
        let user = user.clone();
        if !is_shown {
            // Hidden ones are pushed no more than they are listed. What they replace leaves the
            // list all the same.
            let ids = core.id_texts(&inbox.removed[removed..]);
            if !ids.is_empty() {
                let dismissed = Dismissed { ids, unread_count };
                self.events.push(HubEvent::Dismissed { user, dismissed });
            }
            return;
        }
        notification.replaces = core.id_texts(&replaced);
        self.events.push(HubEvent::Notification {
            user: user.clone(),
            notification: Arc::new(notification),
            class,
            unread_count,
            audience: Audience::Users,
        });
        if core.config.has_delivery {
            self.put_outgoing(&Outgoing {
                class: Some(class),
                expires_at_ms,
                ..Outgoing::new(self.now_ms, Some(user.clone()), core.id(order), 0)
            });
        }
        // Clients add one for a notification. They cannot tell whether it replaces an unread one,
        // nor what a full inbox drops.
        if collapses || unread_count != before + 1 {
            self.events
                .push(HubEvent::UnreadCount { user, unread_count });
        }
    }

    /// Loads the older entries of an inbox.
    pub(crate) async fn load_blocks(&mut self, user: &UserId) -> Result<(), NotificationError> {
        if self.inbox(user).blocks.is_some() {
            return Ok(());
        }
        let rows = scan_all(&self.core.store, tables::BLOCKS, tables::blocks_of(user)).await?;
        let mut blocks = Vec::with_capacity(rows.len());
        for (key, value) in rows.iter().rev() {
            let key =
                tables::block_order(key).ok_or(NotificationError::Damaged("block of an inbox"))?;
            blocks.push(Block {
                key,
                entries: record::decode_block(value)?,
                is_dirty: false,
            });
        }
        let inbox = self.inbox(user);
        blocks.append(&mut inbox.new_blocks);
        inbox.blocks = Some(blocks);
        Ok(())
    }

    /// Loads an inbox for a change of the entries at these places. Returns the live broadcasts,
    /// and the first one that is the user's.
    pub(crate) async fn load_for(
        &mut self,
        user: &UserId,
        orders: &[Order],
    ) -> Result<(Arc<LiveBroadcasts>, Order), NotificationError> {
        self.load([user], Vec::new()).await?;
        if self.inbox(user).needs_blocks(orders) {
            self.load_blocks(user).await?;
        }
        let core = self.core.clone();
        let floor = core.floor(&self.inbox(user).state);
        Ok((self.live.clone(), floor))
    }

    /// The number of unread notifications that a user sees.
    pub(crate) fn unread(&mut self, user: &UserId) -> u64 {
        let (live, core, time) = (self.live.clone(), self.core, self.time);
        let inbox = self.inbox(user);
        let floor = core.floor(&inbox.state);
        counts::unread(&inbox.state, &live, floor).saturating_sub(inbox.hidden_unread(time))
    }

    /// Adds a broadcast to the lists.
    pub(crate) fn add_broadcast(&mut self, broadcast: Broadcast, text: &[u8]) {
        let record = crate::broadcast::encode(&broadcast, text);
        self.batch
            .put(tables::BROADCASTS, broadcast.order.0.to_be_bytes(), record);
        Arc::make_mut(&mut self.live)
            .insert(broadcast.clone(), self.core.config.broadcast_max_age_ms);
        self.due_ms = self.due_ms.min(self.live.next_due_ms());
        if self.core.config.has_delivery {
            self.put_outgoing(&Outgoing {
                class: Some(broadcast.class),
                expires_at_ms: broadcast.expires_at_ms,
                text: text.to_vec(),
                ..Outgoing::new(self.now_ms, None, self.core.id(broadcast.order), 0)
            });
        }
        self.added.push(broadcast);
    }

    /// Has the planner of the delivery channels judge anew what waits of a user.
    pub(crate) fn review_outgoing(&mut self, user: &UserId) {
        if self.core.config.has_delivery {
            self.put_outgoing(&Outgoing::review(self.now_ms, user.clone(), self.now_ms));
        }
    }

    fn put_outgoing(&mut self, row: &Outgoing) {
        row.put(&mut self.batch);
        self.has_outgoing = true;
    }

    /// Removes broadcasts from the lists.
    pub(crate) fn remove_broadcasts(&mut self, orders: Vec<Order>) {
        if orders.is_empty() {
            return;
        }
        for order in &orders {
            self.batch.delete(tables::BROADCASTS, order.0.to_be_bytes());
            Arc::make_mut(&mut self.live).remove(*order);
        }
        let ids = orders.iter().map(|order| self.core.id(*order)).collect();
        self.events.push(HubEvent::BroadcastRemoval { ids });
        self.removed.extend(orders);
    }

    /// Stages work that is due at a time.
    pub(crate) fn add_due(&mut self, due_ms: i64, work: &DueWork) {
        self.batch
            .put(tables::DUE, tables::due(due_ms, work), Value::new());
        self.due_ms = self.due_ms.min(due_ms);
    }

    /// Stores all changes, then publishes the events.
    pub(crate) async fn commit(mut self) -> Result<(), NotificationError> {
        for (order, chunk) in record::encode_chunks(&self.bodies) {
            self.batch.put(tables::BODIES, order.0.to_be_bytes(), chunk);
        }
        let mut changes = Vec::new();
        let mut due_changes = Vec::new();
        for (user, loaded) in &mut self.inboxes {
            let inbox = &mut loaded.inbox;
            let live = &self.live;
            inbox
                .state
                .marks
                .retain(|mark| live.find(mark.order).is_some());
            let new_blocks = inbox.new_blocks.iter();
            let blocks = inbox.blocks.iter().flatten().filter(|block| block.is_dirty);
            for block in blocks.chain(new_blocks) {
                let key = tables::block(user, block.key);
                match block.entries.is_empty() {
                    true => self.batch.delete(tables::BLOCKS, key),
                    false => {
                        self.batch
                            .put(tables::BLOCKS, key, record::encode_block(&block.entries))
                    }
                }
            }
            for order in &inbox.removed {
                self.batch
                    .put(tables::GARBAGE, tables::garbage(*order, user), Value::new());
            }
            let state = record::encode_state(&inbox.state);
            if loaded.stored.as_deref() == Some(state.as_slice()) {
                continue;
            }
            let due_ms = inbox.state.next_due_ms;
            if due_ms != loaded.stored_due_ms {
                due_changes.push((user.clone(), loaded.stored_due_ms, due_ms));
            }
            changes.push(StateChange {
                user: user.clone(),
                before: loaded.stored.clone(),
                after: state.as_slice().into(),
            });
            self.batch.put(tables::STATES, user.as_str(), state);
        }
        for (user, before_ms, due_ms) in due_changes {
            let work = DueWork::Expiry(user);
            if before_ms != NEVER_MS {
                self.batch
                    .delete(tables::DUE, tables::due(before_ms, &work));
            }
            if due_ms != NEVER_MS {
                self.add_due(due_ms, &work);
            }
        }
        if let (Some(newest), Some(stripe), false) =
            (self.newest, self.stripe, self.batch.is_empty())
        {
            let key = [&[tables::NEWEST], stripe.number().to_be_bytes().as_slice()].concat();
            self.batch.put(tables::META, key, newest.0.to_be_bytes());
        }
        let has_writes = !self.batch.is_empty();
        let stored = StoredWork {
            core: self.core.clone(),
            batch: self.batch,
            changes,
            added: self.added,
            removed: self.removed,
            events: self.events,
            due_ms: self.due_ms,
            has_outgoing: self.has_outgoing,
            _guards: self.guards,
        };
        if !has_writes {
            return stored.finish().await;
        }
        // A caller may stop waiting at any moment, for example with its connection. The store
        // writes the batch all the same, so the cache must follow before the locks are released.
        let finished = tokio::spawn(stored.finish()).await;
        finished.unwrap_or(Err(NotificationError::Unavailable(StoreError::Closed)))
    }
}

/// The end of an operation, which nothing interrupts.
struct StoredWork {
    core: Arc<HubCore>,
    batch: Batch,
    changes: Vec<StateChange>,
    added: Vec<Broadcast>,
    removed: Vec<Order>,
    events: Vec<HubEvent>,
    due_ms: i64,
    has_outgoing: bool,
    _guards: Guards,
}

impl StoredWork {
    async fn finish(self) -> Result<(), NotificationError> {
        let is_read = self.batch.is_empty();
        if !is_read && let Err(error) = self.core.store.commit(self.batch).await {
            // A flush that failed may have written the batch. Only the store knows.
            for change in &self.changes {
                self.core.cache.remove(&change.user);
            }
            if !self.added.is_empty() || !self.removed.is_empty() {
                self.core.mark_live_unknown();
            }
            self.core.unknown.add(self.changes, self.events);
            self.core.wake.notify_one();
            return Err(error.into());
        }
        for change in self.changes {
            self.core.cache.put(&change.user, change.after);
        }
        if !self.added.is_empty() || !self.removed.is_empty() {
            let max_age_ms = self.core.config.broadcast_max_age_ms;
            self.core.update_live(|live| {
                for broadcast in self.added {
                    live.insert(broadcast, max_age_ms);
                }
                for order in self.removed {
                    live.remove(order);
                }
            });
        }
        for event in self.events {
            self.core.events.publish(event);
        }
        self.core.wake_for(self.due_ms);
        if self.has_outgoing {
            self.core.outgoing.notify_one();
        }
        Ok(())
    }
}

/// A notification as clients get it, unread.
pub(crate) fn notification(
    core: &HubCore,
    order: Order,
    class: Class,
    expires_at_ms: Option<i64>,
    text: &[u8],
) -> Result<Notification, NotificationError> {
    let shared =
        Notification::decode(text).map_err(|_| NotificationError::Damaged("notification"))?;
    Ok(complete(core, order, class, expires_at_ms, shared))
}

/// A notification as clients get it, unread, of the fields that all recipients share.
pub(crate) fn complete(
    core: &HubCore,
    order: Order,
    class: Class,
    expires_at_ms: Option<i64>,
    shared: Notification,
) -> Notification {
    let (kind, custom_type) = core.kinds.wire(class.kind());
    Notification {
        id: core.id(order).to_string(),
        r#type: kind,
        custom_type,
        priority: class.priority().into(),
        timestamp: order.time_ms(),
        expires_at: expires_at_ms,
        ..shared
    }
}
