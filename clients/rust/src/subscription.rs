//! Subscription: the stream of one channel's events.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, future::poll_fn};
use tidewire_proto::v1::Position;

use crate::{client::Lease, error::Error, queue::Queue};

/// An event of a channel.
#[derive(Debug, Clone)]
pub enum Event<T> {
    /// A publication.
    Message(Message<T>),
    /// Publications were missed and do not come: read the state again. The stream goes on.
    Gap(Gap),
    /// The server refused the channel for the moment. The client tries again by itself.
    Retry(Error),
}

impl<T> Event<T> {
    /// Returns the payload of a publication.
    #[must_use]
    pub fn into_data(self) -> Option<T> {
        match self {
            Self::Message(message) => Some(message.data),
            Self::Gap(_) | Self::Retry(_) => None,
        }
    }
}

/// A publication of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<T> {
    /// The payload.
    pub data: T,
    /// Its position. Absent on what has no `seq`, such as prices in a batch.
    pub position: Option<Position>,
    /// Publication time, in milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    /// Whether it was published before this connection subscribed, and comes because it was
    /// missed. Sounds and pop-ups leave these out.
    pub is_replay: bool,
}

/// Missed publications that cannot be recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The channel, in its canonical form.
    pub channel: String,
    /// The stream goes on after this position.
    pub position: Option<Position>,
    /// Why they were missed.
    pub reason: GapReason,
}

/// Why publications were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The server does not have them any more, or began a new epoch.
    Server,
    /// This subscription's queue was full, and dropped its oldest.
    SlowConsumer {
        /// Number of dropped publications.
        missed: u64,
    },
}

/// Options of a subscription.
#[derive(Debug, Clone, Default)]
pub struct SubscribeOptions {
    pub(crate) since: Option<Position>,
    pub(crate) min_interval: Option<Duration>,
}

impl SubscribeOptions {
    /// Replays every publication after this position, for a history channel. The channel must
    /// have no other subscription of this client.
    #[must_use]
    pub fn since(mut self, position: Position) -> Self {
        self.since = Some(position);
        self
    }

    /// Sets the shortest time between two values of a latest channel. The options of a channel's
    /// first subscription apply until its last one is dropped.
    #[must_use]
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = Some(interval);
        self
    }
}

/// The events of one channel, over all connections of its client.
///
/// As a [`Stream`] it yields `Result<Event<T>, Error>`. An error is the last item: the server
/// refused the channel for good, or the client cannot connect ever. Without an error the stream
/// ends when the client is closed. Dropping a channel's last subscription unsubscribes it.
#[must_use = "dropping a subscription unsubscribes"]
#[derive(Debug)]
pub struct Subscription<T> {
    pub(crate) queue: Arc<Queue<T>>,
    pub(crate) membership: Membership,
}

/// Keeps the channel subscribed until it is dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) lease: Arc<Lease>,
    pub(crate) channel: Arc<str>,
    pub(crate) subscriber: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.lease.leave(&self.channel, self.subscriber);
    }
}

impl<T> Subscription<T> {
    /// Waits for the next event. `None` after the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Event<T>, Error>> {
        poll_fn(|context| self.queue.poll_next(context)).await
    }

    /// Waits for the next payload, and leaves out gaps and retries. `None` after the end. Cancel
    /// safe.
    ///
    /// # Errors
    /// As the stream.
    pub async fn next_data(&mut self) -> Result<Option<T>, Error> {
        while let Some(event) = self.next().await {
            if let Some(data) = event?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Returns the channel as it was requested.
    #[must_use]
    pub fn channel(&self) -> &str {
        &self.membership.channel
    }
}

impl<T> Stream for Subscription<T> {
    type Item = Result<Event<T>, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_next(context)
    }
}
