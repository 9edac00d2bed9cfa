//! The router: finds the handler of a session's message, has the chain judge it
//! before and note it after, and gives exactly one reply.
//!
//! To add a message type: give it a case in `message.proto` and a [`Handler`]
//! beside its kin (`conversation`, `stream`, `price`, `watch`). Nothing here changes; what
//! has a case and no handler answers `unimplemented`.

mod chain;
mod conversation;
mod handler;
mod meters;
mod price;
mod stream;
mod watch;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt as _;
use tidewire_proto::{
    json,
    v1::{ClientMessage, Error, ErrorCode, ServerMessage, server_message::Data},
};
use tidewire_stream::Session;
use tracing::Instrument as _;

use self::{
    chain::{Chain, Message},
    handler::{Handlers, Registered},
};
use crate::{PriceRpc, StreamRpc, WatchRpc};

/// What a message that could not be read counts as.
const UNREADABLE: &str = "unreadable";

/// Answers the messages of sessions. Cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    handlers: Handlers,
    chain: Chain,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("handlers", &self.0.handlers)
            .finish_non_exhaustive()
    }
}

impl Router {
    /// A router over these services. Each brings its own handlers.
    #[must_use]
    pub fn new(stream: &StreamRpc, price: &PriceRpc, watch: &WatchRpc) -> Self {
        let mut handlers = Handlers::default();
        conversation::register(&mut handlers);
        stream::register(&mut handlers, stream);
        price::register(&mut handlers, price);
        watch::register(&mut handlers, watch);
        // The chain, outermost first: what is refused by one is not seen by those
        // after it, and noted by those before it.
        let chain = Chain::new(vec![
            Box::new(chain::Trace),
            Box::new(chain::Metrics::new(handlers.types())),
            Box::new(chain::RateLimit),
            Box::new(chain::Permission),
            Box::new(chain::Attention),
        ]);
        Self(Arc::new(Inner { handlers, chain }))
    }

    /// Answers a message. After the reply was sent, call [`Session::resume`].
    pub async fn answer(&self, session: &Session, message: ClientMessage) -> ServerMessage {
        let ClientMessage { id, data } = message;
        let kind = data.as_ref().map_or(UNREADABLE, json::client_data_type);
        let handler = self.0.handlers.get(kind);
        let message = Message::new(session, kind, handler.map(Registered::needs));
        let answer = match self.0.chain.before(&message) {
            Ok(()) => match (handler, data) {
                (Some(handler), Some(asked)) => {
                    // A handler that breaks costs its message, not the connection.
                    let answer = AssertUnwindSafe(handler.answer(session, asked))
                        .catch_unwind()
                        .instrument(message.span());
                    answer.await.unwrap_or_else(|_| Err(broken(kind)))
                }
                (None, Some(_)) => Err(not_built(kind)),
                (_, None) => Err(unimplemented(
                    "the message says nothing that this server knows",
                )),
            },
            Err(refused) => Err(refused),
        };
        self.0.chain.after(&message, &answer);
        reply(id, answer)
    }

    /// Answers what is no message: with this error, unless the client sends too
    /// fast. So a flood of nonsense is a flood.
    #[must_use]
    pub fn answer_unreadable(
        &self,
        session: &Session,
        id: Option<String>,
        error: Error,
    ) -> ServerMessage {
        let message = Message::new(session, UNREADABLE, None);
        let answer = Err(match self.0.chain.before(&message) {
            Ok(()) => error,
            Err(refused) => refused,
        });
        self.0.chain.after(&message, &answer);
        reply(id, answer)
    }
}

fn reply(id: Option<String>, answer: Result<Data, Error>) -> ServerMessage {
    ServerMessage {
        id,
        data: Some(answer.unwrap_or_else(Data::Error)),
        ..ServerMessage::default()
    }
}

/// The answer to what the protocol knows and this version does not do.
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

fn broken(kind: &str) -> Error {
    tracing::error!(kind, "a message's handler panicked");
    Error {
        code: ErrorCode::Internal.into(),
        message: format!("`{kind}` failed inside the server"),
        retry_after_ms: None,
    }
}
