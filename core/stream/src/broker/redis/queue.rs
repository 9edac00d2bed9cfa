//! Publish queue: publications that wait to be written to Redis, in the order of each channel.
//!
//! Channels have their turn one after the other. All publications that wait for a channel go as
//! one batch, as far as a batch may be long: the busier a channel is, the fewer commands each of
//! its publications costs.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidewire_redis::SlotMap;
use tokio::sync::{Notify, oneshot};

use super::route::{Place, Route};
use crate::{ChannelName, Position, StreamError, broker::Fence};

/// Publications of one batch at most: a script keeps other clients of Redis waiting.
const BATCH_ITEMS: usize = 256;

/// Bytes of one batch, and one publication more.
const BATCH_BYTES: usize = 256 << 10;

/// Publications of all batches that are sent at once, about.
const ROUND_ITEMS: usize = 1_024;

/// Bytes of all batches that are sent at once, about.
const ROUND_BYTES: usize = 1 << 20;

/// Batches of one channel that are sent at once at most. Redis has the next one at hand while the
/// answer to the first is on its way.
const CHANNEL_BATCHES: usize = ROUND_ITEMS / BATCH_ITEMS;

/// Memory of a publication that waits, beside its payload, in bytes.
const ITEM_BYTES: usize = 256;

/// Which channels a publication may be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Any: a new one is made.
    Any,
    /// Those that are known. It keeps none known.
    Known,
    /// Those that exist: the sender may not make another one.
    Existing,
}

impl Mode {
    pub(super) fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Any => b"any",
            Self::Known => b"known",
            Self::Existing => b"existing",
        }
    }
}

/// The outcome of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) position: Position,
    /// Whether its channel was new.
    pub(super) is_new: bool,
}

/// The idempotency key of a publication.
#[derive(Debug)]
pub(super) struct KeyUse {
    /// The name in Redis.
    pub(super) name: Bytes,
    /// Fingerprint of the body.
    pub(super) fingerprint: Bytes,
}

/// A publication that waits.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) payload: Bytes,
    pub(super) mode: Mode,
    /// The proof that the script checks.
    pub(super) fence: Option<Arc<Fence>>,
    pub(super) key: Option<KeyUse>,
    /// The sender, if it waits for the outcome.
    pub(super) reply: Option<oneshot::Sender<Result<Receipt, StreamError>>>,
}

impl Item {
    fn bytes(&self) -> usize {
        self.payload.len() + ITEM_BYTES
    }

    fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_none_or(|reply| !reply.is_closed())
    }
}

/// The refusal of a publication that has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BufferFull;

/// Bytes of all publications that wait, and their bound.
#[derive(Debug)]
pub(super) struct Buffer {
    used: AtomicUsize,
    limit: usize,
    emptied: Notify,
}

impl Buffer {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
            emptied: Notify::new(),
        })
    }

    fn reserve(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::AcqRel);
        // An empty buffer has room for any publication.
        let fits = before == 0 || before + bytes <= self.limit;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    fn release(&self, bytes: usize) {
        if self.used.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            self.emptied.notify_waiters();
        }
    }

    /// Waits until nothing waits for Redis any more.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.used() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}

/// Publications of one channel that are written by one call. Their room in the buffer is free
/// again when the batch is dropped.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) channel: ChannelName,
    /// Number of the batch among those of its channel that are sent at once.
    pub(super) slot: usize,
    pub(super) items: Vec<Item>,
    bytes: usize,
    buffer: Arc<Buffer>,
}

impl Batch {
    pub(super) fn mode(&self) -> Mode {
        self.items.first().map_or(Mode::Any, |first| first.mode)
    }

    /// The proof that the script checks for all of them.
    pub(super) fn fence(&self) -> Option<&Arc<Fence>> {
        self.items.first()?.fence.as_ref()
    }

    /// Whether an item may be added: the script treats all of them alike.
    fn takes(&self, item: &Item) -> bool {
        self.items.is_empty() || (item.mode == self.mode() && item.fence.as_ref() == self.fence())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.buffer.release(self.bytes);
    }
}

/// A batch under its number, by which the script knows it again.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) batch: Batch,
    pub(super) number: u64,
}

/// The publications that wait, by the place of their channels. A channel that a writer has taken is
/// left to it until it is given back, so that one writer at a time writes a channel, also while its
/// slot moves to another server.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<PendingItems>,
    buffer: Arc<Buffer>,
    route: Route,
}

#[derive(Debug, Default)]
struct PendingItems {
    lanes: HashMap<Place, Lane>,
    channels: HashMap<ChannelName, PendingChannel>,
    /// The map by which the lanes were chosen.
    map: Arc<SlotMap>,
    /// Number of the last write.
    number: u64,
}

