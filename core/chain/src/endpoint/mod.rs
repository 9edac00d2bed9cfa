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
mod batches;
mod by_height;
mod connection;
mod failure;
mod health;
mod http;
mod measured_gauge;
mod methods;
mod pool;
mod tls;
mod websocket;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::primitives::U64;
use futures::{StreamExt as _, stream};
use metrics::{Counter, Histogram};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use self::{
    batches::BatchSize,
    by_height::retry_by_height,
    connection::{Connection, Response, Tls},
    health::Health,
    measured_gauge::MeasuredGauge,
    methods::MethodMemory,
};
use crate::Call;

pub use address::{Address, AddressError};
pub(crate) use connection::{Subscription, SubscriptionEvent};
pub use failure::Failure;
pub use pool::EndpointPool;
pub(crate) use pool::PoolOutage;
pub use tls::TlsError;
pub(crate) use tls::tls_config;

/// Requests of one group of calls that are made at the same time, where batches are small.
const CONCURRENT_REQUESTS: usize = 4;

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
    batch_size: BatchSize,
    methods: MethodMemory,
    trouble: Mutex<Option<Trouble>>,
    metrics: EndpointMetrics,
}

/// A time without a result from an endpoint, and the newest reason.
#[derive(Debug, Clone)]
struct Trouble {
    since: Instant,
    reason: String,
}

