//! Sample ledger: accounts, waiting transactions, blocks and reorgs, as a state machine.
//!
//! Odd steps submit transactions, even steps make a block. The events depend on the height of
//! the next block alone, amounts on a random number generator that is part of the state:
//!
//! | height | event |
//! |---|---|
//! | each | two payments among strangers |
//! | every 5th | the wallet is paid |
//! | every 7th | the wallet pays |
//! | every 6th | tokens to the wallet, or from it |
//! | every 24th | a transaction of the wallet fails |
//! | every 24th | the wallet replaces a transaction by one with a higher fee |
//! | every 15th | a reorg of one or two blocks |

use std::collections::VecDeque;

use alloy::{
    consensus::Transaction as _,
    primitives::{Address, B256, U256, address},
    rpc::types::Transaction,
};
use serde::{Deserialize, Serialize};

use super::{
    WALLET,
    block::{Account, Accounts, Action, BlockSeed, SampleBlock, make, transaction},
};

/// Blocks of the branch in use that are stored, and that can be taken back.
const MAX_BLOCKS: usize = 24;

/// Blocks before those that the node remembers: twenty minutes, of some kilobytes each, so that a
/// transaction of a moment ago can still be looked up.
const MAX_OLDER: usize = 300;

/// Replaced blocks that the node remembers.
const MAX_REPLACED: usize = 8;

/// Waiting transactions at most.
const MAX_WAITING: usize = 64;

/// Strangers, who pay each other and the wallet.
pub(super) const STRANGERS: [Address; 4] = [
    address!("5a3b1e00000000000000000000000000000000b1"),
    address!("5a3b1e00000000000000000000000000000000b2"),
    address!("5a3b1e00000000000000000000000000000000b3"),
    address!("5a3b1e00000000000000000000000000000000b4"),
];

const GWEI: u64 = 1_000_000_000;

/// The range of the base fee, in wei.
const BASE_FEES: std::ops::RangeInclusive<u64> = 6 * GWEI..=30 * GWEI;

/// Something that subscribers hear of.
#[derive(Debug, Clone)]
pub(super) enum LedgerEvent {
    /// A new head.
    Head(Box<alloy::rpc::types::Header>),
    /// A transaction that waits.
    Pending(Box<Transaction>),
}

/// The state of the chain.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// The branch in use, oldest first. Never empty.
    blocks: VecDeque<SampleBlock>,
    /// The blocks before those, oldest first. They end with the process.
    #[serde(skip)]
    older: VecDeque<SampleBlock>,
    replaced: VecDeque<SampleBlock>,
    mempool: Vec<Transaction>,
    /// A transaction that its sender will replace.
    held: Option<Transaction>,
    steps: u64,
    serial: u64,
    random: u64,
}

impl Ledger {
    /// A chain of one block.
    pub(super) fn new(now_ms: i64) -> Self {
        let account = Account {
            nonce: 0,
            coins: U256::from(1_000_000) * coin(),
            tokens: U256::from(1_000_000) * coin(),
        };
        let owners = STRANGERS.into_iter().chain([WALLET]);
        let accounts: Accounts = owners.map(|owner| (owner, account.clone())).collect();
        let seed = BlockSeed {
            parent: None,
            number: 1,
            timestamp: seconds(now_ms),
            base_fee: 12 * GWEI,
            serial: now_ms.unsigned_abs(),
            accounts,
        };
        Self {
            blocks: VecDeque::from([make(seed, &mut Vec::new())]),
            older: VecDeque::new(),
            replaced: VecDeque::new(),
            mempool: Vec::new(),
            held: None,
            steps: 0,
            serial: now_ms.unsigned_abs(),
            random: now_ms.unsigned_abs(),
        }
    }

    /// The newest block.
    pub(super) fn tip(&self) -> Option<&SampleBlock> {
        self.blocks.back()
    }

