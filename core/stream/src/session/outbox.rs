//! Outbox: queue of messages to one client, bounded in bytes.
//!
//! Four lanes share the bound. *Replies* leave first. While they take more than half of the
//! bound, with those that are being made, the client's next command waits. The *urgent* lane is
//! next. It holds urgent publications, and before each of them what its channel had queued: so
//! every channel keeps its order. When the outbox is full, the newest items of the queue make room
//! for it, and are read from the history later. The *queue* holds
//! publications of history channels, and one item for each latest channel with a new value. A
//! newer value thus replaces an older one in place. The *batch* collects the channels whose
//! values leave together, at the times of the shard's flush schedule. A latest value whose
//! `minIntervalMs` is not over waits among the *deferred*.
//!
//! The outbox knows subscriptions by their [`Slot`] only.

use std::{collections::VecDeque, sync::Arc};

use tidewire_proto::v1::{Gap, ServerMessage, server_message::Data};
use tokio::time::Instant;

use super::{DirectMessage, Encoding, Slot};
use crate::{ChannelName, Position, Publication, PublicationBatch};

/// Channels of a batch whose memory is reused for the next batch; more are freed.
const KEPT_BATCH: usize = 64;

/// Items of an empty queue whose memory is reused; the extra memory of a burst is freed.
const KEPT_QUEUE: usize = 256;

/// An item of the queue.
#[derive(Debug)]
pub(super) enum QueueItem {
    /// A publication of a history channel, and its size in bytes.
    Publication(Slot, Arc<Publication>, usize),
    /// Consecutive publications of a history channel, and their size in bytes.
    Batch(Slot, Arc<PublicationBatch>, usize),
    /// The value of a latest channel that is pending when the item leaves.
    Latest(Slot),
    /// A notice that publications of a history channel are lost, in their order.
    Gap(Slot, Position, Arc<DirectMessage>),
}

impl QueueItem {
    fn slot(&self) -> Slot {
        match self {
            Self::Publication(slot, ..)
            | Self::Batch(slot, ..)
            | Self::Latest(slot)
            | Self::Gap(slot, ..) => *slot,
        }
    }

    /// Size that counts towards the bound, in bytes.
    fn size(&self) -> usize {
        match self {
            Self::Publication(_, _, size) | Self::Batch(_, _, size) => *size,
            Self::Latest(_) | Self::Gap(..) => 0,
        }
    }
}

/// When the outbox has something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Now.
    Now,
    /// At this time, if nothing is queued before.
    At(Instant),
    /// Not before something is queued.
    Never,
}

impl Due {
    /// The earlier of this time and `other`.
    pub(super) fn earliest(self, other: Option<Instant>) -> Option<Instant> {
        match self {
            Self::At(due) => Some(other.map_or(due, |other| other.min(due))),
            Self::Now | Self::Never => other,
        }
    }
}

/// Outbox: replies and publications queued for one client.
#[derive(Debug)]
pub(super) struct Outbox {
    encoding: Encoding,
    /// The bound, in bytes.
    limit: usize,
    replies: VecDeque<Arc<DirectMessage>>,
    reply_bytes: usize,
    /// Bytes of replies that are being made.
    reserved: usize,
    urgent: VecDeque<QueueItem>,
    queue: VecDeque<QueueItem>,
    /// Bytes of the queue and the urgent lane.
    queue_bytes: usize,
    /// Latest values before the end of their interval.
    deferred: Vec<(Instant, Slot)>,
    batch: Vec<Slot>,
    /// Values are batched until then.
    next_batch: Option<Instant>,
}

impl Outbox {
    /// An empty outbox that holds up to `limit` bytes.
    pub(super) fn new(encoding: Encoding, limit: usize) -> Self {
        Self {
            encoding,
            limit,
            replies: VecDeque::new(),
            reply_bytes: 0,
            reserved: 0,
            urgent: VecDeque::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            deferred: Vec::new(),
            batch: Vec::new(),
            next_batch: None,
        }
    }

    /// Bytes that wait to be sent.
    pub(super) fn bytes(&self) -> usize {
        self.reply_bytes + self.queue_bytes
    }

    /// Items in the urgent lane, in the queue, in the batch and among the deferred.
    pub(super) fn len(&self) -> usize {
        self.urgent.len() + self.queue.len() + self.batch.len() + self.deferred.len()
    }

    /// Whether the client's next command has to wait, because too many replies do.
    pub(super) fn is_reply_queue_full(&self) -> bool {
        self.reply_bytes + self.reserved > self.limit / 2
    }

