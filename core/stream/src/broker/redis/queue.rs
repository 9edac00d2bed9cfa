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
use tokio::sync::{Notify, oneshot};

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

/// The publications that wait for one connection.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<PendingItems>,
    buffer: Arc<Buffer>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct PendingItems {
    /// Channels with publications, in the order of their turns.
    turns: VecDeque<ChannelName>,
    channels: HashMap<ChannelName, VecDeque<Item>>,
}

impl Queue {
    pub(super) fn new(buffer: Arc<Buffer>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            buffer,
            wake: Notify::new(),
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
            Some(items) => items.push_back(item),
            None => {
                state.turns.push_back(channel.clone());
                state
                    .channels
                    .insert(channel.clone(), VecDeque::from([item]));
            }
        }
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits until there is a publication.
    pub(super) async fn ready(&self) {
        while self.state.lock().turns.is_empty() {
            self.wake.notified().await;
        }
    }

    /// Takes the batches that are written next, in the order of each channel. Channels with more
    /// than one batch get their next one once all others had theirs. Publications whose senders
    /// have given up are dropped.
    pub(super) fn take(&self) -> Vec<Batch> {
        let mut state = self.state.lock();
        let (mut batches, mut items, mut bytes) = (Vec::new(), 0, 0);
        for pass in 0..CHANNEL_BATCHES {
            for _ in 0..state.turns.len() {
                if items >= ROUND_ITEMS || bytes >= ROUND_BYTES {
                    return batches;
                }
                let Some(channel) = state.turns.pop_front() else {
                    return batches;
                };
                let Some(waiting) = state.channels.get_mut(&channel) else {
                    continue;
                };
                let batch = self.take_batch(channel.clone(), waiting, pass);
                match waiting.is_empty() {
                    true => drop(state.channels.remove(&channel)),
                    false => state.turns.push_back(channel),
                }
                if !batch.items.is_empty() {
                    items += batch.items.len();
                    bytes += batch.bytes;
                    batches.push(batch);
                }
            }
        }
        batches
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
    use super::*;

    fn item(payload: &'static str, mode: Mode) -> Item {
        Item {
            payload: Bytes::from_static(payload.as_bytes()),
            mode,
            fence: None,
            key: None,
            reply: None,
        }
    }

    fn payloads(batch: &Batch) -> Vec<&[u8]> {
        batch.items.iter().map(|item| &*item.payload).collect()
    }

    #[test]
    fn a_batch_has_one_mode_and_a_channel_keeps_its_order() {
        let buffer = Buffer::new(usize::MAX);
        let queue = Queue::new(buffer.clone());
        let [a, b] = ["a:1", "b:1"].map(|name| ChannelName::parse(name).unwrap());
        for (channel, payload, mode) in [
            (&a, "1", Mode::Any),
            (&b, "2", Mode::Any),
            (&a, "3", Mode::Any),
            (&a, "4", Mode::Known),
        ] {
            queue.push(channel, item(payload, mode)).unwrap();
        }
        let round = queue.take();
        assert_eq!(round.len(), 3);
        assert_eq!(payloads(&round[0]), [b"1", b"3"]);
        assert_eq!(payloads(&round[1]), [b"2"]);
        assert_eq!(payloads(&round[2]), [b"4"]);
        let slots: Vec<_> = round.iter().map(|batch| batch.slot).collect();
        assert_eq!(slots, [0, 0, 1]);
        assert!(queue.take().is_empty());
        drop(round);
        assert_eq!(buffer.used(), 0);
    }

    #[test]
    fn a_batch_has_one_fence() {
        let queue = Queue::new(Buffer::new(usize::MAX));
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
        let round = queue.take();
        let terms: Vec<_> = round
            .iter()
            .map(|batch| (payloads(batch).len(), batch.fence().unwrap().term.as_str()))
            .collect();
        assert_eq!(terms, [(2, "1-a"), (1, "2-b")]);
    }

    #[test]
    fn a_busy_channel_has_its_next_batch_after_all_others() {
        let queue = Queue::new(Buffer::new(usize::MAX));
        let [a, b] = ["a:1", "b:1"].map(|name| ChannelName::parse(name).unwrap());
        for _ in 0..10 * BATCH_ITEMS {
            queue.push(&a, item("1", Mode::Any)).unwrap();
        }
        queue.push(&b, item("2", Mode::Any)).unwrap();
        let round = queue.take();
        let turns: Vec<_> = round
            .iter()
            .map(|one| (one.slot, one.items.len()))
            .collect();
        let full = BATCH_ITEMS;
        assert_eq!(turns, [(0, full), (0, 1), (1, full), (2, full), (3, full)]);
        assert_eq!(queue.take().len(), CHANNEL_BATCHES);
    }

    #[test]
    fn a_full_buffer_refuses_and_given_up_publications_leave_it() {
        let buffer = Buffer::new(2 * ITEM_BYTES + 2);
        let queue = Queue::new(buffer.clone());
        let channel = ChannelName::parse("a:1").unwrap();
        let (reply, outcome) = oneshot::channel();
        let mut first = item("1", Mode::Any);
        first.reply = Some(reply);
        queue.push(&channel, first).unwrap();
        queue.push(&channel, item("2", Mode::Any)).unwrap();
        assert!(queue.push(&channel, item("3", Mode::Any)).is_err());
        drop(outcome);
        let round = queue.take();
        assert_eq!(payloads(&round[0]), [b"2"]);
        queue.push(&channel, item("3", Mode::Any)).unwrap();
        drop(round);
        assert_eq!(buffer.used(), 1 + ITEM_BYTES);
    }
}