    /// A block of the branch in use.
    pub(super) fn by_number(&self, number: u64) -> Option<&SampleBlock> {
        let mut blocks = self.branch();
        blocks.find(|block| block.header.inner.number == number)
    }

    /// A block, of the branch in use or replaced.
    pub(super) fn by_hash(&self, hash: B256) -> Option<&SampleBlock> {
        let mut blocks = self.branch().chain(&self.replaced);
        blocks.find(|block| block.header.hash == hash)
    }

    /// A transaction that waits.
    pub(super) fn mempool(&self) -> impl Iterator<Item = &Transaction> {
        self.mempool.iter().chain(&self.held)
    }

    /// The branch in use, newest block first.
    pub(super) fn branch(&self) -> impl Iterator<Item = &SampleBlock> {
        self.blocks.iter().rev().chain(self.older.iter().rev())
    }

    /// Submits transactions, or makes a block of them.
    pub(super) fn step(&mut self, now_ms: i64) -> Vec<LedgerEvent> {
        self.steps += 1;
        if self.steps.is_multiple_of(2) {
            self.make_blocks(now_ms)
        } else {
            self.submit()
        }
    }

    fn height(&self) -> u64 {
        self.tip().map_or(0, |block| block.header.inner.number)
    }

    /// Submits the transactions of the next height.
    fn submit(&mut self) -> Vec<LedgerEvent> {
        let next = self.height() + 1;
        let mut new = Vec::new();
        if let Some(held) = self.held.take() {
            // The same nonce and payment, at twice the fee.
            let (nonce, value) = (held.nonce(), held.value());
            let to = held.to().unwrap_or(WALLET);
            new.push(self.transaction((WALLET, nonce), Action::Pay(to, value), 2));
        }
        if self.mempool.len() < MAX_WAITING {
            for _ in 0..2 {
                let (from, to) = (self.stranger(), self.stranger());
                let value = self.amount();
                new.push(self.send(from, Action::Pay(to, value), &new));
            }
            let (stranger, amount) = (self.stranger(), self.amount());
            if next.is_multiple_of(5) {
                new.push(self.send(stranger, Action::Pay(WALLET, amount), &new));
            }
            if next.is_multiple_of(6) {
                let action = |to| Action::PayTokens(to, amount);
                let sent = match next.is_multiple_of(12) {
                    true => self.send(WALLET, action(stranger), &new),
                    false => self.send(stranger, action(WALLET), &new),
                };
                new.push(sent);
            }
            if next.is_multiple_of(7) {
                new.push(self.send(WALLET, Action::Pay(stranger, amount), &new));
            }
            if next % 24 == 10 {
                new.push(self.send(WALLET, Action::Buy, &new));
            }
            if next % 24 == 20 {
                self.held = Some(self.send(WALLET, Action::Pay(stranger, amount), &new));
            }
        }
        self.mempool.extend(new.iter().cloned());
        let held = self.held.clone();
        let all = new.into_iter().chain(held);
        all.map(|transaction| LedgerEvent::Pending(Box::new(transaction)))
            .collect()
    }

    /// A transaction with the sender's next nonce, after those that wait and `new` ones.
    fn send(&mut self, from: Address, action: Action, new: &[Transaction]) -> Transaction {
        let tip = self.tip().and_then(|tip| tip.accounts.get(&from));
        let first = tip.map_or(0, |account| account.nonce);
        let waiting = self.mempool().chain(new);
        let own = waiting.filter(|waiting| waiting.inner.signer() == from);
        let next = own.map(|waiting| waiting.nonce() + 1).max();
        let nonce = next.map_or(first, |next| next.max(first));
        self.transaction((from, nonce), action, 1)
    }

    fn transaction(&mut self, account: (Address, u64), action: Action, fee: u64) -> Transaction {
        self.serial += 1;
        let tip = u128::from(fee * GWEI);
        let max_fee = u128::from(BASE_FEES.end() + fee * 2 * GWEI);
        transaction(account, action, (max_fee, tip), self.serial)
    }

