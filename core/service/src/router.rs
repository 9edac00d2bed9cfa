//! The router: finds the handler of a session's message and gives its reply.
//!
//! What concerns the conversation itself is the session's; everything else is the
//! RPC of the same meaning, called in process.

use tidewire_proto::{
    json,
    v1::{
        ClientMessage, Error, ErrorCode, PingRequest, Pong, ServerMessage, Visibility,
        VisibilityRequest, client_message::Data as Asked, price_service_server::PriceService as _,
        server_message::Data, stream_service_server::StreamService as _,
    },
};
use tidewire_stream::{CloseReason, Identity, Session, StreamError};
use tonic::{Request, Response, Status};

use crate::{PriceRpc, StreamRpc, from_status};

/// Answers the messages of sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Router {
    stream: StreamRpc,
    price: PriceRpc,
}

impl Router {
    /// A router over these services.
    #[must_use]
    pub fn new(stream: StreamRpc, price: PriceRpc) -> Self {
        Self { stream, price }
    }

    /// Answers a message. After the reply was sent, call [`Session::resume`].
    pub async fn answer(&self, session: &Session, message: ClientMessage) -> ServerMessage {
        let id = message.id;
        let data = match message.data {
            Some(asked) => self.handle(session, asked).await,
            None => Err(Error {
                code: ErrorCode::Unimplemented.into(),
                message: "the message says nothing that this server knows".to_owned(),
                retry_after_ms: None,
            }),
        };
        ServerMessage {
            id,
            data: Some(data.unwrap_or_else(Data::Error)),
            ..ServerMessage::default()
        }
    }

    async fn handle(&self, session: &Session, asked: Asked) -> Result<Data, Error> {
        match asked {
            Asked::Auth(request) => self.authenticate(session, &request.token).await,
            Asked::Subscribe(request) => said(session.subscribe(request).await, Data::Subscribed),
            Asked::Unsubscribe(request) => said(session.unsubscribe(&request), Data::Unsubscribed),
            Asked::Visibility(request) => visibility(session, &request),
            Asked::Ping(request) => Ok(Data::Pong(self.pong(session, &request))),
            Asked::History(request) => answered(
                self.stream.get_history(asking(session, request)).await,
                Data::History,
            ),
            Asked::Publish(request) => answered(
                self.stream.publish(asking(session, request)).await,
                Data::Published,
            ),
            Asked::GetPrice(request) => answered(
                self.price.get_price(asking(session, request)).await,
                Data::Price,
            ),
            later => Err(not_built(json::client_data_type(&later))),
        }
    }

    /// A client that must give a token and gives a bad one is sent away.
    async fn authenticate(&self, session: &Session, token: &str) -> Result<Data, Error> {
        let result = session.authenticate(token).await;
        if result.is_err() && session.identity() == Identity::Unknown {
            session.close(CloseReason::Unauthenticated);
        }
        said(result, Data::Authenticated)
    }

    fn pong(&self, session: &Session, request: &PingRequest) -> Pong {
        Pong {
            t: request.t,
            server_time: self.stream.now_ms(),
            heartbeat_ms: session.heartbeat_ms(),
            rtt_ms: None,
            jitter_ms: None,
        }
    }
}

fn visibility(session: &Session, request: &VisibilityRequest) -> Result<Data, Error> {
    let state = Visibility::try_from(request.state).unwrap_or(Visibility::Unspecified);
    said(session.set_visibility(state), Data::Visibility)
}

fn asking<T>(session: &Session, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(session.identity());
    request
}

fn said<T>(result: Result<T, StreamError>, wrap: impl FnOnce(T) -> Data) -> Result<Data, Error> {
    result.map(wrap).map_err(Error::from)
}

fn answered<T>(
    result: Result<Response<T>, Status>,
    wrap: impl FnOnce(T) -> Data,
) -> Result<Data, Error> {
    match result {
        Ok(response) => Ok(wrap(response.into_inner())),
        Err(status) => Err(from_status(&status)),
    }
}

/// The answer to what the protocol knows and this version does not do.
fn not_built(kind: &str) -> Error {
    Error {
        code: ErrorCode::Unimplemented.into(),
        message: format!("`{kind}` is not built yet"),
        retry_after_ms: None,
    }
}
