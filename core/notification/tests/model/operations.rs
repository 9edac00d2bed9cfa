//! Operations: random ones, made on the hub and on the model.

mod comparison;

use std::collections::HashSet;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tidewire_notification::{NotificationError, NotificationId, ScheduleRef};
use tidewire_proto::v1::{ListNotificationsRequest, Notification, NotifyRequest, Preferences};
use tidewire_stream::{Clock as _, UserId};

use crate::{
    MINUTE_MS, USERS, config,
    naive::{Item, Model, ModelSchedule, ModelUser},
    support::{DAY_MS, START_MS, World, sender, with},
};

pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) model: Model,
    random: StdRng,
    titles: u64,
    pub(crate) is_failing: bool,
    /// The count that an open application shows for each user, by the events alone. None while
    /// something changed of which it learns later.
    badges: Vec<Option<u64>>,
}

/// Users to whom broadcasts are fanned out.
const FOLLOWED: usize = 3;

fn name(user: usize) -> String {
    format!("u{user}")
}

/// Places that failed attempts leave out between two that are stored, at most.
const MAX_LEFT_OUT: u64 = 4_096;

/// The place of an id: the first half of its number, in digits of five bits.
fn place(id: &str) -> u64 {
    let digits = "0123456789abcdefghjkmnpqrstvwxyz";
    let number = id.chars().fold(0_u128, |number, one| {
        number << 5 | digits.find(one).unwrap() as u128
    });
    (number >> 64) as u64
}

/// Users whose events are followed.
fn followed() -> Vec<UserId> {
    (0..FOLLOWED).map(|user| UserId::new(&name(user))).collect()
}

fn number(user: &UserId) -> usize {
    user.as_str()[1..].parse().unwrap()
}

/// A request, and the item and the recipients that it makes.
struct Sending {
    request: NotifyRequest,
    target: Option<Vec<usize>>,
    item: Item,
}

impl Run {
    pub(crate) async fn new(seed: u64) -> Self {
        let model = Model {
            now_ms: START_MS,
            retention_ms: START_MS,
            latest_retention_ms: START_MS,
            users: vec![ModelUser::default(); USERS],
            ..Model::default()
        };
        Self {
            world: World::guarded(config()).await,
            model,
            random: StdRng::seed_from_u64(seed),
            titles: 0,
            is_failing: false,
            badges: vec![None; USERS],
        }
    }

    fn user(&mut self) -> usize {
        // A few users get most.
        match self.random.random_ratio(1, 2) {
            true => self.random.random_range(0..3),
            false => self.random.random_range(0..USERS),
        }
    }

    fn draw(&mut self, in_flight: bool) -> Sending {
        self.titles += 1;
        let title = format!("t{}", self.titles);
        let kind = self.random.random_range(1..=10);
        let priority = self.random.random_range(1..=4);
        let mut request = NotifyRequest::default();
        let target = match self.random.random_range(0..10) {
            0 => {
                request.everyone = true;
                None
            }
            1 => {
                let count = self.random.random_range(1..6);
                let users: Vec<_> = (0..count).map(|_| self.user()).collect();
                request.users = users.iter().map(|user| name(*user)).collect();
                let mut known = HashSet::new();
                Some(
                    users
                        .into_iter()
                        .filter(|user| known.insert(*user))
                        .collect(),
                )
            }
            _ => {
                let user = self.user();
                request.user = Some(name(user));
                Some(vec![user])
            }
        };
        let collapse = self
            .random
            .random_ratio(1, 5)
            .then(|| format!("c{}", self.random.random_range(0..4)));
        if in_flight {
            let ahead_ms = self.random.random_range(1..20 * MINUTE_MS);
            request.not_before = Some(self.model.now_ms + ahead_ms);
        }
        let start_ms = request.not_before.unwrap_or(self.model.now_ms);
        let mut expires_at_ms = None;
        match self.random.random_range(0..8) {
            0 => {
                expires_at_ms = Some(start_ms + self.random.random_range(1..10 * MINUTE_MS));
            }
            1 => request.ttl_ms = Some(self.random.random_range(1..10 * MINUTE_MS as u64)),
            _ => {}
        }
        let custom = ["order_shipped", "invoice"];
        request.notification = Some(Notification {
            r#type: if kind <= 8 { kind } else { 0 },
            custom_type: if kind > 8 {
                custom[kind as usize - 9].to_owned()
            } else {
                String::new()
            },
            priority,
            title: title.clone(),
            collapse_key: collapse.clone(),
            expires_at: expires_at_ms,
            ..Notification::default()
        });
        let item = Item {
            seq: 0,
            title,
            kind,
            priority,
            time_ms: 0,
            expires_at_ms,
            collapse,
            is_read: false,
        };
        if self.random.random_ratio(1, 4) {
            request.idempotency_key = Some(format!("k{}", self.titles));
        }
        Sending {
            request,
            target,
            item,
        }
    }

