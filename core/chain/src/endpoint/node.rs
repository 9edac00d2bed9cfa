//! One endpoint: its connection, its health, and what it cannot do.

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

use super::{
    Address, Failure,
    connection::{Connection, Response, Subscription, Tls},
    health::Health,
};
use crate::Call;

/// How many calls go into one request.
const BATCH: usize = 50;

/// How many calls that did not get an answer in time end the connection.
const PATIENCE: u32 = 2;

/// One node that is asked about a chain.
pub(crate) struct Endpoint {
    chain: u64,
    address: Address,
    time_limit: Duration,
    trust: Tls,
    link: tokio::sync::Mutex<Option<Arc<Connection>>>,
    health: Mutex<Health>,
    /// The height of the newest head it told.
    head: AtomicU64,
    /// Calls in a row that were not answered in time.
    late: AtomicU64,
    takes_batches: AtomicBool,
    gives_receipts: AtomicBool,
    meters: Meters,
}

struct Meters {
    calls: Counter,
    failures: Counter,
    lies: Counter,
    limits: Counter,
    connects: Counter,
    seconds: Histogram,
    score: Gauge,
    head: Gauge,
}

impl Meters {
    fn new(chain: u64, address: &Address) -> Self {
        let labels = [
            ("chain", chain.to_string()),
            ("endpoint", address.to_string()),
        ];
        Self {
            calls: metrics::counter!("tidewire_chain_calls_total", &labels),
            failures: metrics::counter!("tidewire_chain_call_failures_total", &labels),
            limits: metrics::counter!("tidewire_chain_limits_total", &labels),
            lies: metrics::counter!("tidewire_chain_lies_total", &labels),
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
    pub(super) fn new(chain: u64, address: Address, time_limit: Duration, trust: Tls) -> Self {
        Self {
            chain,
            meters: Meters::new(chain, &address),
            address,
            time_limit,
            trust,
            link: tokio::sync::Mutex::default(),
            health: Mutex::default(),
            head: AtomicU64::new(0),
            late: AtomicU64::new(0),
            takes_batches: AtomicBool::new(true),
            gives_receipts: AtomicBool::new(true),
        }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// How long it is to be left alone.
    pub(crate) fn rest(&self) -> Duration {
        self.health.lock().rest(Instant::now())
    }

    /// The less, the sooner it is asked.
    pub(super) fn cost(&self) -> f64 {
        self.health.lock().cost()
    }

    /// The height of the newest head it told.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    /// Notes what it says is its head.
    pub(crate) fn note_head(&self, number: u64) {
        self.head.store(number, Ordering::Relaxed);
        self.meters.head.set(number as f64);
    }

    /// Whether it answers with all receipts of a block at once.
    pub(crate) fn gives_receipts(&self) -> bool {
        self.gives_receipts.load(Ordering::Relaxed)
    }

    /// It does not.
    pub(crate) fn gives_no_receipts(&self) {
        self.gives_receipts.store(false, Ordering::Relaxed);
    }

    /// It said what cannot be.
    pub(crate) fn caught_lying(&self, what: &str) {
        self.meters.lies.increment(1);
        tracing::warn!(chain = self.chain, endpoint = %self.address, what, "an endpoint is not believed");
        self.failed(&Failure::Nonsense(what.to_owned()));
    }

    /// Its connection has ended, and why: the next call makes another.
    pub(crate) fn ended(&self, failure: &Failure) {
        self.failed(failure);
        self.give_up();
    }

    /// Its subscription is silent: the connection is made anew.
    pub(crate) fn is_mute(&self) {
        self.ended(&Failure::Unreachable(
            "its subscription is silent".to_owned(),
        ));
    }

    /// Has it send its heads; unsupported where it cannot.
    pub(crate) async fn heads(&self) -> Result<Subscription, Failure> {
        let subscribing = async {
            let link = Box::pin(self.link()).await?;
            if !link.pushes() {
                return Err(Failure::Unsupported("eth_subscribe".to_owned()));
            }
            link.heads().await
        };
        let heads = self.limited(subscribing).await;
        if let Err(failure) = &heads {
            self.failed(failure);
        }
        heads
    }

    /// Has it send what comes into its pool, over a connection of its own: a pool may be
    /// busy, and heads are not to wait behind it. Dropped, the connection is closed.
    pub(crate) async fn pooled(&self) -> Result<Subscription, Failure> {
        if matches!(self.address, Address::Http(_)) {
            return Err(Failure::Unsupported("eth_subscribe".to_owned()));
        }
        let subscribing = async { Box::pin(self.connect()).await?.pooled().await };
        let pooled = self.limited(subscribing).await;
        if let Err(failure) = &pooled {
            tracing::debug!(chain = self.chain, endpoint = %self.address, %failure, "no pool");
        }
        pooled
    }

    /// Makes one call and reads its answer.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let answers = self.ask_all(std::slice::from_ref(&call)).await;
        let answer = answers.into_iter().next();
        let answer = answer.unwrap_or_else(|| Err(Failure::Nonsense("no answer".to_owned())))?;
        self.read(&answer)
    }

    /// Reads an answer. One that cannot be read counts against it.
    pub(crate) fn read<T: DeserializeOwned>(&self, answer: &RawValue) -> Result<T, Failure> {
        serde_json::from_str(answer.get()).map_err(|error| {
            let failure = Failure::Nonsense(error.to_string());
            self.failed(&failure);
            failure
        })
    }

    /// Makes all calls, in as few requests as it takes, and answers in their order.
    pub(crate) async fn ask_all(&self, calls: &[Call]) -> Vec<Response> {
        let mut answers = Vec::with_capacity(calls.len());
        for part in calls.chunks(BATCH) {
            answers.extend(self.ask_part(part).await);
        }
        answers
    }

    async fn ask_part(&self, calls: &[Call]) -> Vec<Response> {
        if calls.len() > 1 && !self.takes_batches.load(Ordering::Relaxed) {
            return self.ask_one_by_one(calls).await;
        }
        self.meters.calls.increment(calls.len() as u64);
        let began = Instant::now();
        // Connecting takes a large future.
        let asking = async { Box::pin(self.link()).await?.batch(calls).await };
        let answers = match self.limited(asking).await {
            Ok(answers) => answers,
            Err(failure) => {
                self.failed(&failure);
                return vec![Err(failure); calls.len()];
            }
        };
        self.late.store(0, Ordering::Relaxed);
        let is_answered = answers.iter().any(|answer| {
            answer.is_ok() || matches!(answer, Err(Failure::Refused { .. } | Failure::Missing(_)))
        });
        let no_batches = calls.len() > 1
            && answers
                .iter()
                .all(|answer| matches!(answer, Err(Failure::Unreachable(_))));
        if no_batches && matches!(self.address, Address::Http(_)) {
            tracing::info!(chain = self.chain, endpoint = %self.address, "the endpoint takes no batches");
            self.takes_batches.store(false, Ordering::Relaxed);
            return self.ask_one_by_one(calls).await;
        }
        if is_answered {
            let took = began.elapsed();
            self.meters.seconds.record(took);
            self.health.lock().answered(took);
        }
        for failure in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            self.failed(failure);
        }
        self.meters.score.set(self.health.lock().score());
        answers
    }

    async fn ask_one_by_one(&self, calls: &[Call]) -> Vec<Response> {
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            answers.extend(Box::pin(self.ask_part(std::slice::from_ref(call))).await);
        }
        answers
    }

