//! Summaries: which fires of a user share a notification, and when it is complete.
//!
//! Beyond the limit of a minute, fires of the same priority and type share a notification: the user's
//! preferences concern all of them alike. Urgent fires are counted by themselves, so that others do
//! not delay them.
//!
//! A summary has one row, which is written again as it grows. The delivery *closes* a summary before it
//! hands it over, and waits for the batches that have a form of it: so a row that is handed over never
//! changes. Later fires begin another summary, also if the clock is set back.
//!
//! Example with a limit of 1: rules of low, urgent, low and low priority fire. The first low one and the
//! urgent one have notifications. The others share one at the end of the minute, of low priority.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tidewire_proto::v1::{AlertEvent, NotificationType, Priority};
use tidewire_store::Key;

use super::{config::MINUTE_MS, id::Id, notice, tables};

/// The fields that the fires of a summary have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    priority: Priority,
    kind: NotificationType,
}

impl Group {
    /// The group of a fire.
    pub(crate) fn of(event: &AlertEvent) -> Self {
        let rule = event.rule.as_ref();
        Self {
            priority: rule.map_or(Priority::Medium, notice::priority_of),
            kind: rule.map_or(NotificationType::PriceAlert, |rule| {
                notice::type_of(rule, event)
            }),
        }
    }
}

/// A summary that grows.
#[derive(Debug)]
struct Summary {
    group: Group,
    key: Key,
    fires: u64,
}

/// The fires of a user in a minute.
#[derive(Debug)]
struct Minute {
    minute: i64,
    urgent: u32,
    others: u32,
    summaries: Vec<Summary>,
}

/// The summaries of all users.
#[derive(Debug, Default)]
pub(crate) struct Summaries {
    /// Users with a fire in the last minutes, with rules or without: a user whose last rule is deleted
    /// has no further share of the minute.
    users: HashMap<Arc<str>, Minute>,
    /// The minute in which old ones were removed.
    newest: i64,
    /// Batches that are not stored yet, by the summary of which they have a form.
    staged: HashMap<Key, u32>,
}

/// The notification of a fire.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// One of its own.
    Own,
    /// That of a summary: its row, and its fires so far.
    Summary(Key, u64),
}

impl Summaries {
    /// Counts a fire. `most` of a minute have notifications of their own.
    pub(crate) fn count(
        &mut self,
        user: &Arc<str>,
        (id, group): (Id, Group),
        most: u32,
        now_ms: i64,
    ) -> Share {
        let minute = now_ms.div_euclid(MINUTE_MS);
        if self.newest != minute {
            self.newest = minute;
            self.users.retain(|_, user| user.minute == minute);
        }
        let user = self.users.entry(user.clone()).or_insert_with(|| Minute {
            minute,
            urgent: 0,
            others: 0,
            summaries: Vec::new(),
        });
        let fires = match group.priority {
            Priority::Urgent => &mut user.urgent,
            _ => &mut user.others,
        };
        *fires = fires.saturating_add(1);
        if *fires <= most {
            return Share::Own;
        }
        let known = user.summaries.iter_mut().find(|one| one.group == group);
        if let Some(known) = known {
            known.fires += 1;
            return Share::Summary(known.key.clone(), known.fires);
        }
        let end_ms = (minute + 1).saturating_mul(MINUTE_MS);
        let key = tables::outgoing(end_ms, id);
        user.summaries.push(Summary {
            group,
            key: key.clone(),
            fires: 1,
        });
        Share::Summary(key, 1)
    }

    /// Notes that a batch has a form of a summary.
    pub(crate) fn stage(&mut self, key: Key) {
        *self.staged.entry(key).or_default() += 1;
    }

    /// Notes that a batch with these summaries is stored.
    pub(crate) fn unstage(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(batches) = self.staged.get_mut(key) {
                *batches -= 1;
                if *batches == 0 {
                    self.staged.remove(key);
                }
            }
        }
    }

    /// Closes summaries. Returns those whose rows do not change any more.
    pub(crate) fn close(&mut self, keys: Vec<Key>) -> Vec<Key> {
        if keys.is_empty() {
            return keys;
        }
        let closed: HashSet<&Key> = keys.iter().collect();
        for user in self.users.values_mut() {
            user.summaries.retain(|one| !closed.contains(&one.key));
        }
        let mut keys = keys;
        keys.retain(|key| !self.staged.contains_key(key));
        keys
    }
}
