//! `AdminService`: lists, disconnects and subscribes connections, and revokes tokens.

use std::sync::Arc;

use tidewire_proto::v1::{
    DisconnectRequest, DisconnectResponse, GetServerSeriesRequest, GetServerSeriesResponse,
    ListConnectionsRequest, ListConnectionsResponse, ListDeadLettersRequest,
    ListDeadLettersResponse, RevokeRequest, RevokeResponse, SubscribeUserRequest,
    SubscribeUserResponse, UnsubscribeUserRequest, UnsubscribeUserResponse,
    admin_service_server::AdminService, disconnect_request, revoke_request, subscribe_user_request,
    unsubscribe_user_request,
};
use tidewire_stream::{ConnectionFilter, StreamCore, Target, UserId, auth::Revocation};
use tonic::{Request, Response, Status};

use crate::{
    NotifyRpc, RevocationStore, ServerSeries, caller_of, status::missing_nodes, status_of,
};

/// Connections of a page when the request sets no limit.
const PAGE: u32 = 100;

/// The highest accepted limit. It bounds the size of a response.
const MAX_PAGE: u32 = 1_000;

/// Length of the longest id that can be revoked, in bytes. It bounds the memory of revocations.
const MAX_ID_BYTES: usize = 4 << 10;

/// `AdminService` over the streaming core. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AdminRpc {
    stream: Arc<StreamCore>,
    revocation_store: RevocationStore,
    notify: NotifyRpc,
    series: ServerSeries,
}

impl AdminRpc {
    /// The service over `stream`, for operators. Revocations are saved in `revocation_store`, and
    /// dead letters are those of `notify`, and figures those of `series`.
    #[must_use]
    pub fn new(
        stream: Arc<StreamCore>,
        revocation_store: RevocationStore,
        notify: NotifyRpc,
        series: ServerSeries,
    ) -> Self {
        Self {
            stream,
            revocation_store,
            notify,
            series,
        }
    }
}

/// Checks that the caller is an operator. Returns its name for the log: its user id, or the
/// address that it calls from without a token.
fn admit<T>(request: &Request<T>) -> Result<String, Status> {
    let caller = caller_of(request);
    caller
        .require_operator()
        .map_err(|error| status_of(&error))?;
    Ok(match (caller.identity.user(), caller.address) {
        (Some(user), _) => user.as_str().to_owned(),
        (None, Some(address)) => format!("{address} without a token"),
        (None, None) => "an unknown address without a token".to_owned(),
    })
}

fn missing(expected: &str) -> Status {
    Status::invalid_argument(format!("the target is missing, expected {expected}"))
}

fn no_target() -> Status {
    missing("`connectionId` or `user`")
}

fn count(connections: usize) -> u32 {
    u32::try_from(connections).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl AdminService for AdminRpc {
    async fn get_server_series(
        &self,
        request: Request<GetServerSeriesRequest>,
    ) -> Result<Response<GetServerSeriesResponse>, Status> {
        admit(&request)?;
        Ok(Response::new(self.series.read()))
    }

    async fn list_connections(
        &self,
        request: Request<ListConnectionsRequest>,
    ) -> Result<Response<ListConnectionsResponse>, Status> {
        admit(&request)?;
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
        // One more than the limit shows whether there is a next page.
        let found = self.stream.all_connections(filter, limit + 1).await;
        let mut page = found.map_err(|error| status_of(&error))?;
        let has_more = page.connections.len() > limit;
        page.connections.truncate(limit);
        let last = page.connections.last().filter(|_| has_more);
        Ok(Response::new(ListConnectionsResponse {
            next: last.map(|connection| connection.connection_id.clone()),
            connections: page.connections,
            missing_nodes: missing_nodes(page.missing_nodes),
        }))
    }

    async fn disconnect(
        &self,
        request: Request<DisconnectRequest>,
    ) -> Result<Response<DisconnectResponse>, Status> {
        use disconnect_request::Target as TargetField;
        let operator = admit(&request)?;
        let field = request.into_inner().target.ok_or_else(no_target)?;
        let target = match &field {
            TargetField::ConnectionId(id) => Target::Connection(id),
            TargetField::User(user) => Target::User(user),
        };
        let closed = self.stream.disconnect_everywhere(target).await;
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
        use subscribe_user_request::Target as TargetField;
        let operator = admit(&request)?;
        let SubscribeUserRequest { channel, target } = request.into_inner();
        let field = target.ok_or_else(no_target)?;
        let target = match &field {
            TargetField::ConnectionId(id) => Target::Connection(id),
            TargetField::User(user) => Target::User(user),
        };
        let subscribed = self.stream.subscribe_everywhere(target, &channel).await;
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
        use unsubscribe_user_request::Target as TargetField;
        let operator = admit(&request)?;
        let UnsubscribeUserRequest { channel, target } = request.into_inner();
        let field = target.ok_or_else(no_target)?;
        let target = match &field {
            TargetField::ConnectionId(id) => Target::Connection(id),
            TargetField::User(user) => Target::User(user),
        };
        let left = self.stream.unsubscribe_everywhere(target, &channel).await;
        let connections = left.map_err(|error| status_of(&error))?;
        tracing::info!(operator, ?target, channel, connections, "unsubscribed");
        Ok(Response::new(UnsubscribeUserResponse {
            connections: count(connections),
        }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        admit(&request)?;
        let caller = caller_of(&request);
        let page = self.notify.dead_letters_as(&caller, request.get_ref());
        page.await
            .map(Response::new)
            .map_err(|error| status_of(&error))
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeResponse>, Status> {
        use revoke_request::Target as TargetField;
        let operator = admit(&request)?;
        let expected = "`jti` or `user`";
        let RevokeRequest { target, expires_at } = request.into_inner();
        let field = target.ok_or_else(|| missing(expected))?;
        let authenticator = self.stream.authenticator();
        let leeway_ms = i64::try_from(authenticator.leeway().as_millis()).unwrap_or(i64::MAX);
        let now_ms = self.stream.clock().now_ms();
        if let Some(at) = expires_at.filter(|at| *at <= now_ms) {
            return Err(Status::invalid_argument(format!(
                "`expiresAt` is {at}, expected a time in the future, in milliseconds since 1970"
            )));
        }
        let expires_at = expires_at.map(|at| at.saturating_add(leeway_ms));
        let revocations = authenticator.revocations();
        let revocation = match &field {
            TargetField::Jti(id) | TargetField::User(id) if id.is_empty() => {
                return Err(missing(expected));
            }
            TargetField::Jti(id) | TargetField::User(id) if id.len() > MAX_ID_BYTES => {
                return Err(Status::invalid_argument(format!(
                    "the id is {} bytes long, expected {MAX_ID_BYTES} at most",
                    id.len()
                )));
            }
            TargetField::Jti(id) => Revocation::Token(id.clone()),
            TargetField::User(user) => Revocation::User(UserId::new(user), 0),
        };
        let closed = match &revocation {
            Revocation::Token(id) => revocations.revoke_token(id, expires_at),
            Revocation::User(user, _) => revocations.revoke_user(user, expires_at),
        };
        let connections = closed.map_err(|error| status_of(&error))?;
        self.revocation_store
            .save(&revocation)
            .await
            .map_err(|error| {
                Status::unavailable(format!(
                    "the revocation is in force, but it is not stored, and a restart would lose it: {error}"
                ))
            })?;
        let spread = self.stream.spread_revocation(&revocation).await;
        spread.map_err(|error| status_of(&error))?;
        tracing::info!(operator, target = ?field, connections, "revoked");
        Ok(Response::new(RevokeResponse {
            connections: count(connections),
        }))
    }
}
