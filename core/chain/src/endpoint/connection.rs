//! One connection to a node, over alloy's transports.
//!
//! Alloy would make a broken connection anew by itself, and lose what came meanwhile
//! without a word. Here it ends instead, and whoever holds it makes another and reads
//! what is missing.

use std::sync::Arc;

use alloy::{
    primitives::B256,
    pubsub::{ConnectionHandle, PubSubConnect, RawSubscription},
    rpc::client::{ClientBuilder, RpcClient},
    transports::{TransportErrorKind, TransportResult, ipc::IpcConnect, utils::guess_local_url},
};
use futures::future::join_all;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Address, Failure,
    http::Http,
    websocket::{CloseReason, WebSocket},
};
use crate::Call;

/// The largest message of a node, in bytes. Blocks of some chains are long.
pub(super) const MESSAGE_BYTES: usize = 128 << 20;

/// How many heads may wait before some are passed over, which is noticed.
const HEADS: usize = 64;

/// How many transactions of a pool may wait before some are passed over.
const POOLED: usize = 2_048;

/// Connects, and does not connect again.
struct NoReconnect<C>(C);

impl<C: PubSubConnect> PubSubConnect for NoReconnect<C> {
    fn is_local(&self) -> bool {
        self.0.is_local()
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        self.0.connect().await
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::non_retryable_str(
            "the connection ended",
        ))
    }
}

/// One connection to a node.
#[derive(Debug)]
pub(super) struct Connection {
    client: RpcClient,
    pushes: bool,
    /// Why it has ended, if it says so.
    ended: CloseReason,
}

/// What connections of one endpoint begin with.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) http: reqwest::Client,
}

impl Connection {
    pub(super) async fn connect(address: &Address, trust: &Tls) -> Result<Self, Failure> {
        let builder = ClientBuilder::default();
        let mut ended = CloseReason::default();
        let client = match address {
            Address::Http(url) => {
                let http = Http::new(trust.http.clone(), url.clone(), MESSAGE_BYTES);
                builder.transport(http, guess_local_url(url.as_str()))
            }
            Address::WebSocket(url) => {
                let socket = WebSocket::open(url, trust.tls.clone()).await?;
                ended = socket.ended();
                builder.pubsub(socket).await?
            }
            Address::Ipc(path) => {
                let connect = IpcConnect::new(path.clone());
                builder.pubsub(NoReconnect(connect)).await?
            }
        };
        let pushes = !matches!(address, Address::Http(_));
        Ok(Self {
            client,
            pushes,
            ended,
        })
    }

    /// Whether it has ended, as far as it says so.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// What a failure comes from: a connection that ended says why but once.
    fn explain(&self, failure: impl Into<Failure>) -> Failure {
        match (failure.into(), self.ended.get()) {
            (Failure::Unreachable(_), Some(why)) => why.clone(),
            (failure, _) => failure,
        }
    }

    /// Whether the node can send heads by itself.
    pub(super) fn pushes(&self) -> bool {
        self.pushes
    }

    pub(super) async fn call(&self, call: &Call) -> Result<Box<RawValue>, Failure> {
        let request = self.client.request(call.method, &call.params);
        request.await.map_err(|error| self.explain(error))
    }

    /// Makes all calls in one request.
    pub(super) async fn batch(&self, calls: &[Call]) -> Result<Vec<Response>, Failure> {
        if let [call] = calls {
            return Ok(vec![self.call(call).await]);
        }
        let mut batch = self.client.new_batch();
        let mut waiters = Vec::with_capacity(calls.len());
        for call in calls {
            waiters.push(batch.add_call::<_, Box<RawValue>>(call.method, &call.params)?);
        }
        batch.send().await.map_err(|error| self.explain(error))?;
        let answers = join_all(waiters).await;
        Ok(answers
            .into_iter()
            .map(|answer| answer.map_err(|error| self.explain(error)))
            .collect())
    }

    /// Has the node send its heads.
    pub(super) async fn heads(self: Arc<Self>) -> Result<Subscription, Failure> {
        self.subscribe(&json!(["newHeads"]), HEADS).await
    }

    /// Has the node send what comes into its pool: whole transactions where it can, else
    /// their hashes.
    pub(super) async fn pooled(self: Arc<Self>) -> Result<Subscription, Failure> {
        let whole = json!(["newPendingTransactions", true]);
        match self.clone().subscribe(&whole, POOLED).await {
            Err(Failure::Refused { .. } | Failure::Unsupported(_)) => {
                let hashes = json!(["newPendingTransactions"]);
                self.subscribe(&hashes, POOLED).await
            }
            subscription => subscription,
        }
    }

    async fn subscribe(
        self: Arc<Self>,
        what: &Value,
        room: usize,
    ) -> Result<Subscription, Failure> {
        let Some(frontend) = self.client.pubsub_frontend() else {
            return Err(Failure::Unsupported("eth_subscribe".to_owned()));
        };
        frontend.set_channel_size(room);
        let mut request = self.client.request::<_, B256>("eth_subscribe", what);
        request.set_is_subscription();
        let id = request.await.map_err(|error| self.explain(error))?;
        let subscription = frontend.get_subscription(id).await;
        Ok(Subscription {
            subscription: subscription.map_err(|error| self.explain(error))?,
            link: self.clone(),
        })
    }
}

/// What becomes of a call.
pub(crate) type Response = Result<Box<RawValue>, Failure>;

/// What a node sends by itself. The connection stands as long as this is held.
#[derive(Debug)]
pub(crate) struct Subscription {
    subscription: RawSubscription,
    link: Arc<Connection>,
}

/// What comes of a subscription.
#[derive(Debug)]
pub(crate) enum SubscriptionEvent {
    /// A head, or a transaction.
    Item(Box<RawValue>),
    /// So many were passed over.
    Lagged(u64),
    /// The connection has ended.
    CloseReason(Failure),
}

impl Subscription {
    /// Waits for the next.
    pub(crate) async fn next(&mut self) -> SubscriptionEvent {
        match self.subscription.recv().await {
            Ok(item) => SubscriptionEvent::Item(item),
            Err(RecvError::Lagged(count)) => SubscriptionEvent::Lagged(count),
            Err(RecvError::Closed) => {
                let ended = Failure::Unreachable("the connection ended".to_owned());
                SubscriptionEvent::Closed(self.link.explain(ended))
            }
        }
    }
}
