//! Endpoints: the nodes of a chain, over WebSocket, HTTP or IPC.
//!
//! An [`Endpoint`] holds one connection to a node, reconnects when it breaks, and measures the
//! node's health. An [`EndpointPool`] calls the best endpoint first and goes on to the next one
//! after a failure. Every call has a time limit.
//!
//! The modules below know JSON-RPC and nothing of blocks: the fork choice and the mempool
//! decide what to call, and what a result means.
//!
//! # Example
//! A pool has the endpoints A (20 ms) and B (90 ms). A call goes to A, which responds with status
//! 429 and `Retry-After: 7`. The pool calls B at once, and A again after 7 s.

mod address;
mod connection;
mod failure;
mod health;
mod http;
mod pool;
mod tls;
mod websocket;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::primitives::U64;
use metrics::{Counter, Gauge, Histogram};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use self::{
    connection::{Connection, Response, Tls},
    health::Health,
};
use crate::Call;

pub use address::{Address, AddressError};
pub(crate) use connection::{Subscription, SubscriptionEvent};
pub use failure::Failure;
pub use pool::EndpointPool;
pub use tls::TlsError;
pub(crate) use tls::tls_config;

/// Calls in one request. Many providers refuse larger batches.
const MAX_BATCH: usize = 50;

/// Timeouts in a row that end the connection.
const MAX_TIMEOUTS: u64 = 2;

/// One node of a chain.
pub(crate) struct Endpoint {
    chain: u64,
    address: Address,
    call_timeout: Duration,
    tls: Tls,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    health: Mutex<Health>,
    /// The height of the newest head that it reported.
    head: AtomicU64,
    /// Timeouts in a row.
    timeouts: AtomicU64,
    supports_batches: AtomicBool,
    supports_block_receipts: AtomicBool,
    metrics: EndpointMetrics,
}

struct EndpointMetrics {
    calls: Counter,
    failures: Counter,
    invalid_responses: Counter,
    rate_limits: Counter,
    connects: Counter,
    seconds: Histogram,
    score: Gauge,
    head: Gauge,
}

impl EndpointMetrics {
    fn new(chain: u64, address: &Address) -> Self {
        let labels = [
            ("chain", chain.to_string()),
            ("endpoint", address.to_string()),
        ];
        Self {
            calls: metrics::counter!("tidewire_chain_calls_total", &labels),
            failures: metrics::counter!("tidewire_chain_call_failures_total", &labels),
            rate_limits: metrics::counter!("tidewire_chain_limits_total", &labels),
            invalid_responses: metrics::counter!("tidewire_chain_lies_total", &labels),
            connects: metrics::counter!("tidewire_chain_connects_total", &labels),
            seconds: metrics::histogram!("tidewire_chain_call_seconds", &labels),
            score: metrics::gauge!("tidewire_chain_endpoint_score", &labels),
            head: metrics::gauge!("tidewire_chain_endpoint_head", &labels),
        }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Endpoint").field(&self.address).finish()
    }
}

