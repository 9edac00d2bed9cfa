//! Scheduled notifications: stored now, delivered at their `not_before`.
//!
//! - A scheduled notification has an id of its own. On delivery it gets a new one, so that it
//!   comes after all that arrived meanwhile, and carries the first as `scheduled_id`.
//! - Its delivery is one transaction with the removal from the schedule: it is delivered once,
//!   also when the server was down at its time. Overdue ones are delivered at the start.
//! - At its time expiry and preferences are judged anew. One that expired meanwhile is dropped.
//! - It can be cancelled by its sender, by id or by idempotency key. The key stays known like
//!   that of a delivered one, so a repeated request does not schedule it again.
//! - A request of the same sender with the same recipients, the same collapse key and a
//!   `not_before` replaces it. One without `not_before` is delivered beside it, and is collapsed
//!   by it later.

use prost::Message as _;
use tidewire_stream::{ChannelName, UserId};

use crate::{
    NotificationError,
    draft::{Draft, Expiry, Message, Target},
    id::Order,
    idempotency::{self, KeyHash, KeyRecord},
    kind::Class,
};

/// Version of the stored record.
const VERSION: u8 = 1;

/// A notification that waits for its time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) order: Order,
    pub(crate) sender: UserId,
    pub(crate) due_ms: i64,
    pub(crate) message: Message,
    /// The idempotency key, and the hash of the request.
    pub(crate) key: Option<(KeyHash, u64)>,
    /// Hash under which a later request finds it to replace it.
    pub(crate) slot: Option<KeyHash>,
}

impl Schedule {
    pub(crate) fn new(order: Order, sender: &UserId, due_ms: i64, draft: &Draft) -> Self {
        Self {
            order,
            sender: sender.clone(),
            due_ms,
            message: draft.message.clone(),
            key: draft.key.as_ref().map(|key| (key.hash, key.request)),
            slot: slot(sender, draft),
        }
    }

    /// The stored result of the request, for its idempotency key.
    pub(crate) fn key_record(&self) -> Option<(KeyHash, KeyRecord)> {
        let (hash, request) = self.key?;
        let recipients = self.message.target.inboxes();
        Some((
            hash,
            KeyRecord {
                order: self.order,
                request,
                recipients,
            },
        ))
    }
}

/// The hash under which requests replace each other while they wait: of the sender, the
/// recipients and the collapse key. None without a collapse key.
pub(crate) fn slot(sender: &UserId, draft: &Draft) -> Option<KeyHash> {
    draft.not_before_ms?;
    let collapse = draft.message.collapse?;
    let mut text = collapse.to_string();
    match &draft.message.target {
        Target::Users(users) => {
            let mut users: Vec<_> = users.iter().map(UserId::as_str).collect();
            users.sort_unstable();
            // Ids of users have no spaces.
            text.push_str(" u ");
            text.push_str(&users.join(" "));
        }
        Target::Channel(channel) => {
            text.push_str(" c ");
            text.push_str(channel.as_str());
        }
        Target::Everyone => text.push_str(" e"),
    }
    Some(idempotency::key_hash(sender, &text))
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredSchedule {
    #[prost(string, tag = "1")]
    sender: String,
    #[prost(int64, tag = "2")]
    due_ms: i64,
    #[prost(uint32, tag = "3")]
    class: u32,
    #[prost(int64, optional, tag = "4")]
    expires_at_ms: Option<i64>,
    #[prost(int64, optional, tag = "5")]
    ttl_ms: Option<i64>,
    #[prost(fixed64, optional, tag = "6")]
    collapse: Option<u64>,
    #[prost(bytes = "vec", tag = "7")]
    text: Vec<u8>,
    #[prost(string, repeated, tag = "8")]
    users: Vec<String>,
    #[prost(string, optional, tag = "9")]
    channel: Option<String>,
    #[prost(bytes = "vec", optional, tag = "10")]
    key: Option<Vec<u8>>,
    #[prost(fixed64, tag = "11")]
    request: u64,
    #[prost(bytes = "vec", optional, tag = "12")]
    slot: Option<Vec<u8>>,
}

pub(crate) fn encode(schedule: &Schedule) -> Vec<u8> {
    let message = &schedule.message;
    let (users, channel) = match &message.target {
        Target::Users(users) => (
            users.iter().map(|user| user.as_str().to_owned()).collect(),
            None,
        ),
        Target::Channel(channel) => (Vec::new(), Some(channel.as_str().to_owned())),
        Target::Everyone => (Vec::new(), None),
    };
    let stored = StoredSchedule {
        sender: schedule.sender.as_str().to_owned(),
        due_ms: schedule.due_ms,
        class: message.class.0.into(),
        expires_at_ms: match message.expiry {
            Expiry::At(at_ms) => Some(at_ms),
            Expiry::Never | Expiry::After(_) => None,
        },
        ttl_ms: match message.expiry {
            Expiry::After(ttl_ms) => Some(ttl_ms),
            Expiry::Never | Expiry::At(_) => None,
        },
        collapse: message.collapse,
        text: message.text.clone(),
        users,
        channel,
        key: schedule.key.map(|(hash, _)| hash.to_vec()),
        request: schedule.key.map_or(0, |(_, request)| request),
        slot: schedule.slot.map(|slot| slot.to_vec()),
    };
    let mut out = vec![VERSION];
    out.extend(stored.encode_to_vec());
    out
}

pub(crate) fn decode(order: Order, record: &[u8]) -> Result<Schedule, NotificationError> {
    let read = || {
        let (version, rest) = record.split_first()?;
        let stored = StoredSchedule::decode(rest)
            .ok()
            .filter(|_| *version == VERSION)?;
        let target = match stored.channel {
            Some(channel) => Target::Channel(ChannelName::parse(&channel).ok()?),
            None if stored.users.is_empty() => Target::Everyone,
            None => Target::Users(stored.users.iter().map(|user| UserId::new(user)).collect()),
        };
        let expiry = match (stored.expires_at_ms, stored.ttl_ms) {
            (Some(at_ms), _) => Expiry::At(at_ms),
            (None, Some(ttl_ms)) => Expiry::After(ttl_ms),
            (None, None) => Expiry::Never,
        };
        let hash = |bytes: Option<Vec<u8>>| match bytes {
            Some(bytes) => bytes.try_into().ok().map(Some),
            None => Some(None),
        };
        let key: Option<KeyHash> = hash(stored.key)?;
        Some(Schedule {
            order,
            sender: UserId::new(&stored.sender),
            due_ms: stored.due_ms,
            message: Message {
                target,
                class: Class(stored.class.try_into().ok()?),
                expiry,
                collapse: stored.collapse,
                text: stored.text,
                shared: None,
            },
            key: key.map(|key| (key, stored.request)),
            slot: hash(stored.slot)?,
        })
    };
    read().ok_or(NotificationError::Damaged("scheduled notification"))
}