/// The channels of a place that have publications and no writer.
#[derive(Debug, Default)]
struct Lane {
    /// In the order of their turns.
    turns: VecDeque<ChannelName>,
    wake: Arc<Notify>,
}

/// Publications that wait for a channel.
#[derive(Debug, Default)]
struct PendingChannel {
    /// Writes whose outcome is not known. They come first.
    unfinished: Vec<Write>,
    items: VecDeque<Item>,
    /// Whether a writer has the channel.
    is_taken: bool,
}

impl PendingItems {
    fn add_turn(&mut self, channel: ChannelName, route: &Route) {
        let lane = self.lanes.entry(route.of(&channel)).or_default();
        lane.turns.push_back(channel);
        lane.wake.notify_one();
    }

    /// Chooses the lanes anew where the map has changed.
    fn reroute(&mut self, route: &Route) {
        if !route.is_cluster() {
            return;
        }
        let map = route.map();
        if Arc::ptr_eq(&map, &self.map) {
            return;
        }
        self.map = map;
        let lanes = self.lanes.values_mut();
        let turns: Vec<_> = lanes.flat_map(|lane| lane.turns.drain(..)).collect();
        for channel in turns {
            self.add_turn(channel, route);
        }
    }
}

/// How much a round has so far.
#[derive(Debug, Default)]
struct Round {
    writes: Vec<Write>,
    items: usize,
    bytes: usize,
}

impl Round {
    fn is_full(&self) -> bool {
        self.items >= ROUND_ITEMS || self.bytes >= ROUND_BYTES
    }

    fn add(&mut self, write: Write) {
        self.items += write.batch.items.len();
        self.bytes += write.batch.bytes;
        self.writes.push(write);
    }
}

