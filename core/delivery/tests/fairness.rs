//! Fairness: strangers whose endpoints hang or refuse hold up nobody else, and each working
//! endpoint gets its messages in order. The whole durable part runs, on paused time.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use proptest::{collection::vec, prelude::*};
use tidewire_delivery::{
    DeliveryConfig, Dispatcher, DispatcherLimits, EndpointId, Job, JobOrder, Outcome, QueueLimits,
    Sender, Target,
    durable::{Contacts, DurableJobs, Planner, Presence},
    guard::{Guard, Networks},
    web_push::PushSubscription,
};
use tidewire_notification::{EventSink, HubEvent, NotificationConfig, NotificationHub};
use tidewire_proto::v1::{Notification, NotificationType, NotifyRequest, Priority};
use tidewire_store::{MemoryStore, Table};
use tidewire_stream::{Clock, UserId};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const START_MS: i64 = 1_750_041_000_000;

/// Time until an endpoint that hangs fails.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait of an innocent push: an attempt of somebody else ends, and the store offers
/// what found no place, which it does every five seconds.
const BOUND: Duration = Duration::from_secs(16);

/// A mail waits for one of each other user in addition, of which a second each if the server
/// refuses all of them.
const MAIL_BOUND: Duration = Duration::from_secs(16 + 12);

/// Messages of one user at most.
const MESSAGES: usize = 24;

const CONFIG: &str = r#"
[[webhook]]
name = "ops"
url = "https://hooks.example.com/1"
secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]

[[webhook]]
name = "hangs"
url = "https://hooks.example.com/2"
secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]

[push]
vapid_private_key = "IQ9Ur0ykXoHS9gzfYX0aBjy9lvdrjx_PFUXmie9YRcY"
subject = "mailto:ops@example.com"

[email]
host = "smtp.example.com"
delay = "0s"
from = "notify@example.com"
unsubscribe_url = "https://example.com/unsubscribe"
unsubscribe_secrets = ["0123456789abcdef0123456789abcdef"]
"#;

struct Silent;

impl EventSink for Silent {
    fn publish(&self, _event: HubEvent) {}
}

struct Nobody;

impl Presence for Nobody {
    fn is_connected(&self, _user: &UserId) -> bool {
        false
    }

    fn dead_after(&self) -> Duration {
        Duration::ZERO
    }
}

/// A wall clock that moves with tokio's.
#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now_ms(&self) -> i64 {
        START_MS + i64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// The behaviour of a stranger's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Hangs,
    Fails,
    Refuses,
    Works,
}

#[derive(Debug, Clone)]
struct Stranger {
    fault: Fault,
    devices: usize,
    messages: usize,
    is_urgent: bool,
}

/// Endpoints that behave by the first word of their name, and what they received.
#[derive(Default)]
struct Endpoints {
    received: Mutex<HashMap<String, Vec<(Instant, String)>>>,
}

impl Sender for Endpoints {
    fn send<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Outcome> {
        let name = match &job.target {
            Target::Webhook(name) => name.to_string(),
            Target::Push { subscription, .. } => {
                let (_, name) = subscription.endpoint().rsplit_once('/').unwrap();
                name.to_owned()
            }
            Target::Email(address) => address.user().to_owned(),
        };
        let title = job.message.content.title();
        Box::pin(async move {
            let reason = "it does not work".to_owned();
            let kind = name.split('-').next().unwrap_or_default().to_owned();
            match kind.as_str() {
                "greylisted" => {
                    sleep(Duration::from_millis(5)).await;
                    Outcome::RetryMessage { reason }
                }
                "hangs" => {
                    sleep(TIMEOUT).await;
                    let after = None;
                    Outcome::Retry { after, reason }
                }
                "fails" => Outcome::Retry {
                    after: None,
                    reason,
                },
                "refuses" => Outcome::Paused { reason },
                _ => {
                    sleep(Duration::from_millis(1)).await;
                    let mut received = self.received.lock();
                    let received = received.entry(name).or_default();
                    received.push((Instant::now(), title));
                    Outcome::Delivered
                }
            }
        })
    }

    fn limits(&self, endpoint: &EndpointId) -> QueueLimits {
        QueueLimits {
            jobs: 32,
            order: match &*endpoint.name {
                "smtp" => JobOrder::ByUser,
                _ => JobOrder::Offered,
            },
            concurrency: 1,
            interval: Duration::ZERO,
            first_pause: Duration::from_secs(2),
            longest_pause: Duration::from_secs(30 * 60),
            attempts: 50,
            max_age: Duration::from_secs(24 * 3_600),
        }
    }
}

struct World {
    store: Arc<MemoryStore>,
    hub: NotificationHub,
    contacts: Contacts,
    endpoints: Arc<Endpoints>,
    dispatcher: Dispatcher,
    cancel: CancellationToken,
}

