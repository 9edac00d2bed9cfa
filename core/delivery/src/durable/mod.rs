//! Durable part of the delivery channels: contacts of users, stored jobs, dead letters, and the
//! planner that makes jobs from outgoing notifications.
//!
//! ```text
//! hub ─▶ outgoing row ─▶ Planner ─▶ stored job ─▶ Dispatcher ─▶ receiver
//!        one transaction  preferences, one transaction     │
//!        with the inbox   quiet hours  with the row        ▼
//!                                                   job removed, or dead letter
//! ```
//!
//! Each arrow to the store is one transaction, so a crash at any moment loses nothing, and sends
//! a message again at most with the same id.

mod clock_steps;
mod contacts;
mod dead_letters;
mod jobs;
mod planner;
mod record;
mod rules;
mod tables;

pub use contacts::{Contacts, EmailContact, MAX_REGISTRATIONS, MAX_UNSUBSCRIBED};
pub use dead_letters::{DeadLetter, DeadLetters, MAX_DEAD_LETTERS};
pub use jobs::{DurableJobs, RetryOutcome};
pub use planner::{PlanOutcome, Planner, Presence};
pub use tables::{STORE_TABLES, USER_TABLES};