    /// Applies a request that the hub accepted under this id.
    fn accept(&mut self, sending: &Sending, id: NotificationId) {
        let request = &sending.request;
        let (now_ms, retention_ms) = (self.model.now_ms, self.model.retention_ms);
        let (time_ms, id) = (id.time_ms(), id.to_string());
        // After all that are stored, and not before now. Attempts that failed have left out a few.
        let least = (now_ms.unsigned_abs() << 16).max(self.model.stored + 1);
        let place = place(&id);
        assert!(
            (least..least + MAX_LEFT_OUT).contains(&place),
            "the place of an id is {place:x}, expected {least:x} or a little more"
        );
        self.model.taken = place;
        self.model.stored = place;
        if let Some(key) = &request.idempotency_key {
            self.model
                .keys
                .insert(key.clone(), (request.clone(), id.clone(), retention_ms));
        }
        let ttl_ms = request.ttl_ms.map(|ttl_ms| ttl_ms as i64);
        if let Some(due_ms) = request.not_before {
            if sending.item.collapse.is_some() {
                let targets = |target: &Option<Vec<usize>>| {
                    target.clone().map(|mut users| {
                        users.sort_unstable();
                        users
                    })
                };
                let is_same = |other: &ModelSchedule| {
                    other.item.collapse == sending.item.collapse
                        && targets(&other.target) == targets(&sending.target)
                };
                self.model.schedules.retain(|other| !is_same(other));
            }
            self.model.schedules.push(ModelSchedule {
                id,
                due_ms,
                target: sending.target.clone(),
                item: sending.item.clone(),
                ttl_ms,
                key: request.idempotency_key.clone(),
            });
            return;
        }
        let mut item = sending.item.clone();
        if let Some(ttl_ms) = ttl_ms {
            item.expires_at_ms = Some(now_ms + ttl_ms);
        }
        let seq = self
            .model
            .deliver(sending.target.as_deref(), &item, time_ms);
        self.model.ids.insert(seq, id);
    }

