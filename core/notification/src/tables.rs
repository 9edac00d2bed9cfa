//! Tables of the store, and their keys.

use tidewire_store::Table;
use tidewire_stream::UserId;

use crate::id::Order;

/// Stripe → newest place that was given out under it. The realm and the types are here too.
pub(crate) const META: Table = Table("notification.meta");
/// User → state.
pub(crate) const STATES: Table = Table("notification.states");
/// User, inverted place → block of older entries. A scan returns the newest first.
pub(crate) const BLOCKS: Table = Table("notification.blocks");
/// Place of the first → texts of several notifications.
pub(crate) const BODIES: Table = Table("notification.bodies");
/// Place, user → nothing: the user's inbox no longer lists the notification.
pub(crate) const GARBAGE: Table = Table("notification.garbage");
/// Place → broadcast.
pub(crate) const BROADCASTS: Table = Table("notification.broadcasts");
/// Place → scheduled notification.
pub(crate) const SCHEDULES: Table = Table("notification.schedules");
/// Sender, recipients, collapse key → place of the scheduled notification.
pub(crate) const SLOTS: Table = Table("notification.slots");
/// Time, kind, subject → nothing: the work that is due at a time.
pub(crate) const DUE: Table = Table("notification.due");
/// Period, sender and key → result.
pub(crate) const KEYS: Table = Table("notification.keys");
/// User → preferences.
pub(crate) const PREFERENCES: Table = Table("notification.preferences");

/// Time, user, place → progress: a notification that goes to delivery channels.
pub(crate) const OUTGOING: Table = Table("notification.outgoing");
/// User, place → time of the row in [`OUTGOING`] that waits for it.
pub(crate) const OUTGOING_OF: Table = Table("notification.outgoing_of");

/// Place → notification to a channel that may not be published yet.
pub(crate) const CHANNEL_ROWS: Table = Table("notification.channel_rows");

/// All tables, in any order.
pub const STORE_TABLES: [Table; 14] = [
    META,
    STATES,
    BLOCKS,
    BODIES,
    GARBAGE,
    BROADCASTS,
    SCHEDULES,
    SLOTS,
    DUE,
    KEYS,
    PREFERENCES,
    OUTGOING,
    OUTGOING_OF,
    CHANNEL_ROWS,
];

/// The tables with what belongs to users, each with its content in words.
pub const USER_TABLES: [(&str, Table); 4] = [
    ("inboxes", STATES),
    ("preferences", PREFERENCES),
    ("schedules", SCHEDULES),
    ("broadcasts", BROADCASTS),
];

/// Key of the realm in [`META`].
pub(crate) const REALM: &[u8] = b"r";
/// First byte of the keys of types in [`META`]. The number follows.
pub(crate) const KIND: u8 = b'k';
/// First byte of the keys of newest places in [`META`]. The stripe follows.
pub(crate) const NEWEST: u8 = b'n';

/// First bytes of the keys of a user's blocks. Ids of users have no zero byte.
pub(crate) fn blocks_of(user: &UserId) -> Vec<u8> {
    let mut key = user.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

pub(crate) fn block(user: &UserId, order: Order) -> Vec<u8> {
    let mut key = blocks_of(user);
    key.extend(inverted(order).to_be_bytes());
    key
}

/// The place in the key of a block.
pub(crate) fn block_order(key: &[u8]) -> Option<Order> {
    key.last_chunk()
        .map(|bytes| Order(inverted(Order(u64::from_be_bytes(*bytes)))))
}

fn inverted(order: Order) -> u64 {
    !order.0
}

pub(crate) fn order(key: &[u8]) -> Option<Order> {
    key.first_chunk()
        .map(|bytes| Order(u64::from_be_bytes(*bytes)))
}

pub(crate) fn garbage(order: Order, user: &UserId) -> Vec<u8> {
    let mut key = order.0.to_be_bytes().to_vec();
    key.extend(user.as_str().as_bytes());
    key
}

/// First bytes of the keys of a user's waiting rows. Ids of users have no zero byte.
pub(crate) fn all_outgoing_of(user: &UserId) -> Vec<u8> {
    let mut key = user.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

pub(crate) fn outgoing_of(user: &UserId, order: Order) -> Vec<u8> {
    let mut key = all_outgoing_of(user);
    key.extend(order.0.to_be_bytes());
    key
}

/// Work that is due at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DueWork {
    /// Notifications of a user expire.
    Expiry(UserId),
    /// A scheduled notification is delivered.
    Delivery(Order),
}

const EXPIRY: u8 = 1;
const DELIVERY: u8 = 2;

pub(crate) fn due(due_ms: i64, work: &DueWork) -> Vec<u8> {
    let mut key = due_ms.max(0).to_be_bytes().to_vec();
    match work {
        DueWork::Expiry(user) => {
            key.push(EXPIRY);
            key.extend(user.as_str().as_bytes());
        }
        DueWork::Delivery(order) => {
            key.push(DELIVERY);
            key.extend(order.0.to_be_bytes());
        }
    }
    key
}

/// The time and the work of a key.
pub(crate) fn parse_due(key: &[u8]) -> Option<(i64, DueWork)> {
    let (due_ms, rest) = key.split_first_chunk()?;
    let (kind, subject) = rest.split_first()?;
    let work = match *kind {
        EXPIRY => DueWork::Expiry(UserId::new(std::str::from_utf8(subject).ok()?)),
        DELIVERY => DueWork::Delivery(order(subject)?),
        _ => return None,
    };
    Some((i64::from_be_bytes(*due_ms), work))
}
