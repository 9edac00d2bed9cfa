//! `AdminService`: connections, seen and steered by an operator.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tidewire_proto::v1::{
    Connection, DisconnectRequest, DisconnectResponse, ListConnectionsRequest,
    ListConnectionsResponse, RevokeRequest, RevokeResponse, SubscribeUserRequest,
    SubscribeUserResponse, UnsubscribeUserRequest, UnsubscribeUserResponse,
    admin_service_server::AdminService, disconnect_request, revoke_request, subscribe_user_request,
    unsubscribe_user_request,
};
use tidewire_stream::{
    ConnectionFilter, Scope, Session, StreamCore, Target, UserId, auth::Revocation,
};
use tonic::{Request, Response, Status};

use crate::{RevocationStore, identity_of, status_of};

/// How many connections a page has when no limit is asked for, and at most.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1_000;

/// Who may do what is for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAccess {
    /// Everyone: the server listens on loopback only.
    Everyone,
    /// Tokens with the `admin` scope.
    Scope,
}

impl AdminAccess {
    /// What fits a server that listens on `address`.
    #[must_use]
    pub fn for_listener(address: IpAddr) -> Self {
        if address.is_loopback() {
            Self::Everyone
        } else {
            Self::Scope
        }
    }
}

/// `AdminService` over the streaming core. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AdminRpc {
    stream: Arc<StreamCore>,
    access: AdminAccess,
    kept: RevocationStore,
}

impl AdminRpc {
    /// The service over this core, for those whom `access` lets in. What is revoked is
    /// `kept`.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>, access: AdminAccess, kept: RevocationStore) -> Self {
        Self {
            stream,
            access,
            kept,
        }
    }

    /// Refuses whoever is no operator. Gives the operator's name, for the log.
    fn admit<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let identity = identity_of(request);
        if self.access == AdminAccess::Scope {
            identity
                .require(Scope::Admin)
                .map_err(|error| status_of(&error))?;
        }
        let user = identity.user().map(|user| user.as_str().to_owned());
        Ok(user.unwrap_or_default())
    }
}

fn missing(expected: &str) -> Status {
    Status::invalid_argument(format!("there is no target, expected {expected}"))
}

fn no_target() -> Status {
    missing("`connectionId` or `user`")
}

fn count(connections: usize) -> u32 {
    u32::try_from(connections).unwrap_or(u32::MAX)
}

fn described(session: &Session) -> Connection {
    let arrival = session.info();
    let quality = session.quality();
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    Connection {
        connection_id: session.id().as_str().to_owned(),
        user_id: session
            .identity()
            .user()
            .map(|user| user.as_str().to_owned()),
        transport: arrival.transport.name().to_owned(),
        address: arrival
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        connected_at: session.opened_at_ms(),
        subscriptions: count(session.subscription_count()),
        rtt_ms: quality.round_trip.map(ms),
        jitter_ms: quality.jitter.map(ms),
        missed_beats: quality.missed_beats,
        bytes_sent: quality.bytes_sent,
        bytes_received: quality.bytes_received,
        bytes_queued: session.queued_bytes() as u64,
    }
}

