//! Positions: the newest position of each channel that this node is subscribed to in Redis.
//!
//! A node subscribes to a channel when its first client does, and leaves it some time after the
//! last one. Messages of pub/sub may be lost. Each batch is therefore compared with the newest
//! position: it follows, or it repeats something, or something is missing between the two.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};

use super::{
    record::BatchMessage,
    tail::{Tail, TailBudget},
};
use crate::{
    ChannelName, Class, Position, Publication,
    broker::{History, Reach},
};

/// Time after the last subscriber has left a channel, in which the node stays: clients come back.
const GRACE: Duration = Duration::from_secs(10);

/// Time after a failed attempt in which no tail is read again.
const WITHOUT_TAIL: Duration = Duration::from_secs(10);

/// The channels of a node.
#[derive(Debug, Default)]
pub(super) struct Positions {
    channels: Mutex<HashMap<ChannelName, Arc<Mutex<ChannelState>>>>,
    /// Channels that a subscriber left, and when. Some have others.
    left: Mutex<HashMap<ChannelName, Instant>>,
    /// Channels with a tail.
    tailed: Mutex<Vec<Arc<Mutex<ChannelState>>>>,
}

/// A channel.
#[derive(Debug)]
pub(super) struct ChannelState {
    class: Class,
    /// The newest position that was delivered. None until it is known.
    top: Option<Top>,
    /// The newest position that was heard of while the channel could not be delivered.
    heard: Option<Position>,
    /// Whether the channel is compared with Redis, or read from there. Batches wait meanwhile: they
    /// are in the history.
    is_catching_up: bool,
    /// Whether it is to be compared once more: the comparison may have begun too early.
    must_repeat: bool,
    /// The newest publications, while clients recover.
    tail: Option<Tail>,
    /// Until when no tail is read, as the history is too long for one.
    without_tail_until: Option<Instant>,
    /// A permit for the one that reads a tail.
    tail_turn: Arc<Semaphore>,
    /// Subscribers that wait for the position.
    joining: Vec<oneshot::Sender<()>>,
    /// Set when the node leaves the channel: whoever has the state looks it up again.
    is_left: bool,
}

/// A newest position, and the write that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Top {
    pub(super) position: Position,
    /// Empty if it is not known.
    pub(super) mark: String,
}

impl Top {
    /// A position whose write is not known.
    pub(super) fn unmarked(position: Position) -> Self {
        Self {
            position,
            mark: String::new(),
        }
    }
}

/// How a subscriber waits for a channel.
#[derive(Debug)]
pub(super) enum JoinState {
    /// Not at all: the node is subscribed.
    Ready,
    /// For this. `is_first` if the node has to subscribe.
    Waiting {
        ready: oneshot::Receiver<()>,
        is_first: bool,
    },
}

/// Whether a channel has a tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TailState {
    /// It began just now.
    New,
    /// It has one.
    Known,
    /// It can have none now.
    Absent,
}

/// How a batch follows the newest position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchSuccession {
    /// It is to be delivered.
    Next,
    /// It was delivered, or is being read.
    Known,
    /// The history has to be compared and read. [`ChannelState::is_catching_up`] is set.
    Doubtful,
}

impl Positions {
    /// Notes that a client subscribes to a channel.
    pub(super) fn join(&self, channel: &ChannelName, class: Class) -> JoinState {
        loop {
            // A channel may be delivering for a while: its lock is not waited for under the other.
            let (state, is_first) = self.get_or_add(channel, class);
            let mut state = state.lock();
            if state.is_left {
                continue;
            }
            if state.top.is_some() {
                return JoinState::Ready;
            }
            // Callers that gave up.
            state.joining.retain(|one| !one.is_closed());
            let (sender, ready) = oneshot::channel();
            state.joining.push(sender);
            return JoinState::Waiting { ready, is_first };
        }
    }

