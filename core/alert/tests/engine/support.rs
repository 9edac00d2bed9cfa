//! Support: an engine on a store that can be killed, and a sink that stands for the hub.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidewire_alert::{AlertConfig, AlertEngine, AlertSink, Catalog, SinkError, SinkFuture};
use tidewire_proto::prost::Message as _;
use tidewire_proto::v1::{
    self, AlertCondition, AlertEvent, AlertRepeat, AlertRule, Decimal, EvaluateRequest,
    EvaluateResponse, ListFiresRequest, NotifyRequest, PriceThreshold, PriceValue, Unit,
    alert_condition::Kind, alert_repeat, evaluate_request,
};
use tidewire_store::{Batch, Key, MemoryStore, Store, StoreError, StoreFuture, Table, Value};
use tidewire_stream::{ManualClock, SharedClock, UserId};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// The start of the tests' time, in milliseconds since the Unix epoch.
pub(crate) const START_MS: i64 = 1_750_000_000_000;

/// The point at which the process is killed: before or after the n-th write.
#[derive(Debug, Default)]
pub(crate) struct Killer {
    /// Writes until the kill. Negative: none.
    left: AtomicI64,
    /// Whether the last write still happens.
    is_after: AtomicBool,
    killed: Notify,
    /// Permits of commits, each for one, and of reads, for any number.
    commits: Gate,
    reads: Gate,
    /// Commits that wait for a permit.
    waiting: AtomicUsize,
    /// Whether the store fails after each write, and its reads too.
    pub(crate) flush_fails: AtomicBool,
    /// The first commit whose flush fails, and what is left of its write.
    next_flush: Mutex<Option<NextFlush>>,
    /// Whether the store is closed since a flush failed.
    pub(crate) is_closed: AtomicBool,
}

/// Whether a commit is of the kind whose flush fails, and the state that this leaves.
type NextFlush = (fn(&Batch) -> bool, FailedFlush);

/// The state that a failed flush left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailedFlush {
    Written,
    NotWritten,
}

/// A gate that can be held and opened.
#[derive(Debug)]
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(OPEN))
    }
}

/// Permits of an open gate.
const OPEN: usize = 1 << 24;

impl Killer {
    /// Lets no commit through until [`Self::open`].
    pub(crate) fn hold_commits(&self) {
        self.commits.0.forget_permits(OPEN);
    }

    /// Whether a commit waits for a permit.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Lets some commits through.
    pub(crate) fn allow_commits(&self, count: usize) {
        self.commits.0.add_permits(count);
    }

    /// Lets neither a commit nor a read through until [`Self::open`].
    pub(crate) fn hold(&self) {
        self.hold_commits();
        self.reads.0.forget_permits(OPEN);
    }

    /// Lets everything through.
    pub(crate) fn open(&self) {
        for gate in [&self.commits, &self.reads] {
            gate.0.add_permits(OPEN - gate.0.available_permits());
        }
    }

    async fn read<T>(
        &self,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let _permit = self.reads.0.acquire().await.unwrap();
        match self.is_closed.load(Ordering::Acquire) {
            true => Err(flush_error()),
            false => read.await,
        }
    }

    /// Lets the flush of the next commit fail. The store is closed then until [`Self::reopen`].
    pub(crate) fn fail_next_flush(&self, left: FailedFlush) {
        self.fail_flush_of(|_| true, left);
    }

    /// The same for the next commit of a kind.
    pub(crate) fn fail_flush_of(&self, is_of_kind: fn(&Batch) -> bool, left: FailedFlush) {
        *self.next_flush.lock() = Some((is_of_kind, left));
    }

    fn failed_flush(&self, batch: &Batch) -> Option<FailedFlush> {
        let mut next = self.next_flush.lock();
        let failed = next.take_if(|(is_of_kind, _)| is_of_kind(batch))?;
        self.is_closed.store(true, Ordering::Release);
        Some(failed.1)
    }

