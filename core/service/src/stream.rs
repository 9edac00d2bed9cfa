//! `StreamService`: subscribe, connect, publish, history and presence over gRPC.

use std::{pin::Pin, sync::Arc};

use futures::{Stream as FuturesStream, StreamExt as _, stream};
use tidewire_proto::{
    EncodedMessage,
    prost::Message as _,
    v1::{
        ClientMessage, Error, ErrorCode, GetHistoryRequest, GetHistoryResponse, GetPresenceRequest,
        GetPresenceResponse, PublishBatchRequest, PublishBatchResponse, PublishRequest,
        PublishResponse, PublishResult, SendToUserRequest, SendToUserResponse, ServerMessage,
        SubscribeRequest, client_message, publish_result, server_message::Data,
        stream_service_server::StreamService,
    },
};
use tidewire_stream::{
    CallQuota, ChannelName, CloseReason, Connection, Scope, Session, StreamCore, StreamError,
};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    CommandQueue, Router, caller_of,
    channels::ChannelOperations,
    connection::{BATCH_BYTES, close_status, connection_info},
    status::{identity_of, missing_nodes, refusal, require_field, status_of},
};

/// Publications that one `PublishBatch` may hold. It bounds the time of a call.
const MAX_BATCH: usize = 1_000;

/// Publications of a batch after which other connections have their turn.
const PUBLICATIONS_AT_ONCE: usize = 32;

/// `StreamService` over the streaming core. Cheap to clone.
#[derive(Clone)]
pub struct StreamRpc {
    stream: Arc<StreamCore>,
    channels: ChannelOperations,
    router: Router,
}

impl std::fmt::Debug for StreamRpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamRpc").finish_non_exhaustive()
    }
}

type MessageStream = Pin<Box<dyn FuturesStream<Item = Result<EncodedMessage, Status>> + Send>>;

impl StreamRpc {
    /// The service over `stream`. `router` answers the messages of `Connect` calls.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>, router: Router) -> Self {
        Self {
            channels: ChannelOperations::new(stream.clone()),
            stream,
            router,
        }
    }

    /// The router of session messages.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    async fn open<T>(&self, request: &Request<T>) -> Connection {
        self.stream.connect(connection_info(request)).await
    }
}

/// Answers the messages of a call until the client ends its side, and then ends the session.
async fn answer_all(mut incoming: Streaming<ClientMessage>, mut commands: CommandQueue) {
    let mut reason = CloseReason::Draining;
    while !commands.session().is_closing() {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => {
                    let bytes = message.encoded_len();
                    record_received(commands.session(), bytes);
                    // The call takes its replies beside this: there is nothing to flush.
                    commands.wait_for_reply_room(|| {}).await;
                    commands.push(message, bytes);
                }
                // The decoder's code for a long message is not in the protocol.
                Err(status) if status.code() == Code::OutOfRange => {
                    let text = "a message is longer than `frame_bytes` allows";
                    let error = StreamError::new(ErrorCode::InvalidArgument, text);
                    commands.session().send_error(None, error.into());
                    reason = CloseReason::MessageTooLong;
                    break;
                }
                // Not a message in its frame, or not a message of the protocol.
                Err(status) if matches!(status.code(), Code::Internal | Code::InvalidArgument) => {
                    let text = format!("a message cannot be read: {}", status.message());
                    let error = StreamError::new(ErrorCode::InvalidArgument, text);
                    commands.session().send_error(None, error.into());
                    reason = CloseReason::UnreadableMessage;
                    break;
                }
                // An end and another error both mean that the client has disconnected.
                Ok(None) | Err(_) => break,
            },
            () = commands.next_reply(), if !commands.is_empty() => {}
        }
    }
    while !commands.is_empty() {
        commands.next_reply().await;
    }
    commands.session().close(reason);
}

/// The reason for which the reply to a `subscribe` leaves nothing to follow.
fn refusal_of(reply: &ServerMessage) -> Option<&Error> {
    match reply.data.as_ref()? {
        Data::Error(error) => Some(error),
        Data::Subscribed(subscribed) => {
            let mut refusals = subscribed.channels.iter().map(|one| one.error.as_ref());
            let first = refusals.next()??;
            refusals.all(|refusal| refusal.is_some()).then_some(first)
        }
        _ => None,
    }
}

/// Counts a message of a client.
fn record_received(session: &Session, bytes: usize) {
    session.record_received(bytes);
    if let Some(quota) = session.quota() {
        quota.record_received(bytes);
    }
}

/// The messages of a session. The stream ends with the session.
fn messages(
    connection: Arc<Connection>,
) -> impl FuturesStream<Item = Result<EncodedMessage, Status>> + Send {
    let batches = stream::unfold(Some(connection), |connection| async move {
        let connection = connection?;
        let mut out = Vec::new();
        match connection.next(BATCH_BYTES, &mut out).await {
            Ok(()) => {
                let mut messages = Vec::with_capacity(out.len());
                let mut bytes = 0;
                for message in &out {
                    let message = message.proto();
                    bytes += message.len();
                    messages.push(Ok(message.into()));
                }
                connection.record_sent(bytes);
                Some((messages, Some(connection)))
            }
            Err(reason) => Some((vec![Err(close_status(reason))], None)),
        }
    });
    batches.flat_map(stream::iter)
}