    /// Makes a block, or replaces the newest ones by a longer branch.
    fn make_blocks(&mut self, now_ms: i64) -> Vec<LedgerEvent> {
        let next = self.height() + 1;
        let mut depth = 0;
        if next.is_multiple_of(15) {
            let wanted = 1 + usize::from(next.is_multiple_of(2));
            depth = wanted.min(self.blocks.len().saturating_sub(1));
        }
        for _ in 0..depth {
            self.take_back();
        }
        let heads = (0..=depth).rev().map(|later| {
            let timestamp = seconds(now_ms).saturating_sub(later as u64);
            LedgerEvent::Head(Box::new(self.make_block(timestamp)))
        });
        heads.collect()
    }

    /// Takes the newest block back. Its transactions wait again.
    fn take_back(&mut self) {
        let Some(block) = self.blocks.pop_back() else {
            return;
        };
        let again = block.transactions.iter().cloned().map(|taken| Transaction {
            block_hash: None,
            block_number: None,
            transaction_index: None,
            effective_gas_price: None,
            ..taken
        });
        self.mempool.splice(0..0, again);
        self.replaced.push_back(block);
        if self.replaced.len() > MAX_REPLACED {
            self.replaced.pop_front();
        }
    }

    fn make_block(&mut self, timestamp: u64) -> alloy::rpc::types::Header {
        self.serial += 1;
        let base_fee = self.next_base_fee();
        let tip = self.tip();
        let seed = BlockSeed {
            parent: tip.map(|tip| tip.header.hash),
            number: self.height() + 1,
            timestamp: timestamp.max(tip.map_or(0, |tip| tip.header.inner.timestamp)),
            base_fee,
            serial: self.serial,
            accounts: tip.map(|tip| tip.accounts.clone()).unwrap_or_default(),
        };
        let block = make(seed, &mut self.mempool);
        // A nonce that another transaction has used can never come again.
        self.mempool.retain(|waiting| {
            let sender = block.accounts.get(&waiting.inner.signer());
            sender.is_none_or(|sender| waiting.nonce() >= sender.nonce)
        });
        let header = block.header.clone();
        self.blocks.push_back(block);
        if self.blocks.len() > MAX_BLOCKS {
            self.older.extend(self.blocks.pop_front());
        }
        if self.older.len() > MAX_OLDER {
            self.older.pop_front();
        }
        header
    }

    /// The base fee of the next block: up to an eighth more or less.
    fn next_base_fee(&mut self) -> u64 {
        let fee = self.tip().and_then(|tip| tip.header.inner.base_fee_per_gas);
        let fee = fee.unwrap_or(12 * GWEI);
        let eighth = fee / 8;
        let moved = fee - eighth + self.random_below(2 * eighth + 1);
        moved.clamp(*BASE_FEES.start(), *BASE_FEES.end())
    }

    fn stranger(&mut self) -> Address {
        let index = self.random_below(STRANGERS.len() as u64);
        let index = usize::try_from(index).unwrap_or(0);
        STRANGERS[index]
    }

    /// A hundredth of a coin to 2.5.
    fn amount(&mut self) -> U256 {
        let hundredths = 1 + self.random_below(250);
        U256::from(hundredths) * coin() / U256::from(100)
    }

