//! State of a session behind its lock: the parts, and the switches that concern all of them.
//!
//! Everything here is synchronous, and calls neither hub nor broker. How a publication goes
//! through the parts is in [`delivery`](super::delivery), how one is held back in
//! [`recovery`](super::recovery).

use tidewire_proto::v1::{Error, ServerMessage, Visibility, server_message::Data};
use tokio::time::Instant;

use super::{
    CloseReason, Encoding,
    close::SessionEnd,
    flush_timer::FlushTimer,
    heartbeat::Heartbeat,
    message,
    outbox::{Due, Outbox},
    recovery::RecoveryQueue,
    subscriptions::{Slot, Subscription, Subscriptions},
};
use crate::{ChannelName, Identity, health::StatusNotice};

/// State of a session.
#[derive(Debug)]
pub(super) struct State {
    pub(super) identity: Identity,
    pub(super) visibility: Visibility,
    /// How the session ends, once its outbox is sent. Set for ever: no command runs and no
    /// publication is queued any more.
    pub(super) closing: Option<SessionEnd>,
    /// Whether the client was sent `reconnect`.
    pub(super) is_draining: bool,
    /// The newest status of the server that the client was sent.
    pub(super) status_notice: StatusNotice,
    /// Tokens of the client that are being verified.
    pub(super) verifications: u16,
    /// Whether a command waits for the client to read its replies.
    pub(super) has_waiting_command: bool,
    /// Expiry of the token, in milliseconds since the Unix epoch, that the client was warned of.
    pub(super) warned_expiry: Option<i64>,
    pub(super) outbox: Outbox,
    pub(super) subscriptions: Subscriptions,
    pub(super) recovery: RecoveryQueue,
    pub(super) heartbeat: Heartbeat,
    pub(super) flush_timer: FlushTimer,
}

impl State {
    /// State of a session whose outbox holds up to `outbox_bytes`.
    pub(super) fn new(identity: Identity, encoding: Encoding, outbox_bytes: usize) -> Self {
        Self {
            identity,
            visibility: Visibility::Active,
            closing: None,
            is_draining: false,
            status_notice: StatusNotice::None,
            verifications: 0,
            has_waiting_command: false,
            warned_expiry: None,
            outbox: Outbox::new(encoding, outbox_bytes),
            subscriptions: Subscriptions::new(),
            recovery: RecoveryQueue::new(outbox_bytes / 2),
            heartbeat: Heartbeat::new(Instant::now()),
            flush_timer: FlushTimer::default(),
        }
    }

    /// Queues a reply, or another message for this client alone.
    pub(super) fn send(&mut self, message: ServerMessage) {
        self.outbox.push_reply(message);
    }

    /// Begins to close the session, unless it is closing.
    pub(super) fn close(&mut self, reason: CloseReason, now: Instant) {
        let end = SessionEnd::new(reason, now);
        self.closing.get_or_insert(end);
    }

    /// Closes the session and takes all rights from it. The caller ends its subscriptions. True
    /// if it was not closing already.
    pub(super) fn expel(&mut self, reason: CloseReason, error: Error, now: Instant) -> bool {
        let was_open = self.closing.is_none();
        self.close(reason, now);
        if let Some(end) = &mut self.closing {
            end.reason = reason;
        }
        self.identity = Identity::Unknown;
        if was_open {
            // Some transports have no close code: the error gives the reason.
            self.send(message(Data::Error(error)));
        }
        was_open
    }

    /// Ends a subscription, and drops its queued publications.
    pub(super) fn unsubscribe(&mut self, channel: &ChannelName) -> Option<Subscription> {
        let (slot, mut subscription) = self.subscriptions.remove(channel)?;
        subscription.progress.clear_buffer(&mut self.recovery.held);
        self.outbox.remove(slot);
        Some(subscription)
    }

    /// Ends all subscriptions. Their queued publications are dropped as they are taken.
    pub(super) fn unsubscribe_all(&mut self) -> impl Iterator<Item = Subscription> + use<> {
        let mut all: Vec<_> = self.subscriptions.take_all().collect();
        for subscription in &mut all {
            subscription.progress.clear_buffer(&mut self.recovery.held);
        }
        all.into_iter()
    }

    /// Slots of all subscriptions.
    pub(super) fn slots(&self) -> Vec<Slot> {
        self.subscriptions.iter().map(|(slot, _)| slot).collect()
    }

    /// Whether there is more to do than to wait for a time.
    pub(super) fn has_work(&self, now: Instant) -> bool {
        self.closing.is_some() || self.recovery.has_work(now)
    }

    /// The time to wait for, if there is nothing to do before.
    pub(super) fn idle_until(&self, now: Instant) -> Option<Instant> {
        match self.outbox.due(now) {
            Due::At(at) if !self.has_work(now) => Some(at),
            Due::At(_) | Due::Now | Due::Never => None,
        }
    }

    /// Time to wait for: `due`, or the end of a pause of recovery. A sink is flushed at
    /// `again_at` in any case. For a sink, this is the time that the shard's timer needs, if it
    /// needs a new one.
    pub(super) fn next_flush(
        &mut self,
        due: Option<Instant>,
        again_at: Option<Instant>,
    ) -> Option<Instant> {
        let due = due.into_iter().chain(self.recovery.paused_until()).min();
        match again_at {
            None => due,
            Some(again_at) => {
                let at = due.map_or(again_at, |due| due.min(again_at));
                self.flush_timer.arm(at)
            }
        }
    }
}
