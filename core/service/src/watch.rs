//! `WatchService`: blocks, transactions, wallets and contract events over gRPC.

use std::{pin::Pin, sync::Arc};

use futures::{Stream as FuturesStream, StreamExt as _, future::join_all, stream};
use tidewire_chain::ChainError;
use tidewire_proto::{
    prost::Message as _,
    v1::{
        Block, ChannelSubscription, ErrorCode, EventFilter, EventsTarget, Gap,
        GetLatestBlockRequest, GetTransactionStatusRequest, LinkWalletRequest, LinkWalletResponse,
        Position, SessionWatchRequest, SubscribeRequest, SubscriptionResult, TransactionStatus,
        TransactionTarget, UnlinkWalletRequest, UnlinkWalletResponse, UnsubscribeRequest,
        UnwatchRequest, UnwatchResponse, WatchEvent, WatchRequest, WatchTransactionRequest,
        WatchTransactionResponse, WatchedEvents, Watching, server_message::Data, watch_event,
        watch_request::Target, watch_service_server::WatchService, watching,
    },
};
use tidewire_stream::{
    CallRefusal, Caller, ChannelName, Command, Connection, ForwardedCall, OutgoingMessage,
    Publication, Scope, Session, StreamCore, StreamError, UserId,
};
use tonic::{Code, Request, Response, Status};

use crate::{
    ChainSlots, caller_of,
    chains::{ChannelReply, calls},
    connection::{BATCH_BYTES, close_status, connection_info},
    status::{identity_of, refusal, status_of},
};

/// `WatchService` over the engines of chains. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WatchRpc {
    stream: Arc<StreamCore>,
    chains: ChainSlots,
}

impl WatchRpc {
    /// The service over `chains`, which publish through `stream`.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>, chains: ChainSlots) -> Self {
        Self { stream, chains }
    }

    /// Saves changes to the interest in transactions, wallets and events. Call it about once
    /// per second.
    pub async fn store_interest(&self) {
        self.chains.store_interest().await;
    }

    /// Removes interest that has had no subscriber for its retention time. Call it less
    /// often.
    pub async fn expire_interest(&self) {
        let hub = self.stream.hub();
        self.chains
            .expire_interest(|channel| hub.subscriber_count(channel) > 0)
            .await;
    }

    /// Carries out a call of another node.
    pub(crate) async fn answer_call(&self, call: ForwardedCall) -> Result<Vec<u8>, CallRefusal> {
        self.chains.answer(call).await
    }

    /// The status of a transaction, here or from another node.
    async fn status_as(
        &self,
        caller: &Caller,
        target: &TransactionTarget,
    ) -> Result<TransactionStatus, StreamError> {
        self.chains
            .ask(target.chain, calls::STATUS, caller, target)
            .await
    }

    /// Subscribes a session to a transaction or to events, and returns the current state.
    pub(crate) async fn watch_in(
        &self,
        command: &Command,
        request: SessionWatchRequest,
    ) -> Result<Watching, StreamError> {
        let chain = request.chain;
        let channel = self.watched_channel(&request)?;
        let target = match (request.tx_hash, request.events) {
            (Some(hash), None) => {
                let hash = hash.to_ascii_lowercase();
                subscribe_in(command, channel, None).await?;
                // The subscription already watches the transaction.
                let target = TransactionTarget {
                    chain,
                    tx_hash: hash,
                    abi: request.abi,
                };
                let status = self.status_as(&command.caller(), &target).await?;
                watching::Target::Transaction(status)
            }
            (None, Some(filter)) => {
                let channel = self.watch_events(command, chain, filter).await?;
                subscribe_in(command, channel.clone(), None).await?;
                watching::Target::Events(WatchedEvents { channel })
            }
            _ => return Err(neither_transaction_nor_events()),
        };
        Ok(Watching {
            target: Some(target),
        })
    }

    /// Ends a watch of a session.
    pub(crate) fn unwatch_in(
        &self,
        session: &Session,
        request: &SessionWatchRequest,
    ) -> Result<(), StreamError> {
        let channels = vec![self.watched_channel(request)?];
        session.unsubscribe(&UnsubscribeRequest { channels })?;
        Ok(())
    }

    /// The channel that a watch subscribes to.
    pub(crate) fn watched_channel(
        &self,
        request: &SessionWatchRequest,
    ) -> Result<String, StreamError> {
        let chain = request.chain;
        match (&request.tx_hash, &request.events) {
            (Some(hash), None) => Ok(format!("tx:{chain}:{}", hash.to_ascii_lowercase())),
            (None, Some(filter)) => {
                let channel = self.chains.catalog().events_channel(chain, filter)?;
                Ok(channel.as_str().to_owned())
            }
            _ => Err(neither_transaction_nor_events()),
        }
    }

    /// Registers a filter of events that the session is about to subscribe to, and returns
    /// its channel. A session that may not subscribe to the channel registers nothing.
    async fn watch_events(
        &self,
        session: &Session,
        chain: u64,
        filter: EventFilter,
    ) -> Result<String, StreamError> {
        session.may_subscribe(&self.chains.catalog().events_channel(chain, &filter)?)?;
        let caller = session.caller();
        let target = EventsTarget {
            chain,
            events: Some(filter),
        };
        let asked = self.chains.ask(chain, calls::EVENTS, &caller, &target);
        let reply: ChannelReply = asked.await?;
        Ok(reply.channel)
    }
}

