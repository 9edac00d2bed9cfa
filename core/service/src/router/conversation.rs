//! The messages that are about the conversation itself.

use tidewire_proto::v1::{
    AuthRequest, Error, PingRequest, SubscribeRequest, UnsubscribeRequest, Visibility,
    VisibilityRequest, server_message::Data,
};
use tidewire_stream::{CloseReason, Identity, Session};

use super::handler::{Handler, Handlers, Needs, answers, said};

pub(super) fn register(handlers: &mut Handlers) {
    handlers.add(Auth);
    handlers.add(Subscribe);
    handlers.add(Unsubscribe);
    handlers.add(SetVisibility);
    handlers.add(Ping);
}

/// Gives or renews a token.
struct Auth;

impl Handler for Auth {
    answers!(Auth(AuthRequest));

    const NEEDS: Needs = Needs::Nothing;

    /// A client that must give a token and gives a bad one is sent away.
    async fn answer(&self, session: &Session, request: AuthRequest) -> Result<Data, Error> {
        let result = session.authenticate(&request.token).await;
        if result.is_err() && session.identity() == Identity::Unknown {
            session.close(CloseReason::Unauthenticated);
        }
        said(result, Data::Authenticated)
    }
}

/// Follows channels.
struct Subscribe;

impl Handler for Subscribe {
    answers!(Subscribe(SubscribeRequest));

    async fn answer(&self, session: &Session, request: SubscribeRequest) -> Result<Data, Error> {
        said(session.subscribe(request).await, Data::Subscribed)
    }
}

/// Leaves channels.
struct Unsubscribe;

impl Handler for Unsubscribe {
    answers!(Unsubscribe(UnsubscribeRequest));

    const NEEDS: Needs = Needs::Nothing;

    async fn answer(&self, session: &Session, request: UnsubscribeRequest) -> Result<Data, Error> {
        said(session.unsubscribe(&request), Data::Unsubscribed)
    }
}

/// Tells whether anyone is looking.
struct SetVisibility;

impl Handler for SetVisibility {
    answers!(Visibility(VisibilityRequest));

    const NEEDS: Needs = Needs::Nothing;

    async fn answer(&self, session: &Session, request: VisibilityRequest) -> Result<Data, Error> {
        let state = Visibility::try_from(request.state).unwrap_or(Visibility::Unspecified);
        said(session.set_visibility(state), Data::Visibility)
    }
}

/// Asks for a sign of life.
struct Ping;

impl Handler for Ping {
    answers!(Ping(PingRequest));

    const NEEDS: Needs = Needs::Nothing;

    async fn answer(&self, session: &Session, request: PingRequest) -> Result<Data, Error> {
        Ok(Data::Pong(session.answer_ping(request.t)))
    }
}
