//! Delivery: the way of a publication through a session, from the hub to the transport.
//!
//! The hub calls [`State::deliver`], which queues a publication in the outbox, or has it held
//! back where [`recovery`](super::recovery) takes over. The transport takes the messages
//! of the outbox: it waits for them ([`Connection::next`]), or it is a sink that the shard
//! flushes ([`Session::take_outgoing`]). Both run the same step, which sends messages, waits or
//! ends. Before that, it may start to read a history beside the transport.

use std::sync::{Arc, Weak};

use tidewire_proto::v1::Visibility;
use tokio::time::Instant;

use super::{
    CloseReason, Connection, OutgoingItem, OutgoingMessage, PriceBatch, Session, Slot,
    outbox::{Due, QueueItem},
    outgoing::OutgoingBuffer,
    recovery::{ReleaseCondition, Succession},
    state::State,
    subscriptions::BatchMode,
};
use crate::{
    Class, Clock, Publication, Urgency,
    hub::{FlushSchedule, Sink},
    publication_batch::Delivery,
};

/// Result of a flush: messages for the sink, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushOutcome {
    /// Messages, and there may be more.
    More,
    /// All messages that are to be sent now.
    Drained,
    /// No message: there is nothing to send now.
    Idle,
    /// No message: the session is over. Close with this reason.
    Close(CloseReason),
}

/// Next action of the transport.
enum DeliveryStep {
    /// Send the messages of this step, of about this many bytes without batches of prices.
    Send(NextStep, usize),
    /// Wait until this time, or until the session is woken.
    Wait(Option<Instant>),
    /// Close.
    Close(CloseReason),
}

/// Time of the next step.
enum NextStep {
    Now,
    At(Option<Instant>),
}

/// Sources of time: the clock, and the schedule of flushes.
#[derive(Clone, Copy)]
struct Time<'a> {
    clock: &'a dyn Clock,
    /// When batches of prices are sent.
    schedule: &'a FlushSchedule,
}

impl State {
    /// Queues publications of one channel, in order. True if the transport has something to
    /// do for them.
    pub(super) fn deliver(&mut self, slot: Slot, delivery: &Delivery<'_>, now: Instant) -> bool {
        if self.closing.is_some() {
            // The session ends when what is queued already is sent.
            return false;
        }
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        if delivery.urgency() == Urgency::Urgent {
            return self.deliver_with_urgent(slot, delivery.publications(), now);
        }
        match (subscription.class(), delivery.publications()) {
            (Class::Latest, [.., newest]) => self.deliver_latest(slot, newest, now),
            (Class::Latest, []) => false,
            (Class::History, [_, _, ..]) if self.deliver_batch(slot, delivery) => true,
            (Class::History, publications) => {
                let mut has_work = false;
                for publication in publications {
                    has_work |= self.deliver_history(slot, publication);
                }
                has_work
            }
        }
    }

