//! Lease: decides which node owns something that one node at a time may have, such as the store, or
//! an engine that publishes for all nodes.
//!
//! The owner extends the lease every second. The others look four times a second, and one of them
//! takes a lease that has ended. A node that stops ends its lease. The [`keeper`](super::keeper) does
//! this in a task of its own.
//!
//! Terms have rising numbers. The first one that a Redis knows of has the number of its seconds since 1970,
//! so that it is later than all before, which a flushed Redis has forgotten: copies of terms in other slots
//! of a cluster may be left, and tell earlier owners from later ones by the numbers. A single server
//! numbers them in the same way, and needs no more than another term, which the random digits make it.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tidewire_redis::RedisOptions;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};

use super::{
    RedisStore, RedisStoreOptions,
    keeper::{Keeper, Subject},
    keys::{KeyNames, engine_lease},
    preference::{Prefer, Preference},
    term::Term,
};
use crate::{Store as _, StoreError};

/// How long a loss is reported as a fault.
const LOSS_REPORT: Duration = Duration::from_secs(60);

/// Part of a node in a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidacy {
    /// It may become the owner.
    Candidate,
    /// It only finds out who the owner is.
    Observer,
}

/// Possession of a node in one term, which ends with it.
pub trait Tenure: Clone + Debug + Send + Sync + 'static {
    /// The name of the term.
    fn term(&self) -> &str;

    /// Why it cannot be used at present.
    fn fault(&self) -> Option<StoreError>;
}

impl Tenure for RedisStore {
    fn term(&self) -> &str {
        self.term()
    }

    fn fault(&self) -> Option<StoreError> {
        self.failure()
    }
}

/// A term in which this node owns an engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineTerm(Arc<Term>);

impl EngineTerm {
    /// Whether no other node can have taken over. It may be false for a while, if Redis does not
    /// answer.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.0.is_valid()
    }

    /// Whether it is over. It does not begin again.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.end().is_some()
    }

    /// Ends the term and the lease: the engine cannot run here, and another node may be able to run it. This
    /// node takes part in the lease again after half a minute.
    pub fn give_up(&self) {
        self.0.give_up();
    }
}

impl Tenure for EngineTerm {
    fn term(&self) -> &str {
        &self.0.name
    }

    fn fault(&self) -> Option<StoreError> {
        self.0.fault()
    }
}

/// The owner, as far as this node knows.
#[derive(Debug, Clone)]
pub enum Ownership<T = RedisStore> {
    /// This node, in a term.
    Own(T),
    /// Another node.
    Other {
        /// Its name.
        node: String,
        /// Its term.
        term: String,
    },
    /// Nobody, or it cannot be found out.
    Unknown(StoreError),
}

impl<T: Tenure> Ownership<T> {
    /// The name of the owner, if that is another node.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Other { node, .. } => Some(node),
            Self::Own(_) | Self::Unknown(_) => None,
        }
    }

    /// The term of the owner. None if there is none, or it is not known.
    #[must_use]
    pub fn term(&self) -> Option<&str> {
        match self {
            Self::Own(held) => Some(held.term()),
            Self::Other { term, .. } => Some(term),
            Self::Unknown(_) => None,
        }
    }
}

/// The part of a node in a lease. Dropping it leaves the lease to end by itself.
#[derive(Debug)]
pub struct Lease<T> {
    ownership: watch::Receiver<Ownership<T>>,
    endings: mpsc::Sender<oneshot::Sender<()>>,
    losses: Arc<Losses>,
    tasks: Vec<AbortHandle>,
}

/// The lease of the shared store: engines may open on the store of a term.
pub type StoreLease = Lease<RedisStore>;

/// The lease of an engine: its owner publishes for all nodes.
pub type EngineLease = Lease<EngineTerm>;

/// The commits that Redis lost, as far as this node noticed.
#[derive(Debug, Default)]
pub(super) struct Losses {
    newest: Mutex<Option<(u64, Instant)>>,
    all: AtomicU64,
}

