//! Transactions from the first look to the final state, over whatever a chain does to them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use proptest::prelude::*;
use support::{CHAIN, Node, account, hash, transaction};
use tidewire_chain::{
    decode::CustomErrors,
    transaction::{Interest, Monitor, MonitorOptions, Turn},
};
use tidewire_proto::v1::{TransactionState as State, TransactionStatus};

const SECOND: i64 = 1_000;

fn options() -> MonitorOptions {
    MonitorOptions {
        finality_depth: 6,
        ..MonitorOptions::new(CHAIN)
    }
}

/// A monitor and its node, at a time that goes by hand.
struct World {
    monitor: Monitor,
    node: Node,
    now: i64,
    told: Vec<TransactionStatus>,
}

impl World {
    fn new() -> Self {
        Self {
            monitor: Monitor::new(options(), CustomErrors::well_known()),
            node: Node::default(),
            now: 1_000_000,
            told: Vec::new(),
        }
    }

    fn watch(&mut self, hash: B256) {
        let asks = self
            .monitor
            .watch(hash, Interest::Session, self.now)
            .unwrap();
        let states = Vec::new();
        self.take(Turn { states, asks });
    }

    fn mine(&mut self, transactions: &[B256]) {
        let step = self.node.mine(transactions);
        let turn = self.monitor.step(&step, self.now);
        self.take(turn);
    }

    fn reorg(&mut self, depth: usize, transactions: &[B256]) {
        let step = self.node.reorg(depth, transactions);
        let turn = self.monitor.step(&step, self.now);
        self.take(turn);
    }

    fn wait(&mut self, seconds: i64) {
        for _ in 0..(seconds + 9) / 10 {
            self.now += 10 * SECOND;
            let turn = self.monitor.tick(self.now);
            self.take(turn);
        }
    }

    fn take(&mut self, turn: Turn) {
        self.told.extend(turn.states);
        for ask in turn.asks {
            let answers: Vec<_> = ask
                .calls()
                .iter()
                .map(|call| self.node.answer(call))
                .collect();
            let turn = self.monitor.answered(ask, &answers, self.now);
            self.take(turn);
        }
    }

    /// What was told since the last time: states and counts.
    fn told(&mut self) -> Vec<(State, u32)> {
        let told = std::mem::take(&mut self.told).into_iter();
        told.map(|status| (status.state(), status.confirmations))
            .collect()
    }

    fn send(&mut self, number: u64, nonce: u64, value: u64) -> B256 {
        let to = if value == 0 { account(1) } else { account(2) };
        self.node
            .send(transaction(hash(number), account(1), nonce, to, value));
        hash(number)
    }
}

#[test]
fn a_transaction_is_counted_until_it_is_final() {
    let mut world = World::new();
    world.mine(&[]);
    world.watch(hash(1));
    let unknown = world.told.remove(0);
    assert_eq!(unknown.state(), State::Unknown);
    assert_eq!(
        unknown.reason.as_deref(),
        Some("no node has seen it, looking since 1000000")
    );
    let sent = world.send(1, 0, 5);
    world.wait(20);
    assert_eq!(world.told(), [(State::Pending, 0)]);
    world.mine(&[sent]);
    let included = world.told.remove(0);
    assert_eq!(included.state(), State::Confirming);
    assert_eq!(included.confirmations, 1);
    assert_eq!(included.block_number, Some(2));
    assert_eq!(included.nonce, Some(0));
    assert_eq!(included.gas_used, Some(0x5207));
    for _ in 0..5 {
        world.mine(&[]);
    }
    let confirmed = [
        (State::Confirming, 2),
        (State::Confirmed, 3),
        (State::Finalized, 6),
    ];
    assert_eq!(world.told(), confirmed);
    assert!(world.monitor.is_empty());
    assert_eq!(
        world.monitor.status(&sent, 0).unwrap().state(),
        State::Finalized
    );
}