    /// The connection; made anew if there is none.
    async fn link(&self) -> Result<Arc<Connection>, Failure> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| !link.has_ended()) {
            return Ok(link.clone());
        }
        let fresh = self.connect().await?;
        *link = Some(fresh.clone());
        Ok(fresh)
    }

    /// A connection to a node of this chain.
    async fn connect(&self) -> Result<Arc<Connection>, Failure> {
        self.meters.connects.increment(1);
        let fresh = Arc::new(Connection::connect(&self.address, &self.trust).await?);
        let answer = fresh.call(&chain_id()).await?;
        self.is_of_the_chain(&answer)?;
        Ok(fresh)
    }

    /// Asks once more which chain it serves: what is behind an address may have changed.
    pub(crate) async fn verify_chain(&self) -> Result<(), Failure> {
        let answer: Box<RawValue> = self.ask(chain_id()).await?;
        self.is_of_the_chain(&answer).inspect_err(|failure| {
            self.failed(failure);
            self.give_up();
        })
    }

    fn is_of_the_chain(&self, answer: &RawValue) -> Result<(), Failure> {
        let found: U64 = serde_json::from_str(answer.get())
            .map_err(|error| Failure::Nonsense(error.to_string()))?;
        let found = found.to::<u64>();
        if found == self.chain {
            return Ok(());
        }
        Err(Failure::WrongChain {
            found,
            expected: self.chain,
        })
    }

    async fn limited<T>(
        &self,
        asking: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.time_limit, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::TimedOut(self.time_limit)),
        }
    }

    /// Gives the connection up. Whoever holds the lock is connecting already.
    fn give_up(&self) {
        if let Ok(mut link) = self.link.try_lock() {
            *link = None;
        }
    }

    fn failed(&self, failure: &Failure) {
        let breaks = match failure {
            Failure::Unreachable(_) => true,
            Failure::TimedOut(_) => {
                self.late.fetch_add(1, Ordering::Relaxed) + 1 >= u64::from(PATIENCE)
            }
            _ => false,
        };
        if breaks {
            self.give_up();
        }
        if let Failure::WrongChain { found, expected } = failure {
            tracing::error!(chain = expected, found, endpoint = %self.address, "an endpoint serves another chain and is not used");
        } else if failure.is_local() {
            tracing::debug!(chain = self.chain, endpoint = %self.address, %failure, "an endpoint failed");
        }
        if matches!(failure, Failure::Limited { .. }) {
            self.meters.limits.increment(1);
        }
        self.meters.failures.increment(1);
        let mut health = self.health.lock();
        health.failed(failure, Instant::now());
        self.meters.score.set(health.score());
    }
}

fn chain_id() -> Call {
    Call {
        method: "eth_chainId",
        params: json!([]),
    }
}
