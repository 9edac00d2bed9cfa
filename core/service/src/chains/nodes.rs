//! Node interest: the channels of a chain that the nodes follow, as its owner knows them.
//!
//! Each node has a session, whose updates come in order. The interest of a node ends when the node is
//! silent for [`LEASE`], for example because it was killed.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_stream::ChannelName;
use tokio::time::Instant;

use super::wire::{InterestAnswer, InterestUpdate};

/// How long the interest of a silent node lasts. A node sends an update every two seconds.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// The interest of all nodes.
#[derive(Debug, Default)]
pub(super) struct NodeInterest(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<String, NodeState>,
    /// How many nodes follow a channel.
    counts: HashMap<ChannelName, u32>,
}

#[derive(Debug)]
struct NodeState {
    session: u64,
    /// The newest update.
    number: u64,
    /// Its answer, once it is applied.
    answer: Option<InterestAnswer>,
    channels: HashSet<ChannelName>,
    heard_at: Instant,
}

/// The next step with an update.
#[derive(Debug, PartialEq)]
pub(super) enum UpdateStep {
    /// Apply it, and then [finish](NodeInterest::finish) it.
    Apply,
    /// It was applied before, with this answer.
    Known(InterestAnswer),
    /// It is being applied.
    Busy,
    /// It is not the next one of its session.
    OutOfStep,
}

impl NodeInterest {
    /// Begins with an update.
    pub(super) fn begin(&self, update: &InterestUpdate, now: Instant) -> UpdateStep {
        let mut state = self.0.lock();
        let known = state.nodes.get_mut(&update.node);
        let known = known.filter(|node| node.session >= update.session);
        let Some(node) = known else {
            if update.number > 0 {
                return UpdateStep::OutOfStep;
            }
            state.forget(&update.node);
            let node = NodeState {
                session: update.session,
                number: 0,
                answer: None,
                channels: HashSet::new(),
                heard_at: now,
            };
            state.nodes.insert(update.node.clone(), node);
            return UpdateStep::Apply;
        };
        if node.session > update.session {
            return UpdateStep::OutOfStep;
        }
        match &node.answer {
            Some(answer) if node.number == update.number => {
                node.heard_at = now;
                UpdateStep::Known(answer.clone())
            }
            None if node.number == update.number => UpdateStep::Busy,
            Some(_) if node.number + 1 == update.number => {
                node.number = update.number;
                node.heard_at = now;
                node.answer = None;
                UpdateStep::Apply
            }
            _ => UpdateStep::OutOfStep,
        }
    }

    /// Finishes an update that was applied: channels that are not followed any more, those that are
    /// now, and its answer.
    pub(super) fn finish(
        &self,
        update: &InterestUpdate,
        removed: &[ChannelName],
        added: Vec<ChannelName>,
        answer: InterestAnswer,
        now: Instant,
    ) {
        let mut state = self.0.lock();
        let State { nodes, counts } = &mut *state;
        let node = nodes.get_mut(&update.node);
        let is_next = |node: &&mut NodeState| {
            (node.session, node.number) == (update.session, update.number) && node.answer.is_none()
        };
        let Some(node) = node.filter(is_next) else {
            return;
        };
        for channel in removed {
            if node.channels.remove(channel) {
                release(counts, channel);
            }
        }
        for channel in added {
            if node.channels.insert(channel.clone()) {
                *counts.entry(channel).or_default() += 1;
            }
        }
        node.heard_at = now;
        node.answer = Some(answer);
    }

    /// Forgets a node. It begins another session with its next update.
    pub(super) fn forget(&self, node: &str) {
        self.0.lock().forget(node);
    }

    /// Forgets silent nodes.
    pub(super) fn expire(&self, now: Instant) {
        let mut state = self.0.lock();
        let is_silent = |node: &NodeState| now >= node.heard_at + LEASE;
        let nodes = state.nodes.iter();
        let silent: Vec<_> = nodes
            .filter(|(_, node)| is_silent(node))
            .map(|(name, _)| name.clone())
            .collect();
        for node in silent {
            state.forget(&node);
        }
    }

    /// Whether a node follows a channel.
    pub(super) fn contains(&self, channel: &ChannelName) -> bool {
        self.0.lock().counts.contains_key(channel)
    }

    /// All channels that nodes follow.
    #[cfg(test)]
    pub(super) fn channels(&self) -> HashSet<ChannelName> {
        self.0.lock().counts.keys().cloned().collect()
    }
}

impl State {
    fn forget(&mut self, node: &str) {
        let channels = self.nodes.remove(node).map(|node| node.channels);
        for channel in channels.into_iter().flatten() {
            release(&mut self.counts, &channel);
        }
    }
}

fn release(counts: &mut HashMap<ChannelName, u32>, channel: &ChannelName) {
    if let Some(count) = counts.get_mut(channel) {
        *count -= 1;
        if *count == 0 {
            counts.remove(channel);
        }
    }
}