    /// Whether an operation succeeded. One that fails changes nothing.
    fn is_ok<T>(&self, result: &Result<T, NotificationError>) -> bool {
        match result {
            Ok(_) => true,
            Err(NotificationError::Unavailable(_)) if self.is_failing => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn operation(&mut self) -> Option<usize> {
        self.model.expire();
        let hub = self.world.hub.clone();
        match self.random.random_range(0..100) {
            0..30 => {
                let sending = self.draw(false);
                self.model.take(1);
                let result = hub.notify(&sender(), sending.request.clone()).await;
                if self.is_ok(&result) {
                    self.accept(&sending, result.unwrap().id);
                }
                sending.target.map(|users| users[0])
            }
            30..36 => {
                let count = self.random.random_range(1..12);
                let sendings: Vec<_> = (0..count)
                    .map(|_| {
                        let is_scheduled = self.random.random_ratio(1, 6);
                        self.draw(is_scheduled)
                    })
                    .collect();
                let requests = sendings
                    .iter()
                    .map(|sending| sending.request.clone())
                    .collect();
                self.model.take(sendings.len() as u64);
                let results = hub.notify_batch(&sender(), requests).await;
                for (sending, result) in sendings.iter().zip(results) {
                    if self.is_ok(&result) {
                        self.accept(sending, result.unwrap().id);
                    }
                }
                sendings
                    .into_iter()
                    .find_map(|sending| sending.target)
                    .map(|users| users[0])
            }
            36..41 => {
                let sending = self.draw(true);
                self.model.take(1);
                let result = hub.notify(&sender(), sending.request.clone()).await;
                if self.is_ok(&result) {
                    self.accept(&sending, result.unwrap().id);
                }
                None
            }
            41..43 => {
                self.repeat_request().await;
                None
            }
            43..45 => {
                self.cancel().await;
                None
            }
            45..47 => {
                let place = self.random.random_range(0..config().max_broadcasts);
                let item = self.model.broadcasts.get(place)?.clone();
                let id = self.model.ids.get(&item.seq)?.clone();
                let result = hub.recall_broadcast(&id).await;
                if self.is_ok(&result) {
                    self.model.broadcasts.retain(|other| other.seq != item.seq);
                }
                None
            }
            47..60 => {
                let user = self.user();
                let ids = self.some_ids(user);
                let result = hub.mark_read(&name(user), &ids).await;
                if self.is_ok(&result) {
                    self.model.contact(user);
                    let known = self.mark(user, |id, _| ids.contains(id));
                    let mut found = result.unwrap().ids;
                    found.sort_unstable();
                    assert_eq!(found, known, "the ids of a receipt");
                }
                Some(user)
            }
            60..66 => {
                let user = self.user();
                let all = self.model.all(user);
                let up_to = match self.random.random_ratio(1, 2) || all.is_empty() {
                    true => None,
                    false => Some(all[self.random.random_range(0..all.len())].seq),
                };
                let id = match up_to {
                    Some(seq) => Some(self.model.ids.get(&seq)?.clone()),
                    None => None,
                };
                let result = hub.mark_all_read(&name(user), id.as_deref()).await;
                if self.is_ok(&result) {
                    self.model.contact(user);
                    let is_meant = |seq| up_to.is_none_or(|up_to| seq <= up_to);
                    self.mark(user, |_, seq| is_meant(seq));
                    // Also those that come back with the right clock.
                    let broadcasts = self.model.broadcasts.iter().map(|item| item.seq);
                    let meant: Vec<_> = broadcasts.filter(|seq| is_meant(*seq)).collect();
                    self.model.users[user].read_broadcasts.extend(meant);
                    assert_eq!(
                        result.unwrap().unread_count,
                        self.model.unread(user),
                        "the count of a receipt"
                    );
                }
                Some(user)
            }
            66..74 => {
                let user = self.user();
                let ids = self.some_ids(user);
                let result = hub.dismiss(&name(user), &ids).await;
                if self.is_ok(&result) {
                    self.model.contact(user);
                    let gone: Vec<_> = self
                        .model
                        .all(user)
                        .into_iter()
                        .filter(|item| {
                            self.model
                                .ids
                                .get(&item.seq)
                                .is_some_and(|id| ids.contains(id))
                        })
                        .collect();
                    let seqs: HashSet<_> = gone.iter().map(|item| item.seq).collect();
                    let of = &mut self.model.users[user];
                    of.items.retain(|item| !seqs.contains(&item.seq));
                    of.dismissed_broadcasts.extend(&seqs);
                    let mut expected: Vec<_> = gone
                        .iter()
                        .map(|item| self.model.ids[&item.seq].clone())
                        .collect();
                    expected.sort_unstable();
                    let mut found = result.unwrap().ids;
                    found.sort_unstable();
                    assert_eq!(found, expected, "the ids that were dismissed");
                }
                Some(user)
            }
            74..78 => self.set_preferences().await,
            78..90 => {
                let ms = match self.random.random_range(0..10) {
                    0 => self.random.random_range(0..12 * MINUTE_MS),
                    _ => self.random.random_range(0..20_000),
                };
                self.pass(ms).await;
                None
            }
            90..96 => {
                self.background().await;
                None
            }
            96 => {
                match self.random.random_ratio(1, 4) {
                    true => self.step_clock().await,
                    false => {
                        self.world.restart().await;
                        self.model.taken = self.model.stored;
                    }
                }
                None
            }
            _ => {
                self.is_failing = !self.is_failing && self.random.random_ratio(1, 2);
                match self.is_failing {
                    true => self.world.store.fail_commits(),
                    false => self.world.store.accept_commits(),
                }
                None
            }
        }
    }

    /// Lets time pass.
    pub(crate) async fn pass(&mut self, ms: i64) {
        // Counts change with the time: events of before must not be taken for later ones.
        self.follow_events().await;
        self.badges.fill(None);
        self.world.pass(ms).await;
        self.model.pass(ms);
        self.check_clock();
    }

    fn check_clock(&self) {
        let guard = self.world.guard.as_ref().unwrap();
        assert_eq!(guard.retention_ms(), self.model.retention_ms);
    }

    /// Sets the clock ahead or back, by up to some days.
    async fn step_clock(&mut self) {
        self.is_failing = false;
        self.world.store.accept_commits();
        self.follow_events().await;
        // The model removes at once what is due, and the hub when it looks.
        self.background().await;
        // An id of now, so that the model knows which were taken by failed deliveries.
        let sending = self.draw(false);
        self.model.take(1);
        let sent = self
            .world
            .hub
            .notify(&sender(), sending.request.clone())
            .await;
        self.accept(&sending, sent.unwrap().id);
        self.follow_events().await;
        self.badges.fill(None);
        let ms = match self.random.random_range(0..4) {
            0 => self.random.random_range(-2 * MINUTE_MS..2 * MINUTE_MS),
            1 => self.random.random_range(-DAY_MS..DAY_MS),
            // Back to the right time.
            2 => self.model.retention_ms - self.model.now_ms,
            _ => self.random.random_range(DAY_MS..5 * DAY_MS),
        };
        self.world.advance(ms);
        self.model.step(ms);
        self.check_clock();
        // A first contact that is in the future now is corrected with the next change or list.
        for user in 0..USERS {
            if self.model.users[user].first_contact_ms.is_some() {
                let query = ListNotificationsRequest::default();
                let query = self.world.hub.list_query(&query).unwrap();
                self.world.hub.list(&name(user), &query).await.unwrap();
            }
        }
    }

    /// Marks what a user has as read. Returns the ids of all that `is_meant` selects.
    fn mark(&mut self, user: usize, is_meant: impl Fn(&String, u64) -> bool) -> Vec<String> {
        let none = String::new();
        let mut known = Vec::new();
        for item in self.model.all(user) {
            let id = self.model.ids.get(&item.seq).unwrap_or(&none).clone();
            if !is_meant(&id, item.seq) {
                continue;
            }
            known.push(id);
            let of = &mut self.model.users[user];
            match of.items.iter_mut().find(|other| other.seq == item.seq) {
                Some(item) => item.is_read = true,
                None => drop(of.read_broadcasts.insert(item.seq)),
            }
        }
        known.sort_unstable();
        known
    }

    /// Ids of this user, of another user, and of nobody.
    fn some_ids(&mut self, user: usize) -> Vec<String> {
        let count = self.random.random_range(1..5);
        let mut ids = Vec::new();
        for _ in 0..count {
            let user = match self.random.random_ratio(1, 10) {
                true => self.user(),
                false => user,
            };
            let all = self.model.all(user);
            if all.is_empty() {
                continue;
            }
            let newest = self.random.random_range(0..all.len());
            ids.extend(self.model.ids.get(&all[newest].seq).cloned());
        }
        if ids.is_empty() || self.random.random_ratio(1, 10) {
            ids.push("00000000000000000000000001".to_owned());
        }
        ids
    }

    async fn repeat_request(&mut self) {
        let Some(key) = self.model.keys.keys().min().cloned() else {
            return;
        };
        let (request, id, sent_ms) = match self.random.random_ratio(1, 4) {
            true => self.model.keys.remove(&key).unwrap(),
            false => self.model.keys[&key].clone(),
        };
        if sent_ms + DAY_MS <= self.model.latest_retention_ms {
            self.model.keys.remove(&key);
            return;
        }
        self.model.take(1);
        let result = self.world.hub.notify(&sender(), request.clone()).await;
        // Something of the recipients may be due, which has to be stored.
        if !self.is_ok(&result) {
            return;
        }
        assert_eq!(result.unwrap().id.to_string(), id, "a repeated request");
        let other = with(request, |notification| notification.body.push('x'));
        self.model.take(1);
        let refused = self.world.hub.notify(&sender(), other).await;
        assert_eq!(refused.map(drop), Err(NotificationError::KeyReuse(key)));
    }

    async fn cancel(&mut self) {
        if self.model.schedules.is_empty() {
            return;
        }
        let place = self.random.random_range(0..self.model.schedules.len());
        let schedule = self.model.schedules[place].clone();
        let reference = match &schedule.key {
            Some(key) => ScheduleRef::Key(key),
            None => ScheduleRef::Id(&schedule.id),
        };
        let result = self.world.hub.cancel_scheduled(&sender(), reference).await;
        if self.is_ok(&result) {
            assert_eq!(result.unwrap().to_string(), schedule.id);
            self.model.schedules.remove(place);
        }
    }

    async fn set_preferences(&mut self) -> Option<usize> {
        let user = self.user();
        let min_priority = self.random.random_range(0..=4);
        let count = self.random.random_range(0..4);
        let muted: Vec<i32> = (0..count)
            .map(|_| self.random.random_range(1..=10))
            .collect();
        let custom = ["order_shipped", "invoice"];
        let preferences = Preferences {
            min_priority: (min_priority > 0).then_some(min_priority),
            muted_types: muted.iter().copied().filter(|kind| *kind <= 8).collect(),
            custom_muted_types: muted
                .iter()
                .filter(|kind| **kind > 8)
                .map(|kind| custom[*kind as usize - 9].to_owned())
                .collect(),
            ..Preferences::default()
        };
        let result = self
            .world
            .hub
            .set_preferences(&name(user), preferences)
            .await;
        if self.is_ok(&result) {
            self.model.contact(user);
            let of = &mut self.model.users[user];
            (of.min_priority, of.muted) = (min_priority, muted);
        }
        Some(user)
    }

    /// Delivers what is due, and learns the new ids of what it made public.
    pub(crate) async fn background(&mut self) {
        let done = self.world.work().await;
        if !self.is_ok(&done) {
            return;
        }
        let (now_ms, retention_ms) = (self.model.now_ms, self.model.retention_ms);
        let has_expired = |schedule: &ModelSchedule, time_ms| {
            let expires_at_ms = schedule.item.expires_at_ms;
            expires_at_ms.is_some_and(|at_ms| at_ms <= time_ms)
        };
        // One that has expired by a clock that is in doubt waits.
        let is_due = |schedule: &ModelSchedule| {
            schedule.due_ms <= now_ms
                && (has_expired(schedule, retention_ms) || !has_expired(schedule, now_ms))
        };
        let mut due: Vec<_> = self
            .model
            .schedules
            .extract_if(.., |schedule| is_due(schedule))
            .collect();
        due.sort_by(|a, b| (a.due_ms, &a.id).cmp(&(b.due_ms, &b.id)));
        for schedule in due {
            if has_expired(&schedule, now_ms) {
                continue;
            }
            let mut item = schedule.item;
            if let Some(ttl_ms) = schedule.ttl_ms {
                item.expires_at_ms = Some(now_ms + ttl_ms);
            }
            self.model.take(1);
            self.model.stored = self.model.taken;
            let time_ms = self.model.taken_ms();
            self.model
                .deliver(schedule.target.as_deref(), &item, time_ms);
        }
    }
}
