//! Session handlers: auth, subscribe, unsubscribe, visibility and ping.

use tidewire_proto::v1::{
    AuthRequest, Error, PingRequest, SubscribeRequest, UnsubscribeRequest, Visibility,
    VisibilityRequest, server_message::Data,
};
use tidewire_stream::{CloseReason, Identity, Session};

use super::handler::{AuthRequirement, Handler, HandlerRegistry, handles, reply_from_core};

pub(super) fn register(handlers: &mut HandlerRegistry) {
    handlers.add(Auth);
    handlers.add(Subscribe);
    handlers.add(Unsubscribe);
    handlers.add(SetVisibility);
    handlers.add(Ping);
}

/// Sets or renews the token of a session.
struct Auth;

impl Handler for Auth {
    handles!(Auth(AuthRequest));

    const AUTH: AuthRequirement = AuthRequirement::None;

    /// Closes a client that must send a token and sends an invalid one.
    async fn answer(&self, session: &Session, request: AuthRequest) -> Result<Data, Error> {
        let result = session.authenticate(&request.token).await;
        if result.is_err() && session.identity() == Identity::Unknown {
            session.close(CloseReason::Unauthenticated);
        }
        reply_from_core(result, Data::Authenticated)
    }
}

/// Subscribes to channels.
struct Subscribe;

impl Handler for Subscribe {
    handles!(Subscribe(SubscribeRequest));

    async fn answer(&self, session: &Session, request: SubscribeRequest) -> Result<Data, Error> {
        reply_from_core(session.subscribe(request).await, Data::Subscribed)
    }
}

/// Unsubscribes from channels.
struct Unsubscribe;

impl Handler for Unsubscribe {
    handles!(Unsubscribe(UnsubscribeRequest));

    const AUTH: AuthRequirement = AuthRequirement::None;

    async fn answer(&self, session: &Session, request: UnsubscribeRequest) -> Result<Data, Error> {
        reply_from_core(session.unsubscribe(&request), Data::Unsubscribed)
    }
}

/// Sets whether the client is visible to its user.
struct SetVisibility;

impl Handler for SetVisibility {
    handles!(Visibility(VisibilityRequest));

    const AUTH: AuthRequirement = AuthRequirement::None;

    async fn answer(&self, session: &Session, request: VisibilityRequest) -> Result<Data, Error> {
        let state = Visibility::try_from(request.state).unwrap_or(Visibility::Unspecified);
        reply_from_core(session.set_visibility(state), Data::Visibility)
    }
}

/// Answers a heartbeat.
struct Ping;

impl Handler for Ping {
    handles!(Ping(PingRequest));

    const AUTH: AuthRequirement = AuthRequirement::None;

    async fn answer(&self, session: &Session, request: PingRequest) -> Result<Data, Error> {
        Ok(Data::Pong(session.answer_ping(request.t)))
    }
}
