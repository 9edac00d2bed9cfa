//! Naive model: everything in plain lists, counted by filtering.

use std::collections::{HashMap, HashSet};

use tidewire_proto::v1::NotifyRequest;

use crate::{config, support::DAY_MS};

/// A notification, in whichever list it is.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Place in the order of all deliveries.
    pub(crate) seq: u64,
    pub(crate) title: String,
    /// 1 to 8, or 9 and 10 for the types of the configuration.
    pub(crate) kind: i32,
    pub(crate) priority: i32,
    pub(crate) time_ms: i64,
    pub(crate) expires_at_ms: Option<i64>,
    pub(crate) collapse: Option<String>,
    pub(crate) is_read: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ModelUser {
    pub(crate) first_contact_ms: Option<i64>,
    pub(crate) items: Vec<Item>,
    pub(crate) read_broadcasts: HashSet<u64>,
    pub(crate) dismissed_broadcasts: HashSet<u64>,
    pub(crate) min_priority: i32,
    pub(crate) muted: Vec<i32>,
}

#[derive(Debug, Clone)]
pub(crate) struct ModelSchedule {
    pub(crate) id: String,
    pub(crate) due_ms: i64,
    pub(crate) target: Option<Vec<usize>>,
    pub(crate) item: Item,
    pub(crate) ttl_ms: Option<i64>,
    pub(crate) key: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    /// The time of the clock.
    pub(crate) now_ms: i64,
    /// The time by which something is removed. Behind `now_ms` while the clock is in doubt.
    pub(crate) retention_ms: i64,
    /// The latest `retention_ms`: a clock that was ahead is set back, and what it removed stays removed.
    pub(crate) latest_retention_ms: i64,
    /// For how long it has been in doubt.
    pub(crate) doubted_ms: i64,
    /// Ids that were given out, and those that are stored, as numbers.
    pub(crate) taken: u64,
    pub(crate) stored: u64,
    pub(crate) next_seq: u64,
    pub(crate) users: Vec<ModelUser>,
    pub(crate) broadcasts: Vec<Item>,
    pub(crate) schedules: Vec<ModelSchedule>,
    pub(crate) ids: HashMap<u64, String>,
    /// Requests by idempotency key, with their ids and times.
    pub(crate) keys: HashMap<String, (NotifyRequest, String, i64)>,
}

impl Model {
    /// Lets time pass.
    pub(crate) fn pass(&mut self, ms: i64) {
        self.now_ms += ms;
        self.retention_ms += ms;
        if self.retention_ms != self.now_ms {
            self.doubted_ms += ms;
            if self.doubted_ms >= DAY_MS {
                (self.retention_ms, self.doubted_ms) = (self.now_ms, 0);
            }
        }
        self.latest_retention_ms = self.latest_retention_ms.max(self.retention_ms);
    }

    /// Sets the clock.
    pub(crate) fn step(&mut self, ms: i64) {
        self.now_ms += ms;
        if self.now_ms - self.retention_ms <= DAY_MS {
            (self.retention_ms, self.doubted_ms) = (self.now_ms, 0);
        }
        self.latest_retention_ms = self.latest_retention_ms.max(self.retention_ms);
        for user in &mut self.users {
            if let Some(first_ms) = &mut user.first_contact_ms {
                *first_ms = self.now_ms.min(*first_ms);
            }
        }
    }

    /// Takes ids, which never fall behind those of before. The counter has 16 bits.
    pub(crate) fn take(&mut self, count: u64) {
        let first = (self.now_ms.unsigned_abs() << 16).max(self.taken + 1);
        self.taken = first + count - 1;
    }

    /// The time of the id that was taken last.
    pub(crate) fn taken_ms(&self) -> i64 {
        (self.taken >> 16).cast_signed()
    }

    pub(crate) fn expire(&mut self) {
        let retention_ms = self.retention_ms;
        let is_live = |item: &Item, age_ms: i64| {
            item.expires_at_ms.is_none_or(|at_ms| at_ms > retention_ms)
                && item.time_ms + age_ms > retention_ms
        };
        for user in &mut self.users {
            user.items.retain(|item| is_live(item, config().max_age_ms));
        }
        self.broadcasts
            .retain(|item| is_live(item, config().broadcast_max_age_ms));
    }

    /// Whether an item has expired by the clock, and is not removed yet.
    pub(crate) fn is_hidden(&self, item: &Item) -> bool {
        item.expires_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms)
    }

    pub(crate) fn contact(&mut self, user: usize) {
        let retention_ms = self.retention_ms;
        self.users[user]
            .first_contact_ms
            .get_or_insert(retention_ms);
    }

    /// All that a user has, newest first, also what preferences hide, and notifications that have
    /// expired by the clock. Broadcasts that have are left out.
    pub(crate) fn all(&self, user: usize) -> Vec<Item> {
        let of = &self.users[user];
        let first_ms =
            of.first_contact_ms.unwrap_or(self.retention_ms) - config().first_contact_window_ms;
        let broadcasts = self.broadcasts.iter();
        let broadcasts = broadcasts.filter(|item| {
            item.time_ms >= first_ms
                && !of.dismissed_broadcasts.contains(&item.seq)
                && !self.is_hidden(item)
        });
        let broadcasts = broadcasts.map(|item| Item {
            is_read: of.read_broadcasts.contains(&item.seq),
            ..item.clone()
        });
        let mut all: Vec<_> = of.items.iter().cloned().chain(broadcasts).collect();
        all.sort_by_key(|item| std::cmp::Reverse(item.seq));
        all
    }

    pub(crate) fn visible(&self, user: usize) -> Vec<Item> {
        let of = &self.users[user];
        let is_visible = |item: &Item| {
            item.priority == 4
                || item.kind == 6
                || (item.priority >= of.min_priority && !of.muted.contains(&item.kind))
        };
        let all = self.all(user).into_iter();
        all.filter(|item| is_visible(item) && !self.is_hidden(item))
            .collect()
    }

    pub(crate) fn unread(&self, user: usize) -> u64 {
        self.visible(user)
            .iter()
            .filter(|item| !item.is_read)
            .count() as u64
    }

    /// Delivers an item with the time of its id, and returns its place.
    pub(crate) fn deliver(&mut self, target: Option<&[usize]>, item: &Item, time_ms: i64) -> u64 {
        self.next_seq += 1;
        let item = Item {
            seq: self.next_seq,
            time_ms,
            ..item.clone()
        };
        match target {
            None => {
                if let Some(key) = &item.collapse {
                    self.broadcasts
                        .retain(|other| other.collapse.as_ref() != Some(key));
                }
                self.broadcasts.push(item);
                let surplus = self
                    .broadcasts
                    .len()
                    .saturating_sub(config().max_broadcasts);
                self.broadcasts.drain(..surplus);
            }
            Some(users) => {
                for user in users {
                    self.contact(*user);
                    let items = &mut self.users[*user].items;
                    if let Some(key) = &item.collapse {
                        items.retain(|other| other.collapse.as_ref() != Some(key));
                    }
                    items.push(item.clone());
                    if items.len() > config().inbox_items {
                        let stays = config().inbox_items - config().inbox_items / 20;
                        items.drain(..items.len() - stays);
                    }
                }
            }
        }
        self.next_seq
    }
}
