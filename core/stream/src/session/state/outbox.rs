//! The outbox: what waits to be sent, when it is due, and taking it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tidewire_proto::v1::Visibility;
use tokio::time::Instant;

use super::{Due, Entry, Slot, State};
use crate::{
    Clock, Publication,
    session::{Outgoing, Prices, outgoing::Taking, subscription::Queued},
};

/// The room for so many prices is kept from batch to batch.
const MANY_PRICES: usize = 64;

impl State {
    /// The last of the ticks, one `batch_interval` apart, at which all sessions send
    /// what they gathered. Together, so that a shard writes to many at once instead of
    /// to a few at a time.
    fn tick(&self, now: Instant) -> Instant {
        let interval = self.batch_interval.as_nanos();
        let passed = (now - self.started).as_nanos();
        // Less than an interval, which is some milliseconds.
        let since = passed.checked_rem(interval).unwrap_or_default();
        now - Duration::from_nanos(u64::try_from(since).unwrap_or_default())
    }

    /// When there is something to take.
    pub(in crate::session) fn due(&self, now: Instant) -> Due {
        if !self.control.is_empty() || !self.queue.is_empty() {
            return Due::Now;
        }
        let batch = (!self.batch.is_empty()).then(|| {
            self.batch_sent
                .map_or(now, |sent| sent + self.batch_interval)
        });
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
        if self.armed.is_some_and(|armed| armed <= at) {
            return None;
        }
        self.armed = Some(at);
        self.armed
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
        clock: &dyn Clock,
        budget: usize,
        out: &mut impl Taking,
    ) {
        let mut taken = 0;
        while taken < budget
            && let Some((message, size)) = self.control.pop_front()
        {
            self.control_bytes -= size;
            taken += size;
            out.put(Outgoing::Direct(message));
        }
        self.release_deferred(now);
        while taken < budget
            && let Some(entry) = self.queue.pop_front()
        {
            taken += self.take_entry(entry, now, out);
        }
        let batch_is_due = self
            .batch_sent
            .is_none_or(|sent| sent + self.batch_interval <= now);
        if taken < budget && batch_is_due && !self.batch.is_empty() {
            self.take_batch(now, clock, out);
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
                    out.put(Outgoing::Publication(publication));
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
                out.put(Outgoing::Publication(publication));
                size
            }
            Entry::Gap(slot, top, message) => {
                if let Some(subscription) = self.get(slot) {
                    subscription.taken = top;
                    out.put(Outgoing::Direct(message));
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

    fn take_batch(&mut self, now: Instant, clock: &dyn Clock, out: &mut impl Taking) {
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
                .for_each(|update| out.put(Outgoing::Publication(update))),
            _ => out.put(Outgoing::Prices(Prices {
                updates,
                time_ms: clock.now_ms(),
            })),
        }
        self.batch_sent = Some(self.tick(now));
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
