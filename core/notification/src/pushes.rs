//! Pushes to users: gathers the events of users and publishes them on `user:{id}`.
//!
//! All pushes go through the one gatherer, and are published under its lock. Each user's pushes
//! therefore keep their order, whether an event or the time causes them. Nothing is gathered for a
//! user who was not connected lately: the list alone has the notification.
//!
//! On a store that other nodes share, pushes belong to a term of it. While another node may have taken
//! over, they are held back: a user may have dismissed there what would be pushed here. Those of a
//! term that has ended are dropped, and the next owner has the clients read their lists again. Those that
//! were handed over and not published yet are refused by the fence of their term.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_proto::v1::{Dismissed, Notification, Preferences, Priority, ReadReceipt};
use tidewire_store::SharedStore;
use tidewire_stream::{
    ChannelName, Content, Event, SharedEvent, StreamCore, UserId, broker::Fence,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Audience, GatheringLimits, NotificationGatherer, NotificationId,
    gathering::{Push, PushContent, PushTime},
};

/// Time between two looks at what is due, while something is pending.
const TICK: Duration = Duration::from_millis(20);

/// Publishes on the channels of users.
#[derive(Debug)]
pub struct UserPushes {
    stream: Arc<StreamCore>,
    state: Mutex<State>,
    /// The newest broadcast, which is published for many users.
    newest: Mutex<NewestBroadcast>,
    /// Notified when something is pending again.
    pending: Notify,
}

/// A broadcast, and its event for as long as a publication has it.
#[derive(Debug, Default)]
struct NewestBroadcast {
    notification: Weak<Notification>,
    event: Weak<SharedEvent>,
}

struct State {
    gatherer: NotificationGatherer,
    /// The store of the term. None before the first one.
    store: Option<SharedStore>,
    /// The proof of the term, on a store that other nodes share.
    fence: Option<Arc<Fence>>,
    has_ended: bool,
    /// Pushes that were due while another node may have taken over. Nothing is acknowledged in that
    /// time, so the gatherer's bound holds for them too.
    held: Vec<Push>,
    /// Whether the server stops: then nothing waits any more.
    is_closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("gatherer", &self.gatherer)
            .finish_non_exhaustive()
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.gatherer.is_empty() && self.held.is_empty()
    }

    /// Whether no other node can have taken over.
    fn is_current(&self) -> bool {
        self.store.as_ref().is_none_or(|store| store.is_current())
    }

    fn clear(&mut self) {
        self.gatherer = NotificationGatherer::new(GatheringLimits::default());
        self.held = Vec::new();
    }
}

