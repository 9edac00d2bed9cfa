//! Gathering: medium and low notifications wait a moment, so that those of one user share a
//! `notification_batch`.
//!
//! [`NotificationGatherer`] is a state machine without I/O. It receives everything that is pushed
//! to users, in each user's order, and returns what to push now. Time is a parameter.
//!
//! | priority | waits |
//! |---|---|
//! | urgent, high | not at all; what is pending of the user stays pending |
//! | medium | up to [`GatheringLimits::medium_wait`] |
//! | low | up to [`GatheringLimits::low_wait`], or up to [`GatheringLimits::low_max`] while more users are due than [`GatheringLimits::budget`] |
//!
//! All that is pending of one user leaves together, when the first of it is due. One notification
//! alone leaves as `notification`.
//!
//! # Order
//! A user never hears of a notification that a later push took back, and a count is never older
//! than one before. A `read` marks pending notifications, a `dismissed` and a newer one that
//! replaces them remove them, and a batch has the newest count of its user. One that expires,
//! or that new preferences hide, is removed too. If nothing is left, the count is pushed alone. A
//! high notification may overtake an older one: ids sort by time.
//!
//! A pending notification may replace one that clients have. If it is removed, they do not learn
//! that from it: the replaced one is pushed as `dismissed`, or the notification that replaces the
//! removed one names it.
//!
//! # Worked example
//! Ada has 4 unread. At 0 ms comes a medium one (5 unread), at 50 ms a high one (6), at 90 ms she
//! dismisses an older one that was unread (5). The high one and `dismissed` are pushed at once.
//! At 200 ms the medium one follows, with a count of 5.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use tidewire_proto::{
    prost::Message as _,
    v1::{
        Dismissed, GetUnreadCountResponse, Notification, NotificationBatch, Preferences, Priority,
        ReadReceipt, server_message::Data,
    },
};
use tidewire_stream::{Event, Urgency, UserId};
use tokio::time::Instant;

use crate::{NotificationId, preferences};

/// Bytes of a pending notification beside its text.
const ENTRY_BYTES: usize = 256;

/// Users of one call of [`NotificationGatherer::due`].
const PART: usize = 64;

/// Bounds of gathering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatheringLimits {
    /// Time that a medium notification waits.
    pub medium_wait: Duration,
    /// Time that a low notification waits.
    pub low_wait: Duration,
    /// Time that a low notification waits at most, under pressure.
    pub low_max: Duration,
    /// Users to whom is pushed at one time before low ones are put off.
    pub budget: usize,
    /// Pending notifications of one user that are pushed without waiting for their time. The same
    /// number of replaced ones.
    pub user_items: usize,
    /// The same, in bytes.
    pub user_bytes: usize,
    /// Bytes of all pending notifications. Beyond, the ones that are due first are pushed.
    pub bytes: usize,
}

impl Default for GatheringLimits {
    fn default() -> Self {
        Self {
            // The rest of 250 ms, and of 2 s, is for the way to the client.
            medium_wait: Duration::from_millis(200),
            low_wait: Duration::from_millis(1_000),
            low_max: Duration::from_millis(1_800),
            budget: 1_000,
            user_items: 100,
            user_bytes: 64 << 10,
            bytes: 64 << 20,
        }
    }
}

/// Recipients of a notification to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Its own users.
    Users,
    /// Everyone who is connected. Low ones leave spread over their time.
    Everyone,
}

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushTime {
    /// Time that no clock change moves: waits are measured by it.
    pub instant: Instant,
    /// The wall clock, in milliseconds since the Unix epoch: expiry is judged by it. The times of
    /// notifications may be ahead of it, after a clock that was ahead.
    pub wall_ms: i64,
}

/// Something to publish on the channel of a user now.
#[derive(Debug, Clone, PartialEq)]
pub struct Push {
    /// The user.
    pub user: UserId,
    /// Published content.
    pub content: PushContent,
    /// Whether it overtakes what other channels wait for.
    pub urgency: Urgency,
}

/// Content of a [`Push`].
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most are events, which need no further allocation"
)]
pub enum PushContent {
    /// An event for this user alone.
    Event(Event),
    /// A broadcast, which its users share, so that it is in memory once; and the count of this
    /// user.
    Broadcast(Arc<Notification>, u64),
}

/// Gathers the pushes of all users.
#[derive(Debug)]
pub struct NotificationGatherer {
    limits: GatheringLimits,
    users: HashMap<UserId, PendingBatch>,
    /// Users with a pending medium notification, by the time at which it is due.
    medium: BTreeMap<(Instant, u64), UserId>,
    /// Users with low ones alone.
    low: BTreeMap<(Instant, u64), UserId>,
    bytes: usize,
    /// Makes times of several users differ.
    tickets: u64,
    spread: RandomState,
}