    /// Queues a whole batch, if all of it comes next and has room.
    fn deliver_batch(&mut self, slot: Slot, delivery: &Delivery<'_>) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        let Some(batch) = delivery.batch() else {
            return false;
        };
        let progress = &mut subscription.progress;
        let is_next = progress.succession(batch.first()) == Succession::Next;
        if !is_next || !progress.is_live() || !self.outbox.push_batch(slot, batch) {
            return false;
        }
        progress.advance(batch.last());
        true
    }

    fn deliver_history(&mut self, slot: Slot, publication: &Arc<Publication>) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        let progress = &mut subscription.progress;
        let size = self.outbox.size_of(publication);
        let held = &mut self.recovery.held;
        if let Some(condition) = progress.buffer(publication, size, held) {
            return condition == ReleaseCondition::Room && self.outbox.is_empty();
        }
        let succession = progress.succession(publication.position());
        if succession == Succession::Repeat {
            // It was on its way to the shard when the history gave it.
            return false;
        }
        if succession == Succession::Hole || !self.outbox.has_room(size) {
            // The history has the missing publications, and those that do not fit.
            progress.hold_from(publication, size, held);
            self.recovery.note_ready();
            return self.outbox.is_empty();
        }
        progress.advance(publication.position());
        self.outbox
            .push_publication(slot, publication.clone(), size);
        true
    }

    fn deliver_latest(&mut self, slot: Slot, publication: &Arc<Publication>, now: Instant) -> bool {
        let is_background = self.visibility == Visibility::Background;
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        if subscription.progress.succession(publication.position()) == Succession::Repeat {
            // It was on its way to the shard when a newer value was read.
            return false;
        }
        subscription.set_pending(publication.clone());
        if is_background || subscription.is_queued() || !subscription.progress.is_live() {
            return false;
        }
        self.queue_latest(slot, now)
    }

    /// Queues publications of one channel of which one is urgent: see [`urgent`](super::urgent).
    fn deliver_with_urgent(
        &mut self,
        slot: Slot,
        publications: &[Arc<Publication>],
        now: Instant,
    ) -> bool {
        let mut has_work = false;
        for publication in publications {
            let class = self.subscriptions.get_mut(slot).map(|one| one.class());
            has_work |= match (class, publication.urgency()) {
                (None, _) => false,
                (Some(Class::Latest), Urgency::Urgent) => {
                    self.deliver_urgent_latest(slot, publication)
                }
                (Some(Class::Latest), Urgency::Ordinary) => {
                    self.deliver_latest(slot, publication, now)
                }
                (Some(Class::History), Urgency::Urgent) => {
                    self.deliver_urgent_history(slot, publication)
                }
                (Some(Class::History), Urgency::Ordinary) => {
                    self.deliver_history(slot, publication)
                }
            };
        }
        has_work
    }

    /// Queues the pending value of a latest channel: in the queue, in the batch, or until its
    /// interval is over. True if the transport has something to do for it.
    pub(super) fn queue_latest(&mut self, slot: Slot, now: Instant) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(slot) else {
            return false;
        };
        let Some(due) = subscription.queue_pending() else {
            return false;
        };
        let is_batched = subscription.batch_mode() == BatchMode::Batched;
        if let Some(due) = due.filter(|due| *due > now) {
            self.outbox.defer(due, slot);
            true
        } else if is_batched && self.subscriptions.shares_batches() {
            self.outbox.add_to_batch(slot)
        } else {
            self.outbox.push_latest(slot);
            true
        }
    }

    /// Takes queued messages, up to about `budget` bytes, and returns how many.
    fn take(
        &mut self,
        now: Instant,
        time: Time<'_>,
        budget: usize,
        out: &mut impl OutgoingBuffer,
    ) -> usize {
        let mut taken = 0;
        while taken < budget
            && let Some(reply) = self.outbox.pop_reply()
        {
            taken += reply.len();
            out.push(OutgoingMessage::Direct(reply));
        }
        for (_, slot) in self.outbox.take_deferred(now) {
            if let Some(subscription) = self.subscriptions.get_mut(slot) {
                subscription.unqueue();
                self.queue_latest(slot, now);
            }
        }
        while taken < budget
            && let Some(item) = self.outbox.pop()
        {
            taken += self.take_item(item, now, out);
        }
        if taken < budget {
            self.take_batch(now, time, out);
        }
        self.outbox.shrink();
        taken
    }

    /// Takes an item of the queue, and returns its size. An item of a subscription that has
    /// ended is dropped.
    fn take_item(&mut self, item: QueueItem, now: Instant, out: &mut impl OutgoingBuffer) -> usize {
        match item {
            QueueItem::Publication(slot, publication, size) => {
                if let Some(subscription) = self.subscriptions.get_mut(slot) {
                    subscription.note_delivered(publication.position());
                    out.push(OutgoingMessage::Publication(publication));
                }
                size
            }
            QueueItem::Batch(slot, batch, size) => {
                if let Some(subscription) = self.subscriptions.get_mut(slot) {
                    subscription.note_delivered(batch.last());
                    out.push_batch(batch);
                }
                size
            }
            QueueItem::Latest(slot) => {
                let Some(publication) = self.take_latest(slot, now) else {
                    return 0;
                };
                let size = self.outbox.size_of(&publication);
                out.push(OutgoingMessage::Publication(publication));
                size
            }
            QueueItem::Gap(slot, newest, notice) => {
                if let Some(subscription) = self.subscriptions.get_mut(slot) {
                    subscription.note_delivered(&newest);
                    out.push(OutgoingMessage::Direct(notice));
                }
                0
            }
        }
    }

    /// Takes the pending value of a latest channel. In the background it stays pending.
    fn take_latest(&mut self, slot: Slot, now: Instant) -> Option<Arc<Publication>> {
        let subscription = self.subscriptions.get_mut(slot)?;
        subscription.unqueue();
        if self.visibility == Visibility::Background && !subscription.has_urgent_pending() {
            return None;
        }
        subscription.take_pending(now)
    }

    fn take_batch(&mut self, now: Instant, time: Time<'_>, out: &mut impl OutgoingBuffer) {
        let Some(mut slots) = self.outbox.take_batch(now) else {
            return;
        };
        let mut updates = Vec::with_capacity(slots.len());
        updates.extend(
            slots
                .drain(..)
                .filter_map(|slot| self.take_latest(slot, now)),
        );
        self.outbox.reuse_batch(slots);
        match updates.len() {
            0 => return,
            1 => updates
                .pop()
                .into_iter()
                .for_each(|update| out.push(OutgoingMessage::Publication(update))),
            _ => out.push(OutgoingMessage::PriceBatch(PriceBatch {
                updates,
                time_ms: time.clock.now_ms(),
            })),
        }
        self.outbox.set_next_batch(time.schedule.next(now));
    }
}

impl Connection {
    /// Waits until there is something to send, and takes up to about `budget` bytes of it.
    ///
    /// # Errors
    /// The session is over and its outbox is empty: close with this reason.
    pub async fn next(
        &self,
        budget: usize,
        out: &mut Vec<OutgoingMessage>,
    ) -> Result<(), CloseReason> {
        self.next_until(|| None, budget, out).await
    }

