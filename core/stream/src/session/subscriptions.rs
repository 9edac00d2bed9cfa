//! Subscriptions of a session: found by channel name, and by the slot that the hub and the
//! outbox use.
//!
//! A [`Slot`] holds an index and a generation. The index of an ended subscription is used
//! again, the generation never: so an item queued for an ended subscription does not reach
//! the next one with its index.
//!
//! A server has many more subscriptions than anything else, so one takes less than a hundred
//! bytes: names are found by binary search in a list of indices, and parts that few subscriptions
//! have are boxed.

use std::{cmp::Ordering, sync::Arc, time::Duration};

use slab::Slab;
use tokio::time::Instant;

use super::recovery::Progress;
use crate::{
    ChannelName, Class, Epoch, Namespace, Position, Publication, Urgency, hub::HubKey,
    publication::Seq,
};

/// Names a subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    index: u32,
    generation: u32,
}

impl Slot {
    /// Index in the session's list: the order in which subscriptions have their turn.
    pub(super) fn index(self) -> usize {
        self.index as usize
    }
}

/// The subscriptions of a session.
#[derive(Debug)]
pub(super) struct Subscriptions {
    slab: Slab<Subscription>,
    /// Indices of the subscriptions, in the order of their channels' names.
    by_channel: Vec<u32>,
    generation: u32,
    /// Subscriptions whose values are sent in batches.
    batched: usize,
}

