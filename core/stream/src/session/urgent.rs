//! Urgent publications: their way through a session, past what others wait for.
//!
//! An urgent publication leaves by the outbox's urgent lane. It does not wait for the values of
//! other channels, for a `minIntervalMs`, for a client in the background, or for a client that
//! reads slowly. Its channel keeps its order: what is queued of it, held back or missing goes
//! ahead, by the same lane. The subscription is *expedited* until it has caught up.
//!
//! # Worked example
//! The outbox is full of prices, and `user:ada` is held with 7 and 8 until there is room. 9 is
//! urgent. The newest publications of the queue are dropped, as many as 7, 8 and 9 need room
//! for: their channels are held, and read them from their histories later. 7, 8 and 9 leave next.
//!
//! The lane counts towards the bound of the outbox. When nothing is left to drop, an urgent
//! publication waits for room like any other.

use std::sync::Arc;

use tidewire_proto::v1::Visibility;

use super::{
    Slot,
    recovery::{ReleaseCondition, Succession},
    state::State,
};
use crate::Publication;

impl State {
    /// Queues an urgent publication of a history channel. True if the transport has something to
    /// do for it.
    pub(super) fn deliver_urgent_history(
        &mut self,
        slot: Slot,
        publication: &Arc<Publication>,
    ) -> bool {
        let size = self.outbox.size_of(publication);
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        let held = &mut self.recovery.held;
        if subscription
            .progress
            .buffer(publication, size, held)
            .is_some()
        {
            return self.expedite(slot);
        }
        match subscription.progress.succession(publication.position()) {
            Succession::Repeat => return false,
            Succession::Next => {}
            Succession::Hole => {
                subscription.progress.hold_from(publication, size, held);
                return self.expedite(slot);
            }
        }
        self.outbox.expedite(slot);
        if self.make_room(size) {
            if let Some(subscription) = self.subscriptions.get_mut(slot) {
                subscription.progress.advance(publication.position());
                self.outbox.push_urgent(slot, publication.clone(), size);
            }
        } else if let Some(subscription) = self.subscriptions.get_mut(slot) {
            let held = &mut self.recovery.held;
            subscription.progress.hold_from(publication, size, held);
            self.recovery.note_ready();
        }
        true
    }

    /// Queues an urgent value of a latest channel. True if the transport has something to do for
    /// it.
    pub(super) fn deliver_urgent_latest(
        &mut self,
        slot: Slot,
        publication: &Arc<Publication>,
    ) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        if subscription.progress.succession(publication.position()) == Succession::Repeat {
            return false;
        }
        subscription.set_pending(publication.clone());
        if !subscription.progress.is_live() {
            // Its reply comes first.
            return false;
        }
        subscription.queue_urgent();
        self.outbox.push_urgent_latest(slot);
        true
    }

    /// Lets a held subscription catch up by the urgent lane, as soon as its reply is queued.
    fn expedite(&mut self, slot: Slot) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        subscription.set_expedited(true);
        self.outbox.expedite(slot);
        let progress = &mut subscription.progress;
        if progress.is_held_until(ReleaseCondition::Notice) {
            return false;
        }
        progress.hold_until(ReleaseCondition::Room, &mut self.recovery.held);
        self.recovery.note_expedited();
        self.drain_buffer(slot);
        true
    }

    /// Makes room for an urgent publication of `size` bytes: the newest publications of the queue
    /// are read from their histories later. False if there are none left to drop.
    pub(super) fn make_room(&mut self, size: usize) -> bool {
        while !self.outbox.has_room(size) {
            let Some((slot, before)) = self.outbox.shed() else {
                return false;
            };
            if let Some(subscription) = self.subscriptions.get_mut(slot) {
                subscription.progress.go_back_to(&before);
                self.recovery.note_ready();
            }
        }
        true
    }

    /// Notes that an expedited subscription has caught up. In the background it pauses again, if
    /// its channel does.
    pub(super) fn end_expediting(&mut self, slot: Slot) {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return;
        };
        subscription.set_expedited(false);
        if self.visibility == Visibility::Background {
            self.pause(slot);
        }
    }
}
