//! Notification engine: inboxes, broadcasts, unread counts, schedules and preferences.
//!
//! [`NotificationHub`] is the public face. The path of a request:
//!
//! ```text
//! request ─▶ draft ─▶ locks ─▶ inbox ─▶ store ─▶ cache ─▶ events ─▶ reply
//!            checks             pure     durable           EventSink
//! ```
//!
//! - A request is acknowledged after its commit. One that fails changes nothing, unless the disk
//!   failed after the write: clients then learn of the change later (`unknown_commits`).
//! - Counts equal lists at any time, and reading a count reads no notification (`counts`).
//! - A broadcast is one record, however many users there are (`broadcast`).
//! - Memory does not grow with users who are away (`cache`).
//!
//! [`HubEvent`]s go to a receiver outside of this crate. It passes those of users to [`UserPushes`],
//! which gathers by priority (`gathering`) and publishes. Delivery outside of the server (webhook,
//! push, e-mail) and the fan-out of broadcasts are the receiver's.

mod admission;
mod broadcast;
mod cache;
mod channel_rows;
mod config;
mod counts;
mod draft;
mod error;
mod events;
mod gathering;
mod hub;
mod hub_core;
mod hub_time;
mod id;
mod idempotency;
mod inbox;
mod kind;
mod locks;
mod missed;
pub mod outgoing;
pub mod preferences;
mod pushes;
mod record;
mod schedule;
mod tables;
mod unknown_commits;
mod work;

pub use config::NotificationConfig;
pub use error::NotificationError;
pub use events::{EventSink, HubEvent};
pub use gathering::{Audience, GatheringLimits, NotificationGatherer, Push, PushContent, PushTime};
pub use hub::{
    ListQuery, NotificationHub, NotificationPage, NotifyOutcome, OutgoingItem, ScheduleRef,
    StepOutcome, Unreached,
};
pub use id::NotificationId;
pub use kind::Class;
pub use missed::NotificationSummary;
pub use outgoing::Outgoing;
pub use preferences::QuietHours;
pub use pushes::UserPushes;
pub use tables::{STORE_TABLES, USER_TABLES};
