//! Middleware: checks every message before its handler runs, and records the result.
//!
//! A middleware never waits, so that none needs a future. Work that waits belongs into a
//! handler. The router decides the order.

use std::time::Duration;

use tidewire_proto::v1::{Error, server_message::Data};
use tidewire_stream::{CloseReason, LimitError, Session, limit::Verdict};
use tokio::time::Instant;
use tracing::Span;

use super::{handler::AuthRequirement, metrics::MessageCounters};

/// Milliseconds that a client should wait after it was closed for flooding.
const FLOOD_RETRY_MS: u32 = 10_000;

/// A message on its way through the router.
pub(super) struct Message<'a> {
    pub(super) session: &'a Session,
    /// The type of the message.
    pub(super) kind: &'static str,
    /// The requirement of its handler, if it has one.
    auth: Option<AuthRequirement>,
    started_at: Instant,
}

impl<'a> Message<'a> {
    pub(super) fn new(
        session: &'a Session,
        kind: &'static str,
        auth: Option<AuthRequirement>,
    ) -> Self {
        Self {
            session,
            kind,
            auth,
            started_at: Instant::now(),
        }
    }

    /// The tracing span of its handler.
    pub(super) fn span(&self) -> Span {
        tracing::debug_span!(
            "message",
            kind = self.kind,
            connection = self.session.id().as_str()
        )
    }

    fn elapsed(&self) -> Duration {
        self.started_at.elapsed()
    }
}

/// One check or record around the handlers.
pub(super) trait Middleware: Send + Sync + 'static {
    /// Checks a message before its handler runs.
    fn before(&self, _message: &Message<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Records the result of a message.
    fn after(&self, _message: &Message<'_>, _answer: &Result<Data, Error>) {}
}

/// The middleware, outermost first.
pub(super) struct MiddlewareStack(Vec<Box<dyn Middleware>>);

impl MiddlewareStack {
    pub(super) fn new(stack: Vec<Box<dyn Middleware>>) -> Self {
        Self(stack)
    }

    /// Runs the checks from the outermost inwards, until one refuses.
    pub(super) fn before(&self, message: &Message<'_>) -> Result<(), Error> {
        self.0
            .iter()
            .try_for_each(|middleware| middleware.before(message))
    }

    /// Runs the records from the innermost outwards.
    pub(super) fn after(&self, message: &Message<'_>, answer: &Result<Data, Error>) {
        for middleware in self.0.iter().rev() {
            middleware.after(message, answer);
        }
    }
}

/// Logs every message at trace level.
pub(super) struct Trace;

impl Middleware for Trace {
    fn after(&self, message: &Message<'_>, answer: &Result<Data, Error>) {
        tracing::trace!(
            kind = message.kind,
            connection = message.session.id().as_str(),
            code = answer.as_ref().err().map(|error| error.code().as_str_name()),
            elapsed = ?message.elapsed(),
            "answered a message"
        );
    }
}

/// Counts messages by type and result.
pub(super) struct MessageMetrics(MessageCounters);

impl MessageMetrics {
    pub(super) fn new(types: impl Iterator<Item = &'static str>) -> Self {
        Self(MessageCounters::new(types))
    }
}

impl Middleware for MessageMetrics {
    fn after(&self, message: &Message<'_>, answer: &Result<Data, Error>) {
        let code = answer.as_ref().err().map(Error::code);
        self.0.count(message.kind, code);
    }
}

/// Refuses messages above the session's rates, and closes a session that floods.
pub(super) struct RateLimit;

impl Middleware for RateLimit {
    fn before(&self, message: &Message<'_>) -> Result<(), Error> {
        let Some(quota) = message.session.quota() else {
            return Ok(());
        };
        let retry_after_ms = match quota.charge() {
            Verdict::Pass => return Ok(()),
            Verdict::Refuse { retry_after_ms } => retry_after_ms,
            Verdict::Close => {
                message.session.close(CloseReason::RateLimited);
                FLOOD_RETRY_MS
            }
        };
        let refusal = "this connection sends more than it may: slow down";
        Err(LimitError::new(refusal.to_owned(), retry_after_ms).into())
    }
}

/// Refuses clients that must send a token first.
pub(super) struct Authentication;

impl Middleware for Authentication {
    fn before(&self, message: &Message<'_>) -> Result<(), Error> {
        match message.auth {
            Some(AuthRequirement::Identity) => {
                let identity = message.session.identity();
                identity.require_known().map_err(Error::from)
            }
            Some(AuthRequirement::None) | None => Ok(()),
        }
    }
}

/// Records client activity, so that the session uses the heartbeat of active clients.
/// `ping` is no activity, and `visibility` sets the heartbeat itself.
pub(super) struct ActivityTracker;

impl Middleware for ActivityTracker {
    fn before(&self, message: &Message<'_>) -> Result<(), Error> {
        if !matches!(message.kind, "ping" | "visibility") {
            message.session.record_activity();
        }
        Ok(())
    }
}
