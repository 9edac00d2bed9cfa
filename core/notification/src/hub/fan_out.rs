//! Fan-out: a broadcast, or counts that may have changed, as an event of each connected user.
//!
//! The event is published under the user's lock, so that the last count that a client gets is the
//! true one, whatever the user does meanwhile.
//!
//! Nearly always the state of a connected user is cached, nobody holds the lock, and nothing is to
//! be stored. Such a user costs no task, no commit, and reads no entries of the inbox. All others
//! take the way of any operation, side by side, so that the store reads in groups.

use std::sync::Arc;

use tidewire_proto::v1::{Dismissed, Notification};
use tidewire_stream::UserId;

use super::{NotificationHub, parse_id};
use crate::{
    Audience, Class, HubEvent, NotificationError, broadcast::LiveBroadcasts, counts, draft,
    hub_core::HubCore, id::Order, inbox::UserState, record, work::Work,
};

/// Users whose events could not be published, and why. They must read their lists again.
pub type Unreached = Vec<(UserId, NotificationError)>;

/// A broadcast on its way to its users.
#[derive(Clone)]
struct FanOutItem {
    notification: Arc<Notification>,
    /// The same, for users who have read it.
    read: Arc<Notification>,
    order: Order,
    class: Class,
}

impl NotificationHub {
    /// Publishes a broadcast to each of the users, with the user's count. Users who do not see its
    /// class, or do not have it any more, get the count, and what it replaced as dismissed. `notification` is that of the event.
    /// All users share its memory.
    pub async fn publish_broadcast(
        &self,
        users: &[UserId],
        notification: &Arc<Notification>,
        class: Class,
    ) -> Unreached {
        let id = match parse_id("id", &notification.id) {
            Ok(id) => id,
            Err(error) => {
                let users = users.iter().cloned();
                return users.map(|user| (user, error.clone())).collect();
            }
        };
        let mut read = Notification::clone(notification);
        read.read = true;
        let item = FanOutItem {
            notification: notification.clone(),
            read: Arc::new(read),
            order: id.order,
            class,
        };
        self.publish_to(users, Some(item)).await
    }

    /// Publishes the count of each of the users.
    pub async fn publish_counts(&self, users: &[UserId]) -> Unreached {
        self.publish_to(users, None).await
    }

    /// Publishes a user's count.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn publish_count(&self, user: &str) -> Result<(), NotificationError> {
        let user = draft::check_user("user", user)?;
        self.publish_stored(&user, None).await
    }

    async fn publish_to(&self, users: &[UserId], item: Option<FanOutItem>) -> Unreached {
        let is_left = |user: &&UserId| !publish_cached(&self.0, user, item.as_ref());
        let left = users.iter().filter(is_left).map(async |user| {
            let done = match draft::check_user("user", user.as_str()) {
                Ok(user) => self.publish_stored(&user, item.as_ref()).await,
                Err(error) => Err(error),
            };
            done.err().map(|error| (user.clone(), error))
        });
        let left: Vec<_> = left.collect();
        futures::future::join_all(left)
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    /// Publishes the events of a user as an operation, which may have to read and write the store.
    async fn publish_stored(
        &self,
        user: &UserId,
        item: Option<&FanOutItem>,
    ) -> Result<(), NotificationError> {
        self.with_user(user, async |work| {
            let (live, floor) = work.load_for(user, &[]).await?;
            let unread_count = work.unread(user);
            let state = &work.inbox(user).state;
            let event = event_of(user, state, item, &live, floor, unread_count);
            work.events.push(event);
            Ok(())
        })
        .await
    }
}

/// Publishes the events of a user whose state is cached, if nothing else is to be done for that.
fn publish_cached(core: &HubCore, user: &UserId, item: Option<&FanOutItem>) -> bool {
    let Some(_guard) = core.locks.try_lock(core.locks.stripe(user)) else {
        return false;
    };
    let Some(stored) = core.cache.get(user) else {
        return false;
    };
    let Ok(mut state) = record::decode_counts(&stored) else {
        return false;
    };
    let time = core.time();
    state.correct_first_contact(time.now_ms);
    if time.now_ms >= state.next_due_ms {
        return false;
    }
    let (live, floor) = (core.live(time), core.floor(&state));
    let unread_count = counts::unread(&state, &live, floor);
    let event = event_of(user, &state, item, &live, floor, unread_count);
    core.events.publish(event);
    true
}

/// The event of a user: the broadcast with the user's count if the user has it, else the count, with
/// what the broadcast replaced.
fn event_of(
    user: &UserId,
    state: &UserState,
    item: Option<&FanOutItem>,
    live: &LiveBroadcasts,
    floor: Order,
    unread_count: u64,
) -> HubEvent {
    let is_seen = |item: &&FanOutItem| {
        state.has_broadcast(item.order, live, floor) && state.visibility().shows(item.class)
    };
    let Some(item) = item.filter(is_seen) else {
        // What it replaces left the list of this user all the same.
        return match item {
            Some(FanOutItem { notification, .. }) if !notification.replaces.is_empty() => {
                HubEvent::Dismissed {
                    user: user.clone(),
                    dismissed: Dismissed {
                        ids: notification.replaces.clone(),
                        unread_count,
                    },
                }
            }
            _ => count_event(user, unread_count),
        };
    };
    let order = item.order;
    let is_read = order <= state.broadcast_watermark || state.mark(order).is_some();
    HubEvent::Notification {
        user: user.clone(),
        notification: match is_read {
            true => item.read.clone(),
            false => item.notification.clone(),
        },
        class: item.class,
        unread_count,
        audience: Audience::Everyone,
    }
}

pub(super) fn push_count(work: &mut Work<'_>, user: &UserId) {
    let unread_count = work.unread(user);
    work.events.push(count_event(user, unread_count));
}

fn count_event(user: &UserId, unread_count: u64) -> HubEvent {
    HubEvent::UnreadCount {
        user: user.clone(),
        unread_count,
    }
}