impl World {
    async fn new(limits: DispatcherLimits) -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(TokioClock(Instant::now()));
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
        let endpoints = Arc::<Endpoints>::default();
        let jobs = DurableJobs::new(store.clone(), hub.clone(), contacts.clone(), clock.clone());
        let dispatcher = Dispatcher::new(endpoints.clone(), Arc::new(jobs.clone()), clock, limits);
        let planner = Planner::new(jobs.clone(), Arc::new(Nobody), config, dispatcher.clone());
        let cancel = CancellationToken::new();
        tokio::spawn({
            let (dispatcher, cancel) = (dispatcher.clone(), cancel.clone());
            async move {
                tokio::join!(
                    jobs.run(&dispatcher, cancel.clone()),
                    planner.run(cancel.clone())
                );
            }
        });
        Self {
            store,
            hub,
            contacts,
            endpoints,
            dispatcher,
            cancel,
        }
    }

    async fn register(&self, user: &str, name: &str) {
        let json = format!(
            r#"{{"endpoint":"https://push.example.com/{name}","keys":{{
            "p256dh":"BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            "auth":"BTBZMqHH6r4Tts7J_aSIgg"}}}}"#
        );
        let json = json.into_bytes();
        let read = PushSubscription::read(&json, Guard::new(Networks::Public)).unwrap();
        let user = UserId::new(user);
        self.contacts.register(&user, &json, &read).await.unwrap();
    }

    async fn set_email(&self, user: &str, name: &str) {
        let address = format!("{name}@example.com");
        let user = UserId::new(user);
        let set = self.contacts.set_email(&user, Some(&address));
        set.await.unwrap().unwrap();
    }

    async fn notify(&self, user: &str, title: &str, priority: Priority) {
        let request = NotifyRequest {
            user: Some(user.to_owned()),
            notification: Some(Notification {
                r#type: NotificationType::PriceAlert.into(),
                priority: priority.into(),
                title: title.to_owned(),
                ..Notification::default()
            }),
            ..NotifyRequest::default()
        };
        let sent = self.hub.notify(&UserId::new("backend"), request).await;
        sent.unwrap();
    }

    /// The contacts and the notifications of a stranger.
    async fn add(&self, number: usize, stranger: &Stranger) {
        let user = format!("stranger-{number}");
        let (push, mail) = match stranger.fault {
            Fault::Hangs => ("hangs", "greylisted"),
            Fault::Fails => ("fails", "greylisted"),
            Fault::Refuses => ("refuses", "greylisted"),
            Fault::Works => ("works", "works"),
        };
        for device in 0..stranger.devices {
            self.register(&user, &format!("{push}-{number}-{device}"))
                .await;
        }
        self.set_email(&user, &format!("{mail}-{number}")).await;
        let priority = match stranger.is_urgent {
            true => Priority::Urgent,
            false => Priority::High,
        };
        for message in 0..stranger.messages {
            self.notify(&user, &format!("{message:02}"), priority).await;
        }
    }

    /// When an endpoint received what.
    fn received(&self, name: &str) -> Vec<(Instant, String)> {
        let received = self.endpoints.received.lock();
        received.get(name).cloned().unwrap_or_default()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.dispatcher.stop().await;
    }
}

/// Runs a test on paused time.
fn paused<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

fn strangers() -> impl Strategy<Value = Vec<Stranger>> {
    let fault = prop_oneof![
        3 => Just(Fault::Hangs),
        1 => Just(Fault::Fails),
        1 => Just(Fault::Refuses),
        1 => Just(Fault::Works),
    ];
    let stranger = (fault, 1_usize..=10, 1_usize..=MESSAGES, any::<bool>()).prop_map(
        |(fault, devices, messages, is_urgent)| Stranger {
            fault,
            devices,
            messages,
            is_urgent,
        },
    );
    vec(stranger, 1..12)
}