#[tonic::async_trait]
impl StreamService for StreamRpc {
    type SubscribeStream = MessageStream;
    type ConnectStream = MessageStream;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<MessageStream>, Status> {
        let connection = self.open(&request).await;
        connection
            .identity()
            .require_known()
            .map_err(|error| status_of(&error))?;
        let subscribe = client_message::Data::Subscribe(request.into_inner());
        let message = ClientMessage {
            id: None,
            data: Some(subscribe),
        };
        record_received(&connection, message.encoded_len());
        let command = connection.begin_command();
        let reply = self.router.answer(&command, message).await;
        if let Some(refusal) = refusal_of(&reply) {
            return Err(refusal.clone().into());
        }
        command.reply(reply);
        Ok(Response::new(Box::pin(messages(Arc::new(connection)))))
    }

    async fn connect(
        &self,
        request: Request<Streaming<ClientMessage>>,
    ) -> Result<Response<MessageStream>, Status> {
        let connection = Arc::new(self.open(&request).await);
        let commands = CommandQueue::new(Session::clone(&connection), self.router.clone());
        // Commands and messages share one task, so that nothing outlives the call.
        let commands = stream::once(answer_all(request.into_inner(), commands));
        let commands = commands.filter_map(|()| std::future::ready(None));
        Ok(Response::new(Box::pin(stream::select(
            commands,
            messages(connection),
        ))))
    }

    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let caller = caller_of(&request);
        let published = self.channels.publish(caller, request.into_inner()).await;
        published
            .map(Response::new)
            .map_err(|error| status_of(&error))
    }

    async fn publish_batch(
        &self,
        request: Request<PublishBatchRequest>,
    ) -> Result<Response<PublishBatchResponse>, Status> {
        let caller = caller_of(&request);
        let quota = request.extensions().get::<CallQuota>().cloned();
        let publications = request.into_inner().publications;
        if publications.len() > MAX_BATCH {
            return Err(Status::invalid_argument(format!(
                "`publications` holds {}, expected at most {MAX_BATCH}",
                publications.len()
            )));
        }
        // The call itself was charged as one message.
        if let Some(quota) = quota {
            quota.charge_messages(publications.len().saturating_sub(1));
        }
        let mut results = Vec::with_capacity(publications.len());
        for (index, publication) in publications.into_iter().enumerate() {
            if index % PUBLICATIONS_AT_ONCE == PUBLICATIONS_AT_ONCE - 1 {
                // The memory broker never waits, and others have their turn.
                tokio::task::yield_now().await;
            }
            let result = match self.channels.publish(caller.clone(), publication).await {
                Ok(published) => publish_result::Result::Published(published),
                Err(error) => publish_result::Result::Error(error.into()),
            };
            results.push(PublishResult {
                result: Some(result),
            });
        }
        Ok(Response::new(PublishBatchResponse { results }))
    }

    async fn send_to_user(
        &self,
        request: Request<SendToUserRequest>,
    ) -> Result<Response<SendToUserResponse>, Status> {
        let caller = caller_of(&request);
        caller
            .identity
            .require(Scope::Service)
            .map_err(|error| status_of(&error))?;
        let SendToUserRequest { user, data } = request.into_inner();
        require_field("user", &user, "the user who receives it")?;
        let channel = ChannelName::user(&user).map_err(|error| {
            refusal(
                Code::InvalidArgument,
                &format!("`user`: {user:?} is not the id of a user: {error}"),
            )
        })?;
        let sent = self
            .stream
            .publish_as(caller, channel.as_str(), data, None)
            .await;
        let (channel, position) = sent.map_err(|error| status_of(&error))?;
        Ok(Response::new(SendToUserResponse {
            channel: channel.as_str().to_owned(),
            epoch: position.epoch.as_str().to_owned(),
            seq: position.seq,
        }))
    }

    async fn get_history(
        &self,
        request: Request<GetHistoryRequest>,
    ) -> Result<Response<GetHistoryResponse>, Status> {
        let identity = identity_of(&request);
        let bytes = self.channels.page_bytes();
        let request = request.into_inner();
        let history = self.channels.history(&identity, request, bytes).await;
        history
            .map(Response::new)
            .map_err(|error| status_of(&error))
    }

    async fn get_presence(
        &self,
        request: Request<GetPresenceRequest>,
    ) -> Result<Response<GetPresenceResponse>, Status> {
        let identity = identity_of(&request);
        let channel = request.into_inner().channel;
        let read = self.stream.presence_as(&identity, &channel).await;
        let presence = read.map_err(|error| status_of(&error))?;
        let users = presence.users.iter();
        Ok(Response::new(GetPresenceResponse {
            channel: presence.channel.as_str().to_owned(),
            connections: u32::try_from(presence.connections).unwrap_or(u32::MAX),
            users: users.map(|user| user.as_str().to_owned()).collect(),
            missing_nodes: missing_nodes(presence.missing_nodes),
        }))
    }
}
