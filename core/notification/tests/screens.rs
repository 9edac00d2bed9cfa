//! Property test: the screen of a client, which applies every push as docs/notifications.md says,
//! against the inbox, over random steps and wrong clocks. A second device sleeps and wakes with a
//! summary.
//!
//! The seed is printed; `TIDEWIRE_SCREEN_SEED` repeats a run, `TIDEWIRE_SCREEN_RUNS` sets the number
//! of runs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]
#![allow(clippy::print_stdout, reason = "the seed of a failed run")]

mod support;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use support::{HOUR_MS, World, sender};
use tidewire_notification::{
    GatheringLimits, HubEvent, NotificationGatherer, NotificationSummary, Push, PushContent,
    PushTime,
};
use tidewire_proto::v1::{
    ListNotificationsRequest, Notification, NotificationType, NotifyRequest, Preferences, Priority,
    ReadReceipt, server_message::Data,
};
use tidewire_stream::{
    ChannelName, Epoch, Event, MissedSummary as _, Position, Publication, UserId,
};
use tokio::time::Instant;

const USERS: [&str; 2] = ["ada", "bob"];

/// Steps of one run.
const STEPS: usize = 400;

/// The notifications that a client shows.
#[derive(Debug, Clone, Default)]
struct Screen {
    items: BTreeMap<String, Notification>,
    unread_count: u64,
}

impl Screen {
    fn apply(&mut self, event: &Event) {
        match event {
            Data::Notification(one) => {
                self.insert(one);
                self.unread_count = one.unread_count.unwrap();
            }
            Data::NotificationBatch(batch) => {
                assert_eq!(
                    batch.next, None,
                    "fewer were missed than a batch has room for"
                );
                if let Some(receipt) = &batch.read {
                    self.mark(receipt);
                }
                if let Some(dismissed) = &batch.dismissed {
                    self.remove(&dismissed.ids);
                }
                for item in &batch.items {
                    self.insert(item);
                }
                self.unread_count = batch.unread_count;
            }
            Data::Read(receipt) => {
                self.mark(receipt);
                self.unread_count = receipt.unread_count;
            }
            Data::Dismissed(dismissed) => {
                self.remove(&dismissed.ids);
                self.unread_count = dismissed.unread_count;
            }
            Data::UnreadCount(count) => self.unread_count = count.unread_count,
            other => panic!("{other:?}"),
        }
    }

    fn insert(&mut self, one: &Notification) {
        self.remove(&one.replaces);
        self.items.insert(one.id.clone(), one.clone());
    }

    fn remove(&mut self, ids: &[String]) {
        self.items.retain(|id, _| !ids.contains(id));
    }

    fn mark(&mut self, receipt: &ReadReceipt) {
        for (id, item) in &mut self.items {
            let is_before = receipt.up_to.as_ref().is_none_or(|newest| id <= newest);
            item.read |= (receipt.all && is_before) || receipt.ids.contains(id);
        }
    }
}

/// The clients of a user.
#[derive(Debug, Default)]
struct Devices {
    open: Screen,
    sleeper: Screen,
    is_asleep: bool,
    missed: Vec<Event>,
}

impl Devices {
    fn receive(&mut self, event: &Event) {
        self.open.apply(event);
        match self.is_asleep {
            true => self.missed.push(event.clone()),
            false => self.sleeper.apply(event),
        }
    }

    fn wake(&mut self) {
        self.is_asleep = false;
        let missed = std::mem::take(&mut self.missed);
        let publications = missed.iter().zip(1..).map(|(event, seq)| {
            let epoch = Epoch::new("e");
            let channel = ChannelName::user("ada").unwrap();
            Publication::new(channel, Position { epoch, seq }, 0, event.clone())
        });
        let publications: Vec<_> = publications.collect();
        match NotificationSummary.summarize(&publications, 64 << 10) {
            Some(summary) => self.sleeper.apply(&summary),
            None => missed.iter().for_each(|event| self.sleeper.apply(event)),
        }
    }

    fn screens(&mut self) -> [&mut Screen; 2] {
        [&mut self.open, &mut self.sleeper]
    }
}