    /// The state of a channel, and whether it is new.
    fn get_or_add(&self, channel: &ChannelName, class: Class) -> (Arc<Mutex<ChannelState>>, bool) {
        let mut channels = self.channels.lock();
        if let Some(state) = channels.get(channel) {
            return (state.clone(), false);
        }
        let state = Arc::new(Mutex::new(ChannelState {
            class,
            top: None,
            heard: None,
            is_catching_up: false,
            must_repeat: false,
            tail: None,
            without_tail_until: None,
            tail_turn: Arc::new(Semaphore::new(1)),
            joining: Vec::new(),
            is_left: false,
        }));
        channels.insert(channel.clone(), state.clone());
        (state, true)
    }

    /// Notes that a subscriber is about to leave a channel.
    pub(super) fn note_left(&self, channel: &ChannelName) {
        self.left.lock().insert(channel.clone(), Instant::now());
    }

    /// Removes the channels that have had no subscriber for a while, and returns them.
    pub(super) fn take_unused(
        &self,
        has_subscribers: impl Fn(&ChannelName) -> bool,
    ) -> Vec<ChannelName> {
        let now = Instant::now();
        let mut due = Vec::new();
        self.left.lock().retain(|channel, at| {
            let is_due = now.duration_since(*at) >= GRACE;
            if is_due {
                due.push(channel.clone());
            }
            !is_due
        });
        // Under the lock: a client that comes later finds the channel gone, and joins anew.
        let mut channels = self.channels.lock();
        due.retain(|channel| {
            if has_subscribers(channel) {
                return false;
            }
            let removed = channels.remove(channel);
            if let Some(state) = &removed {
                state.lock().is_left = true;
            }
            removed.is_some()
        });
        due
    }

    /// A channel of this node.
    pub(super) fn get(&self, channel: &ChannelName) -> Option<Arc<Mutex<ChannelState>>> {
        self.channels.lock().get(channel).cloned()
    }

    /// Whether the node is subscribed to a channel, or about to.
    pub(super) fn contains(&self, channel: &ChannelName) -> bool {
        self.channels.lock().contains_key(channel)
    }

    /// The newest position of a channel of this node.
    pub(super) fn top(&self, channel: &ChannelName) -> Option<Position> {
        let state = self.get(channel)?;
        let state = state.lock();
        state.top.as_ref().map(|top| top.position.clone())
    }

    /// Notes a channel that has a tail.
    pub(super) fn note_tail(&self, state: &Arc<Mutex<ChannelState>>) {
        self.tailed.lock().push(state.clone());
    }

    /// Ends the tails whose time is over.
    pub(super) fn sweep_tails(&self) {
        self.tailed.lock().retain(|state| {
            let mut state = state.lock();
            state.tail.take_if(|tail| tail.is_old());
            state.tail.is_some() && !state.is_left
        });
    }

    /// The names of all channels.
    pub(super) fn names(&self) -> Vec<ChannelName> {
        self.channels.lock().keys().cloned().collect()
    }
}

impl ChannelState {
    /// How a batch follows the newest position. Notes that the channel catches up if it has to.
    pub(super) fn succession(&mut self, batch: &BatchMessage<'_>) -> BatchSuccession {
        let Some(top) = self.top.as_ref().filter(|_| !self.is_catching_up) else {
            self.hear(batch.top());
            return BatchSuccession::Known;
        };
        if top.position.epoch.as_str() != batch.epoch {
            return BatchSuccession::Next;
        }
        let is_next = batch.first == top.position.seq + 1;
        let is_newer = batch.last() > top.position.seq;
        if is_next || (is_newer && self.class == Class::Latest) {
            return BatchSuccession::Next;
        }
        if batch.last() == top.position.seq && batch.mark == top.mark {
            return BatchSuccession::Known;
        }
        self.hear(batch.top());
        self.is_catching_up = true;
        BatchSuccession::Doubtful
    }

    fn hear(&mut self, position: Position) {
        let is_newer = self
            .heard
            .as_ref()
            .is_none_or(|heard| heard.epoch != position.epoch || heard.seq < position.seq);
        if is_newer {
            self.heard = Some(position);
        }
    }

