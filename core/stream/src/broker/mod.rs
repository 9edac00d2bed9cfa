//! The broker: gives every publication its place and keeps histories.
//!
//! A broker hands what is published to the local [`Hub`](crate::hub::Hub) in the
//! order of each channel. Following a channel is the hub's business, resuming
//! one the session's.
//!
//! # Recovery, by example
//! A channel holds publications 3, 4 and 5 of epoch `e` (1 and 2 are too old).
//! [`Broker::history`] since `(e, 3)` gives 4 and 5 and is complete. Since
//! `(e, 2)` it gives 3, 4, 5: complete, as nothing after 2 is missing. Since
//! `(e, 1)` it is not complete: 2 is gone. Since `(f, 4)` it is not complete: the
//! epoch is another. Since `(e, 9)` it is not complete: nobody can have seen 9.

mod idempotency;
pub mod memory;

use std::{future::Future, pin::Pin, sync::Arc};

pub use memory::MemoryBroker;

use crate::{ChannelName, Epoch, Event, Position, Publication, StoredPublication, StreamError};

/// A future that a broker returns.
pub type BrokerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StreamError>> + Send + 'a>>;

/// A part of what is kept between two runs of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Names it: no other has the same.
    pub key: Vec<u8>,
    /// What it holds, which only a broker understands.
    pub value: Vec<u8>,
}

impl SnapshotEntry {
    /// Whether it is a channel.
    #[must_use]
    pub fn is_channel(&self) -> bool {
        std::str::from_utf8(&self.key).is_ok_and(|name| ChannelName::parse(name).is_ok())
    }
}

/// What is read of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// At most so many publications.
    pub items: usize,
    /// Stop after so many bytes; at least one publication is read.
    pub bytes: usize,
}

impl Page {
    /// Everything there is.
    pub const ALL: Self = Self {
        items: usize::MAX,
        bytes: usize::MAX,
    };
}

/// A part of a channel's history.
#[derive(Debug, Clone)]
pub struct History {
    /// The channel's newest position.
    pub top: Position,
    /// The oldest that were asked for, in order.
    pub publications: Vec<Arc<Publication>>,
    /// Whether the history reaches back to the position that was asked for.
    pub reach: Reach,
}

/// Whether a history reaches back far enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing between the position and the first publication is missing.
    Complete,
    /// Something is missing, or the epoch is another.
    Lost,
}

/// Gives publications their place and keeps histories.
pub trait Broker: Send + Sync + 'static {
    /// Publishes for an engine: at once if that is possible, else in order and as
    /// soon as it is.
    fn offer(&self, channel: &ChannelName, event: Event);

    /// Publishes, and tells the place.
    ///
    /// With an idempotency key that was used before, the place of that time.
    fn publish<'a>(
        &'a self,
        channel: &'a ChannelName,
        event: Event,
        idempotency_key: Option<&'a str>,
    ) -> BrokerFuture<'a, Position>;

    /// Reads what came after `since`, oldest first; without `since`, the newest.
    fn history<'a>(
        &'a self,
        channel: &'a ChannelName,
        since: Option<&'a Position>,
        page: Page,
    ) -> BrokerFuture<'a, History>;

    /// Sets a channel that nothing was published on to what was kept of it.
    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        kept: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()>;

    /// Begins a channel anew, under another epoch.
    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()>;

    /// Forgets a channel: no position of it is good any more.
    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()>;

    /// What a graceful stop has to keep, entry by entry, so that clients can go on after
    /// the next start. Where histories outlive the process, there is nothing.
    fn save(&self) -> Box<dyn Iterator<Item = SnapshotEntry> + '_>;

    /// Takes an entry of [`save`](Self::save) back. A channel that something was published
    /// on since stays as it is.
    ///
    /// # Errors
    /// The entry cannot be read.
    fn load(&self, saved: &SnapshotEntry) -> Result<(), StreamError>;

    /// Forgets what is too old. Called every now and then.
    fn sweep(&self);
}