    /// Opens the store again.
    pub(crate) fn reopen(&self) {
        self.is_closed.store(false, Ordering::Release);
    }

    pub(crate) fn arm(&self, writes: i64, is_after: bool) {
        self.is_after.store(is_after, Ordering::Release);
        self.left.store(writes, Ordering::Release);
    }

    pub(crate) async fn killed(&self) {
        self.killed.notified().await;
    }

    /// Runs a write, unless the process is killed before. Never returns after the kill.
    async fn write<T>(&self, write: impl Future<Output = T>) -> T {
        let left = self.left.load(Ordering::Acquire);
        if left < 0 {
            return write.await;
        }
        self.left.store((left - 1).max(0), Ordering::Release);
        if left > 1 {
            return write.await;
        }
        if left == 1 && self.is_after.load(Ordering::Acquire) {
            write.await;
        }
        self.killed.notify_one();
        std::future::pending().await
    }
}

/// A store whose process can be killed.
pub(crate) struct KillableStore {
    pub(crate) inner: Arc<MemoryStore>,
    killer: Arc<Killer>,
}

impl Store for KillableStore {
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>> {
        Box::pin(self.killer.read(self.inner.get(table, key)))
    }

    fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
        Box::pin(self.killer.read(self.inner.get_many(keys)))
    }

    fn get_floor(
        &self,
        table: Table,
        keys: Vec<Key>,
    ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
        self.inner.get_floor(table, keys)
    }

    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>> {
        if self.killer.flush_fails.load(Ordering::Acquire) {
            return Box::pin(std::future::ready(Err(flush_error())));
        }
        Box::pin(
            self.killer
                .read(self.inner.scan(table, prefix, after, limit)),
        )
    }

    fn commit(&self, batch: Batch) -> StoreFuture<'_, ()> {
        if batch.is_empty() {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move {
            self.killer.waiting.fetch_add(1, Ordering::AcqRel);
            self.killer.commits.0.acquire().await.unwrap().forget();
            self.killer.waiting.fetch_sub(1, Ordering::AcqRel);
            if self.killer.is_closed.load(Ordering::Acquire) {
                return Err(flush_error());
            }
            if let Some(left) = self.killer.failed_flush(&batch) {
                if left == FailedFlush::Written {
                    self.inner.commit(batch).await?;
                }
                return Err(flush_error());
            }
            let result = self.killer.write(self.inner.commit(batch)).await;
            match self.killer.flush_fails.load(Ordering::Acquire) {
                true => result.and(Err(flush_error())),
                false => result,
            }
        })
    }

    fn failure(&self) -> Option<StoreError> {
        let killer = &self.killer;
        match killer.flush_fails.load(Ordering::Acquire) || killer.is_closed.load(Ordering::Acquire)
        {
            true => Some(flush_error()),
            false => self.inner.failure(),
        }
    }
}

/// The error of a flush after a write.
fn flush_error() -> StoreError {
    StoreError::Failed("the disk lost a write".to_owned())
}

/// Stands for the hub, which is as durable as the store: notifications by idempotency key.
#[derive(Default)]
pub(crate) struct HubStub {
    pub(crate) notified: Mutex<BTreeMap<String, NotifyRequest>>,
    pub(crate) is_down: AtomicBool,
    pub(crate) changed: Notify,
}

/// The sink of one run.
pub(crate) struct Sink {
    hub: Arc<HubStub>,
    killer: Arc<Killer>,
    pub(crate) pushes: Mutex<Vec<(UserId, AlertEvent)>>,
    pub(crate) followed: Mutex<Vec<(u64, String)>>,
    /// Whether the next publication panics.
    pub(crate) panics: AtomicBool,
    /// Users with a connection.
    pub(crate) connected: Mutex<BTreeSet<String>>,
}

impl AlertSink for Sink {
    fn publish(&self, user: &UserId, event: AlertEvent) {
        assert!(!self.panics.load(Ordering::Acquire), "the test wants it");
        self.pushes.lock().push((user.clone(), event));
        self.hub.changed.notify_waiters();
    }

