//! SSE adapter: events by `GET /v1/sse`, commands by `POST /v1/sse/{connectionId}`.

mod cursor;
mod events;
mod posts;
mod query;

use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, Request, State},
    response::Response,
};
pub(crate) use cursor::MAX_BYTES as MAX_CURSOR_BYTES;
pub use cursor::{Cursor, CursorError};
use http::{HeaderMap, HeaderValue, StatusCode, header};
pub(crate) use posts::Posts;
use query::{CommandQuery, Pairs, StreamQuery};
use tidewire_proto::v1::{
    ChannelSubscription, ClientMessage, ErrorCode, Position, ServerMessage, SubscribeRequest,
    client_message, server_message::Data,
};
use tidewire_stream::{
    ChannelName, ConnectionInfo, Encoding, Namespaces, PostKey, PostedCommand, ShardId,
    StreamError, Transport,
};

use crate::{
    Gateway, client,
    reply::{HttpError, json_response, read_body},
};

/// Label of SSE streams.
pub(crate) const TRANSPORT: Transport = Transport::new("sse");

/// Path of event streams.
pub(crate) const PATH: &str = "/v1/sse";

/// Answers `GET /v1/sse`.
pub(crate) async fn stream(
    State(gateway): State<Gateway>,
    Extension(shard): Extension<ShardId>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Result<Response, HttpError> {
    let (headers, extensions) = (request.headers(), request.extensions());
    let query = StreamQuery::read(query)?;
    let cursor = resume_from(headers, query.last_event_id.as_deref())?;
    let token = query.token.as_deref();
    let client = client::admit(&gateway, headers, extensions, token).await?;
    client.caller.identity.require_known()?;
    let info = ConnectionInfo {
        caller: client.caller,
        transport: TRANSPORT,
        post_key: Some(PostKey::random()),
        encoding: Encoding::Json,
        heartbeat: query.heartbeat,
        quota: Some(client.quota),
        shard,
    };
    let connection = gateway.stream.connect(info).await;
    let RequestedChannels { channels, named } = subscriptions(
        query.channels.as_deref().unwrap_or_default(),
        &cursor,
        gateway.stream.namespaces(),
    );
    if !channels.is_empty() {
        let subscribe = client_message::Data::Subscribe(SubscribeRequest { channels });
        let message = ClientMessage {
            id: None,
            data: Some(subscribe),
        };
        let command = connection.begin_command();
        let reply = gateway.router.answer(&command, message).await;
        let refusals = refusals(&reply, named)?;
        command.reply(reply);
        for refusal in refusals {
            connection.send(refusal);
        }
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

/// The error for each of the first `named` channels of a `subscribe` that was refused.
///
/// # Errors
/// All of them were refused: with the error of the first one.
fn refusals(reply: &ServerMessage, named: usize) -> Result<Vec<ServerMessage>, HttpError> {
    let results = match &reply.data {
        Some(Data::Subscribed(subscribed)) => &subscribed.channels[..],
        Some(Data::Error(error)) => return Err(error.clone().into()),
        _ => &[],
    };
    let results = results.iter().take(named);
    let refused = results.filter_map(|one| Some((&one.channel, one.error.clone()?)));
    let refused: Vec<_> = refused.collect();
    match refused.first() {
        Some((_, error)) if refused.len() == named => Err(error.clone().into()),
        _ => Ok(refused
            .into_iter()
            .map(|(channel, error)| ServerMessage {
                channel: Some(channel.clone()),
                data: Some(Data::Error(error)),
                ..ServerMessage::default()
            })
            .collect()),
    }
}

/// The channels that a stream subscribes to.
struct RequestedChannels {
    channels: Vec<ChannelSubscription>,
    /// How many of them the query names. They come first.
    named: usize,
}

/// The channels of the query, each from its position in the cursor. The user's own
/// channels in the cursor are resumed too. A cursor has canonical names.
fn subscriptions(channels: &str, cursor: &Cursor, namespaces: &Namespaces) -> RequestedChannels {
    let canonical = |name: &str| match namespaces.resolve(name) {
        Ok((channel, _)) => channel.as_str().to_owned(),
        // Refused later, under the name that the client gave.
        Err(_) => name.to_owned(),
    };
    let named: Vec<String> = channels
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect();
    let is_personal = |channel: &&ChannelName| {
        let namespace = namespaces.get(channel);
        namespace.is_some_and(|namespace| namespace.is_personal())
    };
    let own = cursor.iter().map(|(channel, _)| channel).filter(|channel| {
        is_personal(channel) && !named.iter().any(|name| name == channel.as_str())
    });
    let own: Vec<String> = own.map(|channel| channel.as_str().to_owned()).collect();
    let count = named.len();
    let channels = named
        .into_iter()
        .chain(own)
        .map(|name| ChannelSubscription {
            since: cursor.get(&name).map(|position| Position {
                epoch: position.epoch.as_str().to_owned(),
                seq: position.seq,
            }),
            channel: name,
            min_interval_ms: None,
        });
    RequestedChannels {
        channels: channels.collect(),
        named: count,
    }
}

/// Answers `POST /v1/sse/{connectionId}` with the reply to one client message.
pub(crate) async fn command(
    State(gateway): State<Gateway>,
    Path(connection): Path<String>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Result<Response, HttpError> {
    let CommandQuery { key, token } = CommandQuery::read(query)?;
    let session = gateway.stream.session(&connection);
    let Some(session) = session.filter(posts::takes_posts) else {
        return forward(&gateway, connection, key, token.as_deref(), request).await;
    };
    if !posts::has_key(&session, key.as_deref()) {
        // Without the key, a token of the same user is required.
        let (headers, extensions) = (request.headers(), request.extensions());
        let caller = client::caller(&gateway, headers, extensions, token.as_deref()).await?;
        posts::check_user(&session, caller.identity.user())?;
    }
    let body = read_body(request.into_body(), gateway.options.frame_bytes).await?;
    let (status, reply) = posts::answer(&gateway.router, &session, &body).await?;
    Ok(json_response(status, reply))
}

/// Passes a command on to the server of its connection.
async fn forward(
    gateway: &Gateway,
    connection: String,
    key: Option<String>,
    token: Option<&str>,
    request: Request,
) -> Result<Response, HttpError> {
    if !gateway.stream.may_be_elsewhere(&connection) {
        return Err(posts::no_such_connection());
    }
    let (headers, extensions) = (request.headers(), request.extensions());
    let caller = match &key {
        Some(_) => client::unidentified(gateway, headers, extensions),
        None => client::caller(gateway, headers, extensions, token).await?,
    };
    let body = read_body(request.into_body(), gateway.options.frame_bytes).await?;
    // Whether the connection exists is not known here: the rates are those of a call.
    client::charge(gateway, &caller, body.len())?;
    let command = PostedCommand {
        connection,
        key,
        user: caller.identity.user().cloned(),
        body,
    };
    let reply = gateway.stream.forward_post(&caller, command).await?;
    let (status, reply) = reply.ok_or_else(posts::no_such_connection)?;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok(json_response(status, reply.into()))
}