    /// The newest position, while nothing is known to come after it.
    pub(super) fn settled_top(&self) -> Option<&Position> {
        let top = self.top.as_ref().filter(|_| !self.is_catching_up);
        top.map(|top| &top.position)
    }

    /// Adds a publication that was delivered to the tail.
    pub(super) fn remember(&mut self, publication: &Arc<Publication>) {
        self.tail.take_if(|tail| !tail.push(publication));
    }

    /// The publications after `since` from the tail, if it has all of them.
    pub(super) fn recent(
        &self,
        since: &Position,
    ) -> Option<(&Position, impl Iterator<Item = &Arc<Publication>>)> {
        let top = self.settled_top()?;
        let tail = self
            .tail
            .as_ref()
            .filter(|tail| !tail.is_old() && tail.ends_at(top));
        Some((top, tail?.after(since)?))
    }

    /// Begins a tail at the newest position, unless there is one, before the history is read.
    pub(super) fn begin_tail(&mut self, budget: &TailBudget) -> TailState {
        let Some(top) = self.settled_top().cloned() else {
            return TailState::Absent;
        };
        let is_too_long = self
            .without_tail_until
            .is_some_and(|until| Instant::now() < until);
        if is_too_long {
            return TailState::Absent;
        }
        let is_there = |tail: &Tail| !tail.is_old() && tail.ends_at(&top);
        if self.tail.as_ref().is_some_and(is_there) {
            return TailState::Known;
        }
        if !budget.has_room() {
            return TailState::Absent;
        }
        self.tail = Some(Tail::at(top, budget.clone()));
        TailState::New
    }

    /// Completes a tail with what was read after `since`.
    pub(super) fn complete_tail(&mut self, since: &Position, read: &History) {
        let last = read.publications.last().map(|last| last.seq());
        let is_whole =
            read.reach == Reach::Complete && last.is_none_or(|last| last >= read.top.seq);
        let added = is_whole
            && self
                .tail
                .as_mut()
                .is_some_and(|tail| tail.put_before(since, read));
        if !added {
            self.without_tail_until = Some(Instant::now() + WITHOUT_TAIL);
        }
    }

    /// A permit for the one that reads a tail.
    pub(super) fn tail_turn(&self) -> Arc<Semaphore> {
        self.tail_turn.clone()
    }

    /// The newest position.
    pub(super) fn top(&self) -> Option<&Top> {
        self.top.as_ref()
    }

    /// Sets the newest position, after the publications up to it were delivered.
    pub(super) fn set_top(&mut self, top: Top) {
        self.top = Some(top);
    }

    /// Moves the newest position on over a batch.
    pub(super) fn advance(&mut self, batch: &BatchMessage<'_>) {
        let seq = batch.last();
        match &mut self.top {
            Some(top) if top.position.epoch.as_str() == batch.epoch => {
                top.position.seq = seq;
                top.mark.clear();
                top.mark.push_str(batch.mark);
            }
            top => {
                *top = Some(Top {
                    position: batch.top(),
                    mark: batch.mark.to_owned(),
                });
            }
        }
    }

    /// Begins to catch up. Returns false if the channel does already: then it does so once more
    /// afterwards. Also false if the node has left the channel.
    pub(super) fn start_catching_up(&mut self) -> bool {
        let starts = !self.is_catching_up && !self.is_left;
        self.must_repeat = self.is_catching_up;
        self.is_catching_up |= starts;
        starts
    }

    /// Ends catching up, and wakes those who wait. Returns false if something newer was heard of
    /// meanwhile: then it goes on.
    pub(super) fn end_catching_up(&mut self) -> bool {
        let heard = self.heard.take();
        let must_repeat = std::mem::take(&mut self.must_repeat);
        let is_behind = match (&self.top, &heard) {
            (Some(top), Some(heard)) => {
                top.position.epoch != heard.epoch || top.position.seq < heard.seq
            }
            _ => false,
        };
        if (is_behind || must_repeat) && !self.is_left {
            return false;
        }
        self.is_catching_up = false;
        for one in self.joining.drain(..) {
            // One that gave up needs nothing.
            let _ = one.send(());
        }
        true
    }

