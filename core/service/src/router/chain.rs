//! The chain that every message goes through: what judges it before it is answered
//! and what notes it after.
//!
//! A layer does not wait, so none needs a future of its own; what has to wait is a
//! handler. The order is decided where the chain is made, in the router.

use std::time::Duration;

use tidewire_proto::v1::{Error, server_message::Data};
use tidewire_stream::{CloseReason, LimitError, Session, limit::Verdict};
use tokio::time::Instant;
use tracing::Span;

use super::{handler::Needs, meters::MessageCounters};

/// A message on its way.
pub(super) struct Message<'a> {
    pub(super) session: &'a Session,
    /// Its type.
    pub(super) kind: &'static str,
    /// What it needs of its sender; None if nobody answers it.
    needs: Option<Needs>,
    began: Instant,
}

impl<'a> Message<'a> {
    pub(super) fn new(session: &'a Session, kind: &'static str, needs: Option<Needs>) -> Self {
        Self {
            session,
            kind,
            needs,
            began: Instant::now(),
        }
    }

    /// What is logged while it is answered belongs to it.
    pub(super) fn span(&self) -> Span {
        tracing::debug_span!(
            "message",
            kind = self.kind,
            connection = self.session.id().as_str()
        )
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// A part of the chain.
pub(super) trait Layer: Send + Sync + 'static {
    /// Judges a message before it is answered.
    fn before(&self, _message: &Message<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Notes what became of it.
    fn after(&self, _message: &Message<'_>, _answer: &Result<Data, Error>) {}
}

/// The layers, outermost first.
pub(super) struct Chain(Vec<Box<dyn Layer>>);

impl Chain {
    pub(super) fn new(layers: Vec<Box<dyn Layer>>) -> Self {
        Self(layers)
    }

    /// Goes inwards until a layer refuses.
    pub(super) fn before(&self, message: &Message<'_>) -> Result<(), Error> {
        self.0.iter().try_for_each(|layer| layer.before(message))
    }

    /// Goes outwards.
    pub(super) fn after(&self, message: &Message<'_>, answer: &Result<Data, Error>) {
        for layer in self.0.iter().rev() {
            layer.after(message, answer);
        }
    }
}

/// Writes each message to the log, for whoever looks closely.
pub(super) struct Trace;

impl Layer for Trace {
    fn after(&self, message: &Message<'_>, answer: &Result<Data, Error>) {
        tracing::trace!(
            kind = message.kind,
            connection = message.session.id().as_str(),
            code = answer.as_ref().err().map(|error| error.code().as_str_name()),
            elapsed = ?message.elapsed(),
            "a message was answered"
        );
    }
}

/// Counts messages by type and by what became of them.
pub(super) struct Metrics(MessageCounters);

impl Metrics {
    pub(super) fn new(types: impl Iterator<Item = &'static str>) -> Self {
        Self(MessageCounters::new(types))
    }
}

impl Layer for Metrics {
    fn after(&self, message: &Message<'_>, answer: &Result<Data, Error>) {
        let code = answer.as_ref().err().map(Error::code);
        self.0.count(message.kind, code);
    }
}

/// Holds a session to its rates, and ends it when it does not care.
pub(super) struct RateLimit;

impl Layer for RateLimit {
    fn before(&self, message: &Message<'_>) -> Result<(), Error> {
        let Some(allowance) = message.session.allowance() else {
            return Ok(());
        };
        let retry_after_ms = match allowance.charge() {
            Verdict::Pass => return Ok(()),
            Verdict::Refuse { retry_after_ms } => retry_after_ms,
            Verdict::Close => {
                message.session.close(CloseReason::RateLimited);
                CLOSED_RETRY_MS
            }
        };
        let refused = "this connection sends more than it may: slow down";
        Err(LimitError::new(refused.to_owned(), retry_after_ms).into())
    }
}

/// What a client that is closed for its flood is told to wait, in milliseconds.
const CLOSED_RETRY_MS: u32 = 10_000;

/// Refuses whoever must give a token first.
pub(super) struct Permission;

impl Layer for Permission {
    fn before(&self, message: &Message<'_>) -> Result<(), Error> {
        match message.needs {
            Some(Needs::Known) => message.session.identity().known().map_err(Error::from),
            Some(Needs::Nothing) | None => Ok(()),
        }
    }
}

/// Notes that a client asked for something, so that its heartbeat is an active one's.
/// A sign of life asks for nothing, and whether anyone looks is the session's to judge.
pub(super) struct Attention;

impl Layer for Attention {
    fn before(&self, message: &Message<'_>) -> Result<(), Error> {
        if !matches!(message.kind, "ping" | "visibility") {
            message.session.record_activity();
        }
        Ok(())
    }
}