    fn is_watched(&self, user: &str) -> bool {
        self.connected.lock().contains(user)
    }

    fn notify(&self, requests: Vec<NotifyRequest>) -> SinkFuture<'_, Vec<Result<(), SinkError>>> {
        Box::pin(async move {
            if self.hub.is_down.load(Ordering::Acquire) {
                let down = || SinkError::Unavailable("down".to_owned());
                return requests.iter().map(|_| Err(down())).collect();
            }
            let write = async {
                let mut notified = self.hub.notified.lock();
                let mut results = Vec::new();
                for request in requests {
                    let key = request.idempotency_key.clone().unwrap();
                    let known = notified.entry(key).or_insert_with(|| request.clone());
                    // The hub refuses another request under the same key.
                    assert_eq!(*known, request);
                    results.push(Ok(()));
                }
                results
            };
            let results = self.killer.write(write).await;
            self.hub.changed.notify_waiters();
            results
        })
    }

    fn follow(&self, _user: &str, chain: u64, hash: &str) {
        self.followed.lock().push((chain, hash.to_owned()));
    }
}

/// A catalog of some symbols.
pub(crate) struct Symbols(pub(crate) Vec<&'static str>);

impl Catalog for Symbols {
    fn symbol(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_uppercase();
        self.0.contains(&name.as_str()).then_some(name)
    }

    fn symbols(&self) -> Vec<String> {
        self.0.iter().map(|name| (*name).to_owned()).collect()
    }

    fn has_chain(&self, chain: u64) -> bool {
        chain == 1
    }

    fn has_currency(&self, currency: &str) -> bool {
        currency == "USD"
    }
}

/// All that outlives a process.
pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<ManualClock>,
    /// The clock as the engine sees it.
    pub(crate) shown: SharedClock,
    pub(crate) hub: Arc<HubStub>,
    pub(crate) config: AlertConfig,
    pub(crate) symbols: Vec<&'static str>,
}

/// A running engine.
pub(crate) struct Run {
    pub(crate) engine: AlertEngine,
    pub(crate) sink: Arc<Sink>,
    pub(crate) killer: Arc<Killer>,
    hub: Arc<HubStub>,
    task: JoinHandle<()>,
    cancel: CancellationToken,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::at(START_MS);
        Self {
            store: Arc::new(MemoryStore::new()),
            shown: clock.clone(),
            clock,
            hub: Arc::default(),
            config: AlertConfig::default(),
            symbols: vec!["BTC-USD", "ETH-USD"],
        }
    }

    pub(crate) async fn start(&self) -> Run {
        let killer = Arc::new(Killer::default());
        killer.left.store(-1, Ordering::Release);
        let sink = Arc::new(Sink {
            hub: self.hub.clone(),
            killer: killer.clone(),
            pushes: Mutex::default(),
            followed: Mutex::default(),
            panics: AtomicBool::new(false),
            connected: Mutex::default(),
        });
        let store = Arc::new(KillableStore {
            inner: self.store.clone(),
            killer: killer.clone(),
        });
        let (engine, tasks) = AlertEngine::open(
            store,
            sink.clone(),
            Arc::new(Symbols(self.symbols.clone())),
            self.shown.clone(),
            self.config.clone(),
        )
        .await
        .unwrap();
        let cancel = CancellationToken::new();
        Run {
            engine,
            sink,
            killer,
            hub: self.hub.clone(),
            task: tokio::spawn(tasks.run(cancel.clone())),
            cancel,
        }
    }

    /// All rows of a table.
    pub(crate) async fn rows(&self, table: &'static str) -> Vec<(Key, Value)> {
        let rows = self.store.scan(Table(table), Vec::new(), None, usize::MAX);
        rows.await.unwrap()
    }

    /// The rules of all fires in the log.
    pub(crate) async fn fired(&self) -> Vec<String> {
        let rows = self.rows("alert.fires").await.into_iter();
        rows.map(|(_, row)| AlertEvent::decode(row.as_slice()).unwrap().alert_id)
            .collect()
    }

    /// The notifications of a user, in the order of their keys.
    pub(crate) fn titles(&self) -> Vec<String> {
        let notified = self.hub.notified.lock();
        let notifications = notified.values();
        notifications
            .map(|request| request.notification.clone().unwrap().title)
            .collect()
    }
}

