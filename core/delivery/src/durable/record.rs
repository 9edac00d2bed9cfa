//! Stored forms of jobs, dead letters and contacts.

use tidewire_proto::v1::Notification;
use tidewire_store::StoreError;
use tidewire_stream::UserId;

use crate::{Content, Job, JobId, MessageId, OutgoingMessage, Target};

/// Version of the stored records.
const VERSION: u8 = 1;

/// A job without its target, which the key and the contacts have.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredJob {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) user: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) notifications: Vec<Notification>,
    #[prost(bool, tag = "4")]
    pub(super) is_digest: bool,
    #[prost(int64, tag = "5")]
    pub(super) created_ms: i64,
    #[prost(int64, optional, tag = "6")]
    pub(super) expires_ms: Option<i64>,
    #[prost(uint32, tag = "7")]
    pub(super) attempts: u32,
    #[prost(int64, tag = "8")]
    pub(super) not_before_ms: i64,
    /// Notifications that a digest does not have.
    #[prost(uint64, tag = "9")]
    pub(super) left_out: u64,
}

/// A dead letter.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredDeadLetter {
    #[prost(message, optional, tag = "1")]
    pub(super) job: Option<StoredJob>,
    /// Number of the channel.
    #[prost(uint32, tag = "2")]
    pub(super) channel: u32,
    #[prost(string, tag = "3")]
    pub(super) endpoint: String,
    #[prost(string, tag = "4")]
    pub(super) reason: String,
}

/// A push registration.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredRegistration {
    #[prost(string, tag = "1")]
    pub(super) user: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) subscription: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) endpoint_hash: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) created_ms: i64,
}

/// A mail address.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StoredEmail {
    #[prost(string, tag = "1")]
    pub(super) address: String,
    /// Set by earlier versions alone.
    #[prost(bool, tag = "2")]
    pub(super) is_unsubscribed: bool,
    /// Whether each link to unsubscribe that was mailed to the address names it. Earlier versions
    /// mailed links that name the user alone.
    #[prost(bool, tag = "3")]
    pub(super) has_own_links: bool,
}

/// Encodes a record.
pub(super) fn encode(record: &impl prost::Message) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend(record.encode_to_vec());
    out
}

/// Decodes a record.
pub(super) fn decode<T: prost::Message + Default>(
    what: &str,
    value: &[u8],
) -> Result<T, StoreError> {
    let read = value
        .split_first()
        .filter(|(version, _)| **version == VERSION)
        .and_then(|(_, rest)| T::decode(rest).ok());
    read.ok_or_else(|| StoreError::Failed(format!("the stored {what} cannot be read")))
}

impl StoredJob {
    pub(super) fn new(message: &OutgoingMessage, attempts: u32, not_before_ms: i64) -> Self {
        Self {
            id: message.id.as_str().to_owned(),
            user: message.user.as_str().to_owned(),
            notifications: message.content.notifications().to_vec(),
            is_digest: matches!(message.content, Content::Digest { .. }),
            created_ms: message.created_ms,
            expires_ms: message.expires_ms,
            attempts,
            not_before_ms,
            left_out: message.content.left_out() as u64,
        }
    }

    /// The job, for a target. None if its id cannot be read.
    pub(super) fn job(self, target: Target) -> Option<Job> {
        let id = MessageId::new(&self.id).ok()?;
        let mut notifications = self.notifications;
        let content = match self.is_digest {
            true => Content::Digest {
                notifications,
                left_out: usize::try_from(self.left_out).ok()?,
            },
            false => Content::Notification(Box::new(notifications.pop()?)),
        };
        Some(Job {
            id: JobId::new(id.as_str()),
            target,
            message: OutgoingMessage {
                id,
                user: UserId::new(&self.user),
                content,
                created_ms: self.created_ms,
                expires_ms: self.expires_ms,
            },
            attempts: self.attempts,
            not_before_ms: self.not_before_ms,
        })
    }
}
