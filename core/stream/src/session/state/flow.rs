//! How the flow of a subscription is held back and let go again.
//!
//! A new subscription, one that resumes, one whose client reads too slowly and one
//! that nobody looks at are all held in the same way, and go on in the same way:
//! from the gate if it has what comes next, else from the history.

use tidewire_proto::v1::Visibility;
use tokio::time::Instant;

use super::{Slot, State, publication_size};
use crate::{
    ChannelName, Class, Position,
    session::subscription::{Flow, HeldUntil},
};

impl State {
    /// Lets flow what was held back until the reply to `subscribe` was said.
    pub(in crate::session) fn release_held(&mut self, now: Instant) {
        if !std::mem::take(&mut self.has_new) {
            return;
        }
        let new: Vec<_> = self
            .subscriptions
            .iter()
            .filter(|(_, subscription)| {
                matches!(&subscription.flow, Flow::Held(hold) if hold.until == HeldUntil::Subscribed)
            })
            .map(|(index, subscription)| Slot {
                index,
                generation: subscription.generation,
            })
            .collect();
        for slot in new {
            self.begin(slot, now);
        }
    }

    /// Lets a new subscription flow.
    pub(in crate::session) fn begin(&mut self, slot: Slot, now: Instant) {
        let is_background = self.visibility == Visibility::Background;
        let Some(subscription) = self.get(slot) else {
            return;
        };
        let pauses = is_background && subscription.pauses_in_background;
        match (subscription.class, pauses, &mut subscription.flow) {
            (Class::Latest, _, flow) => {
                *flow = Flow::Live;
                if !is_background {
                    self.queue_latest(slot, now);
                }
            }
            (Class::History, true, Flow::Held(hold)) => hold.until = HeldUntil::Visible,
            (Class::History, _, _) => self.release(slot),
        }
    }

    /// Holds back a channel that may wait while nobody looks.
    pub(in crate::session) fn pause(&mut self, slot: Slot) {
        let Some(subscription) = self.get(slot) else {
            return;
        };
        if subscription.class == Class::Latest || !subscription.pauses_in_background {
            return;
        }
        match &mut subscription.flow {
            Flow::Live => {
                subscription.flow = Flow::held(HeldUntil::Visible, subscription.position.clone());
            }
            Flow::Held(hold) if hold.until == HeldUntil::Drained => hold.until = HeldUntil::Visible,
            Flow::Held(_) => {}
        }
    }

    /// Goes on with a channel when someone looks again.
    pub(in crate::session) fn wake(&mut self, slot: Slot, now: Instant) {
        let Some(subscription) = self.get(slot) else {
            return;
        };
        match &subscription.flow {
            Flow::Live => {
                self.queue_latest(slot, now);
            }
            Flow::Held(hold) if hold.until == HeldUntil::Visible => self.release(slot),
            Flow::Held(_) => {}
        }
    }

    /// Lets a held flow go on as soon as there is room.
    pub(in crate::session) fn release(&mut self, slot: Slot) {
        let Some(subscription) = self.get(slot) else {
            return;
        };
        if let Flow::Held(hold) = &mut subscription.flow {
            hold.until = HeldUntil::Drained;
            self.may_read = true;
            self.drain_gate(slot);
        }
    }

    /// Notes what the history says of the newest publication of a held channel: it
    /// knows best.
    pub(in crate::session) fn note_top(&mut self, slot: Slot, top: &Position) {
        if let Some(subscription) = self.get(slot)
            && let Flow::Held(hold) = &mut subscription.flow
        {
            hold.note_top(top);
        }
    }

    /// Notes that a channel began anew at `top`: the history is read, and says that what
    /// was before it is lost.
    pub(in crate::session) fn renewed(&mut self, channel: &ChannelName, top: &Position) {
        let index = self.by_channel.get(channel);
        let Some(subscription) = index.and_then(|index| self.subscriptions.get_mut(*index)) else {
            return;
        };
        match &mut subscription.flow {
            Flow::Held(hold) => hold.note_top(top),
            Flow::Live if subscription.position.epoch == top.epoch => return,
            flow @ Flow::Live => *flow = Flow::held(HeldUntil::Drained, top.clone()),
        }
        self.may_read = true;
    }

    /// Moves what the gate holds next into the queue. The flow is live when
    /// nothing is missing any more.
    pub(in crate::session) fn drain_gate(&mut self, slot: Slot) {
        loop {
            let (used, limit, encoding) = (self.queued_bytes(), self.limit, self.encoding);
            let Some(subscription) = self.get(slot) else {
                return;
            };
            let Flow::Held(hold) = &mut subscription.flow else {
                return;
            };
            if hold.top.epoch == subscription.position.epoch
                && hold.top.seq <= subscription.position.seq
            {
                subscription.flow = Flow::Live;
                return;
            }
            let Some(next) = hold.next_after(&subscription.position) else {
                return;
            };
            let size = publication_size(&next, encoding);
            if used > 0 && used + size > limit {
                hold.gate.push_front(next);
                return;
            }
            self.push(slot, next, size);
        }
    }

    /// A subscription whose history has to be read now, if the queue has room.
    pub(in crate::session) fn next_to_read(&mut self) -> Option<Slot> {
        let may_read = self.may_read && !self.is_reading && self.closing.is_none();
        if !may_read || self.queued_bytes() > self.limit / 2 {
            return None;
        }
        let ready = self
            .subscriptions
            .iter()
            .find(|(_, subscription)| subscription.flow.is_ready())
            .map(|(index, subscription)| Slot {
                index,
                generation: subscription.generation,
            });
        self.may_read = ready.is_some();
        ready
    }
}
