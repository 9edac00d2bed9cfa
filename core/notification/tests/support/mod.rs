//! Test support: a hub on a store in memory, a clock that tests set, and a recorder of events.
#![allow(dead_code, reason = "each test program uses what it needs")]

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_notification::{
    EventSink, HubEvent, NotificationConfig, NotificationError, NotificationHub, NotificationPage,
    NotifyOutcome, StepOutcome,
};
use tidewire_proto::v1::{
    ListNotificationsRequest, Notification, NotificationType, NotifyRequest, Priority,
};
use tidewire_store::MemoryStore;
use tidewire_stream::{GuardedClock, ManualClock, SharedClock, UserId};

/// The start of the tests' time, in milliseconds since the Unix epoch.
pub(crate) const START_MS: i64 = 1_750_000_000_000;

pub(crate) const HOUR_MS: i64 = 60 * 60 * 1_000;

pub(crate) const DAY_MS: i64 = 24 * HOUR_MS;

/// Keeps all events until a test takes them.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<HubEvent>>);

impl Recorder {
    pub(crate) fn take(&self) -> Vec<HubEvent> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl EventSink for Recorder {
    fn publish(&self, event: HubEvent) {
        self.0.lock().push(event);
    }
}

/// A hub and all that it depends on.
pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) config: NotificationConfig,
    pub(crate) hub: NotificationHub,
    /// The guard of the clock, where a test has one.
    pub(crate) guard: Option<Arc<GuardedClock>>,
    now_ms: i64,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(NotificationConfig::default()).await
    }

    pub(crate) async fn with(config: NotificationConfig) -> Self {
        let clock = ManualClock::at(START_MS);
        Self::with_clock(config, clock, None).await
    }

    /// A hub whose clock is guarded, as that of the server. The time of the test must be paused.
    pub(crate) async fn guarded(config: NotificationConfig) -> Self {
        let clock = ManualClock::at(START_MS);
        let guard = Arc::new(GuardedClock::new(clock.clone()));
        Self::with_clock(config, clock, Some(guard)).await
    }

    async fn with_clock(
        config: NotificationConfig,
        clock: Arc<ManualClock>,
        guard: Option<Arc<GuardedClock>>,
    ) -> Self {
        let store = Arc::new(MemoryStore::new());
        let recorder = Arc::new(Recorder::default());
        let shown: SharedClock = match &guard {
            Some(guard) => guard.clone(),
            None => clock.clone(),
        };
        let hub = NotificationHub::open(store.clone(), recorder.clone(), shown, config.clone());
        let hub = hub.await.unwrap();
        Self {
            store,
            clock,
            recorder,
            config,
            hub,
            guard,
            now_ms: START_MS,
        }
    }

    /// Opens the hub again, as after a crash.
    pub(crate) async fn restart(&mut self) {
        let (store, recorder) = (self.store.clone(), self.recorder.clone());
        let mut clock: SharedClock = self.clock.clone();
        if let Some(guard) = &mut self.guard {
            let mark = guard.mark();
            *guard = Arc::new(GuardedClock::new(self.clock.clone()));
            guard.resume(mark);
            clock = guard.clone();
        }
        let hub = NotificationHub::open(store, recorder, clock, self.config.clone()).await;
        self.hub = hub.unwrap();
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Lets time pass, on both clocks.
    pub(crate) async fn pass(&mut self, ms: i64) {
        self.advance(ms);
        tokio::time::advance(Duration::from_millis(ms.unsigned_abs())).await;
    }

    /// Sets the clock on or back. No time passes.
    pub(crate) fn advance(&mut self, ms: i64) {
        self.now_ms += ms;
        self.clock.set(self.now_ms);
    }

    /// Does all background work that is due, and returns when the next is.
    pub(crate) async fn work(&self) -> Result<i64, NotificationError> {
        loop {
            if let StepOutcome::Idle(due_ms) = self.hub.step().await? {
                return Ok(due_ms);
            }
        }
    }

    pub(crate) fn events(&self) -> Vec<HubEvent> {
        self.recorder.take()
    }

    pub(crate) async fn send(&self, request: NotifyRequest) -> NotifyOutcome {
        self.hub.notify(&sender(), request).await.unwrap()
    }

    /// Notifies a user, and returns the id.
    pub(crate) async fn notify(&self, user: &str, title: &str) -> String {
        self.send(to(user, title)).await.id.to_string()
    }

    pub(crate) async fn count(&self, user: &str) -> u64 {
        self.hub.unread_count(user).await.unwrap()
    }

    pub(crate) async fn list(
        &self,
        user: &str,
        request: &ListNotificationsRequest,
    ) -> NotificationPage {
        let query = self.hub.list_query(request).unwrap();
        self.hub.list(user, &query).await.unwrap()
    }

    /// The titles of a user's list. Checks that the count equals the list.
    pub(crate) async fn titles(&self, user: &str) -> Vec<String> {
        let request = ListNotificationsRequest {
            limit: Some(500),
            ..ListNotificationsRequest::default()
        };
        let page = self.list(user, &request).await;
        let unread = page.items.iter().filter(|item| !item.read).count() as u64;
        assert_eq!(page.unread_count, unread, "{user}");
        assert_eq!(self.count(user).await, unread, "{user}");
        page.items.into_iter().map(|item| item.title).collect()
    }
}

pub(crate) fn sender() -> UserId {
    UserId::new("backend")
}

pub(crate) fn notification(title: &str) -> Notification {
    Notification {
        r#type: NotificationType::PriceAlert.into(),
        priority: Priority::High.into(),
        title: title.to_owned(),
        ..Notification::default()
    }
}

pub(crate) fn to(user: &str, title: &str) -> NotifyRequest {
    NotifyRequest {
        user: Some(user.to_owned()),
        notification: Some(notification(title)),
        ..NotifyRequest::default()
    }
}

pub(crate) fn everyone(title: &str) -> NotifyRequest {
    NotifyRequest {
        everyone: true,
        notification: Some(notification(title)),
        ..NotifyRequest::default()
    }
}

/// Gives a request an idempotency key.
pub(crate) fn keyed(request: NotifyRequest, key: &str) -> NotifyRequest {
    NotifyRequest {
        idempotency_key: Some(key.to_owned()),
        ..request
    }
}

/// Changes the notification of a request.
pub(crate) fn with(
    mut request: NotifyRequest,
    change: impl FnOnce(&mut Notification),
) -> NotifyRequest {
    change(request.notification.as_mut().unwrap());
    request
}
