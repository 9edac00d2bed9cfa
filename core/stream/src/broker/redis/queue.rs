//! Publish queue: publications that wait to be written to Redis, in the order of each channel.
//!
//! Channels have their turn one after the other. All publications that wait for a channel go as
//! one batch, as far as a batch may be long: the busier a channel is, the fewer commands each of
//! its publications costs.
//!
//! Publications to a server that is lost leave the queue too: those whose sender gives up at once, and
//! values that newer ones of their channel supersede when room runs short. The others have a part of the
//! buffer: see [`buffer`](super::buffer).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tidewire_redis::SlotMap;
use tokio::sync::{Notify, oneshot};

use super::{
    buffer::{Account, Buffer, BufferFull},
    route::{Place, Route},
};
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

/// Bytes of latest values after which superseded ones are looked for, as a part of that of a place.
const LOOK_PART: usize = 16;

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
    /// Whether the next value of the channel takes the place of this one. Nobody waits for it.
    pub(super) is_latest: bool,
}

impl Item {
    fn bytes(&self) -> usize {
        self.payload.len() + ITEM_BYTES
    }

    fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_none_or(|reply| !reply.is_closed())
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
    account: Arc<Account>,
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
        self.account.release(self.bytes);
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
    /// Number of the last publication.
    ticket: u64,
}

/// The channels of a place that have publications and no writer.
#[derive(Debug, Default)]
struct Lane {
    /// In the order of their turns.
    turns: VecDeque<ChannelName>,
    wake: Arc<Notify>,
    /// Bytes of latest values since superseded ones were removed.
    latest_bytes: usize,
}

/// Publications that wait for a channel.
#[derive(Debug)]
struct PendingChannel {
    /// Writes whose outcome is not known. They come first.
    unfinished: Vec<Write>,
    /// Publications under their tickets.
    items: VecDeque<(u64, Item)>,
    /// Bytes of the items.
    bytes: usize,
    /// The place whose part of the buffer they take.
    place: Place,
    account: Arc<Account>,
    /// Whether a writer has the channel.
    is_taken: bool,
}

impl PendingChannel {
    /// Removes a publication that nobody waits for any more.
    fn give_up(&mut self, ticket: u64) {
        let found = self.items.binary_search_by_key(&ticket, |one| one.0);
        if let Some((_, item)) = found.ok().and_then(|index| self.items.remove(index)) {
            self.release(item.bytes());
        }
    }

    /// Removes values in whose place newer ones come.
    fn supersede(&mut self) {
        let newest = self.items.iter().rposition(|(_, item)| item.is_latest);
        let Some(newest) = newest else { return };
        let (mut index, mut freed) = (0, 0);
        self.items.retain(|(_, item)| {
            index += 1;
            let is_kept = !item.is_latest || index > newest;
            freed += if is_kept { 0 } else { item.bytes() };
            is_kept
        });
        self.release(freed);
    }

    /// Removes the newest value, if one of so many bytes has room in its place.
    fn replace_latest(&mut self, bytes: usize, part: usize) -> bool {
        let newest = self.items.iter().rposition(|(_, item)| item.is_latest);
        let Some(newest) = newest else { return false };
        let before = self.items[newest].1.bytes();
        if before < bytes && !self.account.reserve(bytes - before, part) {
            return false;
        }
        self.items.remove(newest);
        self.bytes -= before;
        self.account.release(before.saturating_sub(bytes));
        true
    }

    fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.account.release(bytes);
    }
}

impl PendingItems {
    /// Gives a channel its turn at a place.
    fn add_turn(&mut self, channel: ChannelName, place: Place) {
        let lane = self.lanes.entry(place).or_default();
        lane.turns.push_back(channel);
        lane.wake.notify_one();
    }

    /// Chooses the lanes anew where the map has changed.
    fn reroute(&mut self, route: &Route, buffer: &Arc<Buffer>) {
        if !route.is_cluster() {
            return;
        }
        let map = route.map();
        if Arc::ptr_eq(&map, &self.map) {
            return;
        }
        self.map = map;
        for (name, channel) in &mut self.channels {
            let place = route.of(name);
            if place != channel.place {
                let account = buffer.account(&place);
                channel.account.transfer(&account, channel.bytes);
                (channel.place, channel.account) = (place, account);
            }
        }
        let lanes = self.lanes.values_mut();
        let turns: Vec<_> = lanes.flat_map(|lane| lane.turns.drain(..)).collect();
        for channel in turns {
            let place = route.of(&channel);
            self.add_turn(channel, place);
        }
    }

