//! Subscriptions of a session: found by channel name, and by the slot that the hub and the
//! outbox use.
//!
//! A [`Slot`] holds an index and a generation. The index of an ended subscription is used
//! again, the generation never: so an item queued for an ended subscription does not reach
//! the next one with its index.

use std::{collections::HashMap, sync::Arc, time::Duration};

use slab::Slab;
use tokio::time::Instant;

use super::recovery::Progress;
use crate::{ChannelName, Class, Namespace, Position, Publication, hub::HubKey};

/// Names a subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    index: usize,
    generation: u64,
}

impl Slot {
    /// Index in the session's list: the order in which subscriptions have their turn.
    pub(super) fn index(self) -> usize {
        self.index
    }
}

/// The subscriptions of a session.
#[derive(Debug)]
pub(super) struct Subscriptions {
    slab: Slab<Subscription>,
    by_channel: HashMap<ChannelName, usize>,
    generation: u64,
    /// Subscriptions whose values are sent in batches.
    batched: usize,
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self {
            // Most sessions have one subscription, and a subscription is not small.
            slab: Slab::with_capacity(1),
            by_channel: HashMap::new(),
            generation: 0,
            batched: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn contains(&self, channel: &ChannelName) -> bool {
        self.by_channel.contains_key(channel)
    }

    /// Adds a subscription to a channel that the session is not subscribed to.
    pub(super) fn insert(&mut self, mut subscription: Subscription) -> Slot {
        self.generation += 1;
        subscription.generation = self.generation;
        if subscription.batch_mode == BatchMode::Batched {
            self.batched += 1;
        }
        let channel = subscription.channel.clone();
        let index = self.slab.insert(subscription);
        self.by_channel.insert(channel, index);
        Slot {
            index,
            generation: self.generation,
        }
    }

    pub(super) fn remove(&mut self, channel: &ChannelName) -> Option<(Slot, Subscription)> {
        let index = self.by_channel.remove(channel)?;
        let subscription = self.slab.try_remove(index)?;
        if subscription.batch_mode == BatchMode::Batched {
            self.batched -= 1;
        }
        let generation = subscription.generation;
        Some((Slot { index, generation }, subscription))
    }

    /// Removes all subscriptions.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Subscription> + use<> {
        self.by_channel.clear();
        self.batched = 0;
        let all = std::mem::take(&mut self.slab);
        all.into_iter().map(|(_, subscription)| subscription)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Subscription> {
        self.slab
            .get_mut(slot.index)
            .filter(|subscription| subscription.generation == slot.generation)
    }

    /// The subscription to a channel.
    pub(super) fn on_mut(&mut self, channel: &ChannelName) -> Option<&mut Subscription> {
        let index = self.by_channel.get(channel)?;
        self.slab.get_mut(*index)
    }

    /// The subscription to a channel.
    pub(super) fn on(&self, channel: &ChannelName) -> Option<&Subscription> {
        let index = self.by_channel.get(channel)?;
        self.slab.get(*index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Subscription)> {
        self.slab.iter().map(|(index, subscription)| {
            let generation = subscription.generation;
            (Slot { index, generation }, subscription)
        })
    }

    /// Whether a value that is sent in batches has another to share a batch with.
    pub(super) fn shares_batches(&self) -> bool {
        self.batched > 1
    }
}

/// One subscription. The fields that every delivery reads come first, on one cache line or
/// two: a server has more subscriptions than its caches hold.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Subscription {
    generation: u64,
    /// Position of the client, and its held publications.
    pub(super) progress: Progress,
    /// On a latest channel: the value that waits to be sent.
    pending: Option<Arc<Publication>>,
    class: Class,
    /// Whether an item in the outbox stands for `pending`.
    queue_state: QueueState,
    batch_mode: BatchMode,
    /// Whether publications wait while the client is in the background.
    pauses_in_background: bool,
    min_interval: Option<Duration>,
    last_sent: Option<Instant>,
    /// Position up to which the transport took the channel's publications.
    delivered: Position,
    channel: ChannelName,
    hub_key: Option<HubKey>,
}

/// Whether the values of several channels leave in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchMode {
    /// Each value is a message.
    Single,
    /// Values of several channels share a message, as prices do.
    Batched,
}

/// Whether the outbox holds an item for a pending value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueState {
    Absent,
    Queued,
}