impl Subscriptions {
    pub(super) fn new() -> Self {
        Self {
            // Most sessions have one subscription, and a subscription is not small.
            slab: Slab::with_capacity(1),
            by_channel: Vec::new(),
            generation: 0,
            batched: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn contains(&self, channel: &ChannelName) -> bool {
        self.find(channel).is_ok()
    }

    /// Place of a channel in the list of indices, or where it would be.
    fn find(&self, channel: &ChannelName) -> Result<usize, usize> {
        self.by_channel.binary_search_by(|index| {
            let subscription = self.slab.get(*index as usize);
            subscription.map_or(Ordering::Less, |one| one.channel.cmp(channel))
        })
    }

    /// Makes room for more subscriptions, of which there are `count` or fewer.
    pub(super) fn reserve(&mut self, count: usize) {
        let len = self.slab.len();
        if self.slab.capacity() - len < count {
            // A quarter at a time: doubling would leave half of a large list empty.
            let added = count.max(len / 4 + 1);
            self.slab.reserve_exact(added);
            self.by_channel.reserve_exact(added);
        }
    }

    /// Adds a subscription to a channel that the session is not subscribed to.
    pub(super) fn insert(&mut self, mut subscription: Subscription) -> Slot {
        self.generation = self.generation.wrapping_add(1);
        subscription.generation = self.generation;
        if subscription.batch_mode == BatchMode::Batched {
            self.batched += 1;
        }
        self.reserve(1);
        let at = self.find(&subscription.channel).unwrap_or_else(|at| at);
        // A connection has fewer subscriptions than 2^32.
        let index = u32::try_from(self.slab.insert(subscription)).unwrap_or(u32::MAX);
        self.by_channel.insert(at, index);
        Slot {
            index,
            generation: self.generation,
        }
    }

    pub(super) fn remove(&mut self, channel: &ChannelName) -> Option<(Slot, Subscription)> {
        let at = self.find(channel).ok()?;
        let index = self.by_channel.remove(at);
        let subscription = self.slab.try_remove(index as usize)?;
        if subscription.batch_mode == BatchMode::Batched {
            self.batched -= 1;
        }
        let generation = subscription.generation;
        Some((Slot { index, generation }, subscription))
    }

    /// Removes all subscriptions.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Subscription> + use<> {
        self.by_channel = Vec::new();
        self.batched = 0;
        let all = std::mem::take(&mut self.slab);
        all.into_iter().map(|(_, subscription)| subscription)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Subscription> {
        self.slab
            .get_mut(slot.index())
            .filter(|subscription| subscription.generation == slot.generation)
    }

    /// The subscription to a channel.
    pub(super) fn on_mut(&mut self, channel: &ChannelName) -> Option<&mut Subscription> {
        let index = self.by_channel[self.find(channel).ok()?];
        self.slab.get_mut(index as usize)
    }

    /// The subscription to a channel.
    pub(super) fn on(&self, channel: &ChannelName) -> Option<&Subscription> {
        let index = self.by_channel[self.find(channel).ok()?];
        self.slab.get(index as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Subscription)> {
        self.slab.iter().map(|(index, subscription)| {
            let generation = subscription.generation;
            let index = index as u32;
            (Slot { index, generation }, subscription)
        })
    }

    /// Whether a value that is sent in batches has another to share a batch with.
    pub(super) fn shares_batches(&self) -> bool {
        self.batched > 1
    }
}

/// One subscription. The fields that every delivery reads come first, on one cache line: a
/// server has more subscriptions than its caches hold.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Subscription {
    generation: u32,
    class: Class,
    /// Whether an item in the outbox stands for `pending`.
    queue_state: QueueState,
    batch_mode: BatchMode,
    flags: Flags,
    /// Position of the client, and its held publications.
    pub(super) progress: Progress,
    /// On a latest channel: the value that waits to be sent.
    pending: Option<Arc<Publication>>,
    /// Number up to which the transport took the channel's publications.
    delivered: Seq,
    extras: Option<Box<Extras>>,
    channel: ChannelName,
    hub_key: Option<HubKey>,
}

/// The parts that few subscriptions have.
#[derive(Debug, Default)]
struct Extras {
    /// Epoch of `delivered`, while it is another than that of the position.
    delivered_epoch: Option<Epoch>,
    pacing: Option<Pacing>,
}

/// Yes or no of a subscription, in one byte: a byte more would cost eight.
#[derive(Debug, Clone, Copy)]
struct Flags(u8);

impl Flags {
    /// Publications wait while the client is in the background.
    const PAUSES_IN_BACKGROUND: u8 = 1;
    /// An operator made the subscription: the client needs no permission.
    const GRANTED: u8 = 1 << 1;
    /// An urgent publication waits: what comes before it leaves by the urgent lane too.
    const EXPEDITED: u8 = 1 << 2;

    fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

/// Least time between two values of a latest channel.
#[derive(Debug)]
struct Pacing {
    min_interval: Duration,
    last_sent: Option<Instant>,
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
        let pacing = min_interval.map(|min_interval| Pacing {
            min_interval,
            last_sent: None,
        });
        Self {
            generation: 0,
            progress: Progress::unknown(),
            pending: None,
            delivered: 0,
            class: namespace.class,
            queue_state: QueueState::Absent,
            batch_mode: BatchMode::of(namespace),
            flags: Flags(match namespace.pauses_in_background {
                true => Flags::PAUSES_IN_BACKGROUND,
                false => 0,
            }),
            extras: pacing.map(|pacing| {
                Box::new(Extras {
                    delivered_epoch: None,
                    pacing: Some(pacing),
                })
            }),
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
        self.flags.has(Flags::PAUSES_IN_BACKGROUND)
    }

    /// Whether the client needs no permission for it.
    pub(super) fn is_granted(&self) -> bool {
        self.flags.has(Flags::GRANTED)
    }

    /// Notes that an operator made the subscription.
    pub(super) fn grant(&mut self) {
        self.flags.0 |= Flags::GRANTED;
    }

    /// Whether what the client misses leaves by the urgent lane.
    pub(super) fn is_expedited(&self) -> bool {
        self.flags.has(Flags::EXPEDITED)
    }

    pub(super) fn set_expedited(&mut self, is_expedited: bool) {
        match is_expedited {
            true => self.flags.0 |= Flags::EXPEDITED,
            false => self.flags.0 &= !Flags::EXPEDITED,
        }
    }

    pub(super) fn batch_mode(&self) -> BatchMode {
        self.batch_mode
    }

    /// Position up to which the transport took the channel's publications. None until the
    /// channel's history has been read.
    pub(super) fn delivered(&self) -> Option<Position> {
        let epoch = self.delivered_epoch();
        self.progress.is_known().then(|| Position {
            epoch: epoch.unwrap_or(&self.progress.position().epoch).clone(),
            seq: self.delivered,
        })
    }

    /// Position up to which the client was sent the channel's publications. Those that wait in the
    /// outbox come after it. None until the channel's history has been read.
    pub(super) fn sent(&self) -> Option<Position> {
        match self.class {
            Class::History => self.delivered(),
            Class::Latest => {
                let is_known = self.progress.is_known();
                is_known.then(|| self.progress.position().clone())
            }
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
        self.delivered = position.seq;
        self.set_delivered_epoch(None);
        self.progress.start_at(position);
    }

    /// Epoch of `delivered`, if it is another than that of the position.
    fn delivered_epoch(&self) -> Option<&Epoch> {
        self.extras.as_ref()?.delivered_epoch.as_ref()
    }

    fn set_delivered_epoch(&mut self, epoch: Option<Epoch>) {
        if epoch.is_some() || self.extras.is_some() {
            self.extras.get_or_insert_default().delivered_epoch = epoch;
        }
        // An empty box would take memory for nothing.
        self.extras
            .take_if(|extras| extras.delivered_epoch.is_none() && extras.pacing.is_none());
    }

    fn pacing_mut(&mut self) -> Option<&mut Pacing> {
        self.extras.as_mut()?.pacing.as_mut()
    }

    /// Goes on from `newest`, when what is before it is lost. The transport has not taken the
    /// notice of it yet.
    pub(super) fn skip_to(&mut self, newest: Position) {
        let current = &self.progress.position().epoch;
        if self.delivered_epoch().is_none() && newest.epoch != *current {
            let delivered = current.clone();
            self.set_delivered_epoch(Some(delivered));
        }
        self.progress.start_at(newest);
    }

    /// Notes that the transport took the channel's publications up to `position`.
    pub(super) fn note_delivered(&mut self, position: &Position) {
        self.delivered = position.seq;
        // Nearly always there is one epoch.
        if self.delivered_epoch().is_some() {
            let is_other = position.epoch != self.progress.position().epoch;
            self.set_delivered_epoch(is_other.then(|| position.epoch.clone()));
        }
    }

    /// Replaces the value that waits to be sent, unless that is newer: an urgent value may have
    /// overtaken this one.
    pub(super) fn set_pending(&mut self, publication: Arc<Publication>) {
        let is_newer = |pending: &Arc<Publication>| {
            let (pending, next) = (pending.position(), publication.position());
            pending.epoch == next.epoch && pending.seq > next.seq
        };
        if !self.pending.as_ref().is_some_and(is_newer) {
            self.pending = Some(publication);
        }
    }

    /// Whether the value that waits to be sent is urgent.
    pub(super) fn has_urgent_pending(&self) -> bool {
        let pending = self.pending.as_ref();
        pending.is_some_and(|one| one.urgency() == Urgency::Urgent)
    }

    /// Notes that the outbox gets an item for the pending value, which replaces any other.
    pub(super) fn queue_urgent(&mut self) {
        self.queue_state = QueueState::Queued;
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
        let pacing = self.pacing_mut();
        Some(pacing.and_then(|pacing| Some(pacing.last_sent? + pacing.min_interval)))
    }

    /// Takes the pending value, to send it now.
    pub(super) fn take_pending(&mut self, now: Instant) -> Option<Arc<Publication>> {
        let publication = self.pending.take()?;
        self.progress.advance(publication.position());
        if let Some(pacing) = self.pacing_mut() {
            pacing.last_sent = Some(now);
        }
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

    #[test]
    fn subscriptions_are_found_by_name_in_any_order() {
        let namespace = Namespace::history("orders");
        let name = |number: u32| ChannelName::parse(&format!("orders:{number}")).unwrap();
        let mut all = Subscriptions::new();
        // 7 and 100 have no common divisor: every number comes once.
        let numbers = (0..100).map(|index| index * 7 % 100);
        for number in numbers.clone() {
            assert!(!all.contains(&name(number)));
            all.insert(Subscription::new(name(number), &namespace, None));
        }
        assert_eq!(all.len(), 100);
        for number in numbers {
            assert_eq!(*all.on(&name(number)).unwrap().channel(), name(number));
            assert!(all.remove(&name(number)).is_some());
            assert!(all.remove(&name(number)).is_none());
        }
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn delivered_is_in_its_own_epoch_until_the_notice_of_another_is_taken() {
        let position = |epoch: &str, seq| Position {
            epoch: Epoch::new(epoch),
            seq,
        };
        let channel = ChannelName::parse("orders:1").unwrap();
        let namespace = Namespace::history("orders");
        let mut one = Subscription::new(channel, &namespace, None);
        assert_eq!(one.delivered(), None);
        one.start_at(position("e", 3));
        one.note_delivered(&position("e", 4));
        one.skip_to(position("f", 9));
        assert_eq!(one.delivered(), Some(position("e", 4)));
        one.skip_to(position("g", 1));
        one.note_delivered(&position("e", 5));
        assert_eq!(one.delivered(), Some(position("e", 5)));
        one.note_delivered(&position("f", 9));
        assert_eq!(one.delivered(), Some(position("f", 9)));
        one.note_delivered(&position("g", 1));
        assert_eq!(one.delivered(), Some(position("g", 1)));
        one.note_delivered(&position("g", 2));
        assert_eq!(one.delivered(), Some(position("g", 2)));
    }

    #[test]
    fn a_subscription_is_small() {
        assert!(
            size_of::<Subscription>() <= 88,
            "{}",
            size_of::<Subscription>()
        );
        assert_eq!(size_of::<Slot>(), 8);
    }
}