    /// Bytes of replies that are being made.
    pub(super) fn reserved_bytes(&self) -> usize {
        self.reserved
    }

    /// Reserves up to `most` bytes for a reply, or as many as there is room for, and returns how
    /// many. An eighth of the bound is granted in any case, so that every command is answered.
    pub(super) fn reserve(&mut self, most: usize) -> usize {
        let room = self.limit.saturating_sub(self.reply_bytes + self.reserved);
        let granted = most.min(room.max(self.limit / 8));
        self.reserved += granted;
        granted
    }

    /// Ends a reservation: its reply is about to be queued.
    pub(super) fn unreserve(&mut self, bytes: usize) {
        self.reserved -= bytes;
    }

    /// Whether no byte waits.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Whether `size` more bytes have room. One message always has.
    pub(super) fn has_room(&self, size: usize) -> bool {
        let used = self.bytes();
        used == 0 || used + size <= self.limit
    }

    /// Whether there is room enough to read a history for.
    pub(super) fn has_room_for_history(&self) -> bool {
        self.bytes() <= self.limit / 2
    }

    /// Size of a publication as it is sent, in bytes.
    pub(super) fn size_of(&self, publication: &Publication) -> usize {
        match self.encoding {
            Encoding::Json => publication.json_len(),
            Encoding::Proto => publication.proto_len(),
        }
    }

    /// Queues a reply, or another message for this client alone.
    pub(super) fn push_reply(&mut self, message: ServerMessage) {
        let message = DirectMessage::new(message, self.encoding);
        self.reply_bytes += message.len();
        self.replies.push_back(Arc::new(message));
    }

    /// Queues a message for this client alone before all others.
    pub(super) fn push_first(&mut self, message: ServerMessage) {
        let message = DirectMessage::new(message, self.encoding);
        self.reply_bytes += message.len();
        self.replies.push_front(Arc::new(message));
    }

    pub(super) fn push_publication(
        &mut self,
        slot: Slot,
        publication: Arc<Publication>,
        size: usize,
    ) {
        self.queue_bytes += size;
        self.queue
            .push_back(QueueItem::Publication(slot, publication, size));
    }

    /// Moves what a channel has queued to the urgent lane, in its order.
    pub(super) fn expedite(&mut self, expedited: Slot) {
        // Nearly always nothing is queued.
        if self.queue.iter().any(|item| item.slot() == expedited) {
            let (moved, kept) = std::mem::take(&mut self.queue)
                .into_iter()
                .partition::<VecDeque<_>, _>(|item| item.slot() == expedited);
            self.queue = kept;
            self.urgent.extend(moved);
        }
    }

    pub(super) fn push_urgent(&mut self, slot: Slot, publication: Arc<Publication>, size: usize) {
        self.queue_bytes += size;
        self.urgent
            .push_back(QueueItem::Publication(slot, publication, size));
    }

    /// Queues the value of a latest channel in the urgent lane, and nowhere else.
    pub(super) fn push_urgent_latest(&mut self, slot: Slot) {
        self.remove(slot);
        self.urgent.push_back(QueueItem::Latest(slot));
    }

    /// Removes the newest publications of the queue, and returns the position that they follow.
    /// None if there are none: a notice of lost ones is the newest, or nothing is queued.
    pub(super) fn shed(&mut self) -> Option<(Slot, Position)> {
        let is_value = |item: &QueueItem| matches!(item, QueueItem::Latest(_));
        let newest = self.queue.iter().rposition(|item| !is_value(item))?;
        let item = self.queue.get(newest)?;
        let first = match item {
            QueueItem::Publication(_, one, _) => one,
            QueueItem::Batch(_, batch, _) => batch.publications().first()?,
            QueueItem::Latest(_) | QueueItem::Gap(..) => return None,
        };
        let before = Position {
            epoch: first.position().epoch.clone(),
            seq: first.after(),
        };
        let (slot, size) = (item.slot(), item.size());
        self.queue.remove(newest);
        self.queue_bytes -= size;
        Some((slot, before))
    }

    /// Queues a batch, if all of it has room.
    pub(super) fn push_batch(&mut self, slot: Slot, batch: &Arc<PublicationBatch>) -> bool {
        let size = match self.encoding {
            Encoding::Json => batch.json_size(),
            Encoding::Proto => batch.proto_size(),
        };
        if size > self.limit.saturating_sub(self.bytes()) {
            return false;
        }
        self.queue_bytes += size;
        self.queue
            .push_back(QueueItem::Batch(slot, batch.clone(), size));
        true
    }

