//! Lease: decides which node owns the store.
//!
//! The owner extends the lease every [`EXTENSION`]. The others look every [`LOOK`], and one of them
//! takes a lease that has ended. A node that stops ends its lease.
//!
//! Each look compares the number of commits with the highest one that this node knows of. If Redis
//! has fewer, it has lost some: the node says so, and the engines open from what is there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tidewire_redis::{RedisConnection, RedisError, RedisOptions, Reply};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::sleep,
};

use super::{
    RedisStore, RedisStoreOptions,
    clock::LeaseInstant,
    command::{LEASE, call, wait},
    failed,
    keys::KeyNames,
    term::Term,
};
use crate::{Store as _, StoreError};

/// How long a node that is silent owns the store: two extensions may be late by a quarter of a
/// second.
const LIFETIME: Duration = Duration::from_millis(2_500);

/// Time between two extensions.
const EXTENSION: Duration = Duration::from_secs(1);

/// Time between two looks of a node that does not own the store, and between two attempts.
const LOOK: Duration = Duration::from_millis(250);

/// Time in which a node does not take a lease that it has given up: others are first, and the clients
/// are not told of a new term all the time.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// Longest wait for an answer, so that an extension can be repeated in time.
const ANSWER_TIME: Duration = Duration::from_millis(750);

/// How long a loss is reported as a fault.
const LOSS_REPORT: Duration = Duration::from_secs(60);

/// The owner of the store.
#[derive(Debug, Clone)]
pub enum Ownership {
    /// This node. Its engines may open on this store, which ends with the term.
    Own(RedisStore),
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

impl Ownership {
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
            Self::Own(store) => Some(store.term()),
            Self::Other { term, .. } => Some(term),
            Self::Unknown(_) => None,
        }
    }
}

/// The part of a node in the lease of the shared store. Dropping it leaves the lease to end by itself.
#[derive(Debug)]
pub struct StoreLease {
    ownership: watch::Receiver<Ownership>,
    endings: mpsc::Sender<oneshot::Sender<()>>,
    losses: Arc<Losses>,
    tasks: Vec<AbortHandle>,
}

/// The commits that Redis lost, as far as this node noticed.
#[derive(Debug, Default)]
struct Losses {
    newest: Mutex<Option<(u64, Instant)>>,
    all: AtomicU64,
}

impl Losses {
    fn note(&self, count: u64) {
        tracing::error!(
            commits = count,
            "Redis has lost commits of the shared store: engines go on from what it has"
        );
        self.all.fetch_add(count, Ordering::Relaxed);
        *self.newest.lock() = Some((count, Instant::now()));
    }
}

impl Drop for StoreLease {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl StoreLease {
    /// Takes part in the lease. Call it within a runtime.
    #[must_use]
    pub fn start(options: RedisStoreOptions) -> Self {
        let starting = StoreError::Failed("Redis has not answered yet".to_owned());
        let (sender, ownership) = watch::channel(Ownership::Unknown(starting));
        let (endings, asked) = mpsc::channel(1);
        let losses = Arc::new(Losses::default());
        let redis = options.redis.clone();
        let mut tasks = Vec::new();
        if !redis.sentinels.is_empty() {
            let watched = redis.sentinels.clone().watch(redis.clone());
            tasks.push(tokio::spawn(watched).abort_handle());
        }
        let keeper = Keeper {
            connections: RedisOptions {
                timeout: ANSWER_TIME.min(redis.timeout),
                ..redis
            },
            keys: KeyNames::new(&options.redis.prefix),
            options,
            connection: None,
            own: None,
            ownership: sender,
            losses: losses.clone(),
            seen: Seen::default(),
        };
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
    pub fn ownership(&self) -> watch::Receiver<Ownership> {
        self.ownership.clone()
    }

    /// Why the shared store does not work as it should: it cannot be used, or it lost something
    /// within the last minute. None if another node owns it.
    #[must_use]
    pub fn fault(&self) -> Option<StoreError> {
        let fault = match &*self.ownership.borrow() {
            Ownership::Own(store) => store.failure(),
            Ownership::Other { .. } => None,
            Ownership::Unknown(error) => Some(error.clone()),
        };
        let lost = *self.losses.newest.lock();
        let lost = lost.filter(|(_, at)| at.elapsed() < LOSS_REPORT);
        fault.or(lost.map(|(count, _)| StoreError::Lost(count)))
    }

    /// Whether this node owns the store.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        matches!(&*self.ownership.borrow(), Ownership::Own(_))
    }