#[tonic::async_trait]
impl AdminService for AdminRpc {
    async fn list_connections(
        &self,
        request: Request<ListConnectionsRequest>,
    ) -> Result<Response<ListConnectionsResponse>, Status> {
        self.admit(&request)?;
        let ListConnectionsRequest {
            user,
            channel,
            limit,
            after,
        } = request.into_inner();
        let limit = limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Status::invalid_argument(format!(
                "`limit` is {limit}, expected 1 to {MAX_PAGE}"
            )));
        }
        let limit = limit as usize;
        let filter = ConnectionFilter {
            user: user.as_deref(),
            channel: channel.as_deref(),
            after: after.as_deref().unwrap_or_default(),
        };
        // One more than asked for tells whether there is a next page.
        let found = self.stream.connections(filter, limit + 1).await;
        let mut sessions = found.map_err(|error| status_of(&error))?;
        let has_more = sessions.len() > limit;
        sessions.truncate(limit);
        let last = sessions.last().filter(|_| has_more);
        Ok(Response::new(ListConnectionsResponse {
            next: last.map(|session| session.id().as_str().to_owned()),
            connections: sessions.iter().map(described).collect(),
        }))
    }

    async fn disconnect(
        &self,
        request: Request<DisconnectRequest>,
    ) -> Result<Response<DisconnectResponse>, Status> {
        use disconnect_request::Target as Asked;
        let operator = self.admit(&request)?;
        let asked = request.into_inner().target.ok_or_else(no_target)?;
        let target = match &asked {
            Asked::ConnectionId(id) => Target::Connection(id),
            Asked::User(user) => Target::User(user),
        };
        let closed = self.stream.disconnect(target);
        let connections = closed.map_err(|error| status_of(&error))?;
        tracing::info!(operator, ?target, connections, "disconnected");
        Ok(Response::new(DisconnectResponse {
            connections: count(connections),
        }))
    }

    async fn subscribe_user(
        &self,
        request: Request<SubscribeUserRequest>,
    ) -> Result<Response<SubscribeUserResponse>, Status> {
        use subscribe_user_request::Target as Asked;
        let operator = self.admit(&request)?;
        let SubscribeUserRequest { channel, target } = request.into_inner();
        let asked = target.ok_or_else(no_target)?;
        let target = match &asked {
            Asked::ConnectionId(id) => Target::Connection(id),
            Asked::User(user) => Target::User(user),
        };
        let subscribed = self.stream.subscribe_target(target, &channel).await;
        let connections = subscribed.map_err(|error| status_of(&error))?;
        tracing::info!(operator, ?target, channel, connections, "subscribed");
        Ok(Response::new(SubscribeUserResponse {
            connections: count(connections),
        }))
    }

    async fn unsubscribe_user(
        &self,
        request: Request<UnsubscribeUserRequest>,
    ) -> Result<Response<UnsubscribeUserResponse>, Status> {
        use unsubscribe_user_request::Target as Asked;
        let operator = self.admit(&request)?;
        let UnsubscribeUserRequest { channel, target } = request.into_inner();
        let asked = target.ok_or_else(no_target)?;
        let target = match &asked {
            Asked::ConnectionId(id) => Target::Connection(id),
            Asked::User(user) => Target::User(user),
        };
        let left = self.stream.unsubscribe_target(target, &channel);
        let connections = left.map_err(|error| status_of(&error))?;
        tracing::info!(operator, ?target, channel, connections, "unsubscribed");
        Ok(Response::new(UnsubscribeUserResponse {
            connections: count(connections),
        }))
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeResponse>, Status> {
        use revoke_request::Target as Asked;
        let operator = self.admit(&request)?;
        let expected = "`jti` or `user`";
        let asked = request.into_inner().target;
        let asked = asked.ok_or_else(|| missing(expected))?;
        let revocations = self.stream.authenticator().revocations();
        let revoked = match &asked {
            Asked::Jti(id) | Asked::User(id) if id.is_empty() => return Err(missing(expected)),
            Asked::Jti(id) => Revocation::Token(id.clone()),
            Asked::User(user) => Revocation::User(UserId::new(user), 0),
        };
        let closed = match &revoked {
            Revocation::Token(id) => revocations.revoke_token(id, None),
            Revocation::User(user, _) => revocations.revoke_user(user),
        };
        let connections = closed.map_err(|error| status_of(&error))?;
        self.kept.keep(&revoked).await.map_err(|error| {
            Status::unavailable(format!(
                "it is revoked, but would not be after a restart: {error}"
            ))
        })?;
        tracing::info!(operator, target = ?asked, connections, "revoked");
        Ok(Response::new(RevokeResponse {
            connections: count(connections),
        }))
    }
}
