//! World: a transaction tracker with a scripted node, and a clock that the test moves.

use std::collections::HashMap;

use alloy::primitives::B256;
use tidewire_chain::{
    decode::CustomErrors,
    transaction::{BlockNumHash, Interest, TrackerOutput, TransactionOptions, TransactionTracker},
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

/// A tracker and its node.
pub(crate) struct World {
    pub(crate) tracker: TransactionTracker,
    pub(crate) node: Node,
    pub(crate) now: i64,
    pub(crate) published: Vec<TransactionStatus>,
    /// Watches that ended without a final block.
    pub(crate) ended: Vec<B256>,
    /// The last status of each transaction.
    last: HashMap<String, TransactionStatus>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            tracker: TransactionTracker::new(options(), CustomErrors::well_known()),
            node: Node::default(),
            now: 1_000_000,
            published: Vec::new(),
            ended: Vec::new(),
            last: HashMap::new(),
        }
    }

    pub(crate) fn watch(&mut self, hash: B256) {
        let requests = self
            .tracker
            .watch(hash, Interest::Session, self.now)
            .unwrap();
        self.take(TrackerOutput {
            requests,
            ..TrackerOutput::default()
        });
    }

    /// Mines a block, and returns which one it is.
    pub(crate) fn mine(&mut self, transactions: &[B256]) -> BlockNumHash {
        let update = self.node.mine(transactions);
        let block = &update.included.block;
        let at = BlockNumHash {
            number: block.number,
            hash: block.hash,
        };
        let output = self.tracker.apply(&update, self.now);
        self.take(output);
        at
    }

    /// A restart of the server: the watches go to a new tracker as JSON.
    pub(crate) fn restart(&mut self) {
        let text = serde_json::to_string(&self.tracker.export()).unwrap();
        self.tracker = TransactionTracker::new(options(), CustomErrors::default());
        for stored in serde_json::from_str::<Vec<_>>(&text).unwrap() {
            self.tracker.import(stored, self.now);
        }
    }

    pub(crate) fn reorg(&mut self, depth: usize, transactions: &[B256]) {
        let update = self.node.reorg(depth, transactions);
        let output = self.tracker.apply(&update, self.now);
        self.take(output);
    }

    pub(crate) fn wait(&mut self, seconds: i64) {
        for _ in 0..(seconds + 9) / 10 {
            self.now += 10 * SECOND;
            let output = self.tracker.tick(self.now);
            self.take(output);
        }
    }

    pub(crate) fn take(&mut self, output: TrackerOutput) {
        for status in output.statuses {
            self.last.insert(status.hash.clone(), status.clone());
            self.published.push(status);
        }
        self.ended.extend(output.ended);
        for request in output.requests {
            let responses: Vec<_> = request
                .calls()
                .iter()
                .map(|call| self.node.respond(call))
                .collect();
            let output = self.tracker.apply_responses(request, &responses, self.now);
            self.take(output);
        }
    }

    /// The status of a transaction: the tracker's, or the last one of a watch that ended.
    pub(crate) fn status(&self, hash: &B256) -> TransactionStatus {
        let known = self.tracker.status(hash, self.now);
        known.unwrap_or_else(|| self.last[&hash.to_string()].clone())
    }

    /// The states and confirmations of the statuses since the last call.
    pub(crate) fn take_states(&mut self) -> Vec<(State, u32)> {
        let published = std::mem::take(&mut self.published).into_iter();
        published
            .map(|status| (status.state(), status.confirmations))
            .collect()
    }

    pub(crate) fn send(&mut self, number: u64, nonce: u64, value: u64) -> B256 {
        let to = if value == 0 { account(1) } else { account(2) };
        self.node
            .send(transaction(hash(number), account(1), nonce, to, value));
        hash(number)
    }
}