impl Run {
    /// Ends as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }

    /// Ends as SIGKILL does: nothing that was not written is kept.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        // The engine's own tasks end with their token: none of them writes any more.
        self.killer.arm(0, false);
        self.cancel.cancel();
    }

    /// Waits until the hub and the pushes satisfy a condition.
    pub(crate) async fn until(&self, what: &str, mut is_done: impl FnMut(&Self) -> bool) {
        let waiting = async {
            loop {
                let changed = self.hub.changed.notified();
                if is_done(self) {
                    return;
                }
                // Some conditions change without a notice.
                let _ = tokio::time::timeout(Duration::from_millis(5), changed).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        waited.unwrap_or_else(|_| panic!("{what} did not come"));
    }

    pub(crate) fn notified(&self) -> usize {
        self.hub.notified.lock().len()
    }

    pub(crate) async fn evaluate(&self, symbol: &str, price: &str) -> EvaluateResponse {
        let evaluated = self.engine.evaluate(price_of(symbol, price)).await.unwrap();
        EvaluateResponse {
            fired: evaluated.events,
            total: Some(evaluated.total),
        }
    }

    /// Adds a price of a feed.
    pub(crate) fn feed(&self, symbol: &str, price: &str) {
        let price = price.parse().unwrap();
        self.engine
            .price(symbol, (price, 1), None, ["a"].into_iter());
    }

    /// The values that fired, newest first.
    pub(crate) async fn log(&self, user: &str) -> Vec<AlertEvent> {
        let request = ListFiresRequest {
            limit: Some(200),
            ..ListFiresRequest::default()
        };
        self.engine.fires(user, &request).await.unwrap().items
    }

    pub(crate) async fn register(&self, user: &str, rule: AlertRule) -> AlertRule {
        self.engine.register(user, rule, None).await.unwrap()
    }
}

pub(crate) fn decimal(text: &str) -> Option<Decimal> {
    Some(Decimal { value: text.into() })
}

pub(crate) fn price_of(symbol: &str, price: &str) -> EvaluateRequest {
    EvaluateRequest {
        value: Some(evaluate_request::Value::Price(PriceValue {
            symbol: symbol.into(),
            price: decimal(price),
            timestamp: START_MS,
            ..PriceValue::default()
        })),
    }
}

/// A rule about a price above a threshold.
pub(crate) fn above(symbol: &str, threshold: &str) -> AlertRule {
    AlertRule {
        condition: Some(AlertCondition {
            kind: Some(Kind::PriceAbove(PriceThreshold {
                symbol: symbol.into(),
                threshold: decimal(threshold),
                hysteresis: None,
            })),
        }),
        ..AlertRule::default()
    }
}

pub(crate) fn recurring(rule: AlertRule) -> AlertRule {
    AlertRule {
        repeat: Some(AlertRepeat {
            repeat: Some(alert_repeat::Repeat::Recurring(Unit {})),
        }),
        ..rule
    }
}

/// A rule about a price that crosses a threshold upward.
pub(crate) fn crosses_up(symbol: &str, threshold: &str) -> AlertRule {
    AlertRule {
        condition: Some(AlertCondition {
            kind: Some(Kind::PriceCrosses(v1::PriceCross {
                symbol: symbol.into(),
                threshold: decimal(threshold),
                direction: v1::CrossDirection::Up.into(),
                hysteresis: None,
            })),
        }),
        ..AlertRule::default()
    }
}
