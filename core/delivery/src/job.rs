//! Job: one message to one endpoint, and the store that keeps it until it is finished.
//!
//! # Durable queue
//! [`JobStore`] is the boundary to the durable part. A job is stored before it is offered, and
//! removed in [`JobStore::finished`], after the receiver's answer. A server that is killed in
//! between sends the message again with the same id: at least once.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use tidewire_proto::v1::Priority;

use crate::{
    Channel, OutgoingMessage, email::EmailAddress, ledger::Owner, web_push::PushSubscription,
};

/// Id of a job in the store, unique and never used again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Arc<str>);

impl JobId {
    /// An id.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The place that a message is sent to.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A webhook of the configuration, by its name.
    Webhook(Arc<str>),
    /// A browser.
    Push {
        /// Id of the registration. Each has its own, also of the same browser by another user,
        /// so that an old one's end does not remove the new one.
        registration: Arc<str>,
        /// The subscription.
        subscription: PushSubscription,
    },
    /// A mail address.
    Email(EmailAddress),
}

impl Target {
    /// The endpoint whose queue the job is in.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        let (channel, name) = match self {
            Self::Webhook(name) => (Channel::Webhook, name.clone()),
            Self::Push { registration, .. } => (Channel::Push, registration.clone()),
            // All mails go to one SMTP server.
            Self::Email(_) => (Channel::Email, "smtp".into()),
        };
        EndpointId { channel, name }
    }
}

/// An endpoint: a webhook, a push registration, or the SMTP server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// Its channel.
    pub channel: Channel,
    /// The webhook's name, the registration's id, or `smtp`.
    pub name: Arc<str>,
}

impl std::fmt::Display for EndpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.channel.name(), self.name)
    }
}

/// A message to one endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id in the store.
    pub id: JobId,
    /// Where to.
    pub target: Target,
    /// The message.
    pub message: OutgoingMessage,
    /// Attempts that failed so far.
    pub attempts: u32,
    /// The earliest time of the next attempt, in milliseconds since the Unix epoch.
    pub not_before_ms: i64,
}

impl Job {
    /// A job without an attempt so far, to be sent at once.
    #[must_use]
    pub fn new(id: JobId, target: Target, message: OutgoingMessage) -> Self {
        Self {
            id,
            target,
            message,
            attempts: 0,
            not_before_ms: 0,
        }
    }

    /// Whether its message is urgent.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.message.content.priority() == Priority::Urgent
    }

    /// Whether it goes before others: it is urgent, and has not failed yet. One that always fails
    /// takes its turn with the others.
    pub(crate) fn goes_first(&self) -> bool {
        self.is_urgent() && self.attempts == 0
    }

    /// Its owner.
    pub(crate) fn owner(&self) -> Owner {
        match &self.target {
            Target::Webhook(name) => Owner::Webhook(name.clone()),
            Target::Push { .. } | Target::Email(_) => Owner::User(self.message.user.clone()),
        }
    }
}

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEnd {
    /// The receiver accepted the message.
    Delivered,
    /// The message becomes a dead letter.
    Dead {
        /// Attempts that were made.
        attempts: u32,
        /// The cause, without secrets.
        reason: String,
    },
    /// The endpoint does not exist any more. Remove it with all its jobs. A webhook stays in the
    /// configuration: its message becomes a dead letter.
    Gone {
        /// Attempts that were made.
        attempts: u32,
        /// The cause, without secrets.
        reason: String,
    },
    /// The message expired before it was sent.
    Expired,
    /// The store did not want it any more: it was read, or its endpoint was removed.
    Unwanted,
    /// Quiet hours of its user hold it back. It is offered again when they end.
    Held {
        /// Their end, in milliseconds since the Unix epoch.
        until_ms: i64,
    },
}

/// A failed attempt, and the time of the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferral {
    /// Attempts that failed so far.
    pub attempts: u32,
    /// The earliest time of the next attempt, in milliseconds since the Unix epoch.
    pub not_before_ms: i64,
    /// The cause, without secrets.
    pub reason: String,
}

/// The state of an endpoint, for health and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointState {
    /// It accepts messages.
    Working,
    /// Its newest attempt failed.
    Failing {
        /// The cause.
        reason: String,
    },
    /// It refuses this server, and is paused.
    Paused {
        /// The cause.
        reason: String,
    },
    /// Its channel's configuration is wrong.
    Misconfigured {
        /// The cause.
        reason: String,
    },
}

/// Whether a job is still to be sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Send it.
    Send,
    /// Send it to this target of the same endpoint: the user's address or keys have changed.
    SendTo(Box<Target>),
    /// Drop it: the user has read or hidden the notification, or removed the endpoint.
    Drop,
    /// Hold it back: the user's quiet hours have begun.
    Hold {
        /// Their end, in milliseconds since the Unix epoch.
        until_ms: i64,
    },
}

/// The durable part of the queue.
///
/// An implementation answers when its change is stored, and retries by itself. A failure that it
/// cannot mend it logs: the job is then sent again after a restart, with the same id.
pub trait JobStore: Send + Sync + 'static {
    /// Decides before each attempt whether the job is still to be sent.
    fn verdict<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Verdict>;

    /// Keeps the time of the next attempt, so that a restart does not send at once.
    fn deferred<'a>(&'a self, job: &'a Job, deferral: &'a Deferral) -> BoxFuture<'a, ()>;

    /// Removes the job, or moves it to the dead letters. Called once for each job.
    fn finished<'a>(&'a self, job: &'a Job, end: &'a JobEnd) -> BoxFuture<'a, ()>;

    /// An endpoint's state changed. Must not block.
    fn endpoint_changed(&self, endpoint: &EndpointId, state: &EndpointState) {
        let _ = (endpoint, state);
    }

    /// An endpoint that refused a job for lack of room has room again: offer the stored ones of
    /// its channel. Must not block.
    fn has_room(&self, endpoint: &EndpointId) {
        let _ = endpoint;
    }

    /// Jobs have left memory, and stay in the store: offer them again, within seconds of the
    /// time of their next attempt. Must not block.
    fn left_in_store(&self) {}
}

/// The order of a working endpoint's jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOrder {
    /// As they were offered.
    Offered,
    /// Urgent ones first, then one of each user in turn.
    ByUser,
}

/// Bounds and pauses of an endpoint's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Jobs in memory.
    pub jobs: usize,
    /// Their order.
    pub order: JobOrder,
    /// Attempts at the same time.
    pub concurrency: usize,
    /// Time between the beginnings of two attempts.
    pub interval: Duration,
    /// Longest pause after the first failure.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// Attempts after which a job is dead.
    pub attempts: u32,
    /// Age of the message at which its job is dead.
    pub max_age: Duration,
}
