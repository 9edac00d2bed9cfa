//! What a transport takes of its session: by asking and waiting, or as a sink that the
//! shard calls. Both take the same steps; what of a history is missing is read on the
//! way.

use std::{sync::Weak, time::Duration};

use tidewire_proto::v1::{Error, ErrorCode, TokenExpiring, server_message::Data};
use tokio::time::Instant;

use super::{
    CloseReason, Connection, OutgoingItem, OutgoingMessage, Session, Slot, message,
    outgoing::Taking,
    state::{Due, State, Time},
    subscription::Flow,
};
use crate::{
    broker::{Page, Reach},
    hub::shard::Sink,
};

/// What a sink took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushOutcome {
    /// Something, and there may be more.
    More,
    /// All that is to be sent now.
    Drained,
    /// There is nothing to send now.
    Idle,
    /// The session is over: close with this reason.
    Close(CloseReason),
}

/// A token's end is told so long before, in milliseconds.
const EXPIRY_NOTICE_MS: u64 = 30_000;

enum Step {
    Take(Next),
    Read(Slot),
    Wait(Option<Instant>),
    Close(CloseReason),
}

/// When there is more to take.
enum Next {
    Now,
    At(Option<Instant>),
}

impl Connection {
    /// Waits until there is something to send, and takes up to about `budget`
    /// bytes of it.
    ///
    /// # Errors
    /// The session is over, and everything was taken: close with this reason.
    pub async fn next(
        &self,
        budget: usize,
        out: &mut Vec<OutgoingMessage>,
    ) -> Result<(), CloseReason> {
        self.next_until(|| None, budget, out).await
    }

