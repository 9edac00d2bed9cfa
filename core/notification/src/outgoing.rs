//! Outgoing notifications: those that still have to go to delivery channels outside of the
//! application (webhook, Web Push, e-mail).
//!
//! A row is stored in the transaction that delivers the notification to the inbox, so none is
//! lost in a crash. The planner of the delivery channels reads the rows that are due, and stores
//! what it makes of each in one transaction with the removal or the change of the row.
//!
//! Rows of a user that are due at one time are next to each other: a digest takes them together.
//! An index finds the rows of a user that wait for a time.
//!
//! # Reviews
//! New preferences change what waits. Their transaction stores a review: a row without a
//! notification, on which the planner judges all that waits of its user anew.

use prost::Message;
use tidewire_store::{Batch, Key, Table, Value};
use tidewire_stream::UserId;

use crate::{Class, NotificationId, id::Order, tables};

/// Version of rows that have the progress alone.
const PROGRESS_ONLY: u8 = 1;

/// Version of the stored rows.
const VERSION: u8 = 2;

/// A notification that is on its way to delivery channels, or a review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// When the planner looks at it, in milliseconds since the Unix epoch.
    pub due_ms: i64,
    /// The recipient. None for a broadcast.
    pub user: Option<UserId>,
    /// The notification.
    pub id: NotificationId,
    /// The delivery channels that are done, a bit for each. The planner chooses the bits.
    pub done: u8,
    /// Since when the planner has found the user connected, in milliseconds since the Unix epoch.
    pub connected_ms: Option<i64>,
    /// Class of the notification. None in rows of earlier versions, and in reviews.
    pub class: Option<Class>,
    /// When the notification expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<i64>,
    /// Encoded text of a broadcast, which leaves the store with its recall. Empty for users.
    pub text: Vec<u8>,
    /// When the notification was sent, by the clock of that moment. The time of its id may be ahead
    /// of that. None in rows of earlier versions.
    pub sent_ms: Option<i64>,
    /// When the row got its due time, by the clock of that moment. If the clock is set back to
    /// before it, the due time means nothing. None in rows of earlier versions.
    pub written_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredOutgoing {
    #[prost(uint32, tag = "1")]
    done: u32,
    #[prost(int64, optional, tag = "2")]
    connected_ms: Option<i64>,
    #[prost(uint32, optional, tag = "3")]
    class: Option<u32>,
    #[prost(int64, optional, tag = "4")]
    expires_at_ms: Option<i64>,
    #[prost(bytes = "vec", tag = "5")]
    text: Vec<u8>,
    #[prost(int64, optional, tag = "6")]
    sent_ms: Option<i64>,
    #[prost(int64, optional, tag = "7")]
    written_ms: Option<i64>,
}

impl Outgoing {
    /// The row of a notification that is sent now, and due at once.
    #[must_use]
    pub fn new(now_ms: i64, user: Option<UserId>, id: NotificationId, done: u8) -> Self {
        Self {
            due_ms: now_ms,
            user,
            id,
            done,
            connected_ms: None,
            class: None,
            expires_at_ms: None,
            text: Vec::new(),
            sent_ms: Some(now_ms),
            written_ms: Some(now_ms),
        }
    }

    /// A review of all that waits of a user, stored at `now_ms`.
    #[must_use]
    pub fn review(due_ms: i64, user: UserId, now_ms: i64) -> Self {
        let id = NotificationId {
            order: REVIEW,
            realm: 0,
        };
        Self {
            due_ms,
            ..Self::new(now_ms, Some(user), id, 0)
        }
    }

    /// Whether it is a review, and has no notification.
    #[must_use]
    pub fn is_review(&self) -> bool {
        self.id.order == REVIEW
    }

    fn key(&self) -> Key {
        key(self.due_ms, self.user.as_ref(), self.id.order)
    }

    fn value(&self) -> Value {
        let stored = StoredOutgoing {
            done: self.done.into(),
            connected_ms: self.connected_ms,
            class: self.class.map(|class| class.0.into()),
            expires_at_ms: self.expires_at_ms,
            text: self.text.clone(),
            sent_ms: self.sent_ms,
            written_ms: self.written_ms,
        };
        let mut value = vec![VERSION];
        value.extend(stored.encode_to_vec());
        value
    }

    /// Stages the row, which is due now.
    pub fn put(&self, batch: &mut Batch) {
        batch.put(tables::OUTGOING, self.key(), self.value());
    }

    /// Stages the row, which waits for its time. A review finds it.
    pub fn put_waiting(&self, batch: &mut Batch) {
        self.put(batch);
        if let Some(user) = &self.user {
            let key = tables::outgoing_of(user, self.id.order);
            batch.put(tables::OUTGOING_OF, key, self.due_ms.to_be_bytes());
        }
    }

    /// Stages the removal of the row.
    pub fn remove(&self, batch: &mut Batch) {
        batch.delete(tables::OUTGOING, self.key());
        if let Some(user) = self.user.as_ref().filter(|_| !self.is_review()) {
            batch.delete(
                tables::OUTGOING_OF,
                tables::outgoing_of(user, self.id.order),
            );
        }
    }

    /// The row of an entry in [`TABLE`]. None if it cannot be read.
    pub(crate) fn decode(realm: u64, key: &[u8], value: &[u8]) -> Option<Self> {
        let (due_ms, rest) = key.split_first_chunk()?;
        let (rest, order) = rest.split_last_chunk()?;
        let user = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
        let stored = match value {
            [PROGRESS_ONLY, done] => StoredOutgoing {
                done: (*done).into(),
                ..StoredOutgoing::default()
            },
            [VERSION, rest @ ..] => StoredOutgoing::decode(rest).ok()?,
            _ => return None,
        };
        let class = stored.class.map(u16::try_from).transpose().ok()?;
        Some(Self {
            due_ms: i64::from_be_bytes(*due_ms),
            user: (!user.is_empty()).then(|| UserId::new(user)),
            id: NotificationId {
                order: Order(u64::from_be_bytes(*order)),
                realm,
            },
            done: stored.done.try_into().ok()?,
            connected_ms: stored.connected_ms,
            class: class.map(Class),
            expires_at_ms: stored.expires_at_ms,
            text: stored.text,
            sent_ms: stored.sent_ms,
            written_ms: stored.written_ms,
        })
    }
}

/// The table of the rows.
pub const TABLE: Table = tables::OUTGOING;

/// Place of a review. No notification has it.
const REVIEW: Order = Order(0);

/// First bytes of the keys of a user's rows that are due at a time.
pub(crate) fn prefix(due_ms: i64, user: Option<&UserId>) -> Key {
    let mut key = due_ms.max(0).to_be_bytes().to_vec();
    key.extend(user.map_or("", UserId::as_str).as_bytes());
    // Ids of users have no zero byte.
    key.push(0);
    key
}

pub(crate) fn key(due_ms: i64, user: Option<&UserId>, order: Order) -> Key {
    let mut key = prefix(due_ms, user);
    key.extend(order.0.to_be_bytes());
    key
}
