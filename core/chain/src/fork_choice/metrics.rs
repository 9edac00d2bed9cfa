//! Metrics of the chain that a head tracker follows.

use metrics::{Counter, Gauge, Histogram};

use crate::BlockData;

/// The figures of one chain, for as long as this node follows it.
pub(super) struct ChainMetrics {
    pub(super) blocks: Counter,
    pub(super) reorgs: Counter,
    pub(super) reorg_depth: Histogram,
    pub(super) resyncs: Counter,
    pub(super) failures: Counter,
    pub(super) head: Gauge,
    pub(super) head_time: Gauge,
}

impl ChainMetrics {
    pub(super) fn new(chain: u64) -> Self {
        let labels = [("chain", chain.to_string())];
        Self {
            blocks: metrics::counter!("tidewire_chain_blocks_total", &labels),
            reorgs: metrics::counter!("tidewire_chain_reorgs_total", &labels),
            reorg_depth: metrics::histogram!("tidewire_chain_reorg_depth", &labels),
            resyncs: metrics::counter!("tidewire_chain_resyncs_total", &labels),
            failures: metrics::counter!("tidewire_chain_load_failures_total", &labels),
            head: metrics::gauge!("tidewire_chain_head", &labels),
            head_time: metrics::gauge!("tidewire_chain_head_timestamp_seconds", &labels),
        }
    }

    pub(super) fn record(&self, included: &BlockData, retracted: usize) {
        self.blocks.increment(1);
        self.head.set(included.block.number as f64);
        self.head_time.set(included.timestamp as f64 / 1_000.0);
        if retracted > 0 {
            self.reorgs.increment(1);
            self.reorg_depth.record(retracted as f64);
        }
    }
}

/// Another node may follow the chain from now on: the last head of this one grows old, and is no sign
/// of a chain that stands still.
impl Drop for ChainMetrics {
    fn drop(&mut self) {
        self.head.set(f64::NAN);
        self.head_time.set(f64::NAN);
    }
}