fn neither_transaction_nor_events() -> StreamError {
    StreamError::new(
        ErrorCode::InvalidArgument,
        "expected either `txHash` or `events`",
    )
}

/// Subscribes a session to a channel. Its publications follow after the reply.
async fn subscribe_in(
    command: &Command,
    channel: String,
    since: Option<Position>,
) -> Result<SubscriptionResult, StreamError> {
    let channels = vec![ChannelSubscription {
        channel,
        since,
        ..ChannelSubscription::default()
    }];
    let subscribed = command.subscribe(SubscribeRequest { channels }).await?;
    let mut result = subscribed.channels.into_iter().next().unwrap_or_default();
    match result.error.take() {
        Some(error) => Err(StreamError::new(error.code(), error.message)),
        None => Ok(result),
    }
}

/// Checks that the caller is a back end, since durable interest outlives connections.
fn require_service<T>(request: &Request<T>) -> Result<(), Status> {
    identity_of(request)
        .require(Scope::Service)
        .map_err(|error| status_of(&error))
}

/// Checks that the caller is identified, if the server requires it. Chain data is public.
fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    identity_of(request)
        .require_known()
        .map_err(|error| status_of(&error))
}

fn respond<T>(answered: Result<T, StreamError>) -> Result<Response<T>, Status> {
    answered
        .map(Response::new)
        .map_err(|error| status_of(&error))
}

/// The response to a request that several owners carry out. The first refusal is that of all.
fn all_of<T: Default>(answered: Vec<Result<T, StreamError>>) -> Result<Response<T>, Status> {
    let answered: Result<Vec<_>, _> = answered.into_iter().collect();
    respond(answered.map(|all| all.into_iter().next().unwrap_or_default()))
}

fn chain_status(error: ChainError) -> Status {
    status_of(&error.into())
}

type EventStream = Pin<Box<dyn FuturesStream<Item = Result<WatchEvent, Status>> + Send>>;

/// The events of a connection. The stream ends with the session.
fn events(connection: Connection) -> impl FuturesStream<Item = Result<WatchEvent, Status>> + Send {
    let batches = stream::unfold(Some(connection), |connection| async move {
        let connection = connection?;
        let mut out = Vec::new();
        match connection.next(BATCH_BYTES, &mut out).await {
            Ok(()) => {
                let events: Vec<_> = out.iter().filter_map(event).collect();
                record_sent(&connection, &events);
                let events = events.into_iter().map(Ok).collect();
                Some((events, Some(connection)))
            }
            Err(reason) => Some((vec![Err(close_status(reason))], None)),
        }
    });
    batches.flat_map(stream::iter)
}

