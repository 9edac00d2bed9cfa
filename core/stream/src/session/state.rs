//! The state of a session behind its lock: subscriptions and outbox.
//!
//! Everything here is synchronous and knows no hub and no broker. The outbox is
//! bounded: replies make the client's next command wait, latest values replace
//! each other in place, and a history channel that does not fit is held back and
//! read from its history when there is room again.

mod flow;
mod outbox;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use slab::Slab;
use tidewire_proto::v1::{Gap, ServerMessage, Visibility, server_message::Data};
use tokio::time::Instant;

pub(super) use outbox::Time;

use super::{
    CloseReason, DirectMessage, Encoding,
    heartbeat::Pulse,
    subscription::{BatchMode, Flow, HeldUntil, Queued, Subscription},
};
use crate::{
    ChannelName, Class, Identity, Position, Publication, PublicationBatch,
    publication_batch::Delivery,
};

/// Names a subscription in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(super) index: usize,
    pub(super) generation: u64,
}

/// A place in the queue.
#[derive(Debug)]
enum Entry {
    /// A publication of a history channel, and its size.
    Publication(Slot, Arc<Publication>, usize),
    /// Several of them in one piece, and their size.
    Run(Slot, Arc<PublicationBatch>, usize),
    /// Whatever is the newest value of a latest channel then.
    Latest(Slot),
    /// The word that something of a history channel is lost, in its order.
    Gap(Slot, Position, Arc<DirectMessage>),
}

/// What a session keeps behind its lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) identity: Identity,
    pub(super) visibility: Visibility,
    pub(super) closing: Option<CloseReason>,
    /// Whether the client was told to come back.
    pub(super) is_sent_away: bool,
    pub(super) subscriptions: Slab<Subscription>,
    pub(super) by_channel: HashMap<ChannelName, usize>,
    generation: u64,
    encoding: Encoding,
    limit: usize,
    /// Replies and words of the session: first out.
    control: VecDeque<Arc<DirectMessage>>,
    control_bytes: usize,
    queue: VecDeque<Entry>,
    queue_bytes: usize,
    /// Latest values that wait for their `min_interval`.
    deferred: Vec<(Instant, Slot)>,
    /// Prices that are told together.
    batch: Vec<Slot>,
    /// Prices are gathered until then.
    next_batch: Option<Instant>,
    prices: usize,
    /// Whether a flow may wait for its history to be read.
    may_read: bool,
    /// Whether a subscription may wait for its reply to be said.
    has_new: bool,
    /// Whether a history is being read beside the transport.
    pub(super) is_reading: bool,
    /// Whether someone waits for the client to read its replies.
    pub(super) is_awaited: bool,
    /// When the shard comes back by itself.
    armed: Option<Instant>,
    /// It was armed for this time before, and comes then too.
    armed_later: Option<Instant>,
    /// The expiry that the client was told of.
    pub(super) expiry_told: Option<i64>,
    pub(super) pulse: Pulse,
}

/// When the transport should look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Now,
    At(Instant),
    Never,
}

impl Due {
    /// The earlier of this and `other`.
    pub(super) fn earliest(self, other: Option<Instant>) -> Option<Instant> {
        match self {
            Self::At(due) => Some(other.map_or(due, |other| other.min(due))),
            Self::Now | Self::Never => other,
        }
    }
}

