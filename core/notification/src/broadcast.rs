//! Broadcasts: notifications to everyone, each one record however many users there are.
//!
//! Users get a broadcast when they read (fan-out on read): lists merge the live broadcasts, and
//! counts add those after the user's watermark. The places of live broadcasts are in memory,
//! sorted by class, bounded by number and by age; their texts are in the store.
//!
//! # Users who were never seen
//! A user needs no registration. The first read or write of a user is remembered as the first
//! contact. The broadcasts of the 30 days before it are in the list, unread; older ones are not.

use std::collections::BTreeMap;

use prost::Message;

use crate::{NotificationError, hub_time::HubTime, id::Order, inbox::NEVER_MS, kind::Class};

/// Version of the stored record.
const VERSION: u8 = 1;

/// A broadcast in the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broadcast {
    pub(crate) order: Order,
    pub(crate) class: Class,
    pub(crate) expires_at_ms: Option<i64>,
    /// Hash of the collapse key.
    pub(crate) collapse: Option<u64>,
    /// The place under which it was scheduled.
    pub(crate) scheduled: Option<Order>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredBroadcast {
    #[prost(uint32, tag = "1")]
    class: u32,
    #[prost(int64, optional, tag = "2")]
    expires_at_ms: Option<i64>,
    #[prost(fixed64, optional, tag = "3")]
    collapse: Option<u64>,
    #[prost(fixed64, optional, tag = "4")]
    scheduled: Option<u64>,
    #[prost(bytes = "vec", tag = "5")]
    text: Vec<u8>,
}

/// Encodes a broadcast with its text.
pub(crate) fn encode(broadcast: &Broadcast, text: &[u8]) -> Vec<u8> {
    let stored = StoredBroadcast {
        class: broadcast.class.0.into(),
        expires_at_ms: broadcast.expires_at_ms,
        collapse: broadcast.collapse,
        scheduled: broadcast.scheduled.map(|order| order.0),
        text: text.to_vec(),
    };
    let mut out = vec![VERSION];
    out.extend(stored.encode_to_vec());
    out
}

/// Decodes a broadcast and its text.
pub(crate) fn decode(
    order: Order,
    record: &[u8],
) -> Result<(Broadcast, Vec<u8>), NotificationError> {
    let read = || {
        let (version, rest) = record.split_first()?;
        let stored = StoredBroadcast::decode(rest)
            .ok()
            .filter(|_| *version == VERSION)?;
        let broadcast = Broadcast {
            order,
            class: Class(stored.class.try_into().ok()?),
            expires_at_ms: stored.expires_at_ms,
            collapse: stored.collapse,
            scheduled: stored.scheduled.map(Order),
        };
        Some((broadcast, stored.text))
    };
    read().ok_or(NotificationError::Damaged("broadcast"))
}

/// The broadcasts in the lists at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveBroadcasts {
    items: BTreeMap<Order, Broadcast>,
    classes: BTreeMap<Class, Vec<Order>>,
    /// Those that have expired by a clock that is in doubt. No list has them, and they come back if
    /// the clock is set right.
    hidden: BTreeMap<Order, Broadcast>,
    /// The newest that was ever in the lists.
    newest: Order,
    /// None expires or gets too old before this time.
    next_due_ms: Option<i64>,
}

impl LiveBroadcasts {
    pub(crate) fn get(&self, order: Order) -> Option<&Broadcast> {
        self.items.get(&order)
    }

    /// One in the lists, or hidden.
    pub(crate) fn find(&self, order: Order) -> Option<&Broadcast> {
        self.items.get(&order).or_else(|| self.hidden.get(&order))
    }