/// Pending notifications of one user.
#[derive(Debug)]
struct PendingBatch {
    items: Vec<PendingItem>,
    bytes: usize,
    /// The newest count of the user.
    unread_count: u64,
    due: (Instant, u64),
    has_medium: bool,
}

#[derive(Debug)]
struct PendingItem {
    /// Shared with other users if it is a broadcast.
    notification: Arc<Notification>,
    audience: Audience,
    bytes: usize,
    expires: Option<Instant>,
}

/// Pending notifications that are not pushed any more.
#[derive(Debug, Default)]
struct Removal {
    items: Vec<PendingItem>,
    /// The user's newest count.
    unread_count: u64,
    /// Whether nothing of the user is pending after it.
    is_all: bool,
    /// When they were due, if nothing is pending after it.
    due: Option<Instant>,
}

impl Removal {
    /// Ids of what the notifications replaced, which clients may have.
    fn replaced(&self) -> impl Iterator<Item = String> {
        let items = self.items.iter();
        items.flat_map(|item| item.notification.replaces.iter().cloned())
    }

    /// Removes what the notifications replaced from the user's clients. None if they replaced
    /// nothing.
    fn dismissed(&self) -> Option<Dismissed> {
        let dismissed = Dismissed {
            ids: self.replaced().collect(),
            unread_count: self.unread_count,
        };
        (!dismissed.ids.is_empty()).then_some(dismissed)
    }
}