    /// Whether the node has left the channel.
    pub(super) fn is_left(&self) -> bool {
        self.is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    fn batch<'a>(epoch: &'a str, first: u64, mark: &'a str, count: usize) -> BatchMessage<'a> {
        BatchMessage {
            epoch,
            first,
            time_ms: 0,
            mark,
            server: None,
            payloads: vec![b"o"; count],
        }
    }

    fn top(epoch: &str, seq: u64) -> Top {
        Top::unmarked(Position {
            epoch: Epoch::new(epoch),
            seq,
        })
    }

    fn joined() -> (Positions, Arc<Mutex<ChannelState>>) {
        let positions = Positions::default();
        let channel = ChannelName::parse("orders:1").unwrap();
        let first = positions.join(&channel, Class::History);
        assert!(matches!(first, JoinState::Waiting { is_first: true, .. }));
        let second = positions.join(&channel, Class::History);
        assert!(matches!(
            second,
            JoinState::Waiting {
                is_first: false,
                ..
            }
        ));
        let state = positions.get(&channel).unwrap();
        (positions, state)
    }

    #[test]
    fn a_batch_follows_or_repeats_or_leaves_a_hole() {
        let (positions, state) = joined();
        let mut state = state.lock();
        assert_eq!(
            state.succession(&batch("e", 4, "a:1", 1)),
            BatchSuccession::Known
        );
        assert!(state.start_catching_up() && !state.start_catching_up());
        state.set_top(top("e", 3));
        // It was asked for twice, and has heard of 4.
        assert!(!state.end_catching_up());
        state.set_top(top("e", 4));
        assert!(state.end_catching_up());
        drop(state);
        let channel = ChannelName::parse("orders:1").unwrap();
        let third = positions.join(&channel, Class::History);
        assert!(matches!(third, JoinState::Ready));
        let state = positions.get(&channel).unwrap();
        let mut state = state.lock();
        let next = batch("e", 5, "a:2", 2);
        assert_eq!(state.succession(&next), BatchSuccession::Next);
        state.advance(&next);
        assert_eq!(state.succession(&next), BatchSuccession::Known);
        // Another write in the same place: this server has lost something.
        let fork = batch("e", 6, "b:1", 1);
        assert_eq!(state.succession(&fork), BatchSuccession::Doubtful);
        assert!(state.end_catching_up());
        let hole = batch("e", 8, "a:3", 1);
        assert_eq!(state.succession(&hole), BatchSuccession::Doubtful);
        assert_eq!(
            state.succession(&batch("e", 7, "a:4", 1)),
            BatchSuccession::Known
        );
        assert!(!state.end_catching_up(), "8 is missing");
        state.set_top(top("e", 8));
        assert!(state.end_catching_up());
        let other = batch("f", 1, "a:5", 1);
        assert_eq!(state.succession(&other), BatchSuccession::Next);
        state.advance(&other);
        assert_eq!(state.top().unwrap().position.seq, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_is_left_after_the_grace_unless_somebody_came_back() {
        let (positions, state) = joined();
        let channel = ChannelName::parse("orders:1").unwrap();
        positions.note_left(&channel);
        assert!(positions.take_unused(|_| false).is_empty());
        tokio::time::advance(GRACE).await;
        assert!(positions.take_unused(|_| true).is_empty());
        positions.note_left(&channel);
        tokio::time::advance(GRACE).await;
        assert_eq!(
            positions.take_unused(|_| false),
            std::slice::from_ref(&channel)
        );
        assert!(state.lock().is_left() && !positions.contains(&channel));
        let again = positions.join(&channel, Class::History);
        assert!(matches!(again, JoinState::Waiting { is_first: true, .. }));
    }
}
