//! One subscription of a session: where it stands and how it flows.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{ChannelName, Class, Namespace, Position, Publication, hub::HubKey};

/// How many publications are held back by reference while a history is read; a
/// longer burst is read from the history again.
const GATE: usize = 128;

/// What a subscription wants beside the channel.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    pub(super) since: Option<Position>,
    pub(super) min_interval: Option<Duration>,
}

/// A subscription. What every delivery reads is together, on one cache line or two: a
/// server has more subscriptions than fit in its caches.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Subscription {
    /// Tells this subscription from an earlier one in the same slot.
    pub(super) generation: u64,
    /// What the client has got, or will get from the queue.
    pub(super) position: Position,
    /// On a latest channel: the value that waits to be sent.
    pub(super) pending: Option<Arc<Publication>>,
    pub(super) flow: Flow,
    pub(super) class: Class,
    /// Whether a place in a queue waits for `pending`.
    pub(super) queued: Queued,
    /// How values are told when there are several.
    pub(super) telling: BatchMode,
    /// Whether it pauses while the client is in the background.
    pub(super) pauses_in_background: bool,
    pub(super) min_interval: Option<Duration>,
    pub(super) last_sent: Option<Instant>,
    /// What the transport has taken.
    pub(super) taken: Position,
    pub(super) channel: ChannelName,
    pub(super) hub_key: Option<HubKey>,
}

/// How the values of a channel are told to a session that follows several such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchMode {
    /// Each alone.
    Single,
    /// Together, as prices are.
    Batched,
}

impl BatchMode {
    /// The mode of a namespace's channels.
    pub(super) fn of(namespace: &Namespace) -> Self {
        match namespace.batched {
            true => Self::Batched,
            false => Self::Single,
        }
    }
}

/// Whether a latest value has its place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    No,
    Yes,
}

/// How publications flow to the client.
#[derive(Debug)]
pub(super) enum Flow {
    /// Straight to the queue.
    Live,
    /// Past the queue, until what is missing was read from the history.
    Held(Box<Hold>),
}

/// A flow that is held back.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) until: HeldUntil,
    /// The newest publication there is.
    pub(super) top: Position,
    /// Publications that need not be read from the history, oldest first.
    pub(super) gate: VecDeque<Arc<Publication>>,
}

/// What a held flow waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldUntil {
    /// The reply to `subscribe`.
    Subscribed,
    /// The word that somebody else subscribed the session.
    Announced,
    /// Someone to look.
    Visible,
    /// Room in the outbox, and nothing else.
    Drained,
}

impl Flow {
    /// A flow held from `top` on.
    pub(super) fn held(until: HeldUntil, top: Position) -> Self {
        Self::Held(Box::new(Hold {
            until,
            top,
            gate: VecDeque::new(),
        }))
    }

    /// Whether only room in the outbox is waited for.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Held(hold) if hold.until == HeldUntil::Drained)
    }
}

impl Hold {
    /// Notes a publication that cannot flow yet.
    pub(super) fn note(&mut self, publication: &Arc<Publication>) {
        if publication.position().epoch != self.top.epoch {
            self.gate.clear();
        }
        self.note_top(publication.position());
        if self.until == HeldUntil::Visible {
            return;
        }
        // Past the bound the newest are left to the history, so that what the
        // gate holds first is what is needed first.
        if self.gate.len() < GATE {
            self.gate.push_back(publication.clone());
        }
    }

    /// Notes that the channel has come to `top`. What is still under way from before
    /// a history was read does not take it back.
    pub(super) fn note_top(&mut self, top: &Position) {
        if self.top.epoch != top.epoch || self.top.seq < top.seq {
            self.top = top.clone();
        }
    }

    /// Puts what was read from the history before what came since.
    pub(super) fn prefill(&mut self, publications: Vec<Arc<Publication>>) {
        let Some(last) = publications
            .last()
            .map(|publication| publication.position().clone())
        else {
            return;
        };
        self.gate
            .retain(|noted| noted.position().epoch == last.epoch && noted.seq() > last.seq);
        for publication in publications.into_iter().rev() {
            self.gate.push_front(publication);
        }
    }

    /// Takes the publication that follows `position`, if the gate has it.
    pub(super) fn next_after(&mut self, position: &Position) -> Option<Arc<Publication>> {
        let is_behind = |publication: &Arc<Publication>| {
            publication.position().epoch != position.epoch || publication.seq() <= position.seq
        };
        while self.gate.front().is_some_and(is_behind) {
            self.gate.pop_front();
        }
        let is_next = self
            .gate
            .front()
            .is_some_and(|publication| publication.seq() == position.seq + 1);
        if is_next { self.gate.pop_front() } else { None }
    }
}