    /// Like [`next`](Self::next), but returns without a message at `quiet_at` if there is none
    /// until then. `quiet_at` is called again each time the session is woken.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub async fn next_until(
        &self,
        quiet_at: impl Fn() -> Option<Instant>,
        budget: usize,
        out: &mut Vec<OutgoingMessage>,
    ) -> Result<(), CloseReason> {
        // A transport comes back when it has passed on what it took before.
        self.record_unsent(0);
        loop {
            let now = Instant::now();
            let due = match self.step(now, budget, out, None) {
                DeliveryStep::Send(_, taken) => {
                    let encoding = self.info().encoding;
                    let batches = out.iter().map(|message| match message {
                        OutgoingMessage::PriceBatch(prices) => prices.len(encoding),
                        OutgoingMessage::Direct(_) | OutgoingMessage::Publication(_) => 0,
                    });
                    self.record_unsent(taken + batches.sum::<usize>());
                    return Ok(());
                }
                DeliveryStep::Close(reason) => return Err(reason),
                DeliveryStep::Wait(due) => due,
            };
            let quiet_at = quiet_at();
            if quiet_at.is_some_and(|quiet_at| quiet_at <= now) {
                return Ok(());
            }
            match due.into_iter().chain(quiet_at).min() {
                None => self.core().wake.notified().await,
                Some(due) => {
                    // The next step finds out which of the two it was.
                    tokio::select! {
                        () = self.core().wake.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }
}

impl Session {
    /// Sets the sink that writes for this connection from now on, on the connection's shard.
    pub fn attach(&self, sink: Weak<dyn Sink>) {
        // A second sink changes nothing: the first one writes already.
        let _ = self.core().sink.set(sink);
    }

    /// Takes up to about `budget` bytes of the messages due now, for a sink. The sink is
    /// flushed again when there is more, and at `again_at` in any case.
    pub fn take_outgoing(
        &self,
        now: Instant,
        budget: usize,
        out: &mut Vec<OutgoingItem>,
        again_at: Instant,
    ) -> FlushOutcome {
        match self.step(now, budget, out, Some(again_at)) {
            DeliveryStep::Send(NextStep::Now, _) => FlushOutcome::More,
            DeliveryStep::Send(NextStep::At(due), _) => {
                self.arm(due);
                FlushOutcome::Drained
            }
            DeliveryStep::Close(reason) => FlushOutcome::Close(reason),
            DeliveryStep::Wait(due) => {
                self.arm(due);
                FlushOutcome::Idle
            }
        }
    }

    /// Takes messages that are due, or returns the time to wait for. A sink passes the time at
    /// which it is flushed in any case. It then gets a time only if the shard's timer needs a
    /// new one.
    fn step(
        &self,
        now: Instant,
        budget: usize,
        out: &mut impl OutgoingBuffer,
        again_at: Option<Instant>,
    ) -> DeliveryStep {
        let core = self.core();
        let time = Time {
            clock: core.context.clock(),
            schedule: core.context.hub().shard(core.shard_id()).flush_schedule(),
        };
        // A sink leaves its lifetime to the shard's timer.
        let expiry = match again_at {
            None => self.0.check_lifetime(now),
            Some(_) => None,
        };
        let mut state = core.state.lock();
        let mut taken = 0;
        loop {
            // Each pass of this loop makes a subscription live, queues something, or finds no
            // room: so it ends.
            while let Some(slot) = state.next_to_read(now) {
                drop(state);
                self.read_history_aside(slot);
                state = core.state.lock();
            }
            match state.outbox.due(now) {
                Due::Now => {}
                due => {
                    if let Some(end) = &state.closing {
                        return DeliveryStep::Close(end.reason);
                    }
                    let due = due.earliest(expiry);
                    return DeliveryStep::Wait(state.next_flush(due, again_at));
                }
            }
            // A budget of nothing would take nothing, for ever.
            taken += state.take(now, time, budget.max(1), out);
            if out.message_count() > 0 {
                break;
            }
        }
        if out.ends_with_publication() {
            core.note_activity(&mut state, now);
        }
        let next = match state.outbox.due(now) {
            due @ (Due::At(_) | Due::Never) if !state.has_work(now) => {
                let due = due.earliest(expiry);
                NextStep::At(state.next_flush(due, again_at))
            }
            _ => NextStep::Now,
        };
        let has_waiting_command = std::mem::take(&mut state.has_waiting_command);
        drop(state);
        if has_waiting_command {
            core.replies_read.notify_waiters();
        }
        core.transport.count_deliveries(out.message_count());
        DeliveryStep::Send(next, taken)
    }

    /// Gives a time to the shard's timer.
    fn arm(&self, due: Option<Instant>) {
        let Some(due) = due else { return };
        let shard = self.core().context.hub().shard(self.core().shard_id());
        shard.arm(due, &self.0);
    }
}