    /// The commits that Redis lost since the start, as far as this node noticed.
    #[must_use]
    pub fn lost_commits(&self) -> u64 {
        self.losses.all.load(Ordering::Relaxed)
    }

    /// Ends the lease, and the store of this node's term. Another node may take over at once.
    pub async fn end(&self) {
        let (done, ended) = oneshot::channel();
        if self.endings.send(done).await.is_ok() {
            let _ = ended.await;
        }
    }
}

/// The newest state of the lease that this node knows of.
#[derive(Debug, Default)]
struct Seen {
    number: u64,
    commits: u64,
}

/// The answer of the script.
struct Answer {
    is_own: bool,
    term: String,
    node: String,
    remaining_ms: u64,
    commits: u64,
    /// The number of commits when the term after that of this node began.
    began: Option<u64>,
}

/// Takes part in the lease.
struct Keeper {
    options: RedisStoreOptions,
    /// The options with a shorter time.
    connections: RedisOptions,
    keys: KeyNames,
    connection: Option<RedisConnection>,
    /// The term of this node.
    own: Option<Arc<Term>>,
    ownership: watch::Sender<Ownership>,
    losses: Arc<Losses>,
    seen: Seen,
}

impl Keeper {
    async fn run(mut self, mut endings: mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            let pause = self.step().await;
            // The end of a term is acted on once.
            let own = self.own.clone().filter(|term| term.end().is_none());
            let term_ended = async {
                match &own {
                    Some(term) => drop(term.ended().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                asked = endings.recv() => {
                    self.end().await;
                    let _ = asked.map(|done| done.send(()));
                    return;
                }
                () = term_ended => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Asks Redis once, and returns the pause until the next question.
    async fn step(&mut self) -> Duration {
        let own = self.own.clone();
        if let Some(term) = own.as_ref().filter(|term| term.is_given_up()) {
            return self.give_up(term).await;
        }
        let mode = match &own {
            None => "take",
            Some(term) if term.end().is_some() => "again",
            Some(_) => "hold",
        };
        let asked_at = LeaseInstant::now();
        let acknowledged = own.as_ref().map_or(0, |term| term.acknowledged());
        let answer = match self.ask(mode).await {
            Ok(answer) => answer,
            Err(error) => {
                self.fail(own.as_deref(), failed(&error));
                return LOOK;
            }
        };
        self.seen.commits = self.seen.commits.max(acknowledged);
        self.compare(&answer, own.as_deref());
        match (answer.is_own, own.filter(|term| term.name == answer.term)) {
            (true, Some(term)) => {
                term.extend(asked_at, LIFETIME);
                if term.end().is_none() {
                    return EXTENSION;
                }
            }
            (true, None) => return self.begin(answer, asked_at).await,
            (false, _) => {
                if let Some(term) = self.own.take() {
                    term.finish(StoreError::TakenOver);
                }
                let owner = match answer.remaining_ms {
                    0 => Ownership::Unknown(StoreError::Failed("no node owns it".to_owned())),
                    _ => Ownership::Other {
                        node: answer.node,
                        term: answer.term,
                    },
                };
                self.publish(owner);
            }
        }
        LOOK
    }

    /// Ends the lease of a term that was given up.
    async fn give_up(&mut self, term: &Term) -> Duration {
        if let Err(error) = self.ask("end").await {
            self.fail(None, failed(&error));
            return LOOK;
        }
        self.own = None;
        self.publish(Ownership::Unknown(term.end().unwrap_or(StoreError::Closed)));
        GIVEN_UP
    }

    /// Begins a term that Redis gave to this node.
    async fn begin(&mut self, answer: Answer, asked_at: LeaseInstant) -> Duration {
        let term = Term::new(answer.term, answer.commits, asked_at, LIFETIME);
        let term = Arc::new(term);
        self.own = Some(term.clone());
        if let Err(error) = self.check_replicas().await {
            // The next attempt takes another term.
            term.finish(failed(&error));
            self.publish(Ownership::Unknown(failed(&error)));
            return LOOK * 2;
        }
        tracing::info!(
            term = term.name,
            commits = answer.commits,
            "this node owns the shared store"
        );
        let store = RedisStore::start(&self.options, self.keys.clone(), term);
        self.publish(Ownership::Own(store));
        EXTENSION
    }

    /// Compares the commits that Redis has with those that are known.
    fn compare(&mut self, answer: &Answer, own: Option<&Term>) {
        // Another owner began with fewer commits than this node was told of.
        let began = answer.began.filter(|_| own.is_some());
        let base = began.unwrap_or(answer.commits).min(answer.commits);
        let lost = self.seen.commits.saturating_sub(base);
        if lost > 0 {
            self.losses.note(lost);
            if let Some(term) = own {
                term.finish(StoreError::Lost(lost));
            }
        }
        self.seen.commits = answer.commits;
        let number = answer.term.split('-').next();
        let number = number.and_then(|number| number.parse().ok());
        self.seen.number = self.seen.number.max(number.unwrap_or(0));
    }

    fn fail(&mut self, own: Option<&Term>, error: StoreError) {
        match own.filter(|term| term.end().is_none()) {
            Some(term) => term.fail_lease(error),
            None => self.publish(Ownership::Unknown(error)),
        }
    }

    fn publish(&self, next: Ownership) {
        self.ownership.send_if_modified(|known| {
            let is_same = match (&*known, &next) {
                (Ownership::Other { term: known, .. }, Ownership::Other { term: next, .. }) => {
                    known == next
                }
                (Ownership::Unknown(known), Ownership::Unknown(next)) => known == next,
                _ => false,
            };
            if is_same {
                return false;
            }
            match &next {
                Ownership::Other { node, term } => {
                    tracing::info!(node, term, "another node owns the shared store");
                }
                Ownership::Unknown(error) => {
                    tracing::warn!(%error, "the shared store cannot be used");
                }
                Ownership::Own(_) => {}
            }
            *known = next;
            true
        });
    }

    /// Ends the lease, if this node has it.
    async fn end(&mut self) {
        let Some(term) = self.own.clone() else {
            return;
        };
        term.finish(StoreError::Closed);
        if let Err(error) = self.ask("end").await {
            tracing::warn!(%error, "the lease of the shared store ends by itself, and not at once");
        }
        self.publish(Ownership::Unknown(StoreError::Closed));
    }

    async fn ask(&mut self, mode: &str) -> Result<Answer, RedisError> {
        let mine = self.own.as_ref().map_or("", |term| &term.name);
        let digits = format!("{:08x}", rand::random::<u32>());
        let lifetime = LIFETIME.as_millis().to_string();
        let number = self.seen.number.to_string();
        let arguments = [&*self.options.node, mine, &lifetime, mode, &digits, &number];
        let command = call(LEASE, &[self.keys.lease()], &arguments);
        let reply = self.exchange(&command).await?;
        answer(reply)
    }

    /// Checks that as many replicas as the operator wants have all that was written.
    async fn check_replicas(&mut self) -> Result<(), RedisError> {
        let wanted = self.options.replicas;
        if wanted == 0 {
            return Ok(());
        }
        let command = wait(wanted, self.connections.timeout / 2);
        match self.exchange(&command).await? {
            Reply::Integer(had) if had >= i64::from(wanted) => Ok(()),
            Reply::Integer(had) => Err(RedisError::Connection(format!(
                "{had} replicas are up to date, expected {wanted} as in store.replicas"
            ))),
            other => Err(RedisError::Protocol(format!(
                "{other:?} came, expected a number"
            ))),
        }
    }

    async fn exchange(&mut self, command: &[u8]) -> Result<Reply, RedisError> {
        // A connection after a fault is not used again, also if this is cancelled.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let time = self.connections.timeout * 2;
                let opened = tokio::time::timeout(time, RedisConnection::open(&self.connections));
                let late = || Err(RedisError::TimedOut(time.as_millis()));
                opened.await.unwrap_or_else(|_| late())?
            }
        };
        connection.check_master()?;
        let replies = connection.exchange(command, 1).await?;
        match replies.into_iter().next() {
            Some(Reply::Error(text)) => Err(RedisError::Refused(text)),
            Some(reply) => {
                self.connection = Some(connection);
                Ok(reply)
            }
            None => Err(RedisError::Protocol("no answer came".to_owned())),
        }
    }
}

fn answer(reply: Reply) -> Result<Answer, RedisError> {
    let mut parts = reply.array()?.into_iter();
    let mut next = || {
        let missing = || RedisError::Protocol("a part of the lease is missing".to_owned());
        parts.next().ok_or_else(missing)?.string()
    };
    let number = |text: String| {
        text.parse()
            .map_err(|_| RedisError::Protocol(format!("{text:?} came, expected a number")))
    };
    Ok(Answer {
        is_own: next()? == "1",
        term: next()?,
        node: next()?,
        remaining_ms: number(next()?)?,
        commits: number(next()?)?,
        began: next()?.parse().ok(),
    })
}
