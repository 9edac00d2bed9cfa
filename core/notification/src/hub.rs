//! Notification hub: the engine's public face.
//!
//! An operation locks the users and keys that it needs, loads their states, changes them by pure
//! functions, commits one batch, and publishes its events. It returns after the commit, so what
//! it acknowledges survives a crash. An operation that fails changes nothing.

mod background;
mod fan_out;
mod outgoing;
mod reading;
mod schedules;
mod sending;
mod unknown_commits;

use std::{collections::BTreeSet, sync::Arc};

use tidewire_proto::v1::{Dismissed, Preferences, ReadReceipt};
use tidewire_store::SharedStore;
use tidewire_stream::{SharedClock, UserId};

use crate::{
    EventSink, HubEvent, NotificationConfig, NotificationError, NotificationId, counts, draft,
    hub_core::HubCore, id::Order, preferences, record, tables, work::Work,
};

pub use background::StepOutcome;
pub use fan_out::Unreached;
pub use outgoing::OutgoingItem;
pub use reading::{ListQuery, NotificationPage};
pub use schedules::ScheduleRef;
pub use sending::NotifyOutcome;

/// Ids of one request at most.
const MAX_IDS: usize = 1_000;

/// The notification hub. Cheap to clone.
#[derive(Clone)]
pub struct NotificationHub(Arc<HubCore>);

impl std::fmt::Debug for NotificationHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotificationHub").finish_non_exhaustive()
    }
}

impl NotificationHub {
    /// Opens the hub on its tables in `store`. [`run`](Self::run) does the work that is due at a
    /// time.
    ///
    /// # Errors
    /// The configuration is refused, or the store cannot be read or written.
    pub async fn open(
        store: SharedStore,
        events: Arc<dyn EventSink>,
        clock: SharedClock,
        config: NotificationConfig,
    ) -> Result<Self, NotificationError> {
        let core = HubCore::open(store, events, clock, config).await?;
        Ok(Self(Arc::new(core)))
    }

