//! Session handlers: auth, subscribe, unsubscribe, visibility and ping.

use tidewire_proto::v1::{
    AuthRequest, Error, ErrorCode, PingRequest, SubscribeRequest, UnsubscribeRequest, Visibility,
    VisibilityRequest, server_message::Data,
};
use tidewire_stream::{CloseReason, Command, Identity, StreamError};

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

    /// Closes a client that must send a token and sends an invalid one, or one that a limit
    /// refuses now: with the latter it may come back.
    async fn answer(&self, command: &Command, request: AuthRequest) -> Result<Data, Error> {
        let result = match request.token.as_str() {
            "" => Err(StreamError::new(
                ErrorCode::Unauthenticated,
                "`token` is missing or empty, expected a JSON Web Token",
            )),
            token => command.authenticate(token).await,
        };
        if let Err(error) = &result
            && command.identity() == Identity::Unknown
        {
            command.close(match error.code() {
                ErrorCode::ResourceExhausted => CloseReason::RateLimited,
                ErrorCode::Unavailable => CloseReason::Unavailable,
                _ => CloseReason::Unauthenticated,
            });
        }
        reply_from_core(result, Data::Authenticated)
    }
}

/// Subscribes to channels.
struct Subscribe;

impl Handler for Subscribe {
    handles!(Subscribe(SubscribeRequest));

    fn visit_channels(&self, request: &SubscribeRequest, visit: &mut dyn FnMut(&str)) {
        let channels = request.channels.iter();
        channels.for_each(|one| visit(&one.channel));
    }

    async fn answer(&self, command: &Command, request: SubscribeRequest) -> Result<Data, Error> {
        reply_from_core(command.subscribe(request).await, Data::Subscribed)
    }
}

/// Unsubscribes from channels.
struct Unsubscribe;

impl Handler for Unsubscribe {
    handles!(Unsubscribe(UnsubscribeRequest));

    const AUTH: AuthRequirement = AuthRequirement::None;

    fn visit_channels(&self, request: &UnsubscribeRequest, visit: &mut dyn FnMut(&str)) {
        request.channels.iter().for_each(|one| visit(one));
    }

    async fn answer(&self, command: &Command, request: UnsubscribeRequest) -> Result<Data, Error> {
        reply_from_core(command.unsubscribe(&request), Data::Unsubscribed)
    }
}

/// Sets whether the client is visible to its user.
struct SetVisibility;

impl Handler for SetVisibility {
    handles!(Visibility(VisibilityRequest));

    const AUTH: AuthRequirement = AuthRequirement::None;

    async fn answer(&self, command: &Command, request: VisibilityRequest) -> Result<Data, Error> {
        let state = Visibility::try_from(request.state).unwrap_or(Visibility::Unspecified);
        reply_from_core(command.set_visibility(state), Data::Visibility)
    }
}

/// Answers a heartbeat.
struct Ping;

impl Handler for Ping {
    handles!(Ping(PingRequest));

    const AUTH: AuthRequirement = AuthRequirement::None;

    async fn answer(&self, command: &Command, request: PingRequest) -> Result<Data, Error> {
        Ok(Data::Pong(command.answer_ping(request.t)))
    }
}
