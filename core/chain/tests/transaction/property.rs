//! Property test: under any sequence of events statuses agree with the chain.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use proptest::prelude::*;
use tidewire_proto::v1::TransactionState as State;

use crate::{
    support::{Node, account, hash, transaction},
    world::World,
};

/// An event. Numbers are modulo the number of candidates.
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
        is_pending_again: bool,
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
            .prop_map(|(depth, is_pending_again)| Action::Reorg { depth, is_pending_again }),
        1 => any::<usize>().prop_map(|which| Action::Drop { which }),
        2 => (1..90_i64).prop_map(|seconds| Action::Wait { seconds }),
        1 => any::<bool>().prop_map(|is_down| Action::Outage { is_down }),
    ]
}

/// Transactions of the mempool that can be mined: one for each sender and unused nonce.
fn mineable(node: &Node, most: usize) -> Vec<B256> {
    let mut taken: BTreeMap<Address, ()> = BTreeMap::new();
    let mut chosen = Vec::new();
    for (hash, pending) in &node.mempool {
        let from = alloy_network_primitives::TransactionResponse::from(pending);
        let nonce = alloy::consensus::Transaction::nonce(pending);
        let used = node
            .blocks
            .iter()
            .flat_map(|block| &block.transactions)
            .any(|other| {
                alloy_network_primitives::TransactionResponse::from(other) == from
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

    /// Statuses agree with the chain, and every watch ends.
    #[test]
    fn statuses_agree_with_the_chain_and_every_watch_ends(actions in prop::collection::vec(action(), 1..40)) {
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
                    // A mempool has one transaction for each nonce.
                    world.node.mempool.retain(|_, other| {
                        alloy_network_primitives::TransactionResponse::from(other) != account(from)
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
                Action::Reorg { depth, is_pending_again } => {
                    // No reorg reaches a final block.
                    let floor = highest.saturating_sub(5).max(1);
                    let depth = depth.min(world.node.blocks.len().saturating_sub(floor));
                    if depth == 0 {
                        continue;
                    }
                    if is_pending_again {
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
                    let keys: Vec<_> = world.node.mempool.keys().copied().collect();
                    if let Some(key) = keys.get(which % keys.len().max(1)) {
                        world.node.mempool.remove(key);
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
        prop_assert!(world.tracker.is_empty(), "a watch never ended");
        for hash in watched {
            let status = world.status(&hash);
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

/// Fails unless the status of a watched transaction is true now.
fn agree(world: &World, hash: B256) -> Result<(), TestCaseError> {
    let status = world.status(&hash);
    let block = world.node.block_of(hash).map(|(block, _)| block.block);
    match status.state() {
        State::Confirming | State::Confirmed => {
            let block = block.expect("a confirming transaction is in a block");
            let head = world.node.head().unwrap().block.number;
            prop_assert_eq!(status.block_hash, Some(block.hash.to_string()));
            prop_assert_eq!(u64::from(status.confirmations), head - block.number + 1);
        }
        State::Replaced | State::Cancelled => prop_assert!(block.is_none()),
        State::Pending if !world.node.is_down && status.reason.is_none() => {
            prop_assert!(
                block.is_none(),
                "in block {:?}, but its status is pending",
                block
            );
        }
        _ => {}
    }
    Ok(())
}
