//! Message router: runs a session's message through the middleware to its handler, and
//! returns exactly one reply.
//!
//! To add a message type, add a case to `message.proto` and a [`Handler`] in `session`,
//! `stream`, `price`, `watch`, `notify` or `alert`. A case without a handler is answered with
//! `unimplemented`.
//!
//! [`Handler`]: handler::Handler

mod alert;
mod handler;
mod metrics;
mod middleware;
mod notify;
mod price;
mod queue;
mod session;
mod stream;
mod watch;

use std::{panic::AssertUnwindSafe, sync::Arc};

pub(crate) use self::metrics::code_name;
use futures::FutureExt as _;
pub use queue::CommandQueue;
use tidewire_proto::{
    json,
    v1::{ClientMessage, Error, ErrorCode, ServerMessage, server_message::Data},
};
use tidewire_stream::{Command, Session, StreamCore};
use tracing::Instrument as _;

use self::{
    handler::{HandlerEntry, HandlerRegistry},
    middleware::{Message, MiddlewareStack},
};
use crate::{AlertRpc, NotifyRpc, PriceRpc, WatchRpc};

/// The type under which unreadable messages are counted.
const UNREADABLE: &str = "unreadable";

/// Bytes of a command's `id`, at most. Its reply carries it: without this bound, replies would be
/// as long as the commands.
const MAX_ID_BYTES: usize = 255;

/// Answers the messages of sessions. Cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    handlers: HandlerRegistry,
    middleware: MiddlewareStack,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("handlers", &self.0.handlers)
            .finish_non_exhaustive()
    }
}

impl Router {
    /// A router with the handlers of all services.
    #[must_use]
    pub fn new(
        stream: &Arc<StreamCore>,
        price: &PriceRpc,
        watch: &WatchRpc,
        notify: &NotifyRpc,
        alert: &AlertRpc,
    ) -> Self {
        let mut handlers = HandlerRegistry::default();
        session::register(&mut handlers);
        stream::register(&mut handlers, stream);
        price::register(&mut handlers, price);
        watch::register(&mut handlers, watch);
        notify::register(&mut handlers, notify);
        alert::register(&mut handlers, alert);
        // Outermost first. A middleware does not see messages that an outer one refuses,
        // but records those that an inner one refuses.
        let middleware = MiddlewareStack::new(vec![
            Box::new(middleware::Trace),
            Box::new(middleware::MessageMetrics::new(handlers.types())),
            Box::new(middleware::RateLimit),
            Box::new(middleware::Authentication),
            Box::new(middleware::ActivityTracker),
        ]);
        Self(Arc::new(Inner {
            handlers,
            middleware,
        }))
    }

    /// Answers a message as a command of its own. [`Command::reply`] sends the reply.
    pub async fn answer(&self, command: &Command, message: ClientMessage) -> ServerMessage {
        let ClientMessage { id, data } = message;
        let kind = data.as_ref().map_or(UNREADABLE, json::client_data_type);
        if let Some(error) = id.as_deref().and_then(long_id) {
            return self.refuse(command, kind, None, error);
        }
        let handler = self.0.handlers.get(kind);
        let message = Message::new(command, kind, handler.map(HandlerEntry::auth));
        let answer = match self.0.middleware.before(&message) {
            Ok(()) => match (handler, data) {
                (Some(handler), Some(data)) => {
                    // A panic fails the message, and not the connection.
                    let answer = AssertUnwindSafe(handler.answer(command, data))
                        .catch_unwind()
                        .instrument(message.span());
                    answer.await.unwrap_or_else(|_| Err(handler_panic(kind)))
                }
                (None, Some(_)) => Err(not_built(kind)),
                (_, None) => Err(unimplemented(
                    "the message has no data that this server knows",
                )),
            },
            Err(refusal) => Err(refusal),
        };
        self.0.middleware.after(&message, &answer);
        reply(id, answer)
    }

    /// Answers an unreadable message with `error`. The rate limits apply, so that a flood
    /// of unreadable messages closes the session too.
    #[must_use]
    pub fn answer_unreadable(
        &self,
        session: &Session,
        id: Option<String>,
        error: Error,
    ) -> ServerMessage {
        self.refuse(session, UNREADABLE, id, error)
    }

    /// Answers a message of a type with `error` instead of handling it. The rate limits apply. An
    /// `id` that is too long is left out.
    fn refuse(
        &self,
        session: &Session,
        kind: &'static str,
        id: Option<String>,
        error: Error,
    ) -> ServerMessage {
        let message = Message::new(session, kind, None);
        let answer = Err(match self.0.middleware.before(&message) {
            Ok(()) => error,
            Err(refusal) => refusal,
        });
        self.0.middleware.after(&message, &answer);
        reply(id.filter(|id| long_id(id).is_none()), answer)
    }
}

/// The error of an `id` that is too long to be sent back.
fn long_id(id: &str) -> Option<Error> {
    (id.len() > MAX_ID_BYTES).then(|| Error {
        code: ErrorCode::InvalidArgument.into(),
        message: format!(
            "`id` takes {} bytes, expected at most {MAX_ID_BYTES}",
            id.len()
        ),
        retry_after_ms: None,
    })
}

fn reply(id: Option<String>, answer: Result<Data, Error>) -> ServerMessage {
    ServerMessage {
        id,
        data: Some(answer.unwrap_or_else(Data::Error)),
        ..ServerMessage::default()
    }
}

/// The error for a message type that the protocol defines and this version lacks.
fn not_built(kind: &str) -> Error {
    unimplemented(&format!("`{kind}` is not built yet"))
}

fn unimplemented(message: &str) -> Error {
    Error {
        code: ErrorCode::Unimplemented.into(),
        message: message.to_owned(),
        retry_after_ms: None,
    }
}

fn handler_panic(kind: &str) -> Error {
    tracing::error!(kind, "the handler of a message panicked");
    Error {
        code: ErrorCode::Internal.into(),
        message: format!("`{kind}` failed inside the server"),
        retry_after_ms: None,
    }
}
