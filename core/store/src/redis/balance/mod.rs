//! Balance: spreads several leases evenly over the nodes that may hold them.
//!
//! Something that is split into *shards*, each of them owned by one node through a lease of its own, names
//! them here. A node is a *candidate* for some of them. The candidates are in Redis, each until its lease
//! ends, and all nodes compute the same [`plan`] from them. By it, the [`decisions`] say of each shard what
//! its lease should do here.
//!
//! ```text
//!  candidate ──(script candidates, each second)──► candidates ──► plan ──► decisions ◄── checks
//!                                                                            │ preference
//!                                                        lease of each shard ◄┘
//! ```
//!
//! The node has to find out whether it can use a shard before it takes it ([`Balance::check_due`]).
//!
//! The leases alone decide who owns a shard: a plan that differs between nodes for a moment, or that cannot be
//! had, moves nothing and doubles nothing.

mod decisions;
mod plan;
#[cfg(test)]
mod simulation;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_redis::{RedisError, RedisOptions};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::AbortHandle,
    time::sleep,
};

use self::{
    decisions::{Decisions, Usability},
    plan::Candidate,
};
use super::{
    clock::LeaseInstant,
    command::{CANDIDATES, call},
    exchange::Exchange,
    keeper::{EXTENSION, LIFETIME},
    keys::candidates,
    preference::{Prefer, Preference, TenureChange},
};

/// Longest time between two looks at whether a shard has to be checked.
const LOOK: Duration = Duration::from_millis(250);

/// Time between two attempts.
const RETRY: Duration = Duration::from_millis(250);

/// The part of a node in the balance. Cheap to clone. The node is no candidate any more soon after the last
/// one is dropped.
#[derive(Debug, Clone)]
pub struct Balance {
    state: Arc<State>,
    endings: mpsc::Sender<oneshot::Sender<()>>,
    _tasks: Arc<Tasks>,
}

/// A shard that this node may own, as the [`Prefer`] of its lease. Once it is dropped, the node is no
/// candidate for the shard.
#[derive(Debug)]
pub struct BalancedShard {
    name: Arc<str>,
    state: Arc<State>,
}

/// The state that the task and the leases share.
#[derive(Debug)]
struct State {
    decisions: Mutex<Decisions>,
    changed: Notify,
    /// Some shard may have to be checked.
    check: Notify,
}

#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Balance {
    /// Takes part in the balance as a node with the name `node`, which its leases have too. Call it within
    /// a runtime.
    #[must_use]
    pub fn start(redis: RedisOptions, node: &str) -> Self {
        let node: Arc<str> = node.into();
        let state = Arc::new(State {
            decisions: Mutex::new(Decisions::new(node.clone())),
            changed: Notify::new(),
            check: Notify::new(),
        });
        let (endings, asked) = mpsc::channel(1);
        let mut tasks = Vec::new();
        if !redis.sentinels.is_empty() {
            let watched = redis.sentinels.clone().watch(redis.clone());
            tasks.push(tokio::spawn(watched).abort_handle());
        }
        if !redis.cluster.is_empty() {
            let watched = redis.cluster.clone().watch(redis.clone());
            tasks.push(tokio::spawn(watched).abort_handle());
        }
        let keys = candidates(&redis.prefix);
        let candidate = CandidateTask {
            node,
            exchange: Exchange::new(redis, &keys[0]),
            keys,
            state: state.clone(),
        };
        tasks.push(tokio::spawn(candidate.run(asked)).abort_handle());
        Self {
            state,
            endings,
            _tasks: Arc::new(Tasks(tasks)),
        }
    }

    /// Has this node be a candidate for the shard with this name, until the result is dropped. The name has
    /// no line break, and is that of one lease.
    #[must_use]
    pub fn shard(&self, name: &str) -> BalancedShard {
        let name: Arc<str> = name.into();
        self.state.decisions.lock().add(LeaseInstant::now(), &name);
        self.state.changed.notify_one();
        BalancedShard {
            name,
            state: self.state.clone(),
        }
    }

    /// Waits until it has to be found out if this node can use a shard, which it does not own. The result
    /// goes to [`report`](Self::report).
    pub async fn check_due(&self, shard: &str) {
        loop {
            let checked = self.state.check.notified();
            let is_due = {
                let decisions = self.state.decisions.lock();
                decisions.is_check_due(LeaseInstant::now(), shard)
            };
            if is_due {
                return;
            }
            let _ = tokio::time::timeout(LOOK, checked).await;
        }
    }

    /// Takes note of whether this node can use a shard. A node reports it after each check, and as often as
    /// it likes while it owns the shard.
    pub fn report(&self, shard: &str, is_usable: bool) {
        let mut decisions = self.state.decisions.lock();
        let is_news = decisions.report(LeaseInstant::now(), shard, is_usable);
        drop(decisions);
        if is_news {
            self.state.changed.notify_one();
        }
    }

    /// Whether this node can use a shard. None if it has not found out.
    #[must_use]
    pub fn is_usable(&self, shard: &str) -> Option<bool> {
        match self.state.decisions.lock().usability(shard) {
            Usability::Unknown => None,
            Usability::Usable(_) => Some(true),
            Usability::Unusable => Some(false),
        }
    }

    /// How many shards this node owns.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.state.decisions.lock().owned()
    }

    /// How many shards this node has handed over to others since the start.
    #[must_use]
    pub fn handovers(&self) -> u64 {
        self.state.decisions.lock().handovers()
    }

    /// Leaves the balance: other candidates ask for the shards of this node, which it hands over.
    pub async fn leave(&self) {
        self.state.decisions.lock().leave();
        let (done, left) = oneshot::channel();
        if self.endings.send(done).await.is_ok() {
            let _ = left.await;
        }
    }
}