    /// Counts a user's unread notifications: direct ones and broadcasts, of the classes that the
    /// user sees. Reads no notification, and no store for a user whose state is cached.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn unread_count(&self, user: &str) -> Result<u64, NotificationError> {
        let core = &*self.0;
        let user = draft::check_user("user", user)?;
        if let Some(stored) = core.cache.get(&user) {
            let mut state = record::decode_counts(&stored)?;
            let time = core.time();
            state.correct_first_contact(time.now_ms);
            if time.now_ms < state.next_due_ms {
                return Ok(counts::unread(&state, &core.live(time), core.floor(&state)));
            }
        }
        self.read_user(&user, async |work| {
            work.load([&user], Vec::new()).await?;
            Ok(work.unread(&user))
        })
        .await
    }

    /// Marks notifications and broadcasts as read. Ids that the user does not have are ignored,
    /// and are not in the receipt: another tab may have dismissed them. Marking twice changes
    /// nothing.
    ///
    /// # Errors
    /// An id is malformed, or the store cannot be written.
    pub async fn mark_read(
        &self,
        user: &str,
        ids: &[String],
    ) -> Result<ReadReceipt, NotificationError> {
        let core = &*self.0;
        let user = draft::check_user("user", user)?;
        let orders = core.orders(&parse_ids(ids)?);
        self.with_user(&user, async |work| {
            let (live, floor) = work.load_for(&user, &orders).await?;
            let (known, is_changed) = work.inbox(&user).mark_read(&orders, &live, floor);
            let receipt = ReadReceipt {
                ids: core.id_texts(&known),
                unread_count: work.unread(&user),
                ..ReadReceipt::default()
            };
            if is_changed {
                work.events.push(HubEvent::Read {
                    user: user.clone(),
                    receipt: receipt.clone(),
                });
            }
            Ok(receipt)
        })
        .await
    }

    /// Marks all notifications and broadcasts as read, up to `up_to` if given: newer ones stay
    /// unread. Hidden ones are marked too. The receipt has the true count, and `up_to` as the server
    /// writes it: clients compare ids as texts.
    ///
    /// # Errors
    /// The id is malformed or of another server, or the store cannot be written.
    pub async fn mark_all_read(
        &self,
        user: &str,
        up_to: Option<&str>,
    ) -> Result<ReadReceipt, NotificationError> {
        let user = draft::check_user("user", user)?;
        let id = up_to
            .map(|text| self.parse_own_id("upTo", text))
            .transpose()?;
        self.with_user(&user, async |work| {
            // Not up to the place that was given out last: it may have been given to a write that
            // failed, and a clock that is set back gives it out again.
            let given = id.map_or(Order::MAX, |id| id.order);
            let (live, _) = work.load_for(&user, &[given]).await?;
            let direct = given.min(work.inbox(&user).newest());
            let broadcasts = given.min(live.newest());
            let is_changed = work.inbox(&user).mark_all(direct, broadcasts);
            let receipt = ReadReceipt {
                all: true,
                up_to: id.map(|id| id.to_string()),
                unread_count: work.unread(&user),
                ..ReadReceipt::default()
            };
            if is_changed {
                work.events.push(HubEvent::Read {
                    user: user.clone(),
                    receipt: receipt.clone(),
                });
            }
            Ok(receipt)
        })
        .await
    }

    /// Removes notifications from a user's inbox, and broadcasts from this user's list. Ids that
    /// the user does not have are ignored, and are not in the result.
    ///
    /// # Errors
    /// An id is malformed, or the store cannot be written.
    pub async fn dismiss(
        &self,
        user: &str,
        ids: &[String],
    ) -> Result<Dismissed, NotificationError> {
        let core = &*self.0;
        let user = draft::check_user("user", user)?;
        let orders = core.orders(&parse_ids(ids)?);
        self.with_user(&user, async |work| {
            let (live, floor) = work.load_for(&user, &orders).await?;
            let gone = work.inbox(&user).dismiss(&orders, &live, floor);
            let dismissed = Dismissed {
                ids: core.id_texts(&gone),
                unread_count: work.unread(&user),
            };
            if !gone.is_empty() {
                let event = HubEvent::Dismissed {
                    user: user.clone(),
                    dismissed: dismissed.clone(),
                };
                work.events.push(event);
            }
            Ok(dismissed)
        })
        .await
    }

    /// Reads a user's preferences.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn preferences(&self, user: &str) -> Result<Preferences, NotificationError> {
        let user = draft::check_user("user", user)?;
        let value = self
            .0
            .store
            .get(tables::PREFERENCES, user.as_str().into())
            .await?;
        let Some(value) = value else {
            return Ok(Preferences::default());
        };
        let read = prost::Message::decode(value.as_slice());
        read.map_err(|_| NotificationError::Damaged("preferences"))
    }

    /// Replaces a user's preferences. Types and priorities that they hide leave list, count and
    /// push, and are not deleted.
    ///
    /// # Errors
    /// A field is refused, or the store cannot be written.
    pub async fn set_preferences(
        &self,
        user: &str,
        preferences: Preferences,
    ) -> Result<Preferences, NotificationError> {
        let user = draft::check_user("user", user)?;
        let visibility = preferences::check(&self.0.kinds, &preferences)?;
        self.with_user(&user, async |work| {
            work.load([&user], Vec::new()).await?;
            let before = work.unread(&user);
            let state = &mut work.inbox(&user).state;
            state.min_priority = visibility.min_priority;
            state.muted = visibility.muted;
            let value = prost::Message::encode_to_vec(&preferences);
            work.batch.put(tables::PREFERENCES, user.as_str(), value);
            work.review_outgoing(&user);
            // First the count: what is gathered for the user, and leaves now, had the one before.
            work.push_count_if_changed(&user, before);
            work.events.push(HubEvent::Preferences {
                user: user.clone(),
                preferences: Box::new(preferences.clone()),
            });
            Ok(preferences)
        })
        .await
    }

    /// Reads an id of this store. One of another store says nothing about the order here.
    fn parse_own_id(&self, field: &str, text: &str) -> Result<NotificationId, NotificationError> {
        let id = parse_id(field, text)?;
        match self.0.order(id) {
            Some(_) => Ok(id),
            None => Err(NotificationError::invalid(
                field,
                format!("{text:?} is the id of another server, expected one of this server"),
            )),
        }
    }

    /// Bytes of the cached states of users, about.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.0.cache.bytes()
    }

    /// Runs an operation under the lock of one user, and commits its changes.
    async fn with_user<T>(
        &self,
        user: &UserId,
        operation: impl AsyncFnOnce(&mut Work<'_>) -> Result<T, NotificationError>,
    ) -> Result<T, NotificationError> {
        let stripes = BTreeSet::from([self.0.locks.stripe(user)]);
        let mut work = Work::lock(&self.0, &stripes).await;
        let result = operation(&mut work).await?;
        work.commit().await?;
        Ok(result)
    }

    /// The same of an operation that only reads. If the store takes nothing now, a later operation stores
    /// the rest, such as the first contact of a user.
    async fn read_user<T>(
        &self,
        user: &UserId,
        operation: impl AsyncFnOnce(&mut Work<'_>) -> Result<T, NotificationError>,
    ) -> Result<T, NotificationError> {
        let (store, stripes) = (&self.0.store, BTreeSet::from([self.0.locks.stripe(user)]));
        let mut work = Work::lock(&self.0, &stripes).await;
        let result = operation(&mut work).await?;
        let stored = match store.failure() {
            Some(error) => Err(error.into()),
            None => work.commit().await,
        };
        match stored {
            Err(error) if store.has_ended() || !store.is_current() => Err(error),
            Ok(()) | Err(NotificationError::Unavailable(_)) => Ok(result),
            Err(error) => Err(error),
        }
    }
}

fn parse_id(field: &str, text: &str) -> Result<NotificationId, NotificationError> {
    NotificationId::parse(text).ok_or_else(|| {
        NotificationError::invalid(
            field,
            format!("{text:?} is not the id of a notification, expected one as the server sent it"),
        )
    })
}

fn parse_ids(ids: &[String]) -> Result<Vec<NotificationId>, NotificationError> {
    if ids.is_empty() || ids.len() > MAX_IDS {
        let problem = format!("{} ids, expected 1 to {MAX_IDS}", ids.len());
        return Err(NotificationError::invalid("ids", problem));
    }
    let ids = ids.iter().enumerate();
    let mut ids = ids
        .map(|(place, text)| parse_id(&format!("ids[{place}]"), text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut known = BTreeSet::new();
    ids.retain(|id| known.insert(*id));
    Ok(ids)
}