#[test]
fn what_was_included_before_the_watch_is_found() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.mine(&[sent]);
    world.mine(&[]);
    world.watch(sent);
    assert_eq!(world.told(), [(State::Confirming, 2)]);
}

#[test]
fn a_failure_is_told_from_inclusion_on_with_its_reason() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.node.failing.push(sent);
    world.watch(sent);
    world.mine(&[sent]);
    let failed = world.told.pop().unwrap();
    assert_eq!(failed.state(), State::Failed);
    assert_eq!(failed.confirmations, 1);
    assert_eq!(
        failed.reason.as_deref(),
        Some("panic 0x01: an assertion failed")
    );
    for _ in 0..6 {
        world.mine(&[]);
    }
    assert!(world.monitor.is_empty());
}

#[test]
fn who_takes_a_nonce_is_named() {
    for (value, state) in [(6, State::Replaced), (0, State::Cancelled)] {
        let mut world = World::new();
        let sent = world.send(1, 0, 5);
        world.watch(sent);
        // The node forgets the old hash at once.
        world.node.pool.clear();
        let other = world.send(2, 0, value);
        world.wait(600);
        assert_eq!(
            world.told(),
            [(State::Pending, 0)],
            "the nonce is taken, not free"
        );
        world.mine(&[other]);
        let told = world.told.remove(0);
        assert_eq!(told.state(), state);
        assert_eq!(told.replaced_by, Some(other.to_string()));
        // Until the other's block is final, a reorg can bring the first back.
        world.reorg(1, &[]);
        let told = world.told.remove(0);
        assert_eq!((told.state(), told.reorged), (State::Pending, Some(true)));
    }
}

#[test]
fn what_no_node_keeps_is_dropped_by_the_rule() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.node.pool.clear();
    world.wait(30);
    assert_eq!(
        world.told(),
        [(State::Pending, 0)],
        "one miss is not enough"
    );
    world.wait(400);
    let told = world.told.remove(0);
    assert_eq!(told.state(), State::Dropped);
    assert_eq!(
        told.reason.as_deref(),
        Some("no node keeps it in its pool, and its nonce is free")
    );
    assert!(world.monitor.is_empty());
}

#[test]
fn an_endpoint_that_is_down_drops_nothing() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.node.is_down = true;
    world.wait(3_600);
    world.mine(&[sent]);
    assert_eq!(world.told(), [(State::Pending, 0)]);
    world.node.is_down = false;
    world.mine(&[]);
    assert_eq!(world.told(), [(State::Confirming, 2)]);
}

#[test]
fn a_reorg_takes_it_back_and_may_bring_it_again() {
    let mut world = World::new();
    world.mine(&[]);
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.mine(&[sent]);
    world.mine(&[]);
    world.told();
    world
        .node
        .send(transaction(sent, account(1), 0, account(2), 5));
    world.reorg(2, &[sent]);
    assert_eq!(world.told(), [(State::Pending, 0), (State::Confirming, 1)]);
    // Without it: no node keeps it.
    world.reorg(1, &[]);
    world.wait(400);
    let told = world.told.pop().unwrap();
    assert_eq!(told.state(), State::Dropped);
    assert!(
        told.reason
            .unwrap()
            .starts_with("a reorg took its block back")
    );
}

#[test]
fn every_wait_has_a_stated_end() {
    let mut world = World::new();
    world.watch(hash(1));
    world.wait(31 * 60);
    let told = world.told.pop().unwrap();
    assert_eq!(told.state(), State::Unknown);
    assert!(
        told.reason
            .unwrap()
            .starts_with("timed out: no node has seen it after 30 minutes")
    );
    let sent = world.send(2, 0, 5);
    world.watch(sent);
    world.wait(24 * 3_600 + 60);
    let told = world.told.pop().unwrap();
    assert_eq!(told.state(), State::Pending);
    assert!(
        told.reason
            .unwrap()
            .starts_with("timed out: it is still pending after 1440 minutes")
    );
    assert!(world.monitor.is_empty());
}

