//! `StreamService`: subscribe, publish, history, presence.

use std::{net::IpAddr, pin::Pin, sync::Arc};

use futures::{Stream as FuturesStream, StreamExt as _, stream};
use tidewire_proto::{
    EncodedMessage,
    prost::Message as _,
    v1::{
        ClientMessage, GetHistoryRequest, GetHistoryResponse, GetPresenceRequest,
        GetPresenceResponse, PublishBatchRequest, PublishBatchResponse, PublishRequest,
        PublishResponse, PublishResult, SendToUserRequest, SendToUserResponse, SubscribeRequest,
        client_message, publish_result, stream_service_server::StreamService,
    },
};
use tidewire_stream::{
    Allowance, ChannelName, CloseReason, Connection, ConnectionInfo, Encoding, Identity, Position,
    Scope, Session, ShardId, StreamCore, StreamError, Transport,
};
use tokio::sync::OnceCell;
use tonic::{Request, Response, Status, Streaming};

use crate::{Router, identity_of, status_of};

/// Label of gRPC and gRPC-Web streams.
pub const GRPC: Transport = Transport::new("grpc");

/// What one gRPC stream takes at a time, in bytes.
const TAKE_BYTES: usize = 64 << 10;

/// How many publications one `PublishBatch` may hold.
const MAX_BATCH: usize = 1_000;

/// How many messages `GetHistory` gives when no limit is asked for, and at most.
const HISTORY_LIMIT: u32 = 100;
const MAX_HISTORY_LIMIT: u32 = 10_000;

/// `StreamService` over the streaming core. Cheap to clone.
#[derive(Clone)]
pub struct StreamRpc {
    stream: Arc<StreamCore>,
    /// The router needs this service too, and is set once both exist.
    router: Arc<OnceCell<Router>>,
}

/// Where a caller is, as far as that can be trusted. The adapter puts it into the
/// request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl std::fmt::Debug for StreamRpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamRpc").finish_non_exhaustive()
    }
}

type Messages = Pin<Box<dyn FuturesStream<Item = Result<EncodedMessage, Status>> + Send>>;

impl StreamRpc {
    /// The service over this core.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>) -> Self {
        Self {
            stream,
            router: Arc::default(),
        }
    }

    /// Has this router answer the messages of `Connect` streams.
    pub fn route_with(&self, router: Router) {
        // A second router changes nothing: the first one serves already.
        let _ = self.router.set(router);
    }

    async fn publish_one(
        &self,
        identity: &Identity,
        request: PublishRequest,
    ) -> Result<PublishResponse, StreamError> {
        let key = request.idempotency_key.as_deref();
        let (channel, position) = self
            .stream
            .publish_as(identity, &request.channel, request.data, key)
            .await?;
        Ok(published(&channel, &position))
    }

    async fn open<T>(&self, request: &Request<T>) -> Connection {
        self.stream.connect(arrival(request)).await
    }

    async fn answer(&self, session: &Session, message: ClientMessage) {
        let Some(router) = self.router.get() else {
            return;
        };
        let bytes = message.encoded_len();
        session.record_received(bytes);
        if let Some(allowance) = session.allowance() {
            allowance.received(bytes);
        }
        session.wait_for_reply_room().await;
        let reply = router.answer(session, message).await;
        session.reply(reply);
    }
}

/// How whoever opens a stream has come.
pub(crate) fn arrival<T>(request: &Request<T>) -> ConnectionInfo {
    ConnectionInfo {
        identity: identity_of(request),
        transport: GRPC,
        post_key: None,
        encoding: Encoding::Proto,
        address: request
            .extensions()
            .get::<ClientAddress>()
            .map(|address| address.0),
        heartbeat: None,
        allowance: request.extensions().get::<Allowance>().cloned(),
        // Without a listener that says where, whoever publishes delivers.
        shard: request
            .extensions()
            .get()
            .copied()
            .unwrap_or(ShardId::CALLER),
    }
}

/// The status that a stream ends with.
pub(crate) fn closed(reason: CloseReason) -> Status {
    match reason.code() {
        4005 | 4500 | 4504 => Status::unauthenticated(reason.text()),
        4001 | 4004 => Status::resource_exhausted(reason.text()),
        4503 => Status::permission_denied(reason.text()),
        _ => Status::unavailable(reason.text()),
    }
}