impl Queue {
    pub(super) fn new(buffer: Arc<Buffer>, route: Route) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            buffer,
            route,
        })
    }

    /// Adds a publication.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn push(&self, channel: &ChannelName, item: Item) -> Result<(), BufferFull> {
        if !self.buffer.reserve(item.bytes()) {
            return Err(BufferFull);
        }
        let mut state = self.state.lock();
        match state.channels.get_mut(channel) {
            Some(pending) => pending.items.push_back(item),
            None => {
                let pending = PendingChannel {
                    items: VecDeque::from([item]),
                    ..PendingChannel::default()
                };
                state.channels.insert(channel.clone(), pending);
                state.add_turn(channel.clone(), &self.route);
            }
        }
        Ok(())
    }

    /// Has the newest map decide on the places of what waits.
    pub(super) fn follow(&self) {
        self.state.lock().reroute(&self.route);
    }

    /// Waits until there is a publication for a place.
    pub(super) async fn ready(&self, place: &Place) {
        loop {
            let wake = {
                let mut state = self.state.lock();
                state.reroute(&self.route);
                let lane = state.lanes.entry(place.clone()).or_default();
                if !lane.turns.is_empty() {
                    return;
                }
                lane.wake.clone()
            };
            wake.notified().await;
        }
    }

    /// Takes the batches that are written next at a place, in the order of each channel. Channels with
    /// more than one batch get their next one once all others had theirs. Publications whose senders
    /// have given up are dropped. The channels have to be given [back](Self::give_back).
    pub(super) fn take(&self, place: &Place) -> Vec<Write> {
        let mut state = self.state.lock();
        state.reroute(&self.route);
        let PendingItems {
            lanes,
            channels,
            number,
            ..
        } = &mut *state;
        let (mut round, mut more) = (Round::default(), VecDeque::new());
        let Some(lane) = lanes.get_mut(place) else {
            return round.writes;
        };
        for _ in 0..lane.turns.len() {
            if round.is_full() {
                return round.writes;
            }
            let Some(channel) = lane.turns.pop_front() else {
                break;
            };
            let pending = channels.get_mut(&channel);
            let Some(pending) = pending.filter(|pending| !pending.is_taken) else {
                continue;
            };
            if !pending.unfinished.is_empty() {
                pending.is_taken = true;
                // Their slots are in use until their outcome is known.
                pending
                    .unfinished
                    .drain(..)
                    .for_each(|write| round.add(write));
                continue;
            }
            let batch = self.take_batch(channel.clone(), &mut pending.items, 0);
            match batch.items.is_empty() {
                true => drop(channels.remove(&channel)),
                false => {
                    pending.is_taken = true;
                    if !pending.items.is_empty() {
                        more.push_back(channel);
                    }
                    *number += 1;
                    round.add(Write {
                        batch,
                        number: *number,
                    });
                }
            }
        }
        for slot in 1..CHANNEL_BATCHES {
            for _ in 0..more.len() {
                if round.is_full() {
                    return round.writes;
                }
                let Some(channel) = more.pop_front() else {
                    return round.writes;
                };
                let Some(pending) = channels.get_mut(&channel) else {
                    continue;
                };
                let batch = self.take_batch(channel.clone(), &mut pending.items, slot);
                if !pending.items.is_empty() {
                    more.push_back(channel);
                }
                if !batch.items.is_empty() {
                    *number += 1;
                    round.add(Write {
                        batch,
                        number: *number,
                    });
                }
            }
        }
        round.writes
    }

    /// Gives channels back that were taken, with the writes whose outcome is not known, in the order of
    /// each channel. Another writer may take them.
    pub(super) fn give_back(
        &self,
        finished: impl IntoIterator<Item = ChannelName>,
        unfinished: Vec<Write>,
    ) {
        let mut state = self.state.lock();
        state.reroute(&self.route);
        let mut names: Vec<_> = finished.into_iter().collect();
        for write in unfinished {
            if let Some(pending) = state.channels.get_mut(&write.batch.channel) {
                if pending.unfinished.is_empty() {
                    names.push(write.batch.channel.clone());
                }
                pending.unfinished.push(write);
            }
        }
        for name in names {
            let Some(pending) = state.channels.get_mut(&name) else {
                continue;
            };
            if !std::mem::take(&mut pending.is_taken) {
                continue;
            }
            match pending.items.is_empty() && pending.unfinished.is_empty() {
                true => drop(state.channels.remove(&name)),
                false => state.add_turn(name, &self.route),
            }
        }
    }

    fn take_batch(&self, channel: ChannelName, waiting: &mut VecDeque<Item>, slot: usize) -> Batch {
        let mut batch = Batch {
            channel,
            slot,
            items: Vec::new(),
            bytes: 0,
            buffer: self.buffer.clone(),
        };
        while batch.items.len() < BATCH_ITEMS
            && batch.bytes < BATCH_BYTES
            && let Some(next) = waiting.front()
        {
            let is_wanted = next.is_wanted();
            if is_wanted && !batch.takes(next) {
                break;
            }
            let Some(item) = waiting.pop_front() else {
                break;
            };
            match is_wanted {
                true => {
                    batch.bytes += item.bytes();
                    batch.items.push(item);
                }
                false => self.buffer.release(item.bytes()),
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tidewire_redis::{Cluster, ServerAddress, Slot};

    use super::{super::keys::KeyNames, *};

    fn item(payload: &'static str, mode: Mode) -> Item {
        Item {
            payload: Bytes::from_static(payload.as_bytes()),
            mode,
            fence: None,
            key: None,
            reply: None,
        }
    }

    fn payloads(write: &Write) -> Vec<&[u8]> {
        let items = write.batch.items.iter();
        items.map(|item| &*item.payload).collect()
    }

    fn queue(buffer: Arc<Buffer>) -> Arc<Queue> {
        queue_of(buffer, &Cluster::default())
    }

    fn queue_of(buffer: Arc<Buffer>, cluster: &Cluster) -> Arc<Queue> {
        Queue::new(buffer, Route::new(cluster, &KeyNames::new("test", 0)))
    }

    /// Takes a round, and finishes the one before.
    fn round(queue: &Queue, before: &[Write]) -> Vec<Write> {
        let finished = before.iter().map(|write| write.batch.channel.clone());
        queue.give_back(finished.collect::<HashSet<_>>(), Vec::new());
        queue.take(&Place::Only)
    }

    #[test]
    fn a_batch_has_one_mode_and_a_channel_keeps_its_order() {
        let buffer = Buffer::new(usize::MAX);
        let queue = queue(buffer.clone());
        let [a, b] = ["a:1", "b:1"].map(|name| ChannelName::parse(name).unwrap());
        for (channel, payload, mode) in [
            (&a, "1", Mode::Any),
            (&b, "2", Mode::Any),
            (&a, "3", Mode::Any),
            (&a, "4", Mode::Known),
        ] {
            queue.push(channel, item(payload, mode)).unwrap();
        }
        let first = round(&queue, &[]);
        assert_eq!(first.len(), 3);
        assert_eq!(payloads(&first[0]), [b"1", b"3"]);
        assert_eq!(payloads(&first[1]), [b"2"]);
        assert_eq!(payloads(&first[2]), [b"4"]);
        let slots: Vec<_> = first.iter().map(|write| write.batch.slot).collect();
        assert_eq!(slots, [0, 0, 1]);
        // What comes while a channel is written waits for its turn.
        queue.push(&a, item("5", Mode::Any)).unwrap();
        assert!(queue.take(&Place::Only).is_empty());
        let second = round(&queue, &first);
        assert_eq!(payloads(&second[0]), [b"5"]);
        assert!(round(&queue, &second).is_empty());
        drop((first, second));
        assert_eq!(buffer.used(), 0);
    }

    #[test]
    fn a_batch_has_one_fence() {
        let queue = queue(Buffer::new(usize::MAX));
        let channel = ChannelName::parse("a:1").unwrap();
        let fence = |term: &str| {
            Some(Arc::new(Fence {
                lease: "lease".to_owned(),
                term: term.to_owned(),
            }))
        };
        for (payload, fence) in [
            ("1", fence("1-a")),
            ("2", fence("1-a")),
            ("3", fence("2-b")),
        ] {
            let fenced = Item {
                fence,
                ..item(payload, Mode::Any)
            };
            queue.push(&channel, fenced).unwrap();
        }
        let round = round(&queue, &[]);
        let terms: Vec<_> = round
            .iter()
            .map(|write| (payloads(write).len(), &*write.batch.fence().unwrap().term))
            .collect();
        assert_eq!(terms, [(2, "1-a"), (1, "2-b")]);
    }

    #[test]
    fn a_busy_channel_has_its_next_batch_after_all_others() {
        let queue = queue(Buffer::new(usize::MAX));
        let [a, b] = ["a:1", "b:1"].map(|name| ChannelName::parse(name).unwrap());
        for _ in 0..10 * BATCH_ITEMS {
            queue.push(&a, item("1", Mode::Any)).unwrap();
        }
        queue.push(&b, item("2", Mode::Any)).unwrap();
        let first = round(&queue, &[]);
        let turns: Vec<_> = first
            .iter()
            .map(|one| (one.batch.slot, one.batch.items.len()))
            .collect();
        let full = BATCH_ITEMS;
        assert_eq!(turns, [(0, full), (0, 1), (1, full), (2, full), (3, full)]);
        assert_eq!(round(&queue, &first).len(), CHANNEL_BATCHES);
    }

    #[test]
    fn a_full_buffer_refuses_and_given_up_publications_leave_it() {
        let buffer = Buffer::new(2 * ITEM_BYTES + 2);
        let queue = queue(buffer.clone());
        let channel = ChannelName::parse("a:1").unwrap();
        let (reply, outcome) = oneshot::channel();
        let mut first = item("1", Mode::Any);
        first.reply = Some(reply);
        queue.push(&channel, first).unwrap();
        queue.push(&channel, item("2", Mode::Any)).unwrap();
        assert!(queue.push(&channel, item("3", Mode::Any)).is_err());
        drop(outcome);
        let round = queue.take(&Place::Only);
        assert_eq!(payloads(&round[0]), [b"2"]);
        queue.push(&channel, item("3", Mode::Any)).unwrap();
        drop(round);
        assert_eq!(buffer.used(), 1 + ITEM_BYTES);
    }

    #[test]
    fn a_channel_whose_slot_moves_keeps_its_order() {
        let cluster = Cluster::new(&["a:1".to_owned()]).unwrap();
        let queue = queue_of(Buffer::new(usize::MAX), &cluster);
        let channel = ChannelName::parse("a:1").unwrap();
        let slot = Slot::of(&KeyNames::new("test", 0).shard_channel(&channel));
        let [one, two] = [1, 2].map(|port| ServerAddress::new("a", port));
        let places = [&one, &two].map(|server| Place::Master(server.clone()));
        // The cluster is not known yet.
        queue.push(&channel, item("1", Mode::Any)).unwrap();
        assert!(queue.take(&places[0]).is_empty());
        cluster.note_moved(slot, &one);
        let first = queue.take(&places[0]);
        assert_eq!(payloads(&first[0]), [b"1"]);
        queue.push(&channel, item("2", Mode::Any)).unwrap();
        cluster.note_moved(slot, &two);
        // The outcome of the first write is not known: nothing follows it.
        assert!(queue.take(&places[1]).is_empty());
        let number = first[0].number;
        queue.give_back([], first);
        assert!(queue.take(&places[0]).is_empty());
        let again = queue.take(&places[1]);
        assert_eq!((again.len(), again[0].number), (1, number));
        assert_eq!(payloads(&again[0]), [b"1"]);
        queue.give_back([channel], Vec::new());
        assert_eq!(payloads(&queue.take(&places[1])[0]), [b"2"]);
    }
}