#[test]
fn a_back_ends_watch_outlives_sessions_and_restarts() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    let durable = Interest::Durable(Some("alice".to_owned()));
    world.watch(sent);
    world.monitor.watch(sent, durable, world.now).unwrap();
    world.monitor.unwatch(&sent, &Interest::Session);
    world.mine(&[sent]);
    let changes = world.monitor.take_changes();
    let stored = changes[0].1.clone().unwrap();
    assert_eq!((changes.len(), stored.user.as_deref()), (1, Some("alice")));
    // As JSON, as a store would keep it.
    let text = serde_json::to_string(&world.monitor.export()).unwrap();
    world.monitor = Monitor::new(options(), CustomErrors::default());
    for stored in serde_json::from_str::<Vec<_>>(&text).unwrap() {
        world.monitor.import(stored, world.now);
    }
    world.told();
    world.mine(&[]);
    assert_eq!(world.told(), [(State::Confirming, 2)]);
    for _ in 0..6 {
        world.mine(&[]);
    }
    assert_eq!(world.told().last(), Some(&(State::Finalized, 6)));
    let changes = world.monitor.take_changes();
    assert_eq!(changes, [(sent, None)]);
}

#[test]
fn calls_do_not_grow_with_what_waits() {
    let mut world = World::new();
    for number in 0..5_000 {
        world.watch(hash(number));
    }
    world.now += 600 * SECOND;
    world.node.calls = 0;
    world.mine(&[]);
    assert_eq!(world.node.calls, options().checks_per_turn);
    let full = MonitorOptions {
        max_watches: 1,
        ..options()
    };
    let mut monitor = Monitor::new(full, CustomErrors::default());
    monitor.watch(hash(1), Interest::Session, 0).unwrap();
    let refused = monitor.watch(hash(2), Interest::Session, 0).unwrap_err();
    assert!(refused.to_string().contains("the most that may be"));
}

/// What can happen. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Action {
    Send {
        account: u8,
        nonce: u64,
        watched: bool,
    },
    Cancel {
        account: u8,
        nonce: u64,
    },
    Mine {
        most: usize,
    },
    Reorg {
        depth: usize,
        repooled: bool,
    },
    Drop {
        which: usize,
    },
    Wait {
        seconds: i64,
    },
    Outage {
        is_down: bool,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (1..4_u8, 0..3_u64, any::<bool>())
            .prop_map(|(account, nonce, watched)| Action::Send { account, nonce, watched }),
        1 => (1..4_u8, 0..3_u64).prop_map(|(account, nonce)| Action::Cancel { account, nonce }),
        4 => (0..3_usize).prop_map(|most| Action::Mine { most }),
        2 => (1..5_usize, any::<bool>())
            .prop_map(|(depth, repooled)| Action::Reorg { depth, repooled }),
        1 => any::<usize>().prop_map(|which| Action::Drop { which }),
        2 => (1..90_i64).prop_map(|seconds| Action::Wait { seconds }),
        1 => any::<bool>().prop_map(|is_down| Action::Outage { is_down }),
    ]
}