struct EndpointMetrics {
    calls: Counter,
    failures: Counter,
    invalid_responses: Counter,
    rate_limits: Counter,
    connects: Counter,
    seconds: Histogram,
    score: MeasuredGauge,
    head: MeasuredGauge,
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
            score: MeasuredGauge::new("tidewire_chain_endpoint_score", &labels),
            head: MeasuredGauge::new("tidewire_chain_endpoint_head", &labels),
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
            batch_size: BatchSize::default(),
            methods: MethodMemory::default(),
            trouble: Mutex::new(Some(Trouble {
                since: Instant::now(),
                reason: "no response yet".to_owned(),
            })),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// A text of the node without the parts of its URL that may hold a key.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.address.redact(text)
    }

    fn redact_failure(&self, failure: Failure) -> Failure {
        failure.map_text(|text| self.redact(text))
    }

    /// The time for which the endpoint still backs off; zero if it does not.
    pub(crate) fn backoff(&self) -> Duration {
        self.health.lock().backoff(Instant::now())
    }

    /// The time since which no call had a result, and the newest reason. None after a result.
    fn trouble(&self) -> Option<(Duration, String)> {
        let trouble = self.trouble.lock();
        let trouble = trouble.as_ref();
        trouble.map(|trouble| (trouble.since.elapsed(), trouble.reason.clone()))
    }

    /// Whether the endpoint returned an invalid response that is not forgotten yet.
    fn is_distrusted(&self) -> bool {
        self.health.lock().is_distrusted(Instant::now())
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

    /// The time for which the endpoint still rests for a method; zero if it does not.
    pub(crate) fn method_pause(&self, method: &str) -> Duration {
        self.methods.pause(method, Instant::now())
    }

    /// Records that the endpoint returns no result by a method. It rests for that method, longer
    /// each time, and is asked again.
    pub(crate) fn refuse_method(&self, method: &'static str, failure: &Failure) {
        let labels = [
            ("chain", self.chain.to_string()),
            ("endpoint", self.address.to_string()),
            ("method", method.to_owned()),
        ];
        metrics::counter!("tidewire_chain_refusals_total", &labels).increment(1);
        if self.methods.record_refusal(method, failure, Instant::now()) {
            tracing::warn!(chain = self.chain, endpoint = %self.address, method, %failure, "an endpoint refuses a method: it is called elsewhere, and here again after a growing pause");
        }
    }

    /// Records a response that contradicts the chain. The endpoint backs off.
    pub(crate) fn report_invalid(&self, reason: &str) {
        self.metrics.invalid_responses.increment(1);
        // It may quote the response.
        let reason = self.redact(reason);
        tracing::warn!(chain = self.chain, endpoint = %self.address, reason, "an endpoint returned an invalid response");
        self.record_failure(&Failure::Invalid(reason));
    }

    /// Records why the connection ended. The next call reconnects.
    pub(crate) fn disconnect(&self, failure: &Failure) {
        self.record_failure(&self.redact_failure(failure.clone()));
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
            let failure = Failure::Invalid(self.redact(&error.to_string()));
            self.record_failure(&failure);
            failure
        })
    }

    /// Makes all calls in as few requests as possible. Returns the responses in their order. A
    /// method that the endpoint does not implement is not called again at once.
    pub(crate) async fn call_all(&self, calls: &[Call]) -> Vec<Response> {
        let now = Instant::now();
        let known = calls.iter();
        let known: Vec<_> = known
            .map(|call| self.methods.unsupported(call.method, now))
            .collect();
        let open: Vec<_> = calls
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(call, _)| call.clone())
            .collect();
        let mut responses = self.call_in_batches(&open).await;
        retry_by_height(self, &open, &mut responses).await;
        let mut responses = responses.into_iter();
        let no_response = || Err(Failure::Incomplete);
        let merged = known.into_iter().map(|known| match known {
            Some(failure) => Err(failure),
            None => responses.next().unwrap_or_else(no_response),
        });
        merged.collect()
    }

    /// Makes calls in batches of the size that the endpoint accepts.
    async fn call_in_batches(&self, calls: &[Call]) -> Vec<Response> {
        let size = self.batch_size.get(Instant::now());
        if calls.len() <= size {
            return match calls {
                [] => Vec::new(),
                // Boxed, as a refused batch is divided and sent by this function again.
                calls => Box::pin(self.call_batch(calls)).await,
            };
        }
        let batches = calls.chunks(size);
        let batches: Vec<_> = batches
            .map(|batch| Box::pin(self.call_batch(batch)))
            .collect();
        let responses: Vec<_> = stream::iter(batches)
            .buffered(CONCURRENT_REQUESTS)
            .collect()
            .await;
        responses.into_iter().flatten().collect()
    }

    /// Makes calls in one request. If some of them fail because of its size, makes those in smaller
    /// ones. The first failed call alone shows whether the batch is to blame.
    async fn call_batch(&self, calls: &[Call]) -> Vec<Response> {
        let began = Instant::now();
        let mut responses = self.request(calls).await;
        let may_shrink = calls.len() > 1 && matches!(self.address, Address::Http(_));
        let failed = responses.iter().enumerate();
        let failed = failed.filter(|(_, response)| may_shrink && is_of_batch(response));
        let failed: Vec<_> = failed.map(|(index, _)| index).collect();
        let is_missing = |index: &usize| matches!(responses[*index], Err(Failure::Incomplete));
        let missing = failed.iter().copied().find(is_missing);
        let Some(first) = missing.or_else(|| failed.first().copied()) else {
            self.record_responses(calls, &responses, began);
            return responses;
        };
        // An answer that is missing has no other cause.
        let is_incomplete = missing.is_some();
        let alone = self.call_in_batches(&calls[first..=first]).await;
        let is_to_blame = is_incomplete || !alone.iter().any(is_of_batch);
        // The first call has been recorded, and the failures of a batch that is to blame are none
        // of the endpoint's or of a method's.
        let is_recorded = |index: &usize| match is_to_blame {
            true => !failed.contains(index),
            false => *index != first && failed.len() < calls.len(),
        };
        let recorded: Vec<_> = (0..calls.len()).filter(is_recorded).collect();
        let recorded_calls: Vec<_> = recorded.iter().map(|index| calls[*index].clone()).collect();
        let recorded: Vec<_> = recorded
            .iter()
            .map(|index| responses[*index].clone())
            .collect();
        self.record_responses(&recorded_calls, &recorded, began);
        if let Some(response) = alone.into_iter().next() {
            responses[first] = response;
        }
        if is_to_blame {
            self.shrink_batches(calls.len());
            let others: Vec<_> = failed.into_iter().filter(|index| *index != first).collect();
            let again: Vec<_> = others.iter().map(|index| calls[*index].clone()).collect();
            let again = self.call_in_batches(&again).await;
            for (index, response) in others.into_iter().zip(again) {
                responses[index] = response;
            }
        }
        responses
    }

    fn shrink_batches(&self, calls: usize) {
        let size = self.batch_size.shrink(calls, Instant::now());
        tracing::info!(chain = self.chain, endpoint = %self.address, calls, size, "the endpoint does not answer a batch as a whole: making smaller ones");
    }

    async fn request(&self, calls: &[Call]) -> Vec<Response> {
        self.metrics.calls.increment(calls.len() as u64);
        // Boxed, as the future of connecting is large.
        let request = async { Box::pin(self.connection()).await?.batch(calls).await };
        match self.with_timeout(request).await {
            Ok(responses) => {
                self.timeouts.store(0, Ordering::Relaxed);
                let responses = responses.into_iter();
                let redact = |failure| self.redact_failure(failure);
                responses.map(|response| response.map_err(redact)).collect()
            }
            Err(failure) => vec![Err(failure); calls.len()],
        }
    }

    /// Records the health and the refused methods that the responses to one request show.
    fn record_responses(&self, calls: &[Call], responses: &[Response], began: Instant) {
        let is_answer = |response: &Response| match response {
            Ok(_) | Err(Failure::Refused { .. } | Failure::NotFound(_)) => true,
            Err(_) => false,
        };
        let is_success = responses.iter().any(is_answer);
        if is_success {
            let latency = began.elapsed();
            self.metrics.seconds.record(latency);
            self.health.lock().record_success(latency);
            *self.trouble.lock() = None;
        }
        let (mut recorded, mut refused) = (Vec::new(), Vec::new());
        for (call, response) in calls.iter().zip(responses) {
            let failure = match response {
                // Some endpoints return null where they refuse.
                Ok(result) if result.get() == "null" => continue,
                Ok(_) => {
                    self.methods.record_result(call.method);
                    continue;
                }
                Err(failure) => failure,
            };
            // Many calls of one method in a request are one refusal.
            if failure.is_of_method(call.method) && !refused.contains(&call.method) {
                self.refuse_method(call.method, failure);
                refused.push(call.method);
            }
            // A request that failed as a whole counts once. Trouble with one call of several, or
            // with a contract's code, is not the endpoint's.
            let is_of_call = matches!(failure, Failure::Unavailable { .. })
                && (is_success || !failure.is_of_method(call.method));
            if !is_of_call && !recorded.contains(&failure) {
                self.record_failure(failure);
                recorded.push(failure);
            }
        }
        self.metrics.score.set(self.health.lock().score());
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
            Ok(result) => result.map_err(|failure| self.redact_failure(failure)),
            Err(_) => Err(Failure::TimedOut(self.call_timeout)),
        }
    }

    /// Drops the connection. If the lock is held, a task is reconnecting already.
    pub(crate) fn drop_connection(&self) {
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
        // A node that refuses a call, such as one of a contract that reverts, has answered it.
        if !matches!(failure, Failure::Refused { .. }) {
            let mut trouble = self.trouble.lock();
            let since = trouble
                .as_ref()
                .map_or_else(Instant::now, |before| before.since);
            let reason = failure.to_string();
            *trouble = Some(Trouble { since, reason });
        }
        self.metrics.failures.increment(1);
        let mut health = self.health.lock();
        health.record_failure(failure, Instant::now());
        self.metrics.score.set(health.score());
    }
}

fn is_of_batch(response: &Response) -> bool {
    response.as_ref().is_err_and(Failure::may_be_of_batch)
}

fn chain_id() -> Call {
    Call::new("eth_chainId", json!([]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_a_contract_reverts_is_no_trouble_of_the_endpoint() {
        let address = "http://127.0.0.1:1".parse().unwrap();
        let pool = EndpointPool::new(7, vec![(address, None)], Duration::from_secs(1)).unwrap();
        let endpoint = &pool.endpoints()[0];
        let record = |failure: Failure| {
            let call = Call::new("eth_call", json!([]));
            endpoint.record_responses(&[call], &[Err(failure)], Instant::now());
            endpoint.trouble().map(|(_, reason)| reason)
        };
        let reverted = Failure::Refused {
            code: 3,
            message: "execution reverted".to_owned(),
            data: None,
        };
        assert_eq!(record(reverted.clone()), None);
        let late = Failure::TimedOut(Duration::from_secs(1));
        assert!(record(late).is_some());
        assert_eq!(record(reverted), None);
    }
}