    pub(super) fn push_latest(&mut self, slot: Slot) {
        self.queue.push_back(QueueItem::Latest(slot));
    }

    /// Queues a notice that publications before `top` are lost.
    pub(super) fn push_gap(&mut self, slot: Slot, channel: &ChannelName, top: Position) {
        let gap = Gap {
            channel: channel.as_str().to_owned(),
            epoch: top.epoch.as_str().to_owned(),
            seq: top.seq,
        };
        let notice = ServerMessage {
            channel: Some(channel.as_str().to_owned()),
            data: Some(Data::Gap(gap)),
            ..ServerMessage::default()
        };
        let notice = DirectMessage::new(notice, self.encoding);
        self.queue
            .push_back(QueueItem::Gap(slot, top, Arc::new(notice)));
    }

    /// Adds a channel to the batch. True if it is the first of the batch.
    pub(super) fn add_to_batch(&mut self, slot: Slot) -> bool {
        self.batch.push(slot);
        self.batch.len() == 1
    }

    /// Queues the latest value of a channel at `due`.
    pub(super) fn defer(&mut self, due: Instant, slot: Slot) {
        self.deferred.push((due, slot));
    }

    /// Drops all that is queued.
    pub(super) fn clear(&mut self) {
        self.replies = VecDeque::new();
        self.reply_bytes = 0;
        self.urgent = VecDeque::new();
        self.queue = VecDeque::new();
        self.queue_bytes = 0;
        self.deferred = Vec::new();
        self.batch = Vec::new();
    }

    /// Drops queued items of a subscription that has ended: repeated subscribing and
    /// unsubscribing without reading leaves nothing behind.
    pub(super) fn remove(&mut self, ended: Slot) {
        let mut freed = 0;
        for lane in [&mut self.urgent, &mut self.queue] {
            lane.retain(|item| {
                let stays = item.slot() != ended;
                freed += if stays { 0 } else { item.size() };
                stays
            });
        }
        self.queue_bytes -= freed;
        self.deferred.retain(|(_, slot)| *slot != ended);
        self.batch.retain(|slot| *slot != ended);
    }

    /// When there is something to send.
    pub(super) fn due(&self, now: Instant) -> Due {
        if !self.replies.is_empty() || !self.urgent.is_empty() || !self.queue.is_empty() {
            return Due::Now;
        }
        let batch = (!self.batch.is_empty()).then(|| self.next_batch.unwrap_or(now));
        let deferred = self.deferred.iter().map(|(due, _)| *due).min();
        match [batch, deferred].into_iter().flatten().min() {
            None => Due::Never,
            Some(due) if due <= now => Due::Now,
            Some(due) => Due::At(due),
        }
    }

    pub(super) fn pop_reply(&mut self) -> Option<Arc<DirectMessage>> {
        let message = self.replies.pop_front()?;
        self.reply_bytes -= message.len();
        Some(message)
    }

    pub(super) fn pop(&mut self) -> Option<QueueItem> {
        let urgent = self.urgent.pop_front();
        let item = urgent.or_else(|| self.queue.pop_front())?;
        self.queue_bytes -= item.size();
        Some(item)
    }

    /// Takes the deferred whose time has come.
    pub(super) fn take_deferred(&mut self, now: Instant) -> Vec<(Instant, Slot)> {
        if self.deferred.is_empty() {
            return Vec::new();
        }
        let (due, later) = std::mem::take(&mut self.deferred)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.deferred = later;
        due
    }

    /// Takes the channels of the batch, if it is time to send it.
    pub(super) fn take_batch(&mut self, now: Instant) -> Option<Vec<Slot>> {
        let is_due = self.next_batch.is_none_or(|next| next <= now);
        (is_due && !self.batch.is_empty()).then(|| std::mem::take(&mut self.batch))
    }

    /// Takes the memory of a batch back: the next one is of about the same size.
    pub(super) fn reuse_batch(&mut self, emptied: Vec<Slot>) {
        if emptied.capacity() <= KEPT_BATCH {
            self.batch = emptied;
        }
    }

    /// Notes that a batch was sent. The next one leaves at `next` or later.
    pub(super) fn set_next_batch(&mut self, next: Instant) {
        self.next_batch = Some(next);
    }

    /// Gives back the memory of a burst.
    pub(super) fn shrink(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEPT_QUEUE {
            self.queue = VecDeque::new();
        }
        if self.urgent.is_empty() && self.urgent.capacity() > 0 {
            self.urgent = VecDeque::new();
        }
    }
}