/// Those of the pool that can be mined now: each sender's next nonce.
fn mineable(node: &Node, most: usize) -> Vec<B256> {
    let mut taken: BTreeMap<Address, ()> = BTreeMap::new();
    let mut chosen = Vec::new();
    for (hash, waiting) in &node.pool {
        let from = alloy::network::TransactionResponse::from(waiting);
        let nonce = alloy::consensus::Transaction::nonce(waiting);
        let used = node
            .blocks
            .iter()
            .flat_map(|block| &block.transactions)
            .any(|other| {
                alloy::network::TransactionResponse::from(other) == from
                    && alloy::consensus::Transaction::nonce(other) == nonce
            });
        if !used && chosen.len() < most && taken.insert(from, ()).is_none() {
            chosen.push(*hash);
        }
    }
    chosen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, what is said is what the chain holds, and every watch ends.
    #[test]
    fn the_monitor_agrees_with_the_chain(actions in prop::collection::vec(action(), 1..40)) {
        let mut world = World::new();
        let mut sent = 0;
        let mut highest = 1_usize;
        let mut watched = Vec::new();
        world.mine(&[]);
        for action in actions {
            match action {
                Action::Send { account: from, nonce, watched: is_watched } => {
                    sent += 1;
                    let new = hash(sent);
                    // One place in the pool for each nonce, as nodes have it.
                    world.node.pool.retain(|_, other| {
                        alloy::network::TransactionResponse::from(other) != account(from)
                            || alloy::consensus::Transaction::nonce(other) != nonce
                    });
                    world.node.send(transaction(new, account(from), nonce, account(9), 5));
                    if is_watched {
                        world.watch(new);
                        watched.push(new);
                    }
                }
                Action::Cancel { account: from, nonce } => {
                    sent += 1;
                    world.node.send(transaction(hash(sent), account(from), nonce, account(from), 0));
                }
                Action::Mine { most } => {
                    let chosen = mineable(&world.node, most);
                    world.mine(&chosen);
                }
                Action::Reorg { depth, repooled } => {
                    // No chain takes back what is final.
                    let floor = highest.saturating_sub(5).max(1);
                    let depth = depth.min(world.node.blocks.len().saturating_sub(floor));
                    if depth == 0 {
                        continue;
                    }
                    if repooled {
                        let from = world.node.blocks.len() - depth;
                        let back: Vec<_> = world.node.blocks[from..]
                            .iter()
                            .flat_map(|block| block.transactions.clone())
                            .collect();
                        back.into_iter().for_each(|transaction| world.node.send(transaction));
                    }
                    world.reorg(depth, &[]);
                }
                Action::Drop { which } => {
                    let keys: Vec<_> = world.node.pool.keys().copied().collect();
                    if let Some(key) = keys.get(which % keys.len().max(1)) {
                        world.node.pool.remove(key);
                    }
                }
                Action::Wait { seconds } => world.wait(seconds),
                Action::Outage { is_down } => {
                    world.node.is_down = is_down;
                    world.wait(1);
                }
            }
            highest = highest.max(world.node.blocks.len());
            for hash in &watched {
                agree(&world, *hash)?;
            }
        }
        world.node.is_down = false;
        for _ in 0..7 {
            world.mine(&[]);
        }
        world.wait(25 * 3_600);
        for _ in 0..7 {
            world.mine(&[]);
        }
        prop_assert!(world.monitor.is_empty(), "a watch hangs");
        for hash in watched {
            let status = world.monitor.status(&hash, 0).unwrap();
            let included = world.node.block_of(hash).is_some();
            match status.state() {
                State::Finalized => prop_assert!(included),
                State::Replaced | State::Cancelled => prop_assert!(!included),
                State::Dropped => {}
                State::Pending | State::Unknown => {
                    prop_assert!(status.reason.unwrap().starts_with("timed out: "));
                }
                other => prop_assert!(false, "ended as {:?}", other),
            }
        }
    }
}

/// What is said of a watched transaction, now, is so.
fn agree(world: &World, hash: B256) -> Result<(), TestCaseError> {
    let status = world.monitor.status(&hash, world.now).unwrap();
    let place = world.node.block_of(hash).map(|(block, _)| block.block);
    match status.state() {
        State::Confirming | State::Confirmed => {
            let place = place.expect("said to be in a block");
            let head = world.node.head().unwrap().block.number;
            prop_assert_eq!(status.block_hash, Some(place.hash.to_string()));
            prop_assert_eq!(u64::from(status.confirmations), head - place.number + 1);
        }
        State::Replaced | State::Cancelled => prop_assert!(place.is_none()),
        State::Pending if !world.node.is_down && status.reason.is_none() => {
            prop_assert!(
                place.is_none(),
                "in block {:?} and said to be pending",
                place
            );
        }
        _ => {}
    }
    Ok(())
}
