//! A monitor with a node of its own.

use alloy::primitives::B256;
use tidewire_chain::{
    decode::CustomErrors,
    transaction::{Interest, TrackerOutput, TransactionOptions, TransactionTracker},
};
use tidewire_proto::v1::{TransactionState as State, TransactionStatus};

use crate::support::{CHAIN, Node, account, hash, transaction};

pub(crate) const SECOND: i64 = 1_000;

pub(crate) fn options() -> TransactionOptions {
    TransactionOptions {
        finality_depth: 6,
        ..TransactionOptions::new(CHAIN)
    }
}

/// A monitor and its node, at a time that goes by hand.
pub(crate) struct World {
    pub(crate) monitor: TransactionTracker,
    pub(crate) node: Node,
    pub(crate) now: i64,
    pub(crate) told: Vec<TransactionStatus>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            monitor: TransactionTracker::new(options(), CustomErrors::well_known()),
            node: Node::default(),
            now: 1_000_000,
            told: Vec::new(),
        }
    }

    pub(crate) fn watch(&mut self, hash: B256) {
        let requests = self
            .monitor
            .watch(hash, Interest::Session, self.now)
            .unwrap();
        let states = Vec::new();
        self.take(TrackerOutput { states, requests });
    }

    pub(crate) fn mine(&mut self, transactions: &[B256]) {
        let step = self.node.mine(transactions);
        let output = self.monitor.step(&step, self.now);
        self.take(output);
    }

    pub(crate) fn reorg(&mut self, depth: usize, transactions: &[B256]) {
        let step = self.node.reorg(depth, transactions);
        let output = self.monitor.step(&step, self.now);
        self.take(output);
    }

    pub(crate) fn wait(&mut self, seconds: i64) {
        for _ in 0..(seconds + 9) / 10 {
            self.now += 10 * SECOND;
            let output = self.monitor.tick(self.now);
            self.take(output);
        }
    }

    pub(crate) fn take(&mut self, output: TrackerOutput) {
        self.told.extend(output.states);
        for ask in output.requests {
            let answers: Vec<_> = ask
                .calls()
                .iter()
                .map(|call| self.node.answer(call))
                .collect();
            let output = self.monitor.answered(ask, &answers, self.now);
            self.take(output);
        }
    }

    /// What was told since the last time: states and counts.
    pub(crate) fn told(&mut self) -> Vec<(State, u32)> {
        let told = std::mem::take(&mut self.told).into_iter();
        told.map(|status| (status.state(), status.confirmations))
            .collect()
    }

    pub(crate) fn send(&mut self, number: u64, nonce: u64, value: u64) -> B256 {
        let to = if value == 0 { account(1) } else { account(2) };
        self.node
            .send(transaction(hash(number), account(1), nonce, to, value));
        hash(number)
    }
}
