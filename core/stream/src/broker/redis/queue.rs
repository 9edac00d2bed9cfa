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
    collections::{BTreeMap, HashMap, VecDeque},
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
    /// Number of the last turn.
    turn: u64,
}

/// The channels of a place that have publications and no writer.
#[derive(Debug, Default)]
struct Lane {
    /// By the numbers of their turns.
    turns: BTreeMap<u64, ChannelName>,
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
    /// Number of its turn, while it has one.
    turn: u64,
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
        self.turn += 1;
        if let Some(pending) = self.channels.get_mut(&channel) {
            pending.turn = self.turn;
        }
        let lane = self.lanes.entry(place).or_default();
        lane.turns.insert(self.turn, channel);
        lane.wake.notify_one();
    }

    /// Removes a channel on which nothing waits any more, and its turn: where no server works, no writer
    /// comes by to do it.
    fn remove_if_done(&mut self, channel: &ChannelName) {
        let is_done = |pending: &&PendingChannel| {
            pending.items.is_empty() && pending.unfinished.is_empty() && !pending.is_taken
        };
        let Some(pending) = self.channels.get(channel).filter(is_done) else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&pending.place) {
            lane.turns.remove(&pending.turn);
        }
        self.channels.remove(channel);
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
        let turns: BTreeMap<_, _> = lanes
            .flat_map(|lane| std::mem::take(&mut lane.turns))
            .collect();
        for channel in turns.into_values() {
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
                    turn: 0,
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
        let mut state = self.state.lock();
        if let Some(pending) = state.channels.get_mut(channel) {
            pending.give_up(ticket);
            state.remove_if_done(channel);
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
            let Some((_, channel)) = lane.turns.pop_first() else {
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
mod tests;
