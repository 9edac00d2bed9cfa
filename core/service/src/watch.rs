//! `WatchService`: blocks, transactions, wallets, contract events.

use std::{pin::Pin, sync::Arc};

use futures::{Stream as FuturesStream, StreamExt as _, stream};
use tidewire_chain::{ChainEngine, ChainError, transaction::Interest};
use tidewire_proto::v1::{
    Block, ChannelSubscription, ErrorCode, EventFilter, EventsTarget, Gap, GetLatestBlockRequest,
    GetTransactionStatusRequest, LinkWalletRequest, LinkWalletResponse, Position,
    SessionWatchRequest, SubscribeRequest, SubscriptionResult, TransactionStatus,
    TransactionTarget, UnlinkWalletRequest, UnlinkWalletResponse, UnsubscribeRequest,
    UnwatchRequest, UnwatchResponse, WatchEvent, WatchRequest, WatchTransactionRequest,
    WatchTransactionResponse, WatchedEvents, Watching, server_message::Data, watch_event,
    watch_request::Target, watch_service_server::WatchService, watching,
};
use tidewire_stream::{
    ChannelName, Connection, OutgoingMessage, Publication, Scope, Session, StreamCore, StreamError,
    UserId,
};
use tonic::{Request, Response, Status};

use crate::{
    identity_of, status_of,
    stream::{arrival, closed},
};

/// What one stream takes at a time, in bytes.
const TAKE_BYTES: usize = 64 << 10;

/// `WatchService` over the chain engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WatchRpc {
    stream: Arc<StreamCore>,
    engine: ChainEngine,
}

impl WatchRpc {
    /// The service over this engine, whose publications come through this core.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>, engine: ChainEngine) -> Self {
        Self { stream, engine }
    }

    /// Stores what changed of what is followed. Called about once a second.
    pub async fn keep_followed(&self) {
        self.engine.store_interest().await;
    }

    /// Forgets what nobody has followed for a while, of all that is followed. Called more
    /// rarely.
    pub async fn sweep_followed(&self) {
        let hub = self.stream.hub();
        self.engine
            .expire_interest(|channel| hub.subscriber_count(channel) > 0)
            .await;
    }

    /// Has a session watch something: it follows the channel, and gets the state.
    pub(crate) async fn watch_in(
        &self,
        session: &Session,
        request: SessionWatchRequest,
    ) -> Result<Watching, StreamError> {
        let chain = request.chain;
        let target = match (request.tx_hash, request.events) {
            (Some(hash), None) => {
                let hash = hash.to_ascii_lowercase();
                follow_in(session, format!("tx:{chain}:{hash}"), None).await?;
                // Following it is watching it.
                let status = self.engine.status(chain, &hash, request.abi).await?;
                watching::Target::Transaction(status)
            }
            (None, Some(filter)) => {
                let channel = self.watch_events(session, chain, filter).await?;
                follow_in(session, channel.clone(), None).await?;
                watching::Target::Events(WatchedEvents { channel })
            }
            _ => {
                return Err(StreamError::new(
                    ErrorCode::InvalidArgument,
                    "expected either `txHash` or `events`",
                ));
            }
        };
        Ok(Watching {
            target: Some(target),
        })
    }

    /// Ends such a watch of a session.
    pub(crate) fn unwatch_in(
        &self,
        session: &Session,
        request: &SessionWatchRequest,
    ) -> Result<(), StreamError> {
        let chain = request.chain;
        let channel = match (&request.tx_hash, &request.events) {
            (Some(hash), None) => format!("tx:{chain}:{}", hash.to_ascii_lowercase()),
            (None, Some(filter)) => {
                let channel = self.engine.events_channel(chain, filter)?;
                channel.as_str().to_owned()
            }
            _ => {
                return Err(StreamError::new(
                    ErrorCode::InvalidArgument,
                    "expected either `txHash` or `events`",
                ));
            }
        };
        session.unsubscribe(&UnsubscribeRequest {
            channels: vec![channel],
        })?;
        Ok(())
    }

    /// Registers a filter of events that the session is about to subscribe to, and returns
    /// its channel. A session that may not subscribe to the channel registers nothing.
    async fn watch_events(
        &self,
        session: &Session,
        chain: u64,
        filter: EventFilter,
    ) -> Result<String, StreamError> {
        session.may_subscribe(&self.engine.events_channel(chain, &filter)?)?;
        let channel = self.engine.watch_events(chain, filter).await?;
        Ok(channel.as_str().to_owned())
    }
}