impl State {
    pub(super) fn new(identity: Identity, encoding: Encoding, limit: usize) -> Self {
        Self {
            identity,
            visibility: Visibility::Active,
            closing: None,
            is_sent_away: false,
            // Most follow one channel, and a subscription is not small.
            subscriptions: Slab::with_capacity(1),
            by_channel: HashMap::new(),
            generation: 0,
            encoding,
            limit,
            control: VecDeque::new(),
            control_bytes: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            deferred: Vec::new(),
            batch: Vec::new(),
            next_batch: None,
            prices: 0,
            may_read: false,
            has_new: false,
            is_reading: false,
            is_awaited: false,
            armed: None,
            armed_later: None,
            expiry_told: None,
            pulse: Pulse::new(Instant::now()),
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn queued_bytes(&self) -> usize {
        self.control_bytes + self.queue_bytes
    }

    /// Places in the queue, in the batch and among what is deferred.
    pub(super) fn queued_items(&self) -> usize {
        self.queue.len() + self.batch.len() + self.deferred.len()
    }

    /// Whether replies wait that a client should read before it asks for more.
    pub(super) fn is_reply_queue_full(&self) -> bool {
        self.control_bytes > self.limit / 2
    }

    pub(super) fn insert(&mut self, mut subscription: Subscription) -> Slot {
        self.has_new = true;
        self.generation += 1;
        subscription.generation = self.generation;
        if subscription.telling == BatchMode::Batched {
            self.prices += 1;
        }
        let channel = subscription.channel.clone();
        let index = self.subscriptions.insert(subscription);
        self.by_channel.insert(channel, index);
        Slot {
            index,
            generation: self.generation,
        }
    }

    pub(super) fn remove(&mut self, channel: &ChannelName) -> Option<Subscription> {
        let index = self.by_channel.remove(channel)?;
        let subscription = self.subscriptions.try_remove(index)?;
        self.forget_queued(Slot {
            index,
            generation: subscription.generation,
        });
        if subscription.telling == BatchMode::Batched {
            self.prices -= 1;
        }
        Some(subscription)
    }

    /// Drops what waits of a subscription that has ended: whoever follows and leaves
    /// again and again without reading leaves nothing behind.
    fn forget_queued(&mut self, gone: Slot) {
        let mut freed = 0;
        self.queue.retain(|entry| match entry {
            Entry::Publication(slot, _, size) | Entry::Run(slot, _, size) if *slot == gone => {
                freed += size;
                false
            }
            Entry::Latest(slot) | Entry::Gap(slot, ..) => *slot != gone,
            Entry::Publication(..) | Entry::Run(..) => true,
        });
        self.queue_bytes -= freed;
        self.deferred.retain(|(_, slot)| *slot != gone);
        self.batch.retain(|slot| *slot != gone);
    }

    pub(super) fn get(&mut self, slot: Slot) -> Option<&mut Subscription> {
        self.subscriptions
            .get_mut(slot.index)
            .filter(|subscription| subscription.generation == slot.generation)
    }

    /// Puts a reply or a word of the session first in line.
    pub(super) fn send(&mut self, message: ServerMessage) {
        let message = DirectMessage::new(message, self.encoding);
        self.control_bytes += message.len();
        self.control.push_back(Arc::new(message));
    }

    /// Takes publications of a channel that the session follows, in order. True if
    /// the transport has to look.
    pub(super) fn deliver(&mut self, slot: Slot, delivery: &Delivery<'_>, now: Instant) -> bool {
        let Some(subscription) = self.get(slot) else {
            return false;
        };
        match (subscription.class, delivery.publications()) {
            (Class::Latest, [.., newest]) => self.deliver_latest(slot, newest, now),
            (Class::Latest, []) => false,
            (Class::History, [_, _, ..]) if self.deliver_run(slot, delivery) => true,
            (Class::History, publications) => {
                let mut has_work = false;
                for publication in publications {
                    has_work |= self.deliver_history(slot, publication);
                }
                has_work
            }
        }
    }

    /// Takes a whole run, if all of it comes next and has room.
    fn deliver_run(&mut self, slot: Slot, delivery: &Delivery<'_>) -> bool {
        let room = self.limit.saturating_sub(self.queued_bytes());
        let encoding = self.encoding;
        let Some(subscription) = self.get(slot) else {
            return false;
        };
        let Some(run) = delivery.run() else {
            return false;
        };
        let (first, position) = (run.first(), &mut subscription.position);
        let follows = first.epoch == position.epoch && first.seq == position.seq + 1;
        if !follows || !matches!(subscription.flow, Flow::Live) {
            return false;
        }
        let size = match encoding {
            Encoding::Json => run.json_size(),
            Encoding::Proto => run.proto_size(),
        };
        if size > room {
            return false;
        }
        position.advance(run.last());
        self.queue_bytes += size;
        self.queue.push_back(Entry::Run(slot, run.clone(), size));
        true
    }

    fn deliver_history(&mut self, slot: Slot, publication: &Arc<Publication>) -> bool {
        let (used, limit, encoding) = (self.queued_bytes(), self.limit, self.encoding);
        let Some(subscription) = self.get(slot) else {
            return false;
        };
        if let Flow::Held(hold) = &mut subscription.flow {
            hold.note(publication);
            return hold.until == HeldUntil::Drained && used == 0;
        }
        let (at, position) = (publication.position(), &subscription.position);
        let is_same_epoch = at.epoch == position.epoch;
        if is_same_epoch && at.seq <= position.seq {
            // It was under way to the shard when the history gave it.
            return false;
        }
        let size = publication_size(publication, encoding);
        let follows = is_same_epoch && at.seq == position.seq + 1;
        if !follows || (used > 0 && used + size > limit) {
            // What does not fit, or has a hole before it, is read from the history.
            subscription.flow = Flow::held(HeldUntil::Drained, at.clone());
            if let Flow::Held(hold) = &mut subscription.flow {
                hold.note(publication);
            }
            self.may_read = true;
            return used == 0;
        }
        self.push(slot, publication.clone(), size);
        true
    }

    /// Puts a publication in the queue and moves the position on.
    pub(super) fn push(&mut self, slot: Slot, publication: Arc<Publication>, size: usize) {
        let Some(subscription) = self.get(slot) else {
            return;
        };
        subscription.position.advance(publication.position());
        self.queue_bytes += size;
        self.queue
            .push_back(Entry::Publication(slot, publication, size));
    }

    /// Whether another publication of this size has room.
    pub(super) fn has_room(&self, size: usize) -> bool {
        let used = self.queued_bytes();
        used == 0 || used + size <= self.limit
    }

    pub(super) fn size_of(&self, publication: &Publication) -> usize {
        publication_size(publication, self.encoding)
    }

    /// Tells the client that something is lost, and goes on from `top`.
    pub(super) fn gap(&mut self, slot: Slot, top: Position) {
        let Some(subscription) = self.get(slot) else {
            return;
        };
        let channel = subscription.channel.as_str().to_owned();
        subscription.position = top.clone();
        let gap = Gap {
            channel: channel.clone(),
            epoch: top.epoch.as_str().to_owned(),
            seq: top.seq,
        };
        let word = ServerMessage {
            channel: Some(channel),
            data: Some(Data::Gap(gap)),
            ..ServerMessage::default()
        };
        let word = DirectMessage::new(word, self.encoding);
        self.queue.push_back(Entry::Gap(slot, top, Arc::new(word)));
    }

    fn deliver_latest(&mut self, slot: Slot, publication: &Arc<Publication>, now: Instant) -> bool {
        let is_background = self.visibility == Visibility::Background;
        let Some(subscription) = self.get(slot) else {
            return false;
        };
        let (at, position) = (publication.position(), &subscription.position);
        if at.epoch == position.epoch && at.seq <= position.seq {
            // It was under way to the shard when a newer one was read.
            return false;
        }
        subscription.pending = Some(publication.clone());
        if is_background
            || subscription.queued == Queued::Yes
            || matches!(subscription.flow, Flow::Held(_))
        {
            return false;
        }
        self.queue_latest(slot, now)
    }

    /// Gives a latest value that waits its place: in the queue, in the batch of
    /// prices, or among those whose time has not come.
    pub(super) fn queue_latest(&mut self, slot: Slot, now: Instant) -> bool {
        let batches = self.prices > 1;
        let Some(subscription) = self.get(slot) else {
            return false;
        };
        if subscription.pending.is_none() || subscription.queued == Queued::Yes {
            return false;
        }
        subscription.queued = Queued::Yes;
        let due = subscription
            .min_interval
            .zip(subscription.last_sent)
            .map(|(interval, sent)| sent + interval);
        let joins_batch = batches && subscription.telling == BatchMode::Batched;
        if let Some(due) = due.filter(|due| *due > now) {
            self.deferred.push((due, slot));
            return true;
        }
        if !joins_batch {
            self.queue.push_back(Entry::Latest(slot));
            return true;
        }
        self.batch.push(slot);
        self.batch.len() == 1
    }
}

fn publication_size(publication: &Publication, encoding: Encoding) -> usize {
    match encoding {
        Encoding::Json => publication.json().len(),
        Encoding::Proto => publication.proto().len(),
    }
}