/// Counts events that the transport takes.
fn record_sent(session: &Session, events: &[WatchEvent]) {
    let bytes = events.iter().map(WatchEvent::encoded_len);
    session.record_sent(bytes.sum());
}

fn event(outgoing: &OutgoingMessage) -> Option<WatchEvent> {
    let publication = match outgoing {
        OutgoingMessage::Publication(publication) => publication,
        OutgoingMessage::Direct(message) => {
            let Some(Data::Gap(gap)) = message.to_message().data else {
                return None;
            };
            return Some(gap_event(gap));
        }
        OutgoingMessage::PriceBatch(_) => return None,
    };
    Some(WatchEvent {
        channel: publication.channel().as_str().to_owned(),
        epoch: publication.position().epoch.as_str().to_owned(),
        seq: publication.seq(),
        data: Some(data(publication)?),
    })
}

/// The event of a gap that cannot be recovered.
fn gap_event(gap: Gap) -> WatchEvent {
    WatchEvent {
        channel: gap.channel.clone(),
        epoch: gap.epoch.clone(),
        seq: gap.seq,
        data: Some(watch_event::Data::Gap(gap)),
    }
}

fn data(publication: &Publication) -> Option<watch_event::Data> {
    match publication.event().into_owned() {
        Data::Transaction(status) => Some(watch_event::Data::Transaction(status)),
        Data::WalletUpdate(update) => Some(watch_event::Data::WalletUpdate(update)),
        Data::Block(block) => Some(watch_event::Data::Block(block)),
        Data::EventLog(log) => Some(watch_event::Data::EventLog(log)),
        _ => None,
    }
}

/// The user that a back end names.
fn user_of(user: Option<&str>) -> Result<UserId, Status> {
    let user = user.ok_or_else(|| {
        Status::invalid_argument("`user` is missing, expected the owner of the wallet")
    })?;
    check_user(user)?;
    Ok(UserId::new(user))
}

/// Checks that an id can be a user's.
fn check_user(user: &str) -> Result<(), Status> {
    // A token with this subject would be refused too.
    ChannelName::user(user).map_err(|error| {
        refusal(
            Code::InvalidArgument,
            &format!("`user`: {user:?} is not the id of a user: {error}"),
        )
    })?;
    Ok(())
}

#[tonic::async_trait]
impl WatchService for WatchRpc {
    type WatchStream = EventStream;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<EventStream>, Status> {
        admit(&request)?;
        let WatchRequest { target, since } = request.get_ref().clone();
        let resumes = since.is_some();
        let target = target.ok_or_else(|| {
            Status::invalid_argument(
                "`target` is missing, expected one of transaction, wallet, blocks, events",
            )
        })?;
        let connection = self.stream.connect(connection_info(&request)).await;
        let caller = connection.caller();
        connection.record_received(request.get_ref().encoded_len());
        let (channel, transaction) = match target {
            Target::Blocks(blocks) => (format!("blocks:{}", blocks.chain), None),
            Target::Wallet(wallet) => (format!("wallet:{}", wallet.address), None),
            Target::Transaction(mut target) => {
                target.tx_hash.make_ascii_lowercase();
                let channel = format!("tx:{}:{}", target.chain, target.tx_hash);
                (channel, Some(target))
            }
            Target::Events(EventsTarget { chain, events }) => {
                let filter = events.unwrap_or_default();
                let watched = self.watch_events(&connection, chain, filter).await;
                (watched.map_err(|error| status_of(&error))?, None)
            }
        };
        let command = connection.begin_command();
        let subscribed = subscribe_in(&command, channel, since).await;
        let result = subscribed.map_err(|error| status_of(&error))?;
        drop(command);
        let mut first = Vec::new();
        if resumes && !result.recovered {
            first.push(gap_event(Gap {
                channel: result.channel.clone(),
                epoch: result.epoch.clone(),
                seq: result.seq,
            }));
        }
        if let Some(target) = transaction {
            let status = self.status_as(&caller, &target).await;
            let status = status.map_err(|error| status_of(&error))?;
            // The status includes all publications up to `seq`; the next one has the next
            // number. A recovered subscription receives the status as a publication.
            if !result.recovered {
                first.push(WatchEvent {
                    channel: result.channel,
                    epoch: result.epoch,
                    seq: result.seq,
                    data: Some(watch_event::Data::Transaction(status)),
                });
            }
        }
        record_sent(&connection, &first);
        let first = stream::iter(first.into_iter().map(Ok));
        let events = first.chain(events(connection));
        Ok(Response::new(Box::pin(events)))
    }