    /// Removes superseded values of a place, if there may be many.
    fn make_room(&mut self, place: &Place, part: usize) -> bool {
        let lane = self.lanes.entry(place.clone()).or_default();
        // A look at all channels of the place costs about as much as it may free.
        if lane.latest_bytes < part / LOOK_PART {
            return false;
        }
        lane.latest_bytes = 0;
        let channels = self.channels.values_mut();
        channels
            .filter(|channel| channel.place == *place)
            .for_each(PendingChannel::supersede);
        true
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

    /// Adds a publication. Returns its ticket.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn push(&self, channel: &ChannelName, item: Item) -> Result<u64, BufferFull> {
        let bytes = item.bytes();
        let mut state = self.state.lock();
        state.reroute(&self.route, &self.buffer);
        let (place, account) = match state.channels.get(channel) {
            Some(pending) => (pending.place.clone(), pending.account.clone()),
            None => {
                let place = self.route.of(channel);
                let account = self.buffer.account(&place);
                (place, account)
            }
        };
        let part = self.buffer.part(&self.route);
        let mut has_room = account.reserve(bytes, part);
        if !has_room
            && item.is_latest
            && let Some(pending) = state.channels.get_mut(channel)
        {
            pending.supersede();
            has_room = account.reserve(bytes, part) || pending.replace_latest(bytes, part);
        }
        has_room = has_room || (state.make_room(&place, part) && account.reserve(bytes, part));
        if !has_room {
            return Err(account.full(self.route.is_cluster()));
        }
        state.ticket += 1;
        let ticket = state.ticket;
        if item.is_latest
            && let Some(lane) = state.lanes.get_mut(&place)
        {
            lane.latest_bytes += bytes;
        }
        match state.channels.get_mut(channel) {
            Some(pending) => {
                pending.items.push_back((ticket, item));
                pending.bytes += bytes;
            }
            None => {
                let pending = PendingChannel {
                    unfinished: Vec::new(),
                    items: VecDeque::from([(ticket, item)]),
                    bytes,
                    place: place.clone(),
                    account,
                    is_taken: false,
                };
                state.channels.insert(channel.clone(), pending);
                state.add_turn(channel.clone(), place);
            }
        }
        Ok(ticket)
    }

    /// Removes a publication whose sender has given up, unless it is being written.
    pub(super) fn give_up(&self, channel: &ChannelName, ticket: u64) {
        if let Some(pending) = self.state.lock().channels.get_mut(channel) {
            pending.give_up(ticket);
        }
    }

    /// Has the newest map decide on the places of what waits.
    pub(super) fn follow(&self) {
        self.state.lock().reroute(&self.route, &self.buffer);
    }

    /// Waits until there is a publication for a place.
    pub(super) async fn ready(&self, place: &Place) {
        loop {
            let wake = {
                let mut state = self.state.lock();
                state.reroute(&self.route, &self.buffer);
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
        state.reroute(&self.route, &self.buffer);
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
            let batch = take_batch(channel.clone(), pending, 0);
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
                let batch = take_batch(channel.clone(), pending, slot);
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
        state.reroute(&self.route, &self.buffer);
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
                false => {
                    let place = pending.place.clone();
                    state.add_turn(name, place);
                }
            }
        }
    }
}

