//! SSE adapter: events by `GET /v1/sse`, commands by `POST /v1/sse/{connectionId}`.

mod cursor;
mod events;

use std::time::Duration;

use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, Request, State},
    response::Response,
};
pub use cursor::{Cursor, CursorError};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tidewire_proto::{
    json,
    v1::{ChannelSubscription, ClientMessage, ErrorCode, Position, client_message},
};
use tidewire_stream::{
    ChannelName, ConnectionInfo, Encoding, Namespaces, PostKey, ShardId, StreamError, Transport,
};

use crate::{
    Gateway, client,
    reply::{HttpError, json_response, parse_failure, read_body},
};

/// Label of SSE streams.
pub(crate) const TRANSPORT: Transport = Transport::new("sse");

/// The longest heartbeat interval that a client may request.
const MAX_HEARTBEAT: Duration = Duration::from_secs(60);

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StreamQuery {
    channels: Option<String>,
    token: Option<String>,
    last_event_id: Option<String>,
    heartbeat_ms: Option<u64>,
}

#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct CommandQuery {
    key: Option<String>,
    token: Option<String>,
}

/// Answers `GET /v1/sse`.
pub(crate) async fn stream(
    State(gateway): State<Gateway>,
    Extension(shard): Extension<ShardId>,
    Query(query): Query<StreamQuery>,
    request: Request,
) -> Result<Response, HttpError> {
    let (headers, extensions) = (request.headers(), request.extensions());
    gateway.origins.check(headers)?;
    let cursor = resume_from(headers, query.last_event_id.as_deref())?;
    let token = query.token.as_deref();
    let client = client::admit(&gateway, headers, extensions, token).await?;
    client.identity.require_known()?;
    let heartbeat = query
        .heartbeat_ms
        .map(|ms| Duration::from_millis(ms).min(MAX_HEARTBEAT));
    let info = ConnectionInfo {
        identity: client.identity,
        transport: TRANSPORT,
        post_key: Some(PostKey::random()),
        encoding: Encoding::Json,
        address: client.address,
        heartbeat,
        quota: Some(client.quota),
        shard,
    };
    let connection = gateway.stream.connect(info).await;
    let channels = subscriptions(
        query.channels.as_deref().unwrap_or_default(),
        &cursor,
        gateway.stream.namespaces(),
    );
    if !channels.is_empty() {
        let subscribe =
            client_message::Data::Subscribe(tidewire_proto::v1::SubscribeRequest { channels });
        let message = ClientMessage {
            id: None,
            data: Some(subscribe),
        };
        let command = connection.begin_command();
        let reply = gateway.router.answer(&command, message).await;
        command.reply(reply);
    }
    let mut response = Response::new(Body::from_stream(events::events(connection)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    );
    // Turns the response buffer of nginx off.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The cursor of the client. The header comes before the query, because browsers set it
/// on reconnect and it is then the newer one.
fn resume_from(headers: &HeaderMap, query: Option<&str>) -> Result<Cursor, HttpError> {
    let header = headers
        .get("last-event-id")
        .map(|value| value.to_str().unwrap_or("\u{fffd}"));
    match header.or(query).filter(|text| !text.is_empty()) {
        None => Ok(Cursor::default()),
        Some(text) => Cursor::decode(text).map_err(|error| {
            StreamError::new(
                ErrorCode::InvalidArgument,
                format!("`Last-Event-ID` is not a cursor of this server: {error}"),
            )
            .into()
        }),
    }
}

/// The channels of the query, each from its position in the cursor. The user's own
/// channels in the cursor are resumed too.
fn subscriptions(
    channels: &str,
    cursor: &Cursor,
    namespaces: &Namespaces,
) -> Vec<ChannelSubscription> {
    let named: Vec<&str> = channels
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let is_personal = |channel: &&ChannelName| {
        let namespace = namespaces.get(channel);
        namespace.is_some_and(|namespace| namespace.is_personal())
    };
    let own = cursor
        .iter()
        .map(|(channel, _)| channel)
        .filter(|channel| is_personal(channel) && !named.contains(&channel.as_str()));
    let own: Vec<&str> = own.map(|channel| channel.as_str()).collect();
    named
        .into_iter()
        .chain(own)
        .map(|name| ChannelSubscription {
            channel: name.to_owned(),
            since: cursor.get(name).map(|position| Position {
                epoch: position.epoch.as_str().to_owned(),
                seq: position.seq,
            }),
            min_interval_ms: None,
        })
        .collect()
}

/// Answers `POST /v1/sse/{connectionId}` with the reply to one client message.
pub(crate) async fn command(
    State(gateway): State<Gateway>,
    Path(connection): Path<String>,
    Query(query): Query<CommandQuery>,
    request: Request,
) -> Result<Response, HttpError> {
    gateway.origins.check(request.headers())?;
    let session = gateway
        .stream
        .session(&connection)
        .filter(|session| session.post_key().is_some());
    let Some(session) = session else {
        return Err(
            StreamError::new(ErrorCode::NotFound, "there is no such SSE connection here").into(),
        );
    };
    let has_key = query.key.is_some() && query.key.as_deref() == session.post_key();
    if !has_key {
        // Without the key, a token of the same user is required.
        let (headers, extensions) = (request.headers(), request.extensions());
        let token = query.token.as_deref();
        let identity = client::authenticate(&gateway.stream, headers, extensions, token).await?;
        let is_same = identity.user().is_some() && identity.user() == session.identity().user();
        if !is_same {
            return Err(StreamError::new(
                ErrorCode::PermissionDenied,
                "this connection belongs to another client: send its `postKey` as `?key=`, or a token of its user",
            )
            .into());
        }
    }
    let body = read_body(request.into_body(), gateway.options.frame_bytes).await?;
    session.record_received(body.len());
    if let Some(quota) = session.quota() {
        quota.record_received(body.len());
    }
    // Publications that the command releases follow on the event stream after the reply.
    let command = session.begin_command();
    let reply = match json::parse_client(&body) {
        Ok(message) => gateway.router.answer(&command, message).await,
        Err(error) => {
            let (id, error) = parse_failure(error);
            let message = gateway.router.answer_unreadable(&session, id, error);
            return Ok(json_response(
                StatusCode::BAD_REQUEST,
                json::to_vec(&message),
            ));
        }
    };
    Ok(json_response(StatusCode::OK, json::to_vec(&reply)))
}
