//! Lifetime: the times at which a session ends by itself, whatever its transport does.
//!
//! A session ends when its token expires, or when its client must send a token and has sent none
//! in time. Closing takes a moment, in which the transport sends what is queued, and has a
//! deadline. The session's shard checks these times with a timer of its own. So they hold for a
//! client that reads slowly too, whose transport takes nothing from the session. A transport that
//! waits for messages checks them as well: a session without a shard has no timer.
//!
//! Between two checks nobody acts in the name of an expired token either, because
//! [`Session::identity`] compares the token with the clock.
//!
//! Example: the token of a client that reads one KB a second expires. The timer takes the
//! identity and the subscriptions at once, and queues an error. The close code would follow when
//! the client has read the 64 KB before it. After ten seconds the rest is dropped, and a
//! WebSocket is cut.

use std::{sync::Arc, time::Duration};

use tidewire_proto::v1::{Error, ErrorCode, TokenExpiring, server_message::Data};
use tokio::time::Instant;

use super::{CloseReason, Session, SessionCore, message, state::State};
use crate::{Identity, StreamError, hub::ShardId};

/// Time before the expiry of a token at which the client is warned, in milliseconds.
const EXPIRY_NOTICE_MS: u64 = 30_000;

/// Milliseconds in which a client must send a token, if the server requires one.
const AUTH_TIMEOUT_MS: u64 = 5_000;

/// Time between two checks, at most: the wall clock judges tokens, and it may step on.
const LONGEST_UNCHECKED: Duration = Duration::from_secs(60);

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LifetimeChange {
    None,
    /// The client was sent a warning.
    Warning,
    /// The session lost its rights and its messages: its subscriptions have to end.
    Loss,
}

impl SessionCore {
    /// Ends the session if its time is over, and gives the time of the next check to the shard's
    /// timer. Returns that time.
    pub(crate) fn check_lifetime(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let (change, next, armed) = {
            let mut state = self.state.lock();
            let change = self.update_lifetime(&mut state, now);
            let next = self.next_lifetime_check(&state, now);
            // A session without a shard has no timer.
            let timed = next.filter(|_| self.shard_id() != ShardId::CALLER);
            let armed = timed.and_then(|at| state.flush_timer.arm_lifetime(at));
            (change, next, armed)
        };
        if let Some(at) = armed {
            self.context.hub().shard(self.shard_id()).arm(at, self);
        }
        if change == LifetimeChange::Loss {
            Session(self.clone()).unsubscribe_from_all();
            self.replies_read.notify_waiters();
        }
        if change != LifetimeChange::None {
            self.mark_dirty();
        }
        next
    }

    fn update_lifetime(&self, state: &mut State, now: Instant) -> LifetimeChange {
        if let Some(end) = &mut state.closing {
            if end.is_over || now < end.deadline {
                return LifetimeChange::None;
            }
            end.is_over = true;
            state.outbox.clear();
            return LifetimeChange::Loss;
        }
        let end = match (self.left_ms(state), state.identity.expires_at_ms()) {
            (Some(0), Some(_)) => (
                CloseReason::TokenExpired,
                "the token has expired".to_owned(),
            ),
            (Some(0), None) => (
                CloseReason::Unauthenticated,
                format!("no token came within {} s", AUTH_TIMEOUT_MS / 1_000),
            ),
            (Some(..=EXPIRY_NOTICE_MS), Some(expires_at))
                if state.warned_expiry != Some(expires_at) =>
            {
                state.warned_expiry = Some(expires_at);
                state.send(message(Data::TokenExpiring(TokenExpiring { expires_at })));
                return LifetimeChange::Warning;
            }
            _ => return LifetimeChange::None,
        };
        let (reason, text) = end;
        let error = StreamError::new(ErrorCode::Unauthenticated, text);
        state.expel(reason, error.into(), now);
        LifetimeChange::Loss
    }

    /// Time of the next check. None if the session may stay for ever.
    fn next_lifetime_check(&self, state: &State, now: Instant) -> Option<Instant> {
        if let Some(end) = &state.closing {
            return (!end.is_over).then_some(end.deadline);
        }
        let left_ms = self.left_ms(state)?;
        let notice_ms = match state.identity {
            Identity::User(_) if left_ms > EXPIRY_NOTICE_MS => EXPIRY_NOTICE_MS,
            _ => 0,
        };
        Some(now + Duration::from_millis(left_ms - notice_ms).min(LONGEST_UNCHECKED))
    }

    /// Milliseconds that an open session has left with its identity. None if it may stay for
    /// ever. A token that is being verified was sent in time.
    fn left_ms(&self, state: &State) -> Option<u64> {
        let now_ms = self.context.clock().now_ms();
        let until = match &state.identity {
            Identity::Unknown if state.verifications > 0 => return None,
            Identity::Unknown => self.opened_at_ms.saturating_add_unsigned(AUTH_TIMEOUT_MS),
            Identity::Anonymous => return None,
            Identity::User(identity) => identity.expires_at_ms,
        };
        Some(u64::try_from(until.saturating_sub(now_ms)).unwrap_or(0))
    }

    /// Sees to a session that has begun to close: to its deadline, to its transport, and to
    /// everything that waits for the client.
    pub(super) fn begin_closing(self: &Arc<Self>) {
        self.check_lifetime(Instant::now());
        self.mark_dirty();
        self.replies_read.notify_waiters();
    }
}

impl Session {
    /// Whether the session is about to end: nothing that the client sends counts any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.0.state.lock().closing.is_some()
    }

    /// Why the session is about to end, if it is.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        let state = self.0.state.lock();
        state.closing.as_ref().map(|end| end.reason)
    }

    /// Waits until the time of the session to close is over: a transport that still sends gives
    /// up then.
    pub async fn close_deadline(&self) {
        loop {
            let change = self.0.replies_read.notified();
            let mut change = std::pin::pin!(change);
            change.as_mut().enable();
            let closing = self.0.state.lock().closing;
            match closing {
                Some(end) => return tokio::time::sleep_until(end.deadline).await,
                None => change.await,
            }
        }
    }

    /// Ends the session at once: no publication is sent any more, and no command runs in the
    /// client's name. True if it was not about to end already.
    pub(super) fn expel(&self, reason: CloseReason, error: Error) -> bool {
        let now = Instant::now();
        let was_open = self.0.state.lock().expel(reason, error, now);
        self.unsubscribe_from_all();
        self.0.begin_closing();
        was_open
    }
}

/// The error of a request on a session that is about to end.
pub(super) fn closing_error() -> StreamError {
    StreamError::new(
        ErrorCode::FailedPrecondition,
        "the connection is about to end",
    )
}