    async fn watch_transaction(
        &self,
        request: Request<WatchTransactionRequest>,
    ) -> Result<Response<WatchTransactionResponse>, Status> {
        require_service(&request)?;
        let caller = caller_of(&request);
        let request = request.into_inner();
        if let Some(user) = &request.user {
            check_user(user)?;
        }
        let asked = self
            .chains
            .ask(request.chain, calls::WATCH, &caller, &request);
        respond(asked.await)
    }

    async fn unwatch(
        &self,
        request: Request<UnwatchRequest>,
    ) -> Result<Response<UnwatchResponse>, Status> {
        require_service(&request)?;
        let caller = caller_of(&request);
        let request = request.into_inner();
        let asked = self
            .chains
            .ask(request.chain, calls::UNWATCH, &caller, &request);
        respond(asked.await)
    }

    async fn get_transaction_status(
        &self,
        request: Request<GetTransactionStatusRequest>,
    ) -> Result<Response<TransactionStatus>, Status> {
        admit(&request)?;
        let caller = caller_of(&request);
        let GetTransactionStatusRequest { chain, tx_hash } = request.into_inner();
        let target = TransactionTarget {
            chain,
            tx_hash,
            abi: Vec::new(),
        };
        respond(self.status_as(&caller, &target).await)
    }

    async fn get_latest_block(
        &self,
        request: Request<GetLatestBlockRequest>,
    ) -> Result<Response<Block>, Status> {
        admit(&request)?;
        let caller = caller_of(&request);
        let request = request.into_inner();
        let asked = self
            .chains
            .ask(request.chain, calls::BLOCK, &caller, &request);
        respond(asked.await)
    }

    async fn link_wallet(
        &self,
        request: Request<LinkWalletRequest>,
    ) -> Result<Response<LinkWalletResponse>, Status> {
        require_service(&request)?;
        user_of(request.get_ref().user.as_deref())?;
        let caller = caller_of(&request);
        let request = request.into_inner();
        let chains = self.chains.of_wallets().into_iter();
        let asked = chains.map(|chain| self.chains.ask(chain, calls::LINK, &caller, &request));
        let linked: Vec<Result<LinkWalletResponse, _>> = join_all(asked).await;
        all_of(linked)
    }

    async fn unlink_wallet(
        &self,
        request: Request<UnlinkWalletRequest>,
    ) -> Result<Response<UnlinkWalletResponse>, Status> {
        require_service(&request)?;
        let user = user_of(request.get_ref().user.as_deref())?;
        let caller = caller_of(&request);
        let request = request.into_inner();
        let channel = self.chains.catalog().wallet_channel(&request.address);
        let channel = channel.map_err(chain_status)?;
        let chains = self.chains.of_wallets().into_iter();
        let asked = chains.map(|chain| self.chains.ask(chain, calls::UNLINK, &caller, &request));
        let unlinked: Vec<Result<UnlinkWalletResponse, _>> = join_all(asked).await;
        all_of(unlinked)?;
        // In a namespace with `access = "owner"`, the user is unsubscribed now.
        let left = match self.chains.is_shared() {
            true => {
                let everywhere = self.stream.recheck_everywhere(&user, channel.as_str());
                everywhere.await
            }
            false => self.stream.recheck(&user, channel.as_str()),
        };
        left.map_err(|error| status_of(&error))?;
        Ok(Response::new(UnlinkWalletResponse {}))
    }
}