impl BatchMode {
    fn of(namespace: &Namespace) -> Self {
        match namespace.batched {
            true => Self::Batched,
            false => Self::Single,
        }
    }
}

impl Subscription {
    /// A new subscription, held until it is announced.
    pub(super) fn new(
        channel: ChannelName,
        namespace: &Namespace,
        min_interval: Option<Duration>,
    ) -> Self {
        let progress = Progress::unknown();
        Self {
            generation: 0,
            delivered: progress.position().clone(),
            progress,
            pending: None,
            class: namespace.class,
            queue_state: QueueState::Absent,
            batch_mode: BatchMode::of(namespace),
            pauses_in_background: namespace.pauses_in_background,
            min_interval,
            last_sent: None,
            channel,
            hub_key: None,
        }
    }

    pub(super) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// Whether publications wait while the client is in the background.
    pub(super) fn pauses_in_background(&self) -> bool {
        self.pauses_in_background
    }

    pub(super) fn batch_mode(&self) -> BatchMode {
        self.batch_mode
    }

    /// Position up to which the transport took the channel's publications.
    pub(super) fn delivered(&self) -> &Position {
        &self.delivered
    }

    /// Position up to which the client was sent the channel's publications. What waits in the
    /// outbox comes after it.
    pub(super) fn sent(&self) -> &Position {
        match self.class {
            Class::History => &self.delivered,
            Class::Latest => self.progress.position(),
        }
    }

    pub(super) fn hub_key(&self) -> Option<HubKey> {
        self.hub_key
    }

    pub(super) fn set_hub_key(&mut self, key: HubKey) {
        self.hub_key = Some(key);
    }

    /// Starts at a position: nothing before it is sent.
    pub(super) fn start_at(&mut self, position: Position) {
        self.delivered = position.clone();
        self.progress.start_at(position);
    }

    /// Notes that the transport took the channel's publications up to `position`.
    pub(super) fn note_delivered(&mut self, position: &Position) {
        self.delivered.advance(position);
    }

    /// Replaces the value that waits to be sent.
    pub(super) fn set_pending(&mut self, publication: Arc<Publication>) {
        self.pending = Some(publication);
    }

    /// Merges the newest value of the history with one that was delivered while the history
    /// was read: the delivered one is newer, unless it was published before `top`.
    pub(super) fn merge_latest(&mut self, top: &Position, newest: Option<Arc<Publication>>) {
        let delivered = self.pending.take().filter(|delivered| {
            delivered.position().epoch != top.epoch || delivered.seq() > top.seq
        });
        self.pending = delivered.or(newest);
    }

    /// Whether the outbox holds an item for the pending value.
    pub(super) fn is_queued(&self) -> bool {
        self.queue_state == QueueState::Queued
    }

    /// Notes that the item in the outbox is used up. The value stays pending.
    pub(super) fn unqueue(&mut self) {
        self.queue_state = QueueState::Absent;
    }

    /// Notes that the outbox gets an item for the pending value, and returns the time before
    /// which it must not be sent. None if no item is needed.
    pub(super) fn queue_pending(&mut self) -> Option<Option<Instant>> {
        if self.pending.is_none() || self.is_queued() {
            return None;
        }
        self.queue_state = QueueState::Queued;
        let due = self.min_interval.zip(self.last_sent);
        Some(due.map(|(interval, sent)| sent + interval))
    }

    /// Takes the pending value, to send it now.
    pub(super) fn take_pending(&mut self, now: Instant) -> Option<Arc<Publication>> {
        let publication = self.pending.take()?;
        self.progress.advance(publication.position());
        self.last_sent = Some(now);
        Some(publication)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespace;

    #[test]
    fn a_slot_of_an_ended_subscription_finds_nothing() {
        let channel = ChannelName::parse("orders:1").unwrap();
        let subscription = || {
            let namespace = Namespace::history("orders");
            Subscription::new(channel.clone(), &namespace, None)
        };
        let mut all = Subscriptions::new();
        let first = all.insert(subscription());
        assert!(all.get_mut(first).is_some());
        assert_eq!(all.remove(&channel).map(|(slot, _)| slot), Some(first));
        let second = all.insert(subscription());
        assert_eq!(first.index, second.index, "the index is used again");
        assert!(all.get_mut(first).is_none() && all.get_mut(second).is_some());
        assert_eq!(all.take_all().count(), 1);
        assert!(all.get_mut(second).is_none() && !all.contains(&channel));
    }
}
