//! Sent updates: wallet updates of the newest blocks, so that a reorg can retract them.
//!
//! A retraction repeats each update word for word, the last first, marked `removed`. The memory
//! also knows which transactions are to be sent again as confirmed and as final. It is stored
//! in the transaction of the publications, so both work after a restart.
//!
//! Example with 3 confirmations and the 5th block final: a transaction of block 10 is sent as
//! confirming at block 10, as confirmed at block 12, and as final at block 14. A reorg of block
//! 10 at height 13 retracts the confirmed update, then the confirming one.

use std::collections::{BTreeSet, VecDeque};

use alloy::primitives::{Address, B256};
use tidewire_proto::{
    prost::Message as _,
    v1::{TransactionState, WalletTransaction, WalletUpdate, wallet_update::Data},
};
use tidewire_store::{Batch, Table};

use crate::{ChainUpdate, ReceiptId};

/// Sent updates by chain and height. Existing stores have this name.
const SENT: Table = Table("chain.told");

/// Updates that are remembered at most, about 25 MB. Beyond, the oldest blocks are forgotten,
/// and a reorg that reaches one of those becomes a gap.
const MAX_UPDATES: usize = 50_000;

/// Bytes at the start of a stored block: its hash, and the stage of its transactions.
const HEADER_BYTES: usize = 33;

/// How many blocks a transaction takes to become confirmed, final, and safe from reorgs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmationRules {
    /// Confirmations that make a transaction confirmed. Its own block is the first.
    pub required: u32,
    /// Blocks after which a block is final, where nodes report no final block.
    pub finality_depth: u64,
    /// Blocks that a reorg can take back at most.
    pub reorg_limit: u64,
}

impl Default for ConfirmationRules {
    /// Confirmed by 3 blocks, final by 64.
    fn default() -> Self {
        Self {
            required: 3,
            finality_depth: 64,
            reorg_limit: 128,
        }
    }
}

impl ConfirmationRules {
    /// The state of a transaction in the newest block.
    pub(super) fn initial_state(self) -> TransactionState {
        match self.required {
            0 | 1 => TransactionState::Confirmed,
            _ => TransactionState::Confirming,
        }
    }
}

/// The furthest state that the transactions of a block were sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Stage {
    Included = 0,
    Confirmed = 1,
    Final = 2,
}

/// Updates with their wallets, in the order in which they were sent.
pub(super) type Updates = Vec<(Address, WalletUpdate)>;

#[derive(Debug)]
struct SentBlock {
    number: u64,
    hash: B256,
    stage: Stage,
    updates: Updates,
}

/// Updates of one block that a reorg retracts.
#[derive(Debug, PartialEq)]
pub(super) enum Retraction {
    /// These updates, in the order in which they were sent.
    Complete(Updates),
    /// Perhaps updates that are no longer remembered.
    Incomplete,
}

/// The sent updates of a chain.
#[derive(Debug, Default)]
pub(super) struct SentUpdates {
    /// Oldest first.
    blocks: VecDeque<SentBlock>,
    /// Updates of all blocks.
    update_count: usize,
    /// The height of the newest block that was forgotten.
    forgotten: Option<u64>,
    finalized: Option<u64>,
    /// Heights whose row in the store is out of date.
    changed: BTreeSet<u64>,
    /// Heights of blocks with transactions whose outcome is not known yet.
    unknown: BTreeSet<u64>,
}

impl SentUpdates {
    /// Adds the updates of the newest block.
    pub(super) fn push(
        &mut self,
        number: u64,
        hash: B256,
        updates: Updates,
        rules: ConfirmationRules,
    ) {
        let stage = match rules.initial_state() {
            TransactionState::Confirmed => Stage::Confirmed,
            _ => Stage::Included,
        };
        self.update_count += updates.len();
        self.changed.insert(number);
        self.add(SentBlock {
            number,
            hash,
            stage,
            updates,
        });
        while self.update_count > MAX_UPDATES && self.blocks.len() > 1 {
            self.drop_oldest();
        }
    }

    fn add(&mut self, block: SentBlock) {
        if !block.unknown_transactions().is_empty() {
            self.unknown.insert(block.number);
        }
        self.blocks.push_back(block);
    }

    /// The receipts that are missing of transactions that were sent as unknown, `max` at most.
    pub(super) fn unknown_transactions(&self, max: usize) -> Vec<ReceiptId> {
        let mut ids = Vec::new();
        for number in &self.unknown {
            let Some(block) = self.blocks.iter().find(|block| block.number == *number) else {
                continue;
            };
            let transactions = block.unknown_transactions().into_iter();
            ids.extend(transactions.filter_map(|hash| {
                Some(ReceiptId {
                    transaction: hash.parse().ok()?,
                    block: block.hash,
                    index: None,
                })
            }));
            if ids.len() >= max {
                break;
            }
        }
        ids.truncate(max);
        ids
    }