impl NotificationGatherer {
    /// Gathers within `limits`.
    #[must_use]
    pub fn new(limits: GatheringLimits) -> Self {
        Self {
            limits,
            users: HashMap::new(),
            medium: BTreeMap::new(),
            low: BTreeMap::new(),
            bytes: 0,
            tickets: 0,
            spread: RandomState::new(),
        }
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Bytes of all pending notifications, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A notification of a user, with the count after it.
    pub fn notification(
        &mut self,
        user: &UserId,
        mut notification: Arc<Notification>,
        unread_count: u64,
        audience: Audience,
        now: PushTime,
        out: &mut Vec<Push>,
    ) {
        // The older one has left the inbox. Clients that read the list meanwhile have it, and all have
        // what it replaced in its turn.
        let removal = self.remove(user, |item| {
            notification.replaces.contains(&item.notification.id)
        });
        let mut replaced = removal.replaced().peekable();
        if replaced.peek().is_some() {
            Arc::make_mut(&mut notification).replaces.extend(replaced);
        }
        let has_long_list = notification.replaces.len() >= self.limits.user_items;
        let priority = notification.priority();
        let wait = match priority {
            Priority::Medium => self.limits.medium_wait,
            Priority::Low if audience == Audience::Everyone => self.spread_wait(user),
            Priority::Low => self.limits.low_wait,
            Priority::High | Priority::Urgent | Priority::Unspecified => {
                self.note_count(user, unread_count);
                out.push(Push {
                    user: user.clone(),
                    content: match audience {
                        Audience::Everyone => PushContent::Broadcast(notification, unread_count),
                        Audience::Users => with_count(notification, unread_count),
                    },
                    urgency: match priority {
                        Priority::Urgent => Urgency::Urgent,
                        _ => Urgency::Ordinary,
                    },
                });
                return;
            }
        };
        let item = PendingItem {
            bytes: ENTRY_BYTES + notification.encoded_len(),
            expires: expiry(&notification, now),
            notification,
            audience,
        };
        let now = now.instant;
        let due = tidewire_stream::deadline(now, wait);
        // One that takes the place of another does not begin its wait again: a subject of which
        // there is news all the time would never be pushed.
        let due = removal.due.map_or(due, |before| before.min(due));
        self.add(user, item, unread_count, priority == Priority::Medium, due);
        let is_full = self.users.get(user).is_some_and(|pending| {
            pending.items.len() >= self.limits.user_items || pending.bytes >= self.limits.user_bytes
        });
        if is_full || has_long_list {
            self.flush(user, now, out);
        }
        while self.bytes > self.limits.bytes {
            let medium = self.medium.first_key_value();
            let first = medium.or_else(|| self.low.first_key_value());
            let Some(first) = first.map(|(_, user)| user.clone()) else {
                break;
            };
            self.flush(&first, now, out);
        }
    }

    /// A user read notifications.
    pub fn read(&mut self, user: &UserId, receipt: ReadReceipt, out: &mut Vec<Push>) {
        if let Some(pending) = self.users.get_mut(user) {
            pending.unread_count = receipt.unread_count;
            for item in &mut pending.items {
                if is_read_by(&item.notification, &receipt) {
                    Arc::make_mut(&mut item.notification).read = true;
                }
            }
        }
        out.push(Push::ordinary(user, Data::Read(receipt)));
    }

    /// A user dismissed notifications.
    pub fn dismissed(&mut self, user: &UserId, mut dismissed: Dismissed, out: &mut Vec<Push>) {
        let removal = self.remove(user, |item| dismissed.ids.contains(&item.notification.id));
        dismissed.ids.extend(removal.replaced());
        self.note_count(user, dismissed.unread_count);
        out.push(Push::ordinary(user, Data::Dismissed(dismissed)));
    }

    /// The count of a user changed. If something is pending of the user, it brings the new one.
    pub fn unread_count(&mut self, user: &UserId, unread_count: u64, out: &mut Vec<Push>) {
        match self.users.get_mut(user) {
            Some(pending) => pending.unread_count = unread_count,
            None => out.push(Push::count(user, unread_count)),
        }
    }

    /// A user set preferences. Notifications that they hide are not pushed any more.
    pub fn preferences(&mut self, user: &UserId, preferences: &Preferences, out: &mut Vec<Push>) {
        let removal = self.remove(user, |item| {
            !preferences::shows(preferences, &item.notification)
        });
        if let Some(dismissed) = removal.dismissed() {
            out.push(Push::ordinary(user, Data::Dismissed(dismissed)));
        } else if removal.is_all {
            out.push(Push::count(user, removal.unread_count));
        }
    }

    /// Broadcasts left all lists. The caller pushes the counts afterwards.
    pub fn retract(&mut self, ids: &[NotificationId], out: &mut Vec<Push>) {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let users: Vec<_> = self.users.keys().cloned().collect();
        for user in users {
            let removal = self.remove(&user, |item| ids.contains(&item.notification.id));
            let dismissed = removal.dismissed();
            out.extend(dismissed.map(|ids| Push::ordinary(&user, Data::Dismissed(ids))));
        }
    }

    /// Pushes a part of what is due at `now`: medium ones first, and low ones while the budget
    /// lasts or when their time is over. `spent` is how much was pushed at `now` already. Nothing
    /// more is due when a part is empty.
    pub fn due(&mut self, now: Instant, spent: usize, out: &mut Vec<Push>) {
        let late = self.limits.low_max.saturating_sub(self.limits.low_wait);
        for pushed in 0..PART {
            let user = first_due(&self.medium, now).or_else(|| {
                let user = first_due(&self.low, now)?;
                let due = self.users.get(&user)?.due.0;
                let is_late = tidewire_stream::deadline(due, late) <= now;
                (is_late || spent + pushed < self.limits.budget).then_some(user)
            });
            let Some(user) = user else { return };
            self.flush(&user, now, out);
        }
    }

    /// Pushes all that is pending at `now`.
    pub fn flush_all(&mut self, now: Instant, out: &mut Vec<Push>) {
        let users: Vec<_> = self.users.keys().cloned().collect();
        for user in users {
            self.flush(&user, now, out);
        }
    }

    /// A time of its own for each user, within that of a low notification.
    fn spread_wait(&self, user: &UserId) -> Duration {
        let steps = u32::try_from(self.spread.hash_one(user) % 1_024).unwrap_or_default();
        self.limits.low_wait * steps / 1_024
    }

    /// Notes the newest count of a user with pending notifications.
    fn note_count(&mut self, user: &UserId, unread_count: u64) {
        if let Some(pending) = self.users.get_mut(user) {
            pending.unread_count = unread_count;
        }
    }

    fn add(
        &mut self,
        user: &UserId,
        item: PendingItem,
        unread_count: u64,
        is_medium: bool,
        due: Instant,
    ) {
        self.tickets += 1;
        let ticket = (due, self.tickets);
        self.bytes += item.bytes;
        let Some(pending) = self.users.get_mut(user) else {
            let pending = PendingBatch {
                bytes: item.bytes,
                items: vec![item],
                unread_count,
                due: ticket,
                has_medium: is_medium,
            };
            self.users.insert(user.clone(), pending);
            self.queue(is_medium).insert(ticket, user.clone());
            return;
        };
        pending.bytes += item.bytes;
        pending.unread_count = unread_count;
        pending.items.push(item);
        let before = (pending.has_medium, pending.due);
        let is_first_medium = is_medium && !pending.has_medium;
        pending.has_medium |= is_medium;
        pending.due = match is_first_medium {
            true => pending.due.min(ticket),
            false => pending.due,
        };
        let after = (pending.has_medium, pending.due);
        if before != after {
            self.queue(before.0).remove(&before.1);
            self.queue(after.0).insert(after.1, user.clone());
        }
    }

    fn queue(&mut self, is_medium: bool) -> &mut BTreeMap<(Instant, u64), UserId> {
        match is_medium {
            true => &mut self.medium,
            false => &mut self.low,
        }
    }

    /// Removes pending notifications of a user.
    fn remove(&mut self, user: &UserId, is_gone: impl Fn(&PendingItem) -> bool) -> Removal {
        let Some(pending) = self.users.get_mut(user) else {
            return Removal::default();
        };
        let items: Vec<_> = pending.items.extract_if(.., |item| is_gone(item)).collect();
        let freed: usize = items.iter().map(|item| item.bytes).sum();
        pending.bytes -= freed;
        self.bytes -= freed;
        let is_all = pending.items.is_empty();
        let removal = Removal {
            items,
            unread_count: pending.unread_count,
            is_all,
            due: is_all.then_some(pending.due.0),
        };
        if removal.is_all {
            self.take(user);
        }
        removal
    }

    fn take(&mut self, user: &UserId) -> Option<PendingBatch> {
        let pending = self.users.remove(user)?;
        self.queue(pending.has_medium).remove(&pending.due);
        self.bytes -= pending.bytes;
        Some(pending)
    }

    fn flush(&mut self, user: &UserId, now: Instant, out: &mut Vec<Push>) {
        let Some(mut pending) = self.take(user) else {
            return;
        };
        let unread_count = pending.unread_count;
        let has_expired = |item: &PendingItem| item.expires.is_some_and(|expires| expires <= now);
        let expired = pending.items.extract_if(.., |item| has_expired(item));
        let expired = Removal {
            items: expired.collect(),
            unread_count,
            is_all: pending.items.is_empty(),
            due: None,
        };
        if let Some(dismissed) = expired.dismissed() {
            out.push(Push::ordinary(user, Data::Dismissed(dismissed)));
        } else if expired.is_all {
            out.push(Push::count(user, unread_count));
        }
        if expired.is_all {
            return;
        }
        if let [only] = &pending.items[..]
            && only.audience == Audience::Everyone
        {
            let content = PushContent::Broadcast(only.notification.clone(), unread_count);
            out.push(Push::ordinary(user, content));
            return;
        }
        let mut items: Vec<_> = pending
            .items
            .into_iter()
            .map(|item| Arc::unwrap_or_clone(item.notification))
            .collect();
        items.sort_by(|one, other| one.id.cmp(&other.id));
        let event = match <[Notification; 1]>::try_from(items) {
            Ok([mut one]) => {
                one.unread_count = Some(unread_count);
                Data::Notification(one)
            }
            Err(items) => Data::NotificationBatch(NotificationBatch {
                items,
                unread_count,
                ..NotificationBatch::default()
            }),
        };
        out.push(Push::ordinary(user, event));
    }
}

impl Push {
    fn count(user: &UserId, unread_count: u64) -> Self {
        let count = GetUnreadCountResponse { unread_count };
        Self::ordinary(user, Data::UnreadCount(count))
    }

