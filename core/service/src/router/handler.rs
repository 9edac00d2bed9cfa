//! What a handler is, and the register of all of them by message type.

use std::{collections::HashMap, future::Future, pin::Pin};

use tidewire_proto::{
    json,
    v1::{Error, ErrorCode, client_message::Data as Asked, server_message::Data},
};
use tidewire_stream::{Identity, Session, StreamError};
use tonic::{Request, Response, Status};

use crate::from_status;

/// What a message needs of whoever sends it. What further depends on the channel
/// or the user it names is the handler's to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: it is how one becomes known, or keeps the connection.
    Nothing,
    /// To be known: a token, or a server that welcomes clients without.
    Known,
}

/// Answers the messages of one type.
pub(super) trait Handler: Send + Sync + 'static {
    /// What such a message holds.
    type Request: Default + Send;

    /// What it needs of its sender.
    const NEEDS: Needs = Needs::Known;

    /// The case of the protocol that holds it.
    fn case(request: Self::Request) -> Asked;

    /// The request, if it is of this type.
    fn request(asked: Asked) -> Option<Self::Request>;

    /// Answers it.
    fn answer(
        &self,
        session: &Session,
        request: Self::Request,
    ) -> impl Future<Output = Result<Data, Error>> + Send;
}

/// Says which case of the protocol a handler answers.
macro_rules! answers {
    ($case:ident($request:ty)) => {
        type Request = $request;

        fn case(request: $request) -> tidewire_proto::v1::client_message::Data {
            tidewire_proto::v1::client_message::Data::$case(request)
        }

        fn request(asked: tidewire_proto::v1::client_message::Data) -> Option<$request> {
            match asked {
                tidewire_proto::v1::client_message::Data::$case(request) => Some(request),
                _ => None,
            }
        }
    };
}
pub(super) use answers;

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Data, Error>> + Send + 'a>>;

/// A handler whose type is forgotten.
trait AnyHandler: Send + Sync {
    fn answer<'a>(&'a self, session: &'a Session, asked: Asked) -> Answer<'a>;
}

impl<H: Handler> AnyHandler for H {
    fn answer<'a>(&'a self, session: &'a Session, asked: Asked) -> Answer<'a> {
        // The one allocation on a message's way.
        Box::pin(async move {
            match H::request(asked) {
                Some(request) => Handler::answer(self, session, request).await,
                // The register finds handlers by the case: this is another's.
                None => Err(Error {
                    code: ErrorCode::Internal.into(),
                    message: "the message came to the wrong handler".to_owned(),
                    retry_after_ms: None,
                }),
            }
        })
    }
}

/// A handler in the register.
pub(super) struct Registered {
    needs: Needs,
    handler: Box<dyn AnyHandler>,
}

impl Registered {
    pub(super) fn needs(&self) -> Needs {
        self.needs
    }

    pub(super) fn answer<'a>(&'a self, session: &'a Session, asked: Asked) -> Answer<'a> {
        self.handler.answer(session, asked)
    }
}

/// All handlers, by the type of message.
#[derive(Default)]
pub(super) struct Handlers(HashMap<&'static str, Registered>);

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Handlers {
    /// Adds a handler. The last one of a type answers it.
    pub(super) fn add<H: Handler>(&mut self, handler: H) {
        let kind = json::client_data_type(&H::case(H::Request::default()));
        self.0.insert(
            kind,
            Registered {
                needs: H::NEEDS,
                handler: Box::new(handler),
            },
        );
    }

    pub(super) fn get(&self, kind: &str) -> Option<&Registered> {
        self.0.get(kind)
    }

    pub(super) fn types(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().copied()
    }
}

/// A call of a service, by whoever the session belongs to.
pub(super) fn asking<T>(session: &Session, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .extensions_mut()
        .insert::<Identity>(session.identity());
    request
}

/// What the core said, as a reply.
pub(super) fn said<T>(
    result: Result<T, StreamError>,
    wrap: impl FnOnce(T) -> Data,
) -> Result<Data, Error> {
    result.map(wrap).map_err(Error::from)
}

/// What a service answered, as a reply.
pub(super) fn answered<T>(
    result: Result<Response<T>, Status>,
    wrap: impl FnOnce(T) -> Data,
) -> Result<Data, Error> {
    match result {
        Ok(response) => Ok(wrap(response.into_inner())),
        Err(status) => Err(from_status(&status)),
    }
}
