//! Handlers: the trait, and the registry by message type.

use std::{collections::HashMap, future::Future, pin::Pin};

use tidewire_proto::{
    json,
    v1::{Error, ErrorCode, client_message::Data as RequestData, server_message::Data},
};
use tidewire_stream::{Command, Session, StreamError};
use tonic::{Request, Response, Status};

use crate::from_status;

/// The authentication that a message type requires. The handler checks permissions on
/// the channel or user that a message names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthRequirement {
    /// None: the message authenticates the client, or keeps the connection.
    None,
    /// An identity: a token, or a server that accepts clients without one.
    Identity,
}

/// Answers the messages of one type.
pub(super) trait Handler: Send + Sync + 'static {
    /// The data of a message of this type.
    type Request: Default + Send;

    /// The required authentication.
    const AUTH: AuthRequirement = AuthRequirement::Identity;

    /// Wraps a request in its case of the protocol.
    fn case(request: Self::Request) -> RequestData;

    /// The request of this case, or `None` for another case.
    fn request(data: RequestData) -> Option<Self::Request>;

    /// The request of this case by reference, or `None` for another case.
    fn request_ref(data: &RequestData) -> Option<&Self::Request>;

    /// Visits the names of the channels that a request concerns, in any form. Requests that
    /// concern one channel are answered in their order.
    fn visit_channels(&self, request: &Self::Request, visit: &mut dyn FnMut(&str)) {
        let _ = (request, visit);
    }

    /// Answers a request.
    fn answer(
        &self,
        command: &Command,
        request: Self::Request,
    ) -> impl Future<Output = Result<Data, Error>> + Send;
}

/// Implements the case conversions of a handler.
macro_rules! handles {
    ($case:ident($request:ty)) => {
        type Request = $request;

        fn case(request: $request) -> tidewire_proto::v1::client_message::Data {
            tidewire_proto::v1::client_message::Data::$case(request)
        }

        fn request(data: tidewire_proto::v1::client_message::Data) -> Option<$request> {
            match data {
                tidewire_proto::v1::client_message::Data::$case(request) => Some(request),
                _ => None,
            }
        }

        fn request_ref(data: &tidewire_proto::v1::client_message::Data) -> Option<&$request> {
            match data {
                tidewire_proto::v1::client_message::Data::$case(request) => Some(request),
                _ => None,
            }
        }
    };
}
pub(super) use handles;

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Data, Error>> + Send + 'a>>;

/// A type-erased handler.
trait DynHandler: Send + Sync {
    fn visit_channels(&self, data: &RequestData, visit: &mut dyn FnMut(&str));

    fn answer<'a>(&'a self, command: &'a Command, data: RequestData) -> Answer<'a>;
}

impl<H: Handler> DynHandler for H {
    fn visit_channels(&self, data: &RequestData, visit: &mut dyn FnMut(&str)) {
        if let Some(request) = H::request_ref(data) {
            Handler::visit_channels(self, request, visit);
        }
    }

    fn answer<'a>(&'a self, command: &'a Command, data: RequestData) -> Answer<'a> {
        Box::pin(async move {
            match H::request(data) {
                Some(request) => Handler::answer(self, command, request).await,
                // Unreachable: the registry finds handlers by their case.
                None => Err(Error {
                    code: ErrorCode::Internal.into(),
                    message: "the message reached the wrong handler".to_owned(),
                    retry_after_ms: None,
                }),
            }
        })
    }
}

/// A registered handler.
pub(super) struct HandlerEntry {
    auth: AuthRequirement,
    handler: Box<dyn DynHandler>,
}

impl HandlerEntry {
    pub(super) fn auth(&self) -> AuthRequirement {
        self.auth
    }

    pub(super) fn visit_channels(&self, data: &RequestData, visit: &mut dyn FnMut(&str)) {
        self.handler.visit_channels(data, visit);
    }

    pub(super) fn answer<'a>(&'a self, command: &'a Command, data: RequestData) -> Answer<'a> {
        self.handler.answer(command, data)
    }
}

/// All handlers, by message type.
#[derive(Default)]
pub(super) struct HandlerRegistry(HashMap<&'static str, HandlerEntry>);

impl std::fmt::Debug for HandlerRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl HandlerRegistry {
    /// Adds a handler. It replaces an earlier one of its type.
    pub(super) fn add<H: Handler>(&mut self, handler: H) {
        let kind = json::client_data_type(&H::case(H::Request::default()));
        self.0.insert(
            kind,
            HandlerEntry {
                auth: H::AUTH,
                handler: Box::new(handler),
            },
        );
    }

    pub(super) fn get(&self, kind: &str) -> Option<&HandlerEntry> {
        self.0.get(kind)
    }

    pub(super) fn types(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().copied()
    }
}

/// A service request of the client of a session.
pub(super) fn request_as<T>(session: &Session, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(session.caller());
    request
}

/// The reply for a result of the streaming core.
pub(super) fn reply_from_core<T>(
    result: Result<T, StreamError>,
    wrap: impl FnOnce(T) -> Data,
) -> Result<Data, Error> {
    result.map(wrap).map_err(Error::from)
}

/// The reply for a response of a service.
pub(super) fn reply_from_service<T>(
    result: Result<Response<T>, Status>,
    wrap: impl FnOnce(T) -> Data,
) -> Result<Data, Error> {
    match result {
        Ok(response) => Ok(wrap(response.into_inner())),
        Err(status) => Err(from_status(&status)),
    }
}