    fn ordinary(user: &UserId, content: impl Into<PushContent>) -> Self {
        Self {
            user: user.clone(),
            content: content.into(),
            urgency: Urgency::Ordinary,
        }
    }
}

impl From<Event> for PushContent {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// A user's own notification, with the count after it.
fn with_count(notification: Arc<Notification>, unread_count: u64) -> PushContent {
    let mut one = Arc::unwrap_or_clone(notification);
    one.unread_count = Some(unread_count);
    PushContent::Event(Data::Notification(one))
}

/// When a notification expires that comes at `now`.
fn expiry(notification: &Notification, now: PushTime) -> Option<Instant> {
    let left_ms = notification.expires_at?.saturating_sub(now.wall_ms);
    let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
    Some(tidewire_stream::deadline(now.instant, left))
}

/// Whether a receipt covers a notification. Ids sort by time.
fn is_read_by(notification: &Notification, receipt: &ReadReceipt) -> bool {
    let is_before = |newest: &String| notification.id <= *newest;
    (receipt.all && receipt.up_to.as_ref().is_none_or(is_before))
        || receipt.ids.contains(&notification.id)
}

fn first_due(queue: &BTreeMap<(Instant, u64), UserId>, now: Instant) -> Option<UserId> {
    let ((due, _), user) = queue.first_key_value()?;
    (*due <= now).then(|| user.clone())
}

#[cfg(test)]
mod tests;