impl UserPushes {
    /// Pushes on the channels of `stream`. [`run`](Self::run) pushes what waits for its time.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>) -> Self {
        Self {
            stream,
            state: Mutex::new(State {
                gatherer: NotificationGatherer::new(GatheringLimits::default()),
                store: None,
                fence: None,
                has_ended: false,
                held: Vec::new(),
                is_closed: false,
            }),
            newest: Mutex::default(),
            pending: Notify::new(),
        }
    }

    /// Begins a term: what follows belongs to this store, under the `fence` of the term if other nodes
    /// share it. Pushes of the term before are dropped.
    pub fn begin_term(&self, store: SharedStore, fence: Option<Arc<Fence>>) {
        let mut state = self.state.lock();
        state.clear();
        state.store = Some(store);
        state.fence = fence;
        state.has_ended = false;
    }

    /// Ends the term, and drops its pushes.
    pub fn end_term(&self) {
        let mut state = self.state.lock();
        state.clear();
        state.has_ended = true;
    }

    /// Pushes a notification, now or with others. `unread_count` is the count after it.
    pub fn notification(
        &self,
        user: &UserId,
        notification: Arc<Notification>,
        unread_count: u64,
        audience: Audience,
    ) {
        let is_known = |channel| self.stream.is_known(&channel);
        // What is published at once finds that out by itself.
        let may_wait = matches!(notification.priority(), Priority::Medium | Priority::Low);
        if may_wait && !ChannelName::user(user.as_str()).is_ok_and(is_known) {
            return;
        }
        self.apply(|gatherer, out| {
            let now = PushTime {
                instant: Instant::now(),
                wall_ms: self.stream.clock().now_ms(),
            };
            gatherer.notification(user, notification, unread_count, audience, now, out);
        });
    }

    /// Pushes that a user read notifications.
    pub fn read(&self, user: &UserId, receipt: ReadReceipt) {
        self.apply(|gatherer, out| gatherer.read(user, receipt, out));
    }

    /// Pushes that a user dismissed notifications.
    pub fn dismissed(&self, user: &UserId, dismissed: Dismissed) {
        self.apply(|gatherer, out| gatherer.dismissed(user, dismissed, out));
    }

    /// Pushes the count of a user.
    pub fn unread_count(&self, user: &UserId, unread_count: u64) {
        self.apply(|gatherer, out| gatherer.unread_count(user, unread_count, out));
    }

    /// Takes back what a user's new preferences hide.
    pub fn preferences(&self, user: &UserId, preferences: &Preferences) {
        self.apply(|gatherer, out| gatherer.preferences(user, preferences, out));
    }

    /// Takes pending broadcasts back.
    pub fn retract(&self, ids: &[NotificationId]) {
        self.apply(|gatherer, out| gatherer.retract(ids, out));
    }

    /// Pushes what is pending, and lets nothing wait from now on.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.apply(|_, _| ());
    }

    /// Pushes what is due, until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let ticks = async {
            loop {
                if self.state.lock().is_empty() {
                    self.pending.notified().await;
                }
                sleep(TICK).await;
                self.push_due().await;
            }
        };
        cancel.run_until_cancelled(ticks).await;
    }

    /// Pushes what is due now, in parts: requests that push have their turn between them.
    async fn push_due(&self) {
        let now = Instant::now();
        let mut spent = 0;
        loop {
            let mut count = 0;
            self.apply(|gatherer, out| {
                gatherer.due(now, spent, out);
                count = out.len();
            });
            if count == 0 {
                return;
            }
            spent += count;
            tokio::task::yield_now().await;
        }
    }

    /// Changes what is pending, and publishes what follows.
    fn apply(&self, change: impl FnOnce(&mut NotificationGatherer, &mut Vec<Push>)) {
        let mut out = Vec::new();
        let mut state = self.state.lock();
        let was_empty = state.is_empty();
        change(&mut state.gatherer, &mut out);
        if state.is_closed {
            state.gatherer.flush_all(Instant::now(), &mut out);
        }
        if state.has_ended {
            state.clear();
            return;
        }
        state.held.append(&mut out);
        if state.is_current() {
            for push in std::mem::take(&mut state.held) {
                self.publish(push, state.fence.as_ref());
            }
        }
        if was_empty && !state.is_empty() {
            self.pending.notify_one();
        }
    }

    /// The event of a broadcast. Those of its users come one after the other: their publications
    /// share one event. A broadcast to 20,000 users would else be in memory 20,000 times.
    fn shared(&self, broadcast: &Arc<Notification>) -> Arc<SharedEvent> {
        let mut newest = self.newest.lock();
        // The weak one keeps the address from being given to another notification.
        if Weak::as_ptr(&newest.notification) == Arc::as_ptr(broadcast)
            && let Some(event) = newest.event.upgrade()
        {
            return event;
        }
        let notification = Notification {
            unread_count: None,
            ..Notification::clone(broadcast)
        };
        let event = SharedEvent::new(Event::Notification(notification));
        *newest = NewestBroadcast {
            notification: Arc::downgrade(broadcast),
            event: Arc::downgrade(&event),
        };
        event
    }

    fn publish(&self, push: Push, fence: Option<&Arc<Fence>>) {
        match ChannelName::user(push.user.as_str()) {
            Ok(channel) => {
                let content: Content = match push.content {
                    PushContent::Event(event) => event.into(),
                    PushContent::Broadcast(notification, unread_count) => {
                        Content::Counted(self.shared(&notification), unread_count)
                    }
                };
                self.stream
                    .publish_if_known(&channel, content, push.urgency, fence);
            }
            // The hub accepts no such user.
            Err(error) => tracing::error!(%error, "a user's id cannot name a channel"),
        }
    }
}