    /// A number below `bound`, by SplitMix64 (Steele, Lea and Flood, 2014).
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// One coin, or one token, in its smallest unit.
fn coin() -> U256 {
    U256::from(10).pow(U256::from(18))
}

fn seconds(ms: i64) -> u64 {
    ms.div_euclid(1_000).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::proof;

    const NOW_MS: i64 = 1_750_000_000_000;

    /// The heads of the next minutes.
    fn heads(ledger: &mut Ledger, steps: i64) -> Vec<alloy::rpc::types::Header> {
        let mut heads = Vec::new();
        for step in 0..steps {
            for event in ledger.step(NOW_MS + step * 2_000) {
                if let LedgerEvent::Head(head) = event {
                    heads.push(*head);
                }
            }
        }
        heads
    }

    #[test]
    fn every_block_passes_the_proofs() {
        let mut ledger = Ledger::new(NOW_MS);
        for _ in 0..70 {
            for head in heads(&mut ledger, 2) {
                let block = ledger.by_hash(head.hash).unwrap();
                let json = serde_json::value::to_raw_value(&block.header).unwrap();
                proof::header(&json, head.hash).unwrap();
                let root = head.inner.transactions_root;
                proof::transactions(&block.transactions, root).unwrap();
                proof::receipts(&block.receipts, head.inner.receipts_root).unwrap();
            }
        }
    }

    #[test]
    fn within_some_minutes_everything_happens() {
        let mut ledger = Ledger::new(NOW_MS);
        let (mut failed, mut tokens, mut reorgs) = (0, 0, 0);
        let mut senders_and_nonces = BTreeSet::new();
        let mut replaced = 0;
        for step in 0..200 {
            let before = ledger.tip().unwrap().header.hash;
            for event in ledger.step(NOW_MS + step * 2_000) {
                match event {
                    LedgerEvent::Pending(new) => {
                        let account = (new.inner.signer(), new.nonce());
                        replaced += usize::from(!senders_and_nonces.insert(account));
                    }
                    LedgerEvent::Head(head) => {
                        let block = ledger.by_hash(head.hash).unwrap();
                        let is_failed =
                            |one: &&alloy::rpc::types::TransactionReceipt| !one.status();
                        failed += block.receipts.iter().filter(is_failed).count();
                        let logs = block.receipts.iter().map(|one| one.inner.logs().len());
                        tokens += logs.sum::<usize>();
                    }
                }
            }
            reorgs += usize::from(!ledger.blocks.iter().any(|one| one.header.hash == before));
            assert!(ledger.mempool.len() < MAX_WAITING && ledger.blocks.len() <= MAX_BLOCKS);
        }
        assert!(failed >= 3 && tokens >= 10, "{failed} {tokens}");
        assert!(reorgs >= 5 && replaced >= 3, "{reorgs} {replaced}");
        let coins: U256 = ledger
            .tip()
            .unwrap()
            .accounts
            .values()
            .map(|one| one.tokens)
            .sum();
        assert_eq!(coins, U256::from(5_000_000) * coin());
    }

    #[test]
    fn blocks_of_twenty_minutes_are_remembered() {
        let mut ledger = Ledger::new(NOW_MS);
        // Fewer than 300 blocks, as some of these steps take one back.
        let old = heads(&mut ledger, 100).pop().unwrap();
        heads(&mut ledger, 500);
        let found = ledger.by_number(old.inner.number).unwrap();
        assert_eq!(
            ledger
                .by_hash(found.header.hash)
                .map(|one| one.header.inner.number),
            Some(old.inner.number)
        );
        assert!(
            ledger
                .branch()
                .any(|block| block.header.hash == found.header.hash)
        );
        heads(&mut ledger, 1_000);
        assert_eq!(ledger.branch().count(), MAX_BLOCKS + MAX_OLDER);
        assert!(ledger.by_number(old.inner.number).is_none());
    }

    #[test]
    fn a_stored_ledger_continues() {
        let mut ledger = Ledger::new(NOW_MS);
        heads(&mut ledger, 61);
        let bytes = serde_json::to_vec(&ledger).unwrap();
        assert!(bytes.len() < 512 << 10, "{}", bytes.len());
        let mut read: Ledger = serde_json::from_slice(&bytes).unwrap();
        let next = |ledger: &mut Ledger| heads(ledger, 41).pop().unwrap().hash;
        assert_eq!(next(&mut read), next(&mut ledger));
    }
}
