//! Positions: the newest position of each channel that this node is subscribed to in Redis.
//!
//! A node subscribes to a channel when its first client does, and leaves it some time after the
//! last one. Messages of pub/sub may be lost. Each batch is therefore compared with the newest
//! position: it follows, or it repeats something, or something is missing between the two.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::record::BatchMessage;
use crate::{ChannelName, Class, Position};

/// Time after the last subscriber has left a channel, in which the node stays: clients come back.
const GRACE: Duration = Duration::from_secs(10);

/// The channels of a node.
#[derive(Debug, Default)]
pub(super) struct Positions {
    channels: Mutex<HashMap<ChannelName, Arc<Mutex<ChannelState>>>>,
    /// Channels that a subscriber left, and when. Some have others.
    left: Mutex<HashMap<ChannelName, Instant>>,
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
    is_asked_again: bool,
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
pub(super) enum Joining {
    /// Not at all: the node is subscribed.
    Ready,
    /// For this. `is_first` if the node has to subscribe.
    Waiting {
        ready: oneshot::Receiver<()>,
        is_first: bool,
    },
}

/// How a batch follows the newest position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Succession {
    /// It is to be delivered.
    Next,
    /// It was delivered, or is being read.
    Known,
    /// The history has to be compared and read. [`ChannelState::is_catching_up`] is set.
    Doubtful,
}

impl Positions {
    /// Notes that a client subscribes to a channel.
    pub(super) fn join(&self, channel: &ChannelName, class: Class) -> Joining {
        let mut channels = self.channels.lock();
        let is_first = !channels.contains_key(channel);
        let state = channels.entry(channel.clone()).or_insert_with(|| {
            Arc::new(Mutex::new(ChannelState {
                class,
                top: None,
                heard: None,
                is_catching_up: false,
                is_asked_again: false,
                joining: Vec::new(),
                is_left: false,
            }))
        });
        let mut state = state.lock();
        if state.top.is_some() {
            return Joining::Ready;
        }
        // Callers that gave up.
        state.joining.retain(|one| !one.is_closed());
        let (sender, ready) = oneshot::channel();
        state.joining.push(sender);
        Joining::Waiting { ready, is_first }
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

    /// The names of all channels.
    pub(super) fn names(&self) -> Vec<ChannelName> {
        self.channels.lock().keys().cloned().collect()
    }
}

impl ChannelState {
    /// How a batch follows the newest position. Notes that the channel catches up if it has to.
    pub(super) fn succession(&mut self, batch: &BatchMessage<'_>) -> Succession {
        let Some(top) = self.top.as_ref().filter(|_| !self.is_catching_up) else {
            self.hear(batch.top());
            return Succession::Known;
        };
        if top.position.epoch.as_str() != batch.epoch {
            return Succession::Next;
        }
        let is_next = batch.first == top.position.seq + 1;
        let is_newer = batch.last() > top.position.seq;
        if is_next || (is_newer && self.class == Class::Latest) {
            return Succession::Next;
        }
        if batch.last() == top.position.seq && batch.mark == top.mark {
            return Succession::Known;
        }
        self.hear(batch.top());
        self.is_catching_up = true;
        Succession::Doubtful
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
        self.is_asked_again = self.is_catching_up;
        self.is_catching_up |= starts;
        starts
    }

    /// Ends catching up, and wakes those who wait. Returns false if something newer was heard of
    /// meanwhile: then it goes on.
    pub(super) fn end_catching_up(&mut self) -> bool {
        let heard = self.heard.take();
        let is_asked_again = std::mem::take(&mut self.is_asked_again);
        let is_behind = match (&self.top, &heard) {
            (Some(top), Some(heard)) => {
                top.position.epoch != heard.epoch || top.position.seq < heard.seq
            }
            _ => false,
        };
        if (is_behind || is_asked_again) && !self.is_left {
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