/// Has a session follow a channel. What it says flows after the reply.
async fn follow_in(
    session: &Session,
    channel: String,
    since: Option<Position>,
) -> Result<SubscriptionResult, StreamError> {
    let channels = vec![ChannelSubscription {
        channel,
        since,
        ..ChannelSubscription::default()
    }];
    let subscribed = session.subscribe(SubscribeRequest { channels }).await?;
    let mut result = subscribed.channels.into_iter().next().unwrap_or_default();
    match result.error.take() {
        Some(error) => Err(StreamError::new(error.code(), error.message)),
        None => Ok(result),
    }
}

/// What outlives connections is for back ends.
fn service<T>(request: &Request<T>) -> Result<(), Status> {
    identity_of(request)
        .require(Scope::Service)
        .map_err(|error| status_of(&error))
}

/// What is on chains is public, on a server that knows its callers.
fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    identity_of(request)
        .known()
        .map_err(|error| status_of(&error))
}

fn refused(error: ChainError) -> Status {
    status_of(&error.into())
}

type Events = Pin<Box<dyn FuturesStream<Item = Result<WatchEvent, Status>> + Send>>;

/// What a connection has to say of a channel, as it comes.
fn events(connection: Connection) -> impl FuturesStream<Item = Result<WatchEvent, Status>> + Send {
    let takes = stream::unfold(Some(connection), |connection| async move {
        let connection = connection?;
        let mut out = Vec::new();
        match connection.next(TAKE_BYTES, &mut out).await {
            Ok(()) => {
                let events: Vec<_> = out.iter().filter_map(event).map(Ok).collect();
                Some((events, Some(connection)))
            }
            Err(reason) => Some((vec![Err(closed(reason))], None)),
        }
    });
    takes.flat_map(stream::iter)
}