impl Losses {
    /// Notes a loss from what has this label.
    pub(super) fn note(&self, count: u64, label: &str) {
        tracing::error!(
            commits = count,
            "Redis has lost commits of {label}: engines go on from what it has"
        );
        self.all.fetch_add(count, Ordering::Relaxed);
        *self.newest.lock() = Some((count, Instant::now()));
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl StoreLease {
    /// Takes part in the lease of the shared store. Call it within a runtime.
    #[must_use]
    pub fn start(options: RedisStoreOptions) -> Self {
        let keys = KeyNames::new(&options.redis.prefix);
        Self::start_with(options, keys, "the shared store".to_owned(), || {
            Preference::Equal
        })
    }

    /// Takes part in the lease of an engine that keeps what it has in a store of its own, beside the
    /// shared one. The name is that of the engine in Redis, and `label` that in logs. `prefer` says
    /// whether this node should be the owner. Call it within a runtime.
    #[must_use]
    pub fn start_engine(
        options: RedisStoreOptions,
        (name, label): (&str, &str),
        prefer: impl Prefer,
    ) -> Self {
        let keys = KeyNames::of_engine(&options.redis.prefix, name);
        Self::start_with(options, keys, label.to_owned(), prefer)
    }

    fn start_with(
        options: RedisStoreOptions,
        keys: KeyNames,
        label: String,
        prefer: impl Prefer,
    ) -> Self {
        let subject = Subject {
            label,
            key: keys.lease(),
            replicas: options.replicas,
            candidacy: options.candidacy,
            prefer: Box::new(prefer),
        };
        let (redis, node) = (options.redis.clone(), options.node.clone());
        let open = move |term| RedisStore::start(&options, keys.clone(), term);
        Self::run(redis, node, subject, Box::new(open))
    }

    /// The key in Redis of the lease of the shared store.
    #[must_use]
    pub fn key(prefix: &str) -> String {
        KeyNames::new(prefix).lease()
    }

    /// The commits that Redis lost since the start, as far as this node noticed.
    #[must_use]
    pub fn lost_commits(&self) -> u64 {
        self.losses.all.load(Ordering::Relaxed)
    }
}

impl EngineLease {
    /// Takes part in the lease of the engine with this name, as a node with the name `node`. `label`
    /// is the engine in logs. `prefer` decides which of the candidates should be the owner: a function that
    /// returns a [`Preference`], or a [`BalancedShard`](super::BalancedShard). Call it within a runtime.
    #[must_use]
    pub fn start(
        redis: RedisOptions,
        node: &str,
        (name, label): (&str, &'static str),
        candidacy: Candidacy,
        prefer: impl Prefer,
    ) -> Self {
        let subject = Subject {
            label: label.to_owned(),
            key: engine_lease(&redis.prefix, name),
            replicas: 0,
            candidacy,
            prefer: Box::new(prefer),
        };
        Self::run(redis, node.to_owned(), subject, Box::new(EngineTerm))
    }

    /// The key in Redis of the lease of the engine with this name.
    #[must_use]
    pub fn key(prefix: &str, name: &str) -> String {
        engine_lease(prefix, name)
    }
}

impl<T: Tenure> Lease<T> {
    fn run(
        redis: RedisOptions,
        node: String,
        subject: Subject,
        open: Box<dyn Fn(Arc<Term>) -> T + Send>,
    ) -> Self {
        let starting = StoreError::NoOwner("Redis has not answered yet".to_owned());
        let (sender, ownership) = watch::channel(Ownership::Unknown(starting));
        let (endings, asked) = mpsc::channel(1);
        let losses = Arc::new(Losses::default());
        let mut tasks = Vec::new();
        if !redis.sentinels.is_empty() {
            let watched = redis.sentinels.clone().watch(redis.clone());
            tasks.push(tokio::spawn(watched).abort_handle());
        }
        if !redis.cluster.is_empty() {
            let watched = redis.cluster.clone().watch(redis.clone());
            tasks.push(tokio::spawn(watched).abort_handle());
        }
        let keeper = Keeper::new(redis, node, subject, open, sender, losses.clone());
        tasks.push(tokio::spawn(keeper.run(asked)).abort_handle());
        Self {
            ownership,
            endings,
            losses,
            tasks,
        }
    }

    /// The owner, now and later.
    #[must_use]
    pub fn ownership(&self) -> watch::Receiver<Ownership<T>> {
        self.ownership.clone()
    }

    /// Why the lease, or what it is about, does not work as it should: it cannot be used, or Redis
    /// lost something within the last minute. None if another node has it.
    #[must_use]
    pub fn fault(&self) -> Option<StoreError> {
        let fault = match &*self.ownership.borrow() {
            Ownership::Own(held) => held.fault(),
            Ownership::Other { .. } => None,
            Ownership::Unknown(error) => Some(error.clone()),
        };
        let lost = *self.losses.newest.lock();
        let lost = lost.filter(|(_, at)| at.elapsed() < LOSS_REPORT);
        fault.or(lost.map(|(count, _)| StoreError::Lost(count)))
    }

    /// Whether this node is the owner.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        matches!(&*self.ownership.borrow(), Ownership::Own(_))
    }

    /// Ends the lease, and the term of this node. Another node may take over at once.
    pub async fn end(&self) {
        let (done, ended) = oneshot::channel();
        if self.endings.send(done).await.is_ok() {
            let _ = ended.await;
        }
    }
}
