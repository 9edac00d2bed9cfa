//! Connection: one transport to a node, over WebSocket, HTTP or IPC.
//!
//! Alloy would reconnect by itself, and silently lose the events of a subscription meanwhile.
//! Here a broken connection ends instead. Its owner connects again and reads the missing events.

use std::sync::Arc;

use alloy::{
    primitives::B256,
    pubsub::{ConnectionHandle, PubSubConnect, RawSubscription},
    rpc::client::{ClientBuilder, RpcClient as AlloyClient},
    transports::{
        TransportError, TransportErrorKind, TransportResult, ipc::IpcConnect,
        utils::guess_local_url,
    },
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

/// The largest message of a node, in bytes. The receipts of a full block are long.
pub(super) const MAX_MESSAGE_BYTES: usize = 128 << 20;

/// Heads that a subscription buffers before it skips some.
const HEAD_BUFFER: usize = 64;

/// Mempool transactions that a subscription buffers before it skips some.
const MEMPOOL_BUFFER: usize = 2_048;

/// A connector that connects once and never reconnects.
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
    client: AlloyClient,
    supports_subscriptions: bool,
    /// Set once the connection has ended. Only a WebSocket sets it.
    close_reason: CloseReason,
}

/// The TLS configuration and the HTTP client that all connections of an endpoint share.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    pub(super) config: Arc<rustls::ClientConfig>,
    pub(super) http: reqwest::Client,
}

impl Connection {
    pub(super) async fn connect(address: &Address, tls: &Tls) -> Result<Self, Failure> {
        let builder = ClientBuilder::default();
        let mut close_reason = CloseReason::default();
        let client = match address {
            Address::Http(url) => {
                let http = Http::new(tls.http.clone(), url.clone(), MAX_MESSAGE_BYTES);
                builder.transport(http, guess_local_url(url.as_str()))
            }
            Address::WebSocket(url) => {
                let socket = WebSocket::connect_to(url, tls.config.clone()).await?;
                close_reason = socket.close_reason();
                builder.pubsub(socket).await?
            }
            Address::Ipc(path) => {
                let connect = IpcConnect::new(path.clone());
                builder.pubsub(NoReconnect(connect)).await?
            }
        };
        let supports_subscriptions = !matches!(address, Address::Http(_));
        Ok(Self {
            client,
            supports_subscriptions,
            close_reason,
        })
    }

    /// Whether the connection is known to have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.close_reason.get().is_some()
    }

    /// Replaces a general failure by the reason why the connection ended, if that is known.
    fn explain(&self, failure: impl Into<Failure>) -> Failure {
        match (failure.into(), self.close_reason.get()) {
            (Failure::Unreachable(_), Some(reason)) => reason.clone(),
            (failure, _) => failure,
        }
    }

    fn explain_call(&self, call: &Call, error: TransportError) -> Failure {
        self.explain(Failure::of_call(call.method, error))
    }

    pub(super) fn supports_subscriptions(&self) -> bool {
        self.supports_subscriptions
    }

    pub(super) async fn call(&self, call: &Call) -> Result<Box<RawValue>, Failure> {
        let request = self.client.request(call.method, &call.params);
        request
            .await
            .map_err(|error| self.explain_call(call, error))
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
        let responses = join_all(waiters).await.into_iter();
        Ok(calls
            .iter()
            .zip(responses)
            .map(|(call, response)| response.map_err(|error| self.explain_call(call, error)))
            .collect())
    }

    /// Subscribes to the node's heads.
    pub(super) async fn subscribe_heads(self: Arc<Self>) -> Result<Subscription, Failure> {
        self.subscribe(&json!(["newHeads"]), HEAD_BUFFER).await
    }

    /// Subscribes to the node's mempool. The node pushes whole transactions if it can, and
    /// hashes otherwise.
    pub(super) async fn subscribe_mempool(self: Arc<Self>) -> Result<Subscription, Failure> {
        let whole = json!(["newPendingTransactions", true]);
        match self.clone().subscribe(&whole, MEMPOOL_BUFFER).await {
            Err(
                Failure::Refused { .. } | Failure::Unsupported(_) | Failure::Unavailable { .. },
            ) => {
                let hashes = json!(["newPendingTransactions"]);
                self.subscribe(&hashes, MEMPOOL_BUFFER).await
            }
            subscription => subscription,
        }
    }

    async fn subscribe(
        self: Arc<Self>,
        params: &Value,
        buffer: usize,
    ) -> Result<Subscription, Failure> {
        let Some(frontend) = self.client.pubsub_frontend() else {
            return Err(Failure::Unsupported("eth_subscribe".to_owned()));
        };
        frontend.set_channel_size(buffer);
        let mut request = self.client.request::<_, B256>("eth_subscribe", params);
        request.set_is_subscription();
        let id = request.await.map_err(|error| self.explain(error))?;
        let subscription = frontend.get_subscription(id).await;
        Ok(Subscription {
            subscription: subscription.map_err(|error| self.explain(error))?,
            connection: self.clone(),
        })
    }
}

/// The result of a call, not parsed yet.
pub(crate) type Response = Result<Box<RawValue>, Failure>;

/// A subscription at a node. It keeps its connection open until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    subscription: RawSubscription,
    connection: Arc<Connection>,
}

/// An event of a subscription.
#[derive(Debug)]
pub(crate) enum SubscriptionEvent {
    /// A head, or a mempool transaction.
    Item(Box<RawValue>),
    /// This number of items was skipped, as the buffer was full.
    Lagged(u64),
    /// The connection has ended.
    Closed(Failure),
}

impl Subscription {
    /// Waits for the next event.
    pub(crate) async fn next(&mut self) -> SubscriptionEvent {
        match self.subscription.recv().await {
            Ok(item) => SubscriptionEvent::Item(item),
            Err(RecvError::Lagged(count)) => SubscriptionEvent::Lagged(count),
            Err(RecvError::Closed) => {
                let failure = Failure::Unreachable("the connection ended".to_owned());
                SubscriptionEvent::Closed(self.connection.explain(failure))
            }
        }
    }
}
