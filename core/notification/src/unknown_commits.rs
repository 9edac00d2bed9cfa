//! Commits whose result is unknown: a flush that failed may have written its batch all the same.
//!
//! The request returned an error, so its events were not published. Only the store knows whether
//! they are true, and only once it can be read again. Until then they wait here. The background
//! task then publishes those of batches that were written (`hub::unknown_commits`).
//!
//! They are bounded. Beyond [`MAX_BYTES`] the events of a user are given up, and the clients get a gap
//! in their place; beyond [`MAX_COMMITS`] all connected users do. Notifications to channels wait in the
//! store ([`channel_rows`](crate::channel_rows)).

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use prost::Message as _;
use tidewire_stream::UserId;

use crate::{HubEvent, NotificationId, id::Order};

/// Bytes of the events and states that wait, about.
const MAX_BYTES: usize = 8 << 20;

/// Users, broadcasts and channels that wait.
const MAX_COMMITS: usize = 16_384;

/// Bytes of a part beside its events and states, about.
const PART_BYTES: usize = 256;

/// A user's state before a commit and after it, as the store has it.
#[derive(Debug, Clone)]
pub(crate) struct StateChange {
    pub(crate) user: UserId,
    pub(crate) before: Option<Arc<[u8]>>,
    pub(crate) after: Arc<[u8]>,
}

/// The part of an unknown commit that concerns one user, one broadcast or one channel.
#[derive(Debug)]
pub(crate) enum UnknownCommit {
    /// Events of a user, which are true if the state is the one after the change.
    User {
        change: StateChange,
        events: Vec<HubEvent>,
    },
    /// A user whose preferences may have changed, and nothing else.
    Preferences(UserId),
    /// A user whose events were given up.
    Gap(UserId),
    /// A new broadcast.
    Broadcast { order: Order, event: HubEvent },
    /// Broadcasts that were removed.
    Removal(Vec<NotificationId>),
    /// A notification to a channel, which has a row until it is published.
    Channel(Order),
}

impl UnknownCommit {
    /// Bytes in memory, about.
    fn bytes(&self) -> usize {
        let bytes = match self {
            Self::User { change, events } => {
                let before = change.before.as_ref().map_or(0, |state| state.len());
                before + change.after.len() + events.iter().map(event_bytes).sum::<usize>()
            }
            Self::Preferences(_) | Self::Gap(_) | Self::Removal(_) | Self::Channel(_) => 0,
            Self::Broadcast { event, .. } => event_bytes(event),
        };
        bytes + PART_BYTES
    }
}

fn event_bytes(event: &HubEvent) -> usize {
    PART_BYTES
        + match event {
            HubEvent::Notification { notification, .. }
            | HubEvent::Broadcast { notification, .. } => notification.encoded_len(),
            HubEvent::Read { receipt, .. } => receipt.encoded_len(),
            HubEvent::Dismissed { dismissed, .. } => dismissed.encoded_len(),
            HubEvent::Preferences { preferences, .. } => preferences.encoded_len(),
            _ => 0,
        }
}

/// Commits that wait for the store.
#[derive(Debug, Default)]
pub(crate) struct PendingCommits {
    pub(crate) commits: Vec<UnknownCommit>,
    bytes: usize,
    /// Whether there were too many.
    pub(crate) has_overflowed: bool,
}

impl PendingCommits {
    pub(crate) fn is_empty(&self) -> bool {
        self.commits.is_empty() && !self.has_overflowed
    }

    fn push(&mut self, commit: UnknownCommit) {
        let is_in_store = matches!(commit, UnknownCommit::Channel(_));
        if self.commits.len() >= MAX_COMMITS && !is_in_store {
            self.has_overflowed = true;
            return;
        }
        let commit = match commit {
            UnknownCommit::User { change, .. } if self.bytes >= MAX_BYTES => {
                UnknownCommit::Gap(change.user)
            }
            // A gap to everyone is the only thing in place of a broadcast.
            UnknownCommit::Broadcast { .. } if self.bytes >= MAX_BYTES => {
                self.has_overflowed = true;
                return;
            }
            commit => commit,
        };
        self.bytes += commit.bytes();
        self.commits.push(commit);
    }
}

/// The unknown commits of a hub.
#[derive(Debug, Default)]
pub(crate) struct UnknownCommits(Mutex<PendingCommits>);

impl UnknownCommits {
    /// Adds a commit that failed: the states that it would have changed, and its events.
    pub(crate) fn add(&self, changes: Vec<StateChange>, events: Vec<HubEvent>) {
        let mut waiting = self.0.lock();
        let mut by_user: HashMap<UserId, Vec<HubEvent>> = HashMap::new();
        for event in events {
            match event {
                HubEvent::Broadcast {
                    ref notification, ..
                } => {
                    if let Some(id) = NotificationId::parse(&notification.id) {
                        let order = id.order;
                        waiting.push(UnknownCommit::Broadcast { order, event });
                    }
                }
                HubEvent::BroadcastRemoval { ids } => waiting.push(UnknownCommit::Removal(ids)),
                HubEvent::Channel { notification, .. } => {
                    if let Some(id) = NotificationId::parse(&notification.id) {
                        waiting.push(UnknownCommit::Channel(id.order));
                    }
                }
                HubEvent::Notification { ref user, .. }
                | HubEvent::Read { ref user, .. }
                | HubEvent::Dismissed { ref user, .. }
                | HubEvent::UnreadCount { ref user, .. }
                | HubEvent::Preferences { ref user, .. } => {
                    by_user.entry(user.clone()).or_default().push(event);
                }
                HubEvent::Gap { user } => waiting.push(UnknownCommit::Gap(user)),
                HubEvent::GapForAll => waiting.has_overflowed = true,
            }
        }
        for change in changes {
            if let Some(events) = by_user.remove(&change.user) {
                waiting.push(UnknownCommit::User { change, events });
            }
        }
        for user in by_user.into_keys() {
            waiting.push(UnknownCommit::Preferences(user));
        }
    }

    /// Adds notifications to channels whose rows are in the store. They have no bound of their own:
    /// the rows are there, and one costs little.
    pub(crate) fn add_channels(&self, orders: impl IntoIterator<Item = Order>) {
        let commits = orders.into_iter().map(UnknownCommit::Channel);
        self.0.lock().commits.extend(commits);
    }

    /// Takes all.
    pub(crate) fn take(&self) -> PendingCommits {
        std::mem::take(&mut *self.0.lock())
    }

    /// Gives those back of which the store could not tell yet. They are older than all that came
    /// meanwhile.
    pub(crate) fn put_back(&self, older: PendingCommits) {
        let mut waiting = self.0.lock();
        let newer = std::mem::take(&mut *waiting);
        waiting.has_overflowed = older.has_overflowed || newer.has_overflowed;
        for commit in older.commits.into_iter().chain(newer.commits) {
            waiting.push(commit);
        }
    }
}