impl Prefer for BalancedShard {
    fn preference(&self) -> Preference {
        let mut decisions = self.state.decisions.lock();
        decisions.preference(LeaseInstant::now(), &self.name)
    }

    fn note(&self, change: TenureChange) {
        let mut decisions = self.state.decisions.lock();
        decisions.note(LeaseInstant::now(), &self.name, change);
        drop(decisions);
        if change == TenureChange::GivenUp {
            self.state.changed.notify_one();
        }
    }

    fn expect_free(&self) {
        let mut decisions = self.state.decisions.lock();
        decisions.expect_free(LeaseInstant::now(), &self.name);
        drop(decisions);
        self.state.check.notify_waiters();
    }
}

impl Drop for BalancedShard {
    fn drop(&mut self) {
        self.state.decisions.lock().remove(&self.name);
        self.state.changed.notify_one();
    }
}

/// The task that keeps this node among the candidates, and reads who the others are.
struct CandidateTask {
    node: Arc<str>,
    keys: [String; 2],
    exchange: Exchange,
    state: Arc<State>,
}

impl CandidateTask {
    async fn run(mut self, mut endings: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut is_reported = false;
        loop {
            let pause = match self.extend().await {
                Ok(()) => {
                    is_reported = false;
                    EXTENSION
                }
                // The leases work then, and report nothing.
                Err(error) if !error.is_transient() && !is_reported => {
                    is_reported = true;
                    let [key, _] = &self.keys;
                    tracing::warn!(%error, key, "the candidates cannot be read: chains are not spread evenly until they can be");
                    RETRY
                }
                Err(error) => {
                    // The leases report a Redis that is away.
                    tracing::debug!(%error, "the candidates of the balance cannot be read");
                    RETRY
                }
            };
            tokio::select! {
                biased;
                asked = endings.recv() => {
                    if let Err(error) = self.extend().await {
                        tracing::debug!(%error, "the candidacy ends by itself, and not at once");
                    }
                    let _ = asked.map(|done| done.send(()));
                    return;
                }
                () = self.state.changed.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Extends the candidacy, or ends it if this node may own nothing, and reads the candidates.
    async fn extend(&mut self) -> Result<(), RedisError> {
        let now = LeaseInstant::now();
        let shards: Vec<_> = {
            let decisions = self.state.decisions.lock();
            decisions.candidacies(now).cloned().collect()
        };
        let lifetime = match shards.is_empty() {
            true => "0".to_owned(),
            false => LIFETIME.as_millis().to_string(),
        };
        let arguments = [&*self.node, &lifetime, &shards.join("\n")];
        let command = call(CANDIDATES, &self.keys, &arguments);
        let mut found = Vec::new();
        let mut parts = self.exchange.call(&command).await?.array()?.into_iter();
        while let (Some(node), Some(shards)) = (parts.next(), parts.next()) {
            found.push(Candidate {
                node: node.string()?.into(),
                shards: shards.string()?.lines().map(Arc::from).collect(),
            });
        }
        // Redis returns them in no order.
        found.sort_unstable_by(|one, other| one.node.cmp(&other.node));
        self.state.decisions.lock().observe(now, found);
        self.state.check.notify_waiters();
        Ok(())
    }
}
