//! Fences: the newest term of a lease, in each partition of a cluster.
//!
//! A script reaches the keys of one slot. The one that publishes for the owner of an engine therefore
//! cannot look at the lease. It compares the term with a fence beside the channel instead, which the
//! owner of a new term raises in all partitions before it publishes. An earlier owner, which may have
//! been paused, is refused from then on. A publication of a newer term raises the fence too: one that a
//! server has lost comes back by itself.
//!
//! The server of the lease may lose terms too, and the next one would then be earlier than the fences. The
//! owner whose fence is not raised, or whose publication is refused, therefore tells the lease how late
//! they are, and takes a term after that. Where the lease is of another term by now, nothing is told.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    calls::Calls,
    keys::{KeyNames, PARTITIONS, partition},
    resp::Reply,
    script::{Script, ScriptCall},
};
use crate::{ChannelName, broker::Fence};

/// Longest wait until all fences are raised. Where a server is away, nobody publishes.
const WAIT: Duration = Duration::from_secs(1);

/// Pause before a fence is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Attempts at a fence: some minutes with the time that each waits for an answer.
const ATTEMPTS: usize = 100;

/// Raises fences.
#[derive(Debug)]
pub(super) struct Fences {
    keys: KeyNames,
    calls: Calls,
    /// The newest term of each lease that was to be raised.
    newest: Mutex<HashMap<String, String>>,
    /// The newest term that a lease was told of, and the number of the later one.
    told: Mutex<HashMap<String, (String, u64)>>,
    /// The leases of which a publication was refused and is looked into.
    refused: Mutex<HashSet<String>>,
}

impl Fences {
    pub(super) fn new(keys: KeyNames, calls: Calls) -> Arc<Self> {
        Arc::new(Self {
            keys,
            calls,
            newest: Mutex::default(),
            told: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Raises the fence of a lease in all partitions whose server answers. Those of the others follow.
    pub(super) async fn raise(self: &Arc<Self>, fence: &Fence) {
        if !self.keys.has_fences() {
            return;
        }
        let newest = (fence.lease.clone(), fence.term.clone());
        self.newest.lock().extend([newest]);
        let mut raising = JoinSet::new();
        for partition in 0..PARTITIONS {
            raising.spawn(self.clone().raise_in(partition, fence.clone()));
        }
        let all = async { while raising.join_next().await.is_some() {} };
        if timeout(WAIT, all).await.is_err() {
            let count = raising.len();
            tracing::warn!(
                count,
                "a server is away: fences of some partitions are raised later"
            );
            raising.detach_all();
        }
    }

    async fn raise_in(self: Arc<Self>, partition: u64, fence: Fence) {
        for _ in 0..ATTEMPTS {
            let call = ScriptCall {
                script: Script::Fence,
                keys: 1,
                arguments: vec![
                    self.keys.fence(partition, &fence.lease),
                    fence.term.clone().into(),
                ],
            };
            let known = self.calls.script(call).await.and_then(Reply::string);
            if !self.is_newest(&fence) {
                return;
            }
            if let Ok(known) = known {
                match later(&known) {
                    Some(later) => return self.tell(&fence, later).await,
                    None => return,
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Looks into the refusal of a publication. Where this node still owns the engine by its lease, that
    /// one has lost terms.
    pub(super) fn look_into(self: &Arc<Self>, channel: &ChannelName, fence: &Fence) {
        if !self.keys.has_fences() || !self.is_newest(fence) {
            return;
        }
        if !self.refused.lock().insert(fence.lease.clone()) {
            return;
        }
        let (fences, partition, fence) = (self.clone(), partition(channel), fence.clone());
        tokio::spawn(async move {
            let lease = fence.lease.clone();
            fences.clone().raise_in(partition, fence).await;
            fences.refused.lock().remove(&lease);
        });
    }

    /// Whether no later term of this node is known.
    fn is_newest(&self, fence: &Fence) -> bool {
        self.newest.lock().get(&fence.lease) == Some(&fence.term)
    }

    /// Tells a lease of a later term, so that the owner takes one after it.
    async fn tell(&self, fence: &Fence, later: u64) {
        let telling = (fence.term.clone(), later);
        {
            // Mostly, all partitions have the same fence.
            let mut told = self.told.lock();
            let known = told.get(&fence.lease);
            if known.is_some_and(|(term, number)| *term == fence.term && *number >= later) {
                return;
            }
            told.insert(fence.lease.clone(), telling.clone());
        }
        for _ in 0..ATTEMPTS {
            let call = ScriptCall {
                script: Script::Late,
                keys: 1,
                arguments: vec![
                    fence.lease.clone().into(),
                    fence.term.clone().into(),
                    later.to_string().into(),
                ],
            };
            match self.calls.script(call).await.and_then(Reply::string) {
                Ok(is_own) if is_own == "1" => {
                    let (lease, term) = (&fence.lease, &fence.term);
                    tracing::warn!(
                        lease,
                        term,
                        later,
                        "Redis has lost terms of a lease: its owner takes a later one"
                    );
                    return;
                }
                // Another node owns the engine.
                Ok(_) => break,
                Err(_) if !self.is_newest(fence) => break,
                Err(_) => sleep(PAUSE).await,
            }
        }
        let mut told = self.told.lock();
        if told.get(&fence.lease) == Some(&telling) {
            told.remove(&fence.lease);
        }
    }
}

/// The number of the term that a fence has in place of the one that was to be raised.
fn later(answer: &str) -> Option<u64> {
    let (number, _) = answer.split_once('-')?;
    number.parse().ok()
}
