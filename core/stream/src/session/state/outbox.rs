//! The outbox: what waits to be sent, when it is due, and taking it.

use std::{collections::VecDeque, sync::Arc};

use tidewire_proto::v1::Visibility;
use tokio::time::Instant;

use super::{Due, Entry, Slot, State};
use crate::{
    Clock, Publication,
    hub::FlushSchedule,
    session::{OutgoingMessage, PriceBatch, outgoing::Taking, subscription::Queued},
};

/// The room for so many prices is kept from batch to batch.
const MANY_PRICES: usize = 64;

/// What tells the time.
#[derive(Clone, Copy)]
pub(in crate::session) struct Time<'a> {
    pub(in crate::session) clock: &'a dyn Clock,
    /// When batches of prices are sent.
    pub(in crate::session) ticks: &'a FlushSchedule,
}

impl State {
    /// When there is something to take.
    pub(in crate::session) fn due(&self, now: Instant) -> Due {
        if !self.control.is_empty() || !self.queue.is_empty() {
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

    /// What to wait for: `due`; or with a sink, which is to be called at `again_at` in
    /// any case, the time that the shard is to be armed for.
    pub(in crate::session) fn next_look(
        &mut self,
        due: Option<Instant>,
        again_at: Option<Instant>,
    ) -> Option<Instant> {
        match again_at {
            None => due,
            Some(again_at) => self.arm(due.map_or(again_at, |due| due.min(again_at))),
        }
    }

    /// The time that the shard is to be armed for, unless it comes back before.
    pub(in crate::session) fn arm(&mut self, at: Instant) -> Option<Instant> {
        let is_early = |armed: Option<Instant>| armed.is_some_and(|armed| armed <= at);
        if is_early(self.armed) || is_early(self.armed_later) {
            return None;
        }
        // The shard keeps what it was armed for. So a session that sends prices at
        // every tick is not armed anew each time for the heartbeat that comes long after.
        if let Some(later) = self.armed.replace(at)
            && self.armed_later.is_none_or(|known| later < known)
        {
            self.armed_later = Some(later);
        }
        self.armed
    }

    /// Whether the shard was armed for this time, and is still to come back then.
    pub(in crate::session) fn is_armed(&self, at: Instant) -> bool {
        self.armed == Some(at) || self.armed_later == Some(at)
    }

    /// The shard has come: true if it was to come at this time.
    pub(in crate::session) fn disarm(&mut self, at: Instant) -> bool {
        for armed in [&mut self.armed, &mut self.armed_later] {
            if *armed == Some(at) {
                *armed = None;
                return true;
            }
        }
        false
    }

    /// The time to wait for, if there is nothing to do before.
    pub(in crate::session) fn later(&self, now: Instant) -> Option<Instant> {
        match self.due(now) {
            Due::At(at) if !self.has_more() => Some(at),
            Due::At(_) | Due::Now | Due::Never => None,
        }
    }

    /// Whether there is more to do than to wait for a time.
    pub(in crate::session) fn has_more(&self) -> bool {
        self.closing.is_some() || (self.may_read && !self.is_reading)
    }

    /// Takes what waits, up to about `budget` bytes.
    pub(in crate::session) fn take(
        &mut self,
        now: Instant,
        time: Time<'_>,
        budget: usize,
        out: &mut impl Taking,
    ) {
        let mut taken = 0;
        while taken < budget
            && let Some(message) = self.control.pop_front()
        {
            self.control_bytes -= message.len();
            taken += message.len();
            out.put(OutgoingMessage::Direct(message));
        }
        self.release_deferred(now);
        while taken < budget
            && let Some(entry) = self.queue.pop_front()
        {
            taken += self.take_entry(entry, now, out);
        }
        let batch_is_due = self.next_batch.is_none_or(|next| next <= now);
        if taken < budget && batch_is_due && !self.batch.is_empty() {
            self.take_batch(now, time, out);
        }
        // A burst does not keep its memory.
        if self.queue.is_empty() && self.queue.capacity() > 256 {
            self.queue = VecDeque::new();
        }
    }

    fn take_entry(&mut self, entry: Entry, now: Instant, out: &mut impl Taking) -> usize {
        match entry {
            Entry::Publication(slot, publication, size) => {
                self.queue_bytes -= size;
                if let Some(subscription) = self.get(slot) {
                    subscription.taken.advance(publication.position());
                    out.put(OutgoingMessage::Publication(publication));
                }
                size
            }
            Entry::Run(slot, run, size) => {
                self.queue_bytes -= size;
                if let Some(subscription) = self.get(slot) {
                    subscription.taken.advance(run.last());
                    out.put_run(run);
                }
                size
            }
            Entry::Latest(slot) => {
                let Some(publication) = self.take_latest(slot, now) else {
                    return 0;
                };
                let size = self.size_of(&publication);
                out.put(OutgoingMessage::Publication(publication));
                size
            }
            Entry::Gap(slot, top, message) => {
                if let Some(subscription) = self.get(slot) {
                    subscription.taken = top;
                    out.put(OutgoingMessage::Direct(message));
                }
                0
            }
        }
    }

    fn take_latest(&mut self, slot: Slot, now: Instant) -> Option<Arc<Publication>> {
        let is_background = self.visibility == Visibility::Background;
        let subscription = self.get(slot)?;
        subscription.queued = Queued::No;
        if is_background {
            // It stays pending until someone looks.
            return None;
        }
        let publication = subscription.pending.take()?;
        subscription.position.advance(publication.position());
        subscription.last_sent = Some(now);
        Some(publication)
    }

    fn take_batch(&mut self, now: Instant, time: Time<'_>, out: &mut impl Taking) {
        let mut slots = std::mem::take(&mut self.batch);
        let mut updates = Vec::with_capacity(slots.len());
        updates.extend(
            slots
                .drain(..)
                .filter_map(|slot| self.take_latest(slot, now)),
        );
        // The next batch is of about the same size.
        if slots.capacity() <= MANY_PRICES {
            self.batch = slots;
        }
        match updates.len() {
            0 => return,
            1 => updates
                .pop()
                .into_iter()
                .for_each(|update| out.put(OutgoingMessage::Publication(update))),
            _ => out.put(OutgoingMessage::PriceBatch(PriceBatch {
                updates,
                time_ms: time.clock.now_ms(),
            })),
        }
        self.next_batch = Some(time.ticks.next(now));
    }

    fn release_deferred(&mut self, now: Instant) {
        if self.deferred.is_empty() {
            return;
        }
        let (due, later) = std::mem::take(&mut self.deferred)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.deferred = later;
        let due: Vec<(Instant, Slot)> = due;
        for (_, slot) in due {
            if let Some(subscription) = self.get(slot) {
                subscription.queued = Queued::No;
                self.queue_latest(slot, now);
            }
        }
    }
}