    /// Returns the updates of a transaction that was sent as unknown, now that its outcome is
    /// known: failed, or as far as its block has come.
    pub(super) fn resolve(&mut self, id: &ReceiptId, succeeded: bool, now_ms: i64) -> Updates {
        let mut blocks = self.blocks.iter_mut();
        let Some(block) = blocks.find(|block| block.hash == id.block) else {
            return Updates::new();
        };
        let state = match (succeeded, block.stage) {
            (false, _) => TransactionState::Failed,
            (true, Stage::Included) => TransactionState::Confirming,
            (true, Stage::Confirmed) => TransactionState::Confirmed,
            (true, Stage::Final) => TransactionState::Finalized,
        };
        let hash = id.transaction.to_string();
        let sent = block.updates.iter().filter_map(|(wallet, update)| {
            let Some(Data::Transaction(transaction)) = &update.data else {
                return None;
            };
            let is_unknown = transaction.status() == TransactionState::Unknown;
            (is_unknown && transaction.hash == hash)
                .then(|| (*wallet, with_status(update, transaction, state, now_ms)))
        });
        let resolved: Updates = sent.collect();
        block.updates.extend(resolved.iter().cloned());
        if block.unknown_transactions().is_empty() {
            self.unknown.remove(&block.number);
        }
        self.update_count += resolved.len();
        self.changed.insert(block.number);
        resolved
    }

    /// Removes a block that a reorg took back, and returns the updates to retract.
    pub(super) fn retract(&mut self, number: u64, hash: B256) -> Retraction {
        let index = self.blocks.iter().rposition(|block| block.hash == hash);
        let Some(block) = index.and_then(|index| self.blocks.remove(index)) else {
            return match self.forgotten {
                Some(forgotten) if number <= forgotten => Retraction::Incomplete,
                _ => Retraction::Complete(Vec::new()),
            };
        };
        self.update_count -= block.updates.len();
        self.changed.insert(block.number);
        self.unknown.remove(&block.number);
        Retraction::Complete(block.updates)
    }

    /// Lowers the newest final height, if a reorg retracts a block that was called final.
    pub(super) fn correct_finalized(&mut self, update: &ChainUpdate) {
        self.finalized = update.finalized_after(self.finalized);
    }

    /// Returns the transactions that the newest block makes confirmed or final, and forgets
    /// the blocks that no reorg can reach.
    pub(super) fn advance(
        &mut self,
        head: u64,
        finalized: Option<u64>,
        rules: ConfirmationRules,
        now_ms: i64,
    ) -> Updates {
        self.finalized = self.finalized.max(finalized);
        let by_depth = head.saturating_add(1).checked_sub(rules.finality_depth);
        // The chain's own finality overrides depth.
        let last_final = self.finalized.or(by_depth);
        let last_confirmed = head.saturating_add(1).checked_sub(rules.required.into());
        let mut sent = Vec::new();
        for block in &mut self.blocks {
            let has_reached = |last: Option<u64>| last.is_some_and(|last| block.number <= last);
            let stage = match () {
                () if has_reached(last_final) => Stage::Final,
                () if has_reached(last_confirmed) => Stage::Confirmed,
                () => continue,
            };
            if stage <= block.stage {
                continue;
            }
            let mut later = Vec::new();
            if block.stage < Stage::Confirmed && has_reached(last_confirmed) {
                later.extend(block.in_state(TransactionState::Confirmed, now_ms));
            }
            if stage == Stage::Final {
                later.extend(block.in_state(TransactionState::Finalized, now_ms));
            }
            block.stage = stage;
            if !later.is_empty() {
                self.update_count += later.len();
                self.changed.insert(block.number);
                sent.extend(later.iter().cloned());
                block.updates.extend(later);
            }
        }
        self.prune(head, rules);
        sent
    }

    /// Forgets everything: after a resync nothing can be retracted.
    pub(super) fn clear(&mut self) {
        self.changed
            .extend(self.blocks.iter().map(|block| block.number));
        self.blocks.clear();
        self.unknown.clear();
        (self.update_count, self.forgotten, self.finalized) = (0, None, None);
    }

    /// Adds the changes to a write of the store.
    pub(super) fn stage(&mut self, chain: u64, writes: &mut Batch) {
        for number in std::mem::take(&mut self.changed) {
            let key = [chain.to_be_bytes(), number.to_be_bytes()].concat();
            let block = self
                .blocks
                .iter()
                .rev()
                .find(|block| block.number == number);
            match block {
                Some(block) => writes.put(SENT, key, block.encode()),
                None => writes.delete(SENT, key),
            }
        }
    }