    /// The same, but comes back with nothing at `quiet_at` if there is nothing till then.
    /// Whenever the session is woken that is asked anew.
    ///
    /// # Errors
    /// As for [`next`](Self::next).
    pub async fn next_until(
        &self,
        quiet_at: impl Fn() -> Option<Instant>,
        budget: usize,
        out: &mut Vec<OutgoingMessage>,
    ) -> Result<(), CloseReason> {
        loop {
            let now = Instant::now();
            let due = match self.step(now, budget, out, None) {
                Step::Take(_) => return Ok(()),
                Step::Read(slot) => {
                    self.read_history(slot).await;
                    continue;
                }
                Step::Close(reason) => return Err(reason),
                Step::Wait(due) => due,
            };
            let quiet_at = quiet_at();
            if quiet_at.is_some_and(|quiet_at| quiet_at <= now) {
                return Ok(());
            }
            match due.into_iter().chain(quiet_at).min() {
                None => self.core().wake.notified().await,
                Some(due) => {
                    // Woken or due, the next step finds out.
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
    /// Has `sink` write for this connection from now on, on the connection's shard.
    pub fn attach(&self, sink: Weak<dyn Sink>) {
        // A second sink changes nothing: the first one writes already.
        let _ = self.core().sink.set(sink);
    }

    /// Takes up to about `budget` bytes of what is to be sent now, for a sink. The
    /// sink is called again when there is more, and at `again_at` in any case.
    pub fn take_outgoing(
        &self,
        now: Instant,
        budget: usize,
        out: &mut Vec<OutgoingItem>,
        again_at: Instant,
    ) -> FlushOutcome {
        loop {
            match self.step(now, budget, out, Some(again_at)) {
                Step::Take(Next::Now) => return FlushOutcome::More,
                Step::Take(Next::At(due)) => {
                    self.arm(due);
                    return FlushOutcome::Drained;
                }
                // What waits already goes on meanwhile.
                Step::Read(slot) => self.catch_up(slot),
                Step::Close(reason) => return FlushOutcome::Close(reason),
                Step::Wait(due) => {
                    self.arm(due);
                    return FlushOutcome::Idle;
                }
            }
        }
    }

    /// Takes what there is, or says what to wait for. A sink gives the time at which
    /// it is to be called in any case; it is then told of a time only if the shard
    /// does not come back before.
    fn step(
        &self,
        now: Instant,
        budget: usize,
        out: &mut impl Taking,
        again_at: Option<Instant>,
    ) -> Step {
        let core = self.core();
        let time = Time {
            clock: core.stream.clock(),
            ticks: core.stream.hub().shard(core.shard_id()).ticks(),
        };
        let mut state = core.state.lock();
        let expiry = self.watch_expiry(&mut state, now);
        loop {
            if let Some(slot) = state.next_to_read() {
                return Step::Read(slot);
            }
            match state.due(now) {
                Due::Now => {}
                _ if state.closing.is_some() => {
                    return Step::Close(state.closing.unwrap_or(CloseReason::Draining));
                }
                due => return Step::Wait(state.next_look(due.earliest(expiry), again_at)),
            }
            state.take(now, time, budget, out);
            if out.count() > 0 {
                break;
            }
        }
        if out.has_published() {
            core.touch(&mut state, now);
        }
        let next = match state.due(now) {
            due @ (Due::At(_) | Due::Never) if !state.has_more() => {
                Next::At(state.next_look(due.earliest(expiry), again_at))
            }
            _ => Next::Now,
        };
        let is_awaited = std::mem::take(&mut state.is_awaited);
        drop(state);
        if is_awaited {
            core.drained.notify_waiters();
        }
        core.transport.count_deliveries(out.count());
        Step::Take(next)
    }

    /// Tells of a token that expires soon, and ends the session when it has.
    fn watch_expiry(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let expires_at_ms = state.identity.expires_at_ms()?;
        if state.closing.is_some() {
            return None;
        }
        let now_ms = self.core().stream.clock().now_ms();
        let left_ms = u64::try_from(expires_at_ms.saturating_sub(now_ms)).unwrap_or(0);
        if left_ms == 0 {
            state.send(message(Data::Error(Error {
                code: ErrorCode::Unauthenticated.into(),
                message: "the token has expired".to_owned(),
                retry_after_ms: None,
            })));
            state.closing = Some(CloseReason::TokenExpired);
            return None;
        }
        if left_ms > EXPIRY_NOTICE_MS {
            return Some(now + Duration::from_millis(left_ms - EXPIRY_NOTICE_MS));
        }
        if state.expiry_told != Some(expires_at_ms) {
            state.expiry_told = Some(expires_at_ms);
            state.send(message(Data::TokenExpiring(TokenExpiring {
                expires_at: expires_at_ms,
            })));
        }
        Some(now + Duration::from_millis(left_ms))
    }

    /// Reads what a held flow misses, as far as there is room for it.
    async fn read_history(&self, slot: Slot) {
        let core = self.core();
        let (channel, since) = {
            let mut state = core.state.lock();
            state.drain_gate(slot);
            let Some(subscription) = state.get(slot) else {
                return;
            };
            if matches!(subscription.flow, Flow::Live) {
                return;
            }
            (subscription.channel.clone(), subscription.position.clone())
        };
        let page = Page {
            items: usize::MAX,
            bytes: core.stream.options().outbox_bytes,
        };
        let history = match core
            .stream
            .broker()
            .history(&channel, Some(&since), page)
            .await
        {
            Ok(history) => history,
            Err(error) => {
                tracing::warn!(%channel, %error, "a history cannot be read, the client is told of a gap");
                let mut state = core.state.lock();
                if let Some(Flow::Held(hold)) =
                    state.get(slot).map(|subscription| &subscription.flow)
                {
                    let top = hold.top.clone();
                    state.gap(slot, top);
                }
                return;
            }
        };
        let mut state = core.state.lock();
        let is_where_it_was = state
            .get(slot)
            .is_some_and(|subscription| subscription.position == since);
        if !is_where_it_was {
            return;
        }
        state.note_top(slot, &history.top);
        if history.reach == Reach::Lost {
            state.gap(slot, history.top);
            state.drain_gate(slot);
            return;
        }
        for publication in history.publications {
            let size = state.size_of(&publication);
            if !state.has_room(size) {
                return;
            }
            state.push(slot, publication, size);
        }
        state.drain_gate(slot);
    }

    /// Reads a history beside the sink's work, which never waits.
    fn catch_up(&self, slot: Slot) {
        self.core().state.lock().is_reading = true;
        let session = self.clone();
        tokio::spawn(async move {
            session.read_history(slot).await;
            session.core().state.lock().is_reading = false;
            session.0.mark();
        });
    }

    /// Has the shard come back at `due`, which the state says it was armed for.
    fn arm(&self, due: Option<Instant>) {
        let Some(due) = due else { return };
        let shard = self.core().stream.hub().shard(self.core().shard_id());
        shard.arm(due, &self.0);
    }
}
