//! Publishers: how engines publish, and how they go on after a restart.

use crate::{
    ChannelName, Epoch, Event, Position, StoredPublication,
    broker::{BrokerFuture, PublishFuture},
};

/// Publishes the events of engines.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes `event` on `channel`. Never blocks. Events of one channel keep their order.
    fn publish(&self, channel: &ChannelName, event: Event);
}

/// A publisher whose channels outlive the process. It is for an engine that stores its
/// publications and is alone on its channels. The engine reads the newest position, stores the
/// next publication, and publishes it. After a restart it restores the stored ones.
///
/// # Example
/// `position` returns `(e, 4)`. The engine stores the event as number 5 of `e`, then publishes
/// it. If the process is killed between the two, the engine restores `(e, 5)` at the next
/// start. A client that recovers since `(e, 4)` receives it.
pub trait DurablePublisher: Publisher {
    /// The term in which this server owns the engine, if the servers share its channels. The broker
    /// then keeps the histories and gives the positions: the engine stores an event, publishes it
    /// with [`publish_once`](Self::publish_once), and removes it. The next owner publishes what is
    /// left.
    fn term(&self) -> Option<&str> {
        None
    }

    /// Publishes an event of a shared channel, in the order of the calls, and returns what to wait for.
    /// A repetition with the same `key`, by any owner, publishes nothing.
    fn publish_once(&self, channel: &ChannelName, event: Event, key: &str) -> PublishFuture {
        let _ = key;
        self.publish(channel, event);
        Box::pin(std::future::ready(Ok(())))
    }

    /// The newest position of a channel.
    fn position<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, Position>;

    /// Restores a channel that nothing was published on yet from these publications, whose
    /// sequence numbers are consecutive.
    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        publications: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()>;

    /// Starts a channel anew, under another epoch. Subscribed clients get a `gap` at once.
    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()>;

    /// Forgets a channel without subscribers. A client that comes back to it later is not
    /// recovered.
    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()>;
}