    /// The table of sent updates, and the prefix of a chain's keys.
    pub(super) fn rows(chain: u64) -> (Table, Vec<u8>) {
        (SENT, chain.to_be_bytes().to_vec())
    }

    /// Adds a block from the store; call it in the order of heights. Returns `None` if the row
    /// is unreadable.
    pub(super) fn restore(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let number = u64::from_be_bytes(key.get(8..)?.try_into().ok()?);
        let block = SentBlock::decode(number, value)?;
        self.update_count += block.updates.len();
        self.add(block);
        Some(())
    }

    fn prune(&mut self, head: u64, rules: ConfirmationRules) {
        while let Some(oldest) = self.blocks.front() {
            let is_safe = oldest.number.saturating_add(rules.reorg_limit) < head;
            if oldest.stage < Stage::Final || !is_safe {
                return;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.blocks.pop_front() {
            self.update_count -= oldest.updates.len();
            self.changed.insert(oldest.number);
            self.unknown.remove(&oldest.number);
            self.forgotten = self.forgotten.max(Some(oldest.number));
        }
    }
}

/// The update of a transaction, in another state.
fn with_status(
    update: &WalletUpdate,
    transaction: &WalletTransaction,
    state: TransactionState,
    now_ms: i64,
) -> WalletUpdate {
    let mut transaction = transaction.clone();
    transaction.set_status(state);
    WalletUpdate {
        timestamp: now_ms,
        data: Some(Data::Transaction(transaction)),
        ..update.clone()
    }
}

impl SentBlock {
    /// The transactions that were sent as unknown and in no other state since.
    fn unknown_transactions(&self) -> BTreeSet<&str> {
        let hashes = |is_wanted: fn(TransactionState) -> bool| {
            let updates = self.updates.iter();
            updates.filter_map(move |(_, update)| match &update.data {
                Some(Data::Transaction(sent)) if is_wanted(sent.status()) => {
                    Some(sent.hash.as_str())
                }
                _ => None,
            })
        };
        let mut unknown: BTreeSet<_> = hashes(|state| state == TransactionState::Unknown).collect();
        // Nearly always there is none.
        if !unknown.is_empty() {
            for known in hashes(|state| state != TransactionState::Unknown) {
                unknown.remove(known);
            }
        }
        unknown
    }

    /// The successful transactions, in a later state.
    fn in_state(&self, state: TransactionState, now_ms: i64) -> Updates {
        let later = self.updates.iter().filter_map(|(wallet, update)| {
            let Some(Data::Transaction(transaction)) = &update.data else {
                return None;
            };
            let is_successful = match transaction.status() {
                TransactionState::Confirming => true,
                // Where one block is enough, this is the initial state.
                TransactionState::Confirmed => {
                    self.stage == Stage::Confirmed && state == TransactionState::Finalized
                }
                _ => false,
            };
            is_successful.then(|| (*wallet, with_status(update, transaction, state, now_ms)))
        });
        let mut later: Updates = later.collect();
        // A transaction sent as confirming and as confirmed becomes final once.
        let mut seen = BTreeSet::new();
        later.retain(|(wallet, update)| match &update.data {
            Some(Data::Transaction(transaction)) => {
                seen.insert((*wallet, transaction.hash.clone()))
            }
            _ => true,
        });
        later
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = self.hash.to_vec();
        value.push(self.stage as u8);
        for (_, update) in &self.updates {
            value.extend(update.encode_length_delimited_to_vec());
        }
        value
    }

    fn decode(number: u64, value: &[u8]) -> Option<Self> {
        let (header, mut rest) = value.split_at_checked(HEADER_BYTES)?;
        let (hash, stage) = header.split_at(HEADER_BYTES - 1);
        let stage = match stage {
            [0] => Stage::Included,
            [1] => Stage::Confirmed,
            _ => Stage::Final,
        };
        let mut updates = Vec::new();
        while !rest.is_empty() {
            let update = WalletUpdate::decode_length_delimited(&mut rest).ok()?;
            updates.push((update.address.parse().ok()?, update));
        }
        Some(Self {
            number,
            hash: B256::try_from(hash).ok()?,
            stage,
            updates,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: ConfirmationRules = ConfirmationRules {
        required: 3,
        finality_depth: 5,
        reorg_limit: 10,
    };

    fn update(hash: &str, state: TransactionState) -> (Address, WalletUpdate) {
        let wallet = Address::with_last_byte(1);
        let mut transaction = WalletTransaction {
            hash: hash.to_owned(),
            ..WalletTransaction::default()
        };
        transaction.set_status(state);
        let update = WalletUpdate {
            address: format!("{wallet:?}"),
            data: Some(Data::Transaction(transaction)),
            ..WalletUpdate::default()
        };
        (wallet, update)
    }

    fn states(updates: &Updates) -> Vec<TransactionState> {
        let states = updates.iter().map(|(_, update)| match &update.data {
            Some(Data::Transaction(transaction)) => transaction.status(),
            _ => TransactionState::Unspecified,
        });
        states.collect()
    }

    fn hash(number: u64) -> B256 {
        B256::left_padding_from(&number.to_be_bytes())
    }

    /// Writes `sent` to the store and reads it back.
    fn restart(sent: &mut SentUpdates, stored: &mut std::collections::BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut writes = Batch::new();
        sent.stage(7, &mut writes);
        for write in writes.writes() {
            match write {
                tidewire_store::Write::Put(_, key, value) => {
                    stored.insert(key.clone(), value.clone());
                }
                tidewire_store::Write::Delete(_, key) => drop(stored.remove(key)),
                tidewire_store::Write::DeleteRange(..) => unreachable!("no range is deleted"),
            }
        }
        let finalized = sent.finalized;
        *sent = SentUpdates::default();
        for (key, value) in stored {
            sent.restore(key, value).unwrap();
        }
        sent.finalized = finalized;
    }

    #[test]
    fn a_transaction_is_sent_as_confirmed_and_final_once_and_retracted() {
        use TransactionState::{Confirmed, Confirming, Failed, Finalized};
        let (mut sent, mut stored) = (SentUpdates::default(), std::collections::BTreeMap::new());
        let updates = vec![update("0x1", Confirming), update("0x2", Failed)];
        sent.push(1, hash(1), updates.clone(), RULES);
        let mut settled = Vec::new();
        for head in 1..=6 {
            settled.push(states(&sent.advance(head, None, RULES, 9)));
            restart(&mut sent, &mut stored);
        }
        let nothing = Vec::new;
        let expected = [
            nothing(),
            nothing(),
            vec![Confirmed],
            nothing(),
            vec![Finalized],
            nothing(),
        ];
        assert_eq!(settled, expected);
        let Retraction::Complete(retracted) = sent.retract(1, hash(1)) else {
            panic!("the block is remembered");
        };
        assert_eq!(
            states(&retracted),
            [Confirming, Failed, Confirmed, Finalized]
        );
        let again = sent.retract(1, hash(1));
        assert_eq!(again, Retraction::Complete(Vec::new()));
        // After it comes back, the block is sent once.
        sent.push(1, hash(1), updates, RULES);
        assert_eq!(
            states(&sent.advance(9, None, RULES, 9)),
            [Confirmed, Finalized]
        );
        assert!(sent.advance(30, None, RULES, 9).is_empty());
        restart(&mut sent, &mut stored);
        assert!(sent.blocks.is_empty() && stored.is_empty());
    }

    #[test]
    fn with_one_required_block_a_transaction_is_confirmed_at_once() {
        use TransactionState::{Confirmed, Finalized};
        let rules = ConfirmationRules {
            required: 1,
            ..RULES
        };
        let mut sent = SentUpdates::default();
        let updates = vec![update("0x1", rules.initial_state())];
        sent.push(1, hash(1), updates, rules);
        assert!(sent.advance(1, Some(0), rules, 9).is_empty());
        // The chain's own finality overrides depth.
        assert!(sent.advance(9, Some(0), rules, 9).is_empty());
        let updates = sent.advance(9, Some(1), rules, 9);
        assert_eq!(states(&updates), [Finalized]);
        let Retraction::Complete(retracted) = sent.retract(1, hash(1)) else {
            panic!("the block is remembered");
        };
        assert_eq!(states(&retracted), [Confirmed, Finalized]);
    }

    #[test]
    fn a_reorg_of_a_forgotten_block_is_reported_as_incomplete() {
        let mut sent = SentUpdates::default();
        for number in 1..=3 {
            let updates = vec![update("0x1", TransactionState::Confirming); MAX_UPDATES / 2];
            sent.push(number, hash(number), updates, RULES);
        }
        assert_eq!(sent.retract(1, hash(1)), Retraction::Incomplete);
        assert!(
            matches!(sent.retract(3, hash(3)), Retraction::Complete(updates) if !updates.is_empty())
        );
        sent.clear();
        assert_eq!(sent.retract(1, hash(1)), Retraction::Complete(Vec::new()));
    }
}
