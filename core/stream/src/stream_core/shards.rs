//! Watch over the shards: reports a shard whose thread is stuck.
//!
//! A shard that does not finish its ticks serves none of its connections, and cannot say so
//! itself. Another thread asks every shard for a tick several times a second, and logs one that
//! does not answer for a second, once, and once more when it is in time again.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::StreamCore;
use crate::{LateShard, ShardId};

/// Time between two probes of the shards.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

impl StreamCore {
    /// Watches the shards until the future is dropped: logs late ones, and sets the gauge
    /// `tidewire_shard_late`. Runs on no shard's thread.
    pub async fn watch_shards(&self) {
        let mut late_since = HashMap::<ShardId, Instant>::new();
        let gauge =
            |shard: ShardId| metrics::gauge!("tidewire_shard_late", "shard" => shard.to_string());
        for shard in self.hub().shards() {
            gauge(shard).set(0.0);
        }
        let mut probes = tokio::time::interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = probes.tick().await;
            let late = self.hub().late_shards(now);
            for LateShard { shard, late_for } in &late {
                late_since.entry(*shard).or_insert_with(|| {
                    tracing::error!(
                        %shard,
                        "a shard has not finished a tick for a second: its connections wait"
                    );
                    gauge(*shard).set(1.0);
                    now - *late_for
                });
            }
            late_since.retain(|shard, since| {
                let is_late = late.iter().any(|one| one.shard == *shard);
                if !is_late {
                    let late_ms = (now - *since).as_millis();
                    tracing::warn!(%shard, late_ms, "a shard is in time again");
                    gauge(*shard).set(0.0);
                }
                is_late
            });
            self.hub().probe_shards(now);
        }
    }

    /// The shards that have not finished a tick for a second. Known while
    /// [`watch_shards`](Self::watch_shards) runs.
    #[must_use]
    pub fn late_shards(&self) -> Vec<LateShard> {
        self.hub().late_shards(Instant::now())
    }
}
