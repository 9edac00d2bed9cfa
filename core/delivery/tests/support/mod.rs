//! A world for tests of planning: a hub and a planner on a store in memory, a clock that the test
//! sets, and a sender that records.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidewire_delivery::{
    Content, DeliveryConfig, Dispatcher, DispatcherLimits, EndpointId, Job, JobOrder, Outcome,
    QueueLimits, Sender, Target,
    durable::{Contacts, DurableJobs, PlanOutcome, Planner, Presence},
    guard::{Guard, Networks},
    web_push::PushSubscription,
};
use tidewire_notification::{EventSink, HubEvent, NotificationConfig, NotificationHub};
use tidewire_proto::v1::{
    DeliveryFilter, DeliveryPreferences, Notification, NotificationType, NotifyRequest,
    Preferences, Priority, QuietHours,
};
use tidewire_store::MemoryStore;
use tidewire_stream::{ManualClock, UserId};
use tokio_util::sync::CancellationToken;

/// 2025-06-15, 22:30 in New York.
pub(crate) const NIGHT_MS: i64 = 1_750_041_000_000;

pub(crate) const MINUTE_MS: i64 = 60_000;

/// An hour.
const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) const CONFIG: &str = r#"
[[webhook]]
name = "ops"
url = "https://hooks.example.com/1"
secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]

[[webhook]]
name = "payments"
url = "https://hooks.example.com/2"
secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
types = ["payment_received"]

[push]
vapid_private_key = "IQ9Ur0ykXoHS9gzfYX0aBjy9lvdrjx_PFUXmie9YRcY"
subject = "mailto:ops@example.com"

[email]
host = "smtp.example.com"
from = "notify@example.com"
unsubscribe_url = "https://example.com/unsubscribe"
unsubscribe_secrets = ["0123456789abcdef0123456789abcdef"]
"#;

pub(crate) struct Silent;

impl EventSink for Silent {
    fn publish(&self, _event: HubEvent) {}
}

/// Records what is sent, and answers as the test says.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) sent: Mutex<Vec<String>>,
    pub(crate) ids: Mutex<Vec<String>>,
    /// Titles of digests.
    pub(crate) titles: Mutex<Vec<String>>,
    pub(crate) outcome: Mutex<Option<Outcome>>,
    /// 30 days if None.
    pub(crate) max_age: Mutex<Option<Duration>>,
}

impl Sender for Recorder {
    fn send<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Outcome> {
        let to = match &job.target {
            Target::Webhook(name) => format!("webhook {name}"),
            Target::Push { subscription, .. } => {
                let (_, name) = subscription.endpoint().rsplit_once('/').unwrap();
                format!("push {name}")
            }
            Target::Email(address) => format!("email {address}"),
        };
        let titles: Vec<_> = job
            .message
            .content
            .notifications()
            .iter()
            .map(|one| one.title.clone())
            .collect();
        let kind = match job.message.content {
            Content::Digest { .. } => {
                self.titles.lock().push(job.message.content.title());
                " digest"
            }
            Content::Notification(_) => "",
        };
        self.sent
            .lock()
            .push(format!("{to}{kind}: {}", titles.join(", ")));
        self.ids.lock().push(job.message.id.as_str().to_owned());
        let outcome = self.outcome.lock().clone().unwrap_or(Outcome::Delivered);
        Box::pin(async move { outcome })
    }

    fn limits(&self, _endpoint: &EndpointId) -> QueueLimits {
        QueueLimits {
            jobs: 10,
            order: JobOrder::Offered,
            concurrency: 1,
            interval: Duration::ZERO,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(1),
            attempts: 3,
            max_age: self.max_age.lock().unwrap_or(30 * 24 * HOUR),
        }
    }
}

#[derive(Default)]
pub(crate) struct Connected(pub(crate) Mutex<HashSet<UserId>>);

impl Presence for Connected {
    fn is_connected(&self, user: &UserId) -> bool {
        self.0.lock().contains(user)
    }

    fn dead_after(&self) -> Duration {
        Duration::from_secs(70)
    }
}

pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) now_ms: i64,
    pub(crate) hub: NotificationHub,
    pub(crate) contacts: Contacts,
    pub(crate) connected: Arc<Connected>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) jobs: DurableJobs,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) planner: Planner,
    pub(crate) cancel: CancellationToken,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(
            Arc::new(MemoryStore::new()),
            ManualClock::at(NIGHT_MS),
            NIGHT_MS,
        )
        .await
    }

    pub(crate) async fn on(store: Arc<MemoryStore>, clock: Arc<ManualClock>, now_ms: i64) -> Self {
        let config: DeliveryConfig = figment::Figment::new()
            .merge(<figment::providers::Toml as figment::providers::Format>::string(CONFIG))
            .extract()
            .unwrap();
        let hub = NotificationConfig {
            has_delivery: true,
            ..NotificationConfig::default()
        };
        let hub = NotificationHub::open(store.clone(), Arc::new(Silent), clock.clone(), hub)
            .await
            .unwrap();
        let contacts = Contacts::new(store.clone(), clock.clone());
        let (connected, recorder) = (Arc::<Connected>::default(), Arc::<Recorder>::default());
        let jobs = DurableJobs::new(store.clone(), hub.clone(), contacts.clone(), clock.clone());
        let limits = DispatcherLimits {
            jobs: 300,
            in_flight: 10,
        };
        let dispatcher = Dispatcher::new(
            recorder.clone(),
            Arc::new(jobs.clone()),
            clock.clone(),
            limits,
        );
        let planner = Planner::new(jobs.clone(), connected.clone(), config, dispatcher.clone());
        let cancel = CancellationToken::new();
        tokio::spawn({
            let (jobs, dispatcher, cancel) = (jobs.clone(), dispatcher.clone(), cancel.clone());
            async move { jobs.run(&dispatcher, cancel).await }
        });
        Self {
            store,
            clock,
            now_ms,
            hub,
            contacts,
            connected,
            recorder,
            jobs,
            dispatcher,
            planner,
            cancel,
        }
    }

    /// Ends everything, as a crash does, and begins anew on the same store.
    pub(crate) async fn restart(self) -> Self {
        self.cancel.cancel();
        self.dispatcher.stop().await;
        Self::on(self.store, self.clock, self.now_ms).await
    }

    pub(crate) fn advance(&mut self, ms: i64) {
        self.now_ms += ms;
        self.clock.set(self.now_ms);
    }

    pub(crate) async fn notify(&self, user: &str, title: &str, priority: Priority) -> String {
        self.send(NotifyRequest {
            user: Some(user.to_owned()),
            notification: Some(note(title, priority)),
            ..NotifyRequest::default()
        })
        .await
    }

    pub(crate) async fn send(&self, request: NotifyRequest) -> String {
        let sent = self.hub.notify(&UserId::new("backend"), request).await;
        sent.unwrap().id.to_string()
    }

    pub(crate) async fn register(&self, user: &str, name: &str) -> String {
        let json = subscription(name);
        let read = PushSubscription::read(&json, Guard::new(Networks::Public)).unwrap();
        let user = UserId::new(user);
        self.contacts.register(&user, &json, &read).await.unwrap()
    }

    pub(crate) async fn set_email(&self, user: &str) {
        let address = format!("{user}@example.com");
        let user = UserId::new(user);
        let set = self.contacts.set_email(&user, Some(&address));
        set.await.unwrap().unwrap();
    }

    pub(crate) async fn prefer(&self, user: &str, preferences: Preferences) {
        self.hub.set_preferences(user, preferences).await.unwrap();
    }

    /// Plans all that is due, waits until it is sent, and returns it, sorted.
    pub(crate) async fn sent(&self) -> Vec<String> {
        loop {
            match self.planner.step().await.unwrap() {
                PlanOutcome::More => {}
                PlanOutcome::Idle(Some(due_ms)) if due_ms <= self.now_ms => {}
                PlanOutcome::Idle(_) => break,
            }
        }
        // Time is paused: it passes once all tasks wait.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut sent = std::mem::take(&mut *self.recorder.sent.lock());
        sent.sort();
        sent
    }
}

pub(crate) fn note(title: &str, priority: Priority) -> Notification {
    Notification {
        r#type: NotificationType::PriceAlert.into(),
        priority: priority.into(),
        title: title.to_owned(),
        ..Notification::default()
    }
}

pub(crate) fn subscription(name: &str) -> Vec<u8> {
    let text = format!(
        r#"{{"endpoint":"https://push.example.com/{name}","keys":{{
        "p256dh":"BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "auth":"BTBZMqHH6r4Tts7J_aSIgg"}}}}"#
    );
    text.into_bytes()
}

pub(crate) fn quiet(digest: bool) -> Preferences {
    Preferences {
        quiet_hours: Some(QuietHours {
            start: "22:00".to_owned(),
            end: "07:00".to_owned(),
            time_zone: "America/New_York".to_owned(),
        }),
        digest: Some(digest),
        ..Preferences::default()
    }
}

pub(crate) fn push_filter(filter: DeliveryFilter) -> Preferences {
    Preferences {
        channels: Some(DeliveryPreferences {
            push: Some(filter),
            ..DeliveryPreferences::default()
        }),
        ..Preferences::default()
    }
}