    /// The places of each class, sorted.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (Class, &[Order])> {
        self.classes
            .iter()
            .map(|(class, orders)| (*class, orders.as_slice()))
    }

    /// All before a place, newest first.
    pub(crate) fn before(&self, order: Order) -> impl Iterator<Item = &Broadcast> {
        self.items
            .range(..order)
            .rev()
            .map(|(_, broadcast)| broadcast)
    }

    /// The one with this collapse key.
    pub(crate) fn find_collapse(&self, hash: u64) -> Option<Order> {
        let mut items = self.items.values().chain(self.hidden.values());
        items
            .find(|broadcast| broadcast.collapse == Some(hash))
            .map(|broadcast| broadcast.order)
    }

    /// The one that was scheduled under this place.
    pub(crate) fn find_scheduled(&self, order: Order) -> Option<Order> {
        let mut items = self.items.values().chain(self.hidden.values());
        items
            .find(|broadcast| broadcast.scheduled == Some(order))
            .map(|broadcast| broadcast.order)
    }

    /// The oldest ones beyond a number.
    pub(crate) fn surplus(&self, max_items: usize) -> Vec<Order> {
        let all = self.items.len() + self.hidden.len();
        let mut orders: Vec<_> = self
            .items
            .keys()
            .chain(self.hidden.keys())
            .copied()
            .collect();
        orders.sort_unstable();
        orders.truncate(all.saturating_sub(max_items));
        orders
    }

    pub(crate) fn newest(&self) -> Order {
        self.newest
    }

    pub(crate) fn next_due_ms(&self) -> i64 {
        self.next_due_ms.unwrap_or(NEVER_MS)
    }

    pub(crate) fn insert(&mut self, broadcast: Broadcast, max_age_ms: i64) {
        let due_ms = due_ms(&broadcast, max_age_ms);
        self.next_due_ms = Some(self.next_due_ms().min(due_ms));
        self.newest = self.newest.max(broadcast.order);
        let orders = self.classes.entry(broadcast.class).or_default();
        let place = orders.partition_point(|order| *order < broadcast.order);
        orders.insert(place, broadcast.order);
        self.items.insert(broadcast.order, broadcast);
    }

    pub(crate) fn remove(&mut self, order: Order) {
        self.hidden.remove(&order);
        self.take(order);
    }

    /// Takes one out of the lists.
    fn take(&mut self, order: Order) -> Option<Broadcast> {
        let broadcast = self.items.remove(&order)?;
        if let Some(orders) = self.classes.get_mut(&broadcast.class) {
            orders.retain(|known| *known != order);
        }
        self.classes.retain(|_, orders| !orders.is_empty());
        Some(broadcast)
    }

    /// Whether [`expire`](Self::expire) may change anything.
    pub(crate) fn is_due(&self, time: HubTime) -> bool {
        // Hidden ones are few, and there for a day at most.
        time.now_ms >= self.next_due_ms() || !self.hidden.is_empty()
    }

    /// Removes those that have expired or are too old, and returns them. Hides those that have
    /// expired by a clock that is in doubt, until it is set right.
    pub(crate) fn expire(&mut self, time: HubTime, max_age_ms: i64) -> Vec<Order> {
        let all = self.items.values().chain(self.hidden.values());
        let due = all.filter(|item| due_ms(item, max_age_ms) <= time.retention_ms);
        let due: Vec<_> = due.map(|item| item.order).collect();
        for order in &due {
            self.remove(*order);
        }
        let (hidden, shown): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.hidden)
            .into_iter()
            .partition(|(_, item)| time.hides(item.expires_at_ms));
        self.hidden = hidden;
        for item in shown.into_values() {
            self.insert(item, max_age_ms);
        }
        let hidden = self.items.values();
        let hidden = hidden.filter(|item| time.hides(item.expires_at_ms));
        let hidden: Vec<_> = hidden.map(|item| item.order).collect();
        for order in hidden {
            if let Some(item) = self.take(order) {
                self.hidden.insert(order, item);
            }
        }
        self.next_due_ms = self
            .items
            .values()
            .map(|item| due_ms(item, max_age_ms))
            .min();
        due
    }
}

fn due_ms(broadcast: &Broadcast, max_age_ms: i64) -> i64 {
    let too_old_ms = broadcast.order.time_ms().saturating_add(max_age_ms);
    broadcast.expires_at_ms.unwrap_or(NEVER_MS).min(too_old_ms)
}
