//! `WatchService`: blocks, transactions, wallets, contract events.

use std::{pin::Pin, sync::Arc};

use futures::{Stream as FuturesStream, StreamExt as _, stream};
use tidewire_chain::{ChainEngine, ChainError};
use tidewire_proto::v1::{
    Block, ErrorCode, GetLatestBlockRequest, GetTransactionStatusRequest, LinkWalletRequest,
    LinkWalletResponse, SubscribeRequest, TransactionStatus, UnlinkWalletRequest,
    UnlinkWalletResponse, UnwatchRequest, UnwatchResponse, WatchEvent, WatchRequest,
    WatchTransactionRequest, WatchTransactionResponse, server_message::Data, watch_event,
    watch_request::Target, watch_service_server::WatchService,
};
use tidewire_stream::{Connection, Outgoing, Publication, Stream, StreamError};
use tonic::{Code, Request, Response, Status};

use crate::{
    identity_of, status_of,
    stream::{arrival, closed},
};

/// What one stream takes at a time, in bytes.
const TAKE_BYTES: usize = 64 << 10;

/// `WatchService` over the chain engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WatchRpc {
    stream: Arc<Stream>,
    engine: ChainEngine,
}

impl WatchRpc {
    /// The service over this engine, whose publications come through this core.
    #[must_use]
    pub fn new(stream: Arc<Stream>, engine: ChainEngine) -> Self {
        Self { stream, engine }
    }

    /// Follows one channel for one caller.
    async fn follow<T>(&self, request: &Request<T>, channel: String) -> Result<Connection, Status> {
        let connection = Connection::open(self.stream.clone(), arrival(request)).await;
        let wanted = SubscribeRequest {
            channels: vec![tidewire_proto::v1::ChannelSubscription {
                channel,
                ..Default::default()
            }],
        };
        let subscribed = connection.subscribe(wanted).await;
        let subscribed = subscribed.map_err(|error| status_of(&error))?;
        let refused = subscribed
            .channels
            .into_iter()
            .find_map(|result| result.error);
        if let Some(error) = refused {
            return Err(Status::new(Code::from_i32(error.code), error.message));
        }
        connection.resume();
        Ok(connection)
    }
}

/// What is on chains is public, on a server that knows its callers.
fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    identity_of(request)
        .known()
        .map_err(|error| status_of(&error))
}

fn refused(error: &ChainError) -> Status {
    match error {
        ChainError::UnknownChain { .. } => Status::not_found(error.to_string()),
        ChainError::NoBlock(_) => Status::unavailable(error.to_string()),
    }
}

/// The error of a chain in the words of a session.
#[must_use]
pub fn chain_error(error: &ChainError) -> StreamError {
    let code = match error {
        ChainError::UnknownChain { .. } => ErrorCode::NotFound,
        ChainError::NoBlock(_) => ErrorCode::Unavailable,
    };
    StreamError::new(code, error.to_string())
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

fn event(outgoing: &Outgoing) -> Option<WatchEvent> {
    let Outgoing::Publication(publication) = outgoing else {
        return None;
    };
    Some(WatchEvent {
        channel: publication.channel().as_str().to_owned(),
        epoch: publication.position().epoch.as_str().to_owned(),
        seq: publication.seq(),
        data: Some(data(publication)?),
    })
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

fn not_built<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{what} is not built yet")))
}

#[tonic::async_trait]
impl WatchService for WatchRpc {
    type WatchStream = Events;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Events>, Status> {
        admit(&request)?;
        let channel = match &request.get_ref().target {
            Some(Target::Blocks(blocks)) => format!("blocks:{}", blocks.chain),
            Some(Target::Transaction(_)) => return not_built("watching a transaction"),
            Some(Target::Wallet(_)) => return not_built("watching a wallet"),
            Some(Target::Events(_)) => return not_built("watching events"),
            None => {
                return Err(Status::invalid_argument(
                    "nothing is to be watched, expected one of transaction, wallet, blocks, events",
                ));
            }
        };
        let connection = self.follow(&request, channel).await?;
        Ok(Response::new(Box::pin(events(connection))))
    }

    async fn watch_transaction(
        &self,
        _request: Request<WatchTransactionRequest>,
    ) -> Result<Response<WatchTransactionResponse>, Status> {
        not_built("WatchTransaction")
    }

    async fn unwatch(
        &self,
        _request: Request<UnwatchRequest>,
    ) -> Result<Response<UnwatchResponse>, Status> {
        not_built("Unwatch")
    }

    async fn get_transaction_status(
        &self,
        _request: Request<GetTransactionStatusRequest>,
    ) -> Result<Response<TransactionStatus>, Status> {
        not_built("GetTransactionStatus")
    }

    async fn get_latest_block(
        &self,
        request: Request<GetLatestBlockRequest>,
    ) -> Result<Response<Block>, Status> {
        admit(&request)?;
        let block = self.engine.latest_block(request.get_ref().chain);
        block.map(Response::new).map_err(|error| refused(&error))
    }

    async fn link_wallet(
        &self,
        _request: Request<LinkWalletRequest>,
    ) -> Result<Response<LinkWalletResponse>, Status> {
        not_built("LinkWallet")
    }

    async fn unlink_wallet(
        &self,
        _request: Request<UnlinkWalletRequest>,
    ) -> Result<Response<UnlinkWalletResponse>, Status> {
        not_built("UnlinkWallet")
    }
}