fn event(outgoing: &OutgoingMessage) -> Option<WatchEvent> {
    let publication = match outgoing {
        OutgoingMessage::Publication(publication) => publication,
        OutgoingMessage::Direct(message) => {
            let Some(Data::Gap(gap)) = &message.data else {
                return None;
            };
            return Some(missed(gap.clone()));
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

/// Something was missed for good.
fn missed(gap: Gap) -> WatchEvent {
    WatchEvent {
        channel: gap.channel.clone(),
        epoch: gap.epoch.clone(),
        seq: gap.seq,
        data: Some(watch_event::Data::Gap(gap)),
    }
}

fn data(publication: &Publication) -> Option<watch_event::Data> {
    match publication.event().clone() {
        Data::Transaction(status) => Some(watch_event::Data::Transaction(status)),
        Data::WalletUpdate(update) => Some(watch_event::Data::WalletUpdate(update)),
        Data::Block(block) => Some(watch_event::Data::Block(block)),
        Data::EventLog(log) => Some(watch_event::Data::EventLog(log)),
        _ => None,
    }
}

/// The user whom a back end speaks of.
fn user_of(user: Option<&str>) -> Result<UserId, Status> {
    let user = user.ok_or_else(|| {
        Status::invalid_argument("`user` is missing, expected whose the wallet is")
    })?;
    // What cannot name a channel can be nobody's token either.
    ChannelName::user(user)
        .map_err(|error| Status::invalid_argument(format!("`user` is no user's id: {error}")))?;
    Ok(UserId::new(user))
}

#[tonic::async_trait]
impl WatchService for WatchRpc {
    type WatchStream = Events;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Events>, Status> {
        admit(&request)?;
        let WatchRequest { target, since } = request.get_ref().clone();
        let resumes = since.is_some();
        let target = target.ok_or_else(|| {
            Status::invalid_argument(
                "nothing is to be watched, expected one of transaction, wallet, blocks, events",
            )
        })?;
        let connection = self.stream.connect(arrival(&request)).await;
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
        let followed = follow_in(&connection, channel, since).await;
        let at = followed.map_err(|error| status_of(&error))?;
        connection.release_held();
        let mut first = Vec::new();
        if resumes && !at.recovered {
            first.push(missed(Gap {
                channel: at.channel.clone(),
                epoch: at.epoch.clone(),
                seq: at.seq,
            }));
        }
        if let Some(target) = transaction {
            let TransactionTarget {
                chain,
                tx_hash,
                abi,
            } = target;
            let status = self.engine.status(chain, &tx_hash, abi).await;
            let status = status.map_err(refused)?;
            // It stands for all that was said until then, and what follows has the next
            // number. Who resumes has it from what follows.
            if !at.recovered {
                first.push(WatchEvent {
                    channel: at.channel,
                    epoch: at.epoch,
                    seq: at.seq,
                    data: Some(watch_event::Data::Transaction(status)),
                });
            }
        }
        let first = stream::iter(first.into_iter().map(Ok));
        let events = first.chain(events(connection));
        Ok(Response::new(Box::pin(events)))
    }

    async fn watch_transaction(
        &self,
        request: Request<WatchTransactionRequest>,
    ) -> Result<Response<WatchTransactionResponse>, Status> {
        service(&request)?;
        let WatchTransactionRequest {
            chain,
            tx_hash,
            user,
            abi,
        } = request.into_inner();
        let interest = Interest::Durable(user);
        let status = self.engine.watch(chain, &tx_hash, interest, abi).await;
        let status = status.map_err(refused)?;
        Ok(Response::new(WatchTransactionResponse {
            status: Some(status),
        }))
    }

    async fn unwatch(
        &self,
        request: Request<UnwatchRequest>,
    ) -> Result<Response<UnwatchResponse>, Status> {
        service(&request)?;
        let UnwatchRequest { chain, tx_hash } = request.into_inner();
        let interest = Interest::Durable(None);
        let ended = self.engine.unwatch(chain, &tx_hash, interest).await;
        ended.map_err(refused)?;
        Ok(Response::new(UnwatchResponse {}))
    }

    async fn get_transaction_status(
        &self,
        request: Request<GetTransactionStatusRequest>,
    ) -> Result<Response<TransactionStatus>, Status> {
        admit(&request)?;
        let GetTransactionStatusRequest { chain, tx_hash } = request.get_ref();
        let status = self.engine.status(*chain, tx_hash, Vec::new()).await;
        status.map(Response::new).map_err(refused)
    }

    async fn get_latest_block(
        &self,
        request: Request<GetLatestBlockRequest>,
    ) -> Result<Response<Block>, Status> {
        admit(&request)?;
        let block = self.engine.latest_block(request.get_ref().chain);
        block.map(Response::new).map_err(refused)
    }

    async fn link_wallet(
        &self,
        request: Request<LinkWalletRequest>,
    ) -> Result<Response<LinkWalletResponse>, Status> {
        service(&request)?;
        let LinkWalletRequest { user, address } = request.get_ref();
        let user = user_of(user.as_deref())?;
        let linked = self.engine.link_wallet(&user, address).await;
        linked.map_err(refused)?;
        Ok(Response::new(LinkWalletResponse {}))
    }

    async fn unlink_wallet(
        &self,
        request: Request<UnlinkWalletRequest>,
    ) -> Result<Response<UnlinkWalletResponse>, Status> {
        service(&request)?;
        let UnlinkWalletRequest { user, address } = request.get_ref();
        let user = user_of(user.as_deref())?;
        let channel = self.engine.wallet_channel(address);
        let channel = channel.map_err(refused)?;
        let unlinked = self.engine.unlink_wallet(&user, address).await;
        unlinked.map_err(refused)?;
        // Where a wallet is its owner's alone, the user leaves it now.
        let left = self.stream.recheck(&user, channel.as_str());
        left.map_err(|error| status_of(&error))?;
        Ok(Response::new(UnlinkWalletResponse {}))
    }
}