fn published(channel: &ChannelName, position: &Position) -> PublishResponse {
    PublishResponse {
        channel: channel.as_str().to_owned(),
        epoch: position.epoch.as_str().to_owned(),
        seq: position.seq,
    }
}

/// What a connection has to send, as it comes. Ends with the session.
fn outgoing(
    connection: Arc<Connection>,
) -> impl FuturesStream<Item = Result<EncodedMessage, Status>> + Send {
    let takes = stream::unfold(Some(connection), |connection| async move {
        let connection = connection?;
        let mut out = Vec::new();
        match connection.next(TAKE_BYTES, &mut out).await {
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
            Err(reason) => Some((vec![Err(closed(reason))], None)),
        }
    });
    takes.flat_map(stream::iter)
}

#[tonic::async_trait]
impl StreamService for StreamRpc {
    type SubscribeStream = Messages;
    type ConnectStream = Messages;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Messages>, Status> {
        let connection = self.open(&request).await;
        connection
            .identity()
            .known()
            .map_err(|error| status_of(&error))?;
        let asked = client_message::Data::Subscribe(request.into_inner());
        self.answer(
            &connection,
            ClientMessage {
                id: None,
                data: Some(asked),
            },
        )
        .await;
        Ok(Response::new(Box::pin(outgoing(Arc::new(connection)))))
    }

    async fn connect(
        &self,
        request: Request<Streaming<ClientMessage>>,
    ) -> Result<Response<Messages>, Status> {
        let connection = Arc::new(self.open(&request).await);
        let (this, session) = (self.clone(), Session::clone(&connection));
        let mut asked = request.into_inner();
        // Commands run beside the messages, in the same task: nothing of them is
        // left when the client goes.
        let commands = stream::once(async move {
            // The stream ends, or breaks: either way the client has gone.
            while let Ok(Some(message)) = asked.message().await {
                this.answer(&session, message).await;
            }
            session.close(CloseReason::Draining);
        });
        let commands = commands.filter_map(|()| std::future::ready(None));
        Ok(Response::new(Box::pin(stream::select(
            commands,
            outgoing(connection),
        ))))
    }

    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let identity = identity_of(&request);
        let response = self.publish_one(&identity, request.into_inner()).await;
        response
            .map(Response::new)
            .map_err(|error| status_of(&error))
    }

    async fn publish_batch(
        &self,
        request: Request<PublishBatchRequest>,
    ) -> Result<Response<PublishBatchResponse>, Status> {
        let identity = identity_of(&request);
        let publications = request.into_inner().publications;
        if publications.len() > MAX_BATCH {
            return Err(Status::invalid_argument(format!(
                "`publications` holds {}, expected at most {MAX_BATCH}",
                publications.len()
            )));
        }
        let mut results = Vec::with_capacity(publications.len());
        for publication in publications {
            let result = match self.publish_one(&identity, publication).await {
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
        let identity = identity_of(&request);
        identity
            .require(Scope::Service)
            .map_err(|error| status_of(&error))?;
        let SendToUserRequest { user, data } = request.into_inner();
        let channel = ChannelName::user(&user).map_err(|error| {
            Status::invalid_argument(format!("`user` cannot name a channel: {error}"))
        })?;
        let sent = self
            .stream
            .publish_as(&identity, channel.as_str(), data, None)
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
        let GetHistoryRequest {
            channel,
            since,
            limit,
        } = request.into_inner();
        let limit = limit.unwrap_or(HISTORY_LIMIT);
        if limit > MAX_HISTORY_LIMIT {
            return Err(Status::invalid_argument(format!(
                "`limit` is {limit}, expected at most {MAX_HISTORY_LIMIT}"
            )));
        }
        let read = self
            .stream
            .history_as(
                &identity,
                &channel,
                since.map(Position::from),
                limit as usize,
            )
            .await;
        let (channel, history) = read.map_err(|error| status_of(&error))?;
        let messages = history.publications.iter().map(|publication| {
            let mut message = publication.to_message();
            message.channel = None;
            message
        });
        Ok(Response::new(GetHistoryResponse {
            channel: channel.as_str().to_owned(),
            epoch: history.top.epoch.as_str().to_owned(),
            seq: history.top.seq,
            messages: messages.collect(),
        }))
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
        }))
    }
}