struct Run {
    world: World,
    gatherer: NotificationGatherer,
    devices: [Devices; 2],
    preferences: [Preferences; 2],
    random: StdRng,
    /// Events to everyone, which are fanned out later.
    fan_outs: VecDeque<HubEvent>,
    broadcasts: Vec<String>,
    titles: usize,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let world = World::new().await;
        for user in USERS {
            world.count(user).await;
        }
        Self {
            world,
            gatherer: NotificationGatherer::new(GatheringLimits::default()),
            devices: Default::default(),
            preferences: Default::default(),
            random: StdRng::seed_from_u64(seed),
            fan_outs: VecDeque::new(),
            broadcasts: Vec::new(),
            titles: 0,
        }
    }

    async fn list(&self, user: usize) -> Vec<Notification> {
        let request = ListNotificationsRequest {
            limit: Some(500),
            ..ListNotificationsRequest::default()
        };
        self.world.list(USERS[user], &request).await.items
    }

    /// A random notification of a user's list.
    async fn some(&mut self, user: usize) -> Option<String> {
        let list = self.list(user).await;
        let place = self.random.random_range(0..list.len().max(1));
        // Often a new one, which may wait.
        let place = place.min(self.random.random_range(0..4));
        list.get(place).map(|item| item.id.clone())
    }

    async fn notify(&mut self) {
        self.titles += 1;
        let mut request = NotifyRequest::default();
        match self.random.random_range(0..5) {
            0 => request.everyone = true,
            1 => request.users = USERS.map(str::to_owned).to_vec(),
            number => request.user = Some(USERS[number % 2].to_owned()),
        }
        let key = self.random.random_range(0..4);
        request.notification = Some(Notification {
            r#type: NotificationType::PriceAlert.into(),
            title: self.titles.to_string(),
            priority: self.random.random_range(1..=4),
            collapse_key: (key < 3).then(|| key.to_string()),
            ..Notification::default()
        });
        if self.random.random_ratio(1, 4) {
            request.ttl_ms = Some(self.random.random_range(1..3_000));
        }
        let is_broadcast = request.everyone;
        let id = self.world.hub.notify(&sender(), request).await.unwrap().id;
        if is_broadcast {
            self.broadcasts.push(id.to_string());
        }
    }

    async fn prefer(&mut self, user: usize) {
        let preferences = Preferences {
            min_priority: Some(self.random.random_range(1..=3)),
            ..Preferences::default()
        };
        let set = self.world.hub.set_preferences(USERS[user], preferences);
        self.preferences[user] = set.await.unwrap();
        self.deliver().await;
        // An application that sets preferences filters by them, and reads what they show again.
        let least = self.preferences[user].min_priority.unwrap();
        let is_shown =
            |item: &Notification| item.priority >= least || item.priority() == Priority::Urgent;
        let list = self.list(user).await;
        for screen in self.devices[user].screens() {
            screen.items.retain(|_, item| is_shown(item));
        }
        let screen = &mut self.devices[user].open;
        for item in list {
            screen.items.entry(item.id.clone()).or_insert(item);
        }
        self.devices[user].wake();
        self.devices[user].sleeper = self.devices[user].open.clone();
    }

    async fn recall(&mut self) {
        if self.broadcasts.is_empty() {
            return;
        }
        let place = self.random.random_range(0..self.broadcasts.len());
        let id = self.broadcasts.swap_remove(place);
        // It may have expired, or may be replaced.
        let _ = self.world.hub.recall_broadcast(&id).await;
        self.deliver().await;
        self.fan_out().await;
        // The count is pushed, by which an application learns of it.
        for devices in &mut self.devices {
            devices.wake();
            for screen in devices.screens() {
                screen.remove(std::slice::from_ref(&id));
            }
        }
    }

    async fn step(&mut self) {
        let user = self.random.random_range(0..USERS.len());
        let hub = self.world.hub.clone();
        match self.random.random_range(0..100) {
            0..45 => self.notify().await,
            45..60 => {
                if let Some(id) = self.some(user).await {
                    hub.dismiss(USERS[user], &[id]).await.unwrap();
                }
            }
            60..66 => {
                if let Some(id) = self.some(user).await {
                    hub.mark_read(USERS[user], &[id]).await.unwrap();
                }
            }
            66..68 => {
                let up_to = self.some(user).await;
                hub.mark_all_read(USERS[user], up_to.as_deref())
                    .await
                    .unwrap();
            }
            68..71 => self.prefer(user).await,
            71..75 => self.recall().await,
            75..80 => self.devices[user].is_asleep = true,
            80..85 => self.devices[user].wake(),
            85..97 => {
                let ms = self.random.random_range(1..1_200);
                self.pass(ms).await;
            }
            97..99 => self.check().await,
            _ => {
                // The clock is set ahead, or back. What has expired by it leaves the inboxes.
                self.check().await;
                let hours = self.random.random_range(-5..=5);
                self.world.advance(hours * HOUR_MS);
                self.check().await;
            }
        }
        self.deliver().await;
        if self.random.random_ratio(1, 2) {
            self.fan_out().await;
        }
    }

    fn now(&self) -> PushTime {
        PushTime {
            instant: Instant::now(),
            wall_ms: self.world.now_ms(),
        }
    }

    /// Publishes the events of the hub, as the server does.
    async fn deliver(&mut self) {
        for event in self.world.events() {
            let (now, mut out) = (self.now(), Vec::new());
            let gatherer = &mut self.gatherer;
            match event {
                HubEvent::Notification {
                    user,
                    notification,
                    unread_count,
                    audience,
                    ..
                } => {
                    gatherer.notification(
                        &user,
                        notification,
                        unread_count,
                        audience,
                        now,
                        &mut out,
                    );
                }
                HubEvent::Read { user, receipt } => gatherer.read(&user, receipt, &mut out),
                HubEvent::Dismissed { user, dismissed } => {
                    gatherer.dismissed(&user, dismissed, &mut out);
                }
                HubEvent::UnreadCount { user, unread_count } => {
                    gatherer.unread_count(&user, unread_count, &mut out);
                }
                HubEvent::Preferences { user, preferences } => {
                    gatherer.preferences(&user, &preferences, &mut out);
                }
                HubEvent::BroadcastRemoval { ref ids } => {
                    gatherer.retract(ids, &mut out);
                    self.fan_outs.push_back(event);
                }
                HubEvent::Broadcast { .. } => self.fan_outs.push_back(event),
                other => panic!("{other:?}"),
            }
            self.push(out);
        }
    }

    async fn fan_out(&mut self) {
        let users = USERS.map(UserId::new);
        while let Some(event) = self.fan_outs.pop_front() {
            let hub = &self.world.hub;
            let unreached = match event {
                HubEvent::Broadcast {
                    notification,
                    class,
                } => hub.publish_broadcast(&users, &notification, class).await,
                _ => hub.publish_counts(&users).await,
            };
            assert_eq!(unreached, []);
            self.deliver().await;
        }
    }

    fn push(&mut self, pushes: Vec<Push>) {
        for push in pushes {
            let event = match push.content {
                PushContent::Event(event) => event,
                PushContent::Broadcast(notification, unread_count) => {
                    Data::Notification(Notification {
                        unread_count: Some(unread_count),
                        ..Arc::unwrap_or_clone(notification)
                    })
                }
            };
            let user = USERS.iter().position(|user| *user == push.user.as_str());
            self.devices[user.unwrap()].receive(&event);
        }
    }

    async fn pass(&mut self, ms: i64) {
        self.world.pass(ms).await;
        self.world.work().await.unwrap();
        self.deliver().await;
        let mut out = Vec::new();
        self.gatherer.due(Instant::now(), 0, &mut out);
        self.push(out);
    }

    /// Lets all that waits leave, and compares the screens with the inboxes.
    async fn check(&mut self) {
        self.deliver().await;
        self.fan_out().await;
        self.pass(2_000).await;
        // The counts after broadcasts that have expired.
        self.fan_out().await;
        assert!(self.gatherer.is_empty());
        let now_ms = self.world.now_ms();
        for (user, name) in USERS.into_iter().enumerate() {
            let list = self.list(user).await;
            let count = self.world.count(name).await;
            self.deliver().await;
            self.devices[user].wake();
            let of = |item: &Notification| (item.id.clone(), item.title.clone(), item.read);
            let mut expected: Vec<_> = list.iter().map(of).collect();
            expected.sort_unstable();
            for (device, screen) in self.devices[user].screens().into_iter().enumerate() {
                let has_expired =
                    |item: &Notification| item.expires_at.is_some_and(|at_ms| at_ms <= now_ms);
                screen.items.retain(|_, item| !has_expired(item));
                let shown: Vec<_> = screen.items.values().map(of).collect();
                assert_eq!(shown, expected, "screen {device} of {user}");
                assert_eq!(screen.unread_count, count, "count {device} of {user}");
            }
        }
    }
}

async fn run(seed: u64) {
    println!("TIDEWIRE_SCREEN_SEED={seed}");
    let mut run = Run::new(seed).await;
    for _ in 0..STEPS {
        run.step().await;
    }
    run.check().await;
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect(name))
}

#[test]
fn the_screens_of_clients_show_the_inbox() {
    let runs = setting("TIDEWIRE_SCREEN_RUNS").unwrap_or(50);
    let first = setting("TIDEWIRE_SCREEN_SEED");
    for number in 0..runs {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let seed = match first {
            Some(first) => first + number,
            None => rand::random::<u32>().into(),
        };
        runtime.block_on(run(seed));
    }
}
