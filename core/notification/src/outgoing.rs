//! Outgoing notifications: those that still have to go to delivery channels outside of the
//! application (webhook, Web Push, e-mail).
//!
//! A row is stored in the transaction that delivers the notification to the inbox, so none is
//! lost in a crash. The planner of the delivery channels reads the rows that are due, and stores
//! what it makes of each in one transaction with the removal or the change of the row.
//!
//! Rows of a user that are due at one time are next to each other: a digest takes them together.

use tidewire_store::{Batch, Key, Table, Value};
use tidewire_stream::UserId;

use crate::{NotificationId, id::Order, tables};

/// Version of the stored progress.
const VERSION: u8 = 1;

/// A notification that is on its way to delivery channels.
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
}

impl Outgoing {
    fn key(&self) -> Key {
        key(self.due_ms, self.user.as_ref(), self.id.order)
    }

    /// Stages the row, which is a new one or has other progress.
    pub fn put(&self, batch: &mut Batch) {
        batch.put(tables::OUTGOING, self.key(), vec![VERSION, self.done]);
    }

    /// Stages the removal of the row.
    pub fn remove(&self, batch: &mut Batch) {
        batch.delete(tables::OUTGOING, self.key());
    }

    /// The row of an entry in [`TABLE`]. None if it cannot be read.
    pub(crate) fn decode(realm: u64, key: &[u8], value: &[u8]) -> Option<Self> {
        let (due_ms, rest) = key.split_first_chunk()?;
        let (rest, order) = rest.split_last_chunk()?;
        let user = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
        let [VERSION, done] = value else { return None };
        Some(Self {
            due_ms: i64::from_be_bytes(*due_ms),
            user: (!user.is_empty()).then(|| UserId::new(user)),
            id: NotificationId {
                order: Order(u64::from_be_bytes(*order)),
                realm,
            },
            done: *done,
        })
    }
}

/// The table of the rows.
pub const TABLE: Table = tables::OUTGOING;

/// Ids of users have no zero byte.
fn key(due_ms: i64, user: Option<&UserId>, order: Order) -> Key {
    let mut key = due_ms.max(0).to_be_bytes().to_vec();
    key.extend(user.map_or("", UserId::as_str).as_bytes());
    key.push(0);
    key.extend(order.0.to_be_bytes());
    key
}

/// Stages the row of a new notification.
pub(crate) fn add(batch: &mut Batch, now_ms: i64, user: Option<&UserId>, order: Order) {
    let value: Value = vec![VERSION, 0];
    batch.put(tables::OUTGOING, key(now_ms, user, order), value);
}
