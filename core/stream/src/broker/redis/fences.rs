//! Fences: the newest term of a lease, in each partition of a cluster.
//!
//! A script reaches the keys of one slot. The one that publishes for the owner of an engine therefore
//! cannot look at the lease. It compares the term with a fence beside the channel instead, which the
//! owner of a new term raises in all partitions before it publishes. An earlier owner, which may have
//! been paused, is refused from then on. A publication of a newer term raises the fence too: one that a
//! server has lost comes back by itself.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    calls::Calls,
    keys::{KeyNames, PARTITIONS},
    resp::Reply,
    script::{Script, ScriptCall},
};
use crate::broker::Fence;

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
}

impl Fences {
    pub(super) fn new(keys: KeyNames, calls: Calls) -> Arc<Self> {
        Arc::new(Self {
            keys,
            calls,
            newest: Mutex::default(),
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
            let raised = self.calls.script(call).await.and_then(Reply::text);
            if raised.is_ok() || self.newest.lock().get(&fence.lease) != Some(&fence.term) {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}