async fn innocents_are_delivered(
    strangers: Vec<Stranger>,
    pause: Duration,
    own: usize,
    limits: DispatcherLimits,
) -> Result<(), TestCaseError> {
    let world = World::new(limits).await;
    for name in ["works-phone", "works-laptop"] {
        world.register("ada", name).await;
    }
    world.set_email("ada", "works-ada").await;
    for (number, stranger) in strangers.iter().enumerate() {
        world.add(number, stranger).await;
    }
    sleep(pause).await;
    let start = Instant::now();
    let titles: Vec<_> = (0..own).map(|number| format!("{number:02}")).collect();
    for title in &titles {
        world.notify("ada", title, Priority::High).await;
    }
    sleep(MAIL_BOUND).await;
    for (name, bound) in [
        ("works-phone", BOUND),
        ("works-laptop", BOUND),
        ("works-ada", MAIL_BOUND),
    ] {
        let received = world.received(name);
        let found: Vec<_> = received.iter().map(|(_, title)| title.clone()).collect();
        prop_assert_eq!(&found, &titles, "{} of {:?}", name, strangers);
        for (at, title) in received {
            prop_assert!(
                at - start <= bound,
                "{} {} after {:?}",
                name,
                title,
                at - start
            );
        }
    }
    // Strangers whose endpoints work get everything, in order.
    sleep(Duration::from_secs(120)).await;
    for (number, stranger) in strangers.iter().enumerate() {
        if stranger.fault != Fault::Works {
            continue;
        }
        let titles: Vec<_> = (0..stranger.messages)
            .map(|message| format!("{message:02}"))
            .collect();
        let mut names: Vec<_> = (0..stranger.devices)
            .map(|device| format!("works-{number}-{device}"))
            .collect();
        names.push(format!("works-{number}"));
        for name in names {
            let received = world.received(&name);
            let found: Vec<_> = received.into_iter().map(|(_, title)| title).collect();
            prop_assert_eq!(&found, &titles, "{}", name);
        }
    }
    let jobs = world.dispatcher.jobs();
    prop_assert!(jobs <= limits.jobs, "{} in memory", jobs);
    world.stop().await;
    Ok(())
}

proptest! {
    // Each case is minutes of paused time.
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn strangers_hold_up_nobody_else(
        strangers in strangers(),
        pause_ms in 0_u64..60_000,
        own in 1_usize..5,
    ) {
        let limits = DispatcherLimits { jobs: 300, in_flight: 16 };
        let pause = Duration::from_millis(pause_ms);
        paused(innocents_are_delivered(strangers, pause, own, limits))?;
    }
}

/// Each has as many places as the others, and none gives one to a user who has one already.
#[test]
fn the_last_of_many_users_gets_mails_beside_urgent_ones_that_are_refused() {
    let stranger = |fault, messages, is_urgent| Stranger {
        fault,
        devices: 1,
        messages,
        is_urgent,
    };
    for count in 3..=11 {
        let mut strangers = vec![stranger(Fault::Fails, MESSAGES, true); count];
        strangers.push(stranger(Fault::Works, 11, false));
        let limits = DispatcherLimits {
            jobs: 300,
            in_flight: 16,
        };
        let pause = Duration::from_secs(5);
        paused(innocents_are_delivered(strangers, pause, 4, limits)).unwrap();
    }
}

#[test]
fn a_queue_that_refused_sends_the_stored_ones_first() {
    paused(async {
        let limits = DispatcherLimits {
            jobs: 300,
            in_flight: 16,
        };
        let world = World::new(limits).await;
        world.register("ada", "works-phone").await;
        for number in 0..600 {
            world
                .notify("ada", &format!("{number:03}"), Priority::High)
                .await;
        }
        // Both webhooks and the device: more than fits in memory, and more is added meanwhile.
        while world.received("ops").len() < 100 {
            sleep(Duration::from_millis(1)).await;
        }
        for number in 600..900 {
            world
                .notify("ada", &format!("{number:03}"), Priority::High)
                .await;
        }
        sleep(Duration::from_secs(60)).await;
        let expected: Vec<_> = (0..900).map(|number| format!("{number:03}")).collect();
        for name in ["ops", "works-phone"] {
            let received = world.received(name);
            let found: Vec<_> = received.into_iter().map(|(_, title)| title).collect();
            assert_eq!(found, expected, "{name}");
        }
        // The webhook that hangs keeps the others in the store.
        assert!(world.store.len(Table("delivery.jobs")) > 800);
        world.stop().await;
    });
}

#[test]
fn strangers_with_twenty_devices_that_hang_delay_no_urgent_push() {
    paused(async {
        // The limits of the default configuration.
        let limits = DispatcherLimits {
            jobs: 4_096,
            in_flight: 64,
        };
        let world = World::new(limits).await;
        let hanging = Stranger {
            fault: Fault::Hangs,
            devices: 20,
            messages: MESSAGES,
            is_urgent: true,
        };
        for number in 0..10 {
            world.add(number, &hanging).await;
        }
        world.register("ada", "works-phone").await;
        world.set_email("ada", "works-ada").await;
        for minute in 0..5 {
            world.notify("ada", "urgent", Priority::Urgent).await;
            sleep(Duration::from_secs(1)).await;
            assert_eq!(world.received("works-phone").len(), minute + 1);
            sleep(Duration::from_secs(59)).await;
            assert_eq!(world.received("works-ada").len(), minute + 1);
        }
        assert!(world.dispatcher.jobs() <= limits.jobs);
        world.stop().await;
    });
}