impl Endpoint {
    fn new(chain: u64, address: Address, call_timeout: Duration, tls: Tls) -> Self {
        Self {
            chain,
            metrics: EndpointMetrics::new(chain, &address),
            address,
            call_timeout,
            tls,
            connection: tokio::sync::Mutex::default(),
            health: Mutex::default(),
            head: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            supports_batches: AtomicBool::new(true),
            supports_block_receipts: AtomicBool::new(true),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The time for which the endpoint still backs off; zero if it does not.
    pub(crate) fn backoff(&self) -> Duration {
        self.health.lock().backoff(Instant::now())
    }

    /// The rank in the pool: the endpoint with the lowest cost is called first.
    fn cost(&self) -> f64 {
        self.health.lock().cost()
    }

    /// The height of the newest head that the endpoint reported.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    /// Records the height of a reported head.
    pub(crate) fn record_head(&self, number: u64) {
        self.head.store(number, Ordering::Relaxed);
        self.metrics.head.set(number as f64);
    }

    /// Whether the endpoint returns all receipts of a block in one response.
    pub(crate) fn supports_block_receipts(&self) -> bool {
        self.supports_block_receipts.load(Ordering::Relaxed)
    }

    /// Records that the endpoint does not return all receipts of a block in one response.
    pub(crate) fn disable_block_receipts(&self) {
        self.supports_block_receipts.store(false, Ordering::Relaxed);
    }

    /// Records a response that contradicts the chain. The endpoint backs off.
    pub(crate) fn report_invalid(&self, reason: &str) {
        self.metrics.invalid_responses.increment(1);
        tracing::warn!(chain = self.chain, endpoint = %self.address, reason, "an endpoint returned an invalid response");
        self.record_failure(&Failure::Invalid(reason.to_owned()));
    }

    /// Records why the connection ended. The next call reconnects.
    pub(crate) fn disconnect(&self, failure: &Failure) {
        self.record_failure(failure);
        self.drop_connection();
    }

    /// Ends a connection whose subscription is silent. The next call reconnects.
    pub(crate) fn disconnect_silent(&self) {
        let reason = "the subscription is silent".to_owned();
        self.disconnect(&Failure::Unreachable(reason));
    }

    /// Subscribes to the endpoint's heads.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] over HTTP, which has no subscriptions.
    pub(crate) async fn subscribe_heads(&self) -> Result<Subscription, Failure> {
        let request = async {
            let connection = Box::pin(self.connection()).await?;
            if !connection.supports_subscriptions() {
                return Err(Failure::Unsupported("eth_subscribe".to_owned()));
            }
            connection.subscribe_heads().await
        };
        let subscription = self.with_timeout(request).await;
        if let Err(failure) = &subscription {
            self.record_failure(failure);
        }
        subscription
    }

    /// Subscribes to the endpoint's mempool, over a connection of its own: a busy mempool must
    /// not delay heads. Dropping the subscription closes that connection.
    ///
    /// # Errors
    /// [`Failure::Unsupported`] over HTTP, which has no subscriptions.
    pub(crate) async fn subscribe_mempool(&self) -> Result<Subscription, Failure> {
        if matches!(self.address, Address::Http(_)) {
            return Err(Failure::Unsupported("eth_subscribe".to_owned()));
        }
        let request = async { Box::pin(self.connect()).await?.subscribe_mempool().await };
        let subscription = self.with_timeout(request).await;
        if let Err(failure) = &subscription {
            tracing::debug!(chain = self.chain, endpoint = %self.address, %failure, "the subscription to the mempool failed");
        }
        subscription
    }

    /// Makes one call and parses its result.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let responses = self.call_all(std::slice::from_ref(&call)).await;
        let no_response = || Err(Failure::Invalid("no response to a call".to_owned()));
        let response = responses.into_iter().next().unwrap_or_else(no_response)?;
        self.parse(&response)
    }

    /// Parses a result. A malformed one counts as a failure of the endpoint.
    pub(crate) fn parse<T: DeserializeOwned>(&self, result: &RawValue) -> Result<T, Failure> {
        serde_json::from_str(result.get()).map_err(|error| {
            let failure = Failure::Invalid(error.to_string());
            self.record_failure(&failure);
            failure
        })
    }

    /// Makes all calls in as few requests as possible. Returns the responses in their order.
    pub(crate) async fn call_all(&self, calls: &[Call]) -> Vec<Response> {
        let mut responses = Vec::with_capacity(calls.len());
        for batch in calls.chunks(MAX_BATCH) {
            responses.extend(self.call_batch(batch).await);
        }
        responses
    }

    async fn call_batch(&self, calls: &[Call]) -> Vec<Response> {
        if calls.len() > 1 && !self.supports_batches.load(Ordering::Relaxed) {
            return self.call_one_by_one(calls).await;
        }
        self.metrics.calls.increment(calls.len() as u64);
        let began = Instant::now();
        // Boxed, as the future of connecting is large.
        let request = async { Box::pin(self.connection()).await?.batch(calls).await };
        let responses = match self.with_timeout(request).await {
            Ok(responses) => responses,
            Err(failure) => {
                self.record_failure(&failure);
                return vec![Err(failure); calls.len()];
            }
        };
        self.timeouts.store(0, Ordering::Relaxed);
        let is_success = responses.iter().any(|response| {
            response.is_ok()
                || matches!(
                    response,
                    Err(Failure::Refused { .. } | Failure::NotFound(_))
                )
        });
        let is_batch_refused = calls.len() > 1
            && responses
                .iter()
                .all(|response| matches!(response, Err(Failure::Unreachable(_))));
        if is_batch_refused && matches!(self.address, Address::Http(_)) {
            tracing::info!(chain = self.chain, endpoint = %self.address, "the endpoint refuses batches: making calls one by one");
            self.supports_batches.store(false, Ordering::Relaxed);
            return self.call_one_by_one(calls).await;
        }
        if is_success {
            let latency = began.elapsed();
            self.metrics.seconds.record(latency);
            self.health.lock().record_success(latency);
        }
        for failure in responses
            .iter()
            .filter_map(|response| response.as_ref().err())
        {
            self.record_failure(failure);
        }
        self.metrics.score.set(self.health.lock().score());
        responses
    }

    async fn call_one_by_one(&self, calls: &[Call]) -> Vec<Response> {
        let mut responses = Vec::with_capacity(calls.len());
        for call in calls {
            responses.extend(Box::pin(self.call_batch(std::slice::from_ref(call))).await);
        }
        responses
    }

    /// The open connection. Connects if there is none.
    async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|current| !current.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = self.connect().await?;
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Opens a connection and checks the chain id.
    async fn connect(&self) -> Result<Arc<Connection>, Failure> {
        self.metrics.connects.increment(1);
        let connection = Arc::new(Connection::connect(&self.address, &self.tls).await?);
        let result = connection.call(&chain_id()).await?;
        self.check_chain_id(&result)?;
        Ok(connection)
    }

    /// Checks the chain id once more: the node behind an address may have changed.
    pub(crate) async fn recheck_chain_id(&self) -> Result<(), Failure> {
        let result: Box<RawValue> = self.call(chain_id()).await?;
        self.check_chain_id(&result)
            .inspect_err(|failure| self.disconnect(failure))
    }

    fn check_chain_id(&self, result: &RawValue) -> Result<(), Failure> {
        let found: U64 = serde_json::from_str(result.get())
            .map_err(|error| Failure::Invalid(error.to_string()))?;
        let found = found.to::<u64>();
        if found == self.chain {
            return Ok(());
        }
        Err(Failure::WrongChain {
            found,
            expected: self.chain,
        })
    }

    async fn with_timeout<T>(
        &self,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.call_timeout, request).await {
            Ok(result) => result,
            Err(_) => Err(Failure::TimedOut(self.call_timeout)),
        }
    }

    /// Drops the connection. If the lock is held, a task is reconnecting already.
    fn drop_connection(&self) {
        if let Ok(mut connection) = self.connection.try_lock() {
            *connection = None;
        }
    }

    fn record_failure(&self, failure: &Failure) {
        let is_broken = match failure {
            Failure::Unreachable(_) => true,
            Failure::TimedOut(_) => {
                self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS
            }
            _ => false,
        };
        if is_broken {
            self.drop_connection();
        }
        if let Failure::WrongChain { found, expected } = failure {
            tracing::error!(chain = expected, found, endpoint = %self.address, "an endpoint serves another chain and is not used");
        } else if failure.is_local() {
            tracing::debug!(chain = self.chain, endpoint = %self.address, %failure, "a call to an endpoint failed");
        }
        if matches!(failure, Failure::RateLimited { .. }) {
            self.metrics.rate_limits.increment(1);
        }
        self.metrics.failures.increment(1);
        let mut health = self.health.lock();
        health.record_failure(failure, Instant::now());
        self.metrics.score.set(health.score());
    }
}

fn chain_id() -> Call {
    Call {
        method: "eth_chainId",
        params: json!([]),
    }
}