fn take_batch(channel: ChannelName, pending: &mut PendingChannel, slot: usize) -> Batch {
    let mut batch = Batch {
        channel,
        slot,
        items: Vec::new(),
        bytes: 0,
        account: pending.account.clone(),
    };
    while batch.items.len() < BATCH_ITEMS
        && batch.bytes < BATCH_BYTES
        && let Some((_, next)) = pending.items.front()
    {
        let is_wanted = next.is_wanted();
        if is_wanted && !batch.takes(next) {
            break;
        }
        let Some((_, item)) = pending.items.pop_front() else {
            break;
        };
        match is_wanted {
            true => {
                pending.bytes -= item.bytes();
                batch.bytes += item.bytes();
                batch.items.push(item);
            }
            false => pending.release(item.bytes()),
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use tidewire_redis::{Cluster, ServerAddress, Slot};

    use super::{super::keys::KeyNames, *};

    fn item(payload: &'static str, mode: Mode) -> Item {
        Item {
            payload: Bytes::from_static(payload.as_bytes()),
            mode,
            fence: None,
            key: None,
            reply: None,
            is_latest: false,
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

    /// A queue of two servers, and a channel of each.
    fn of_two(buffer: Arc<Buffer>) -> (Arc<Queue>, [ChannelName; 2], [Place; 2]) {
        let cluster = Cluster::new(&["a:1".to_owned()]).unwrap();
        let queue = queue_of(buffer, &cluster);
        let channels = ["a:1", "a:2"].map(|name| ChannelName::parse(name).unwrap());
        let servers = [1, 2].map(|port| ServerAddress::new("a", port));
        for (channel, server) in channels.iter().zip(&servers) {
            cluster.note_moved(slot_of(channel), server);
        }
        (queue, channels, servers.map(Place::Master))
    }

    fn slot_of(channel: &ChannelName) -> Slot {
        Slot::of(&KeyNames::new("test", 0).shard_channel(channel))
    }

    #[test]
    fn what_waits_for_a_lost_server_leaves_room_for_the_others() {
        let buffer = Buffer::new(30 * (ITEM_BYTES + 1));
        let (queue, [lost, well], [_, place]) = of_two(buffer.clone());
        let mut tickets = Vec::new();
        let full = loop {
            match queue.push(&lost, item("1", Mode::Any)) {
                Ok(ticket) => tickets.push(ticket),
                Err(full) => break full,
            }
        };
        // One part for each server, and one for channels without a server.
        assert_eq!(tickets.len(), 10);
        assert_eq!(
            full.to_string(),
            "2570 bytes wait for a server of Redis already, as many as broker.buffer_bytes allows for one of several"
        );
        for _ in 0..100 {
            queue.push(&well, item("2", Mode::Any)).unwrap();
            let taken = queue.take(&place);
            queue.give_back([well.clone()], Vec::new());
            drop(taken);
        }
        // Without a connection, too: nobody takes them.
        for ticket in tickets {
            queue.give_up(&lost, ticket);
        }
        assert_eq!(buffer.used(), 0);
        queue.push(&lost, item("3", Mode::Any)).unwrap();
    }

    #[test]
    fn the_newest_value_takes_the_place_of_the_ones_before() {
        let buffer = Buffer::new(30 * (ITEM_BYTES + 1));
        let (queue, [channel, other], [place, _]) = of_two(buffer.clone());
        let latest = |payload| Item {
            is_latest: true,
            ..item(payload, Mode::Any)
        };
        for _ in 0..100 {
            queue.push(&channel, latest("1")).unwrap();
        }
        queue.push(&channel, item("2", Mode::Any)).unwrap();
        for _ in 0..99 {
            queue.push(&channel, latest("1")).unwrap();
        }
        queue.push(&channel, latest("3")).unwrap();
        // One that is no value finds room as well.
        for _ in 0..7 {
            queue.push(&channel, item("4", Mode::Any)).unwrap();
        }
        queue.push(&other, item("5", Mode::Any)).unwrap();
        let taken = queue.take(&place);
        let written: Vec<_> = taken.iter().flat_map(payloads).collect();
        let count = |payload: &[u8]| written.iter().filter(|one| **one == payload).count();
        assert_eq!(
            (count(b"2"), count(b"3"), count(b"4")),
            (1, 1, 7),
            "{written:?}"
        );
    }

    /// A step of the queue's model: what is pushed, who gives up, and what becomes of a round.
    #[derive(Debug, Clone)]
    enum Event {
        Push(usize, bool, bool),
        GiveUp(usize),
        Take(usize),
        Finish(usize),
        Fail(usize),
        Move(usize, usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (0..4_usize, any::<bool>(), any::<bool>())
                .prop_map(|(channel, waits, latest)| Event::Push(channel, waits, latest && !waits)),
            2 => (0..64_usize).prop_map(Event::GiveUp),
            3 => (0..2_usize).prop_map(Event::Take),
            2 => (0..2_usize).prop_map(Event::Finish),
            1 => (0..2_usize).prop_map(Event::Fail),
            1 => (0..4_usize, 0..2_usize).prop_map(|(channel, server)| Event::Move(channel, server)),
        ]
    }

    /// The publications that were accepted, and what became of them.
    #[derive(Default)]
    struct Model {
        /// Number, channel, ticket, whether it may be superseded.
        accepted: Vec<(u32, usize, u64, bool)>,
        given_up: HashSet<u32>,
        /// The senders that wait.
        waiting: HashMap<u32, oneshot::Receiver<Result<Receipt, StreamError>>>,
        /// The numbers that were written, by channel.
        written: [Vec<u32>; 4],
    }

    impl Model {
        fn finish(&mut self, queue: &Queue, names: &[ChannelName], writes: Vec<Write>) {
            let finished: HashSet<_> = writes.iter().map(|one| one.batch.channel.clone()).collect();
            for write in writes {
                let index = names.iter().position(|name| *name == write.batch.channel);
                for item in &write.batch.items {
                    let number = u32::from_be_bytes((*item.payload).try_into().unwrap());
                    self.written[index.unwrap()].push(number);
                }
            }
            queue.give_back(finished, Vec::new());
        }

        fn check(&self) {
            for (channel, written) in self.written.iter().enumerate() {
                let in_order = written.is_sorted_by(|one, next| one < next);
                assert!(in_order, "twice or out of order: {written:?}");
                let own = self.accepted.iter().filter(|one| one.1 == channel);
                let newest = own.clone().rfind(|one| one.3).map(|one| one.0);
                for (number, _, _, is_latest) in own {
                    let may_be_missing = self.given_up.contains(number)
                        || (*is_latest && newest.is_some_and(|newest| *number < newest));
                    assert!(
                        may_be_missing || written.contains(number),
                        "{number} is missing"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn each_publication_is_written_once_and_in_order(
            events in prop::collection::vec(event(), 1..200),
            room in 3..40_usize,
        ) {
            let cluster = Cluster::new(&["a:1".to_owned()]).unwrap();
            let buffer = Buffer::new(3 * room * (ITEM_BYTES + 4));
            let queue = queue_of(buffer.clone(), &cluster);
            let names = [1, 2, 3, 4].map(|one| ChannelName::parse(&format!("a:{one}")).unwrap());
            let servers = [1, 2].map(|port| ServerAddress::new("a", port));
            let places = servers.clone().map(Place::Master);
            for (index, name) in names.iter().enumerate() {
                cluster.note_moved(slot_of(name), &servers[index % 2]);
            }
            let (mut model, mut taken) = (Model::default(), [Vec::new(), Vec::new()]);
            for (number, event) in (0_u32..).zip(events) {
                match event {
                    Event::Push(channel, waits, is_latest) => {
                        let (reply, outcome) = oneshot::channel();
                        let pushed = queue.push(&names[channel], Item {
                            payload: Bytes::copy_from_slice(&number.to_be_bytes()),
                            reply: waits.then_some(reply),
                            is_latest,
                            ..item("", Mode::Any)
                        });
                        if let Ok(ticket) = pushed {
                            model.accepted.push((number, channel, ticket, is_latest));
                            if waits {
                                model.waiting.insert(number, outcome);
                            }
                        }
                    }
                    Event::GiveUp(index) => {
                        if let Some((number, channel, ticket, _)) = model.accepted.get(index)
                            && model.waiting.remove(number).is_some()
                        {
                            model.given_up.insert(*number);
                            queue.give_up(&names[*channel], *ticket);
                        }
                    }
                    Event::Take(place) if taken[place].is_empty() => {
                        taken[place] = queue.take(&places[place]);
                    }
                    Event::Take(_) => {}
                    Event::Finish(place) => {
                        model.finish(&queue, &names, std::mem::take(&mut taken[place]));
                    }
                    Event::Fail(place) => queue.give_back([], std::mem::take(&mut taken[place])),
                    Event::Move(channel, server) => {
                        cluster.note_moved(slot_of(&names[channel]), &servers[server]);
                        queue.follow();
                    }
                }
            }
            for place in [0, 1] {
                queue.give_back([], std::mem::take(&mut taken[place]));
            }
            loop {
                let writes: Vec<_> = places.iter().flat_map(|place| queue.take(place)).collect();
                if writes.is_empty() {
                    break;
                }
                model.finish(&queue, &names, writes);
            }
            model.check();
            prop_assert_eq!(buffer.used(), 0);
            for place in &places {
                prop_assert_eq!(buffer.account(place).used(), 0);
            }
        }
    }
}
