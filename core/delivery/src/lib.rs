//! Delivery outside of the application: webhooks, Web Push and e-mail.
//!
//! ```text
//! store ─▶ Job ─▶ Dispatcher ─▶ EndpointQueue ─▶ Senders ─▶ guard ─▶ receiver
//!   ▲              one task an endpoint, pure       webhook, push, e-mail   │
//!   └────────────── JobStore::finished ◀──────────── Outcome ◀──────────────┘
//! ```
//!
//! - [`Senders`] writes a message for each channel, makes one attempt, and tells by the answer
//!   what is next: an [`Outcome`].
//! - [`Dispatcher`] decides when: one queue for each endpoint, pauses, limits of attempts and age.
//! - [`JobStore`] is the boundary to the durable queue: a job is removed after its answer, so a
//!   message is sent at least once, with the same id in every attempt.
//! - [`guard`] keeps requests away from private networks.
//!
//! The decision which notification goes to which channel and when (preferences, quiet hours,
//! digests) is the caller's.

pub mod config;
mod dispatcher;
pub mod durable;
pub mod email;
mod error;
pub mod guard;
mod http_client;
mod job;
mod ledger;
mod message;
mod metrics;
mod permits;
mod queue;
mod retry_after;
mod secret;
mod sender;
mod text;
mod tls;
pub mod web_push;
pub mod webhook;

pub use config::DeliveryConfig;
pub use dispatcher::{Dispatcher, DispatcherLimits};
pub use error::DeliveryError;
pub use http_client::{Lookup, SystemLookup};
pub use job::{
    Deferral, EndpointId, EndpointState, Job, JobEnd, JobId, JobOrder, JobStore, QueueLimits,
    Target, Verdict,
};
pub use message::{Channel, Content, MAX_DIGEST, MessageId, Outcome, OutgoingMessage};
pub use metrics::{Count, DeliveryMetrics};
pub use queue::Offer;
pub use secret::Secret;
pub use sender::{Sender, Senders};
