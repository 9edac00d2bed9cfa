//! What was told of the newest blocks: so that a reorg takes it back word for word, and so
//! that transactions are told as confirmed and as final later on. It is stored with what is
//! published, so that both are done after a restart too.

use std::collections::{BTreeSet, VecDeque};

use alloy::primitives::{Address, B256};
use tidewire_proto::{
    prost::Message as _,
    v1::{TransactionState, WalletUpdate, wallet_update::Data},
};
use tidewire_store::{Batch, Table};

const TOLD: Table = Table("chain.told");

/// How many updates are remembered: about 25 MB. Past it the oldest blocks go, and a reorg
/// that takes one of those back is a gap.
const REMEMBERED: usize = 50_000;

/// How a value begins: the block's hash, and how far its transactions are.
const HEAD: usize = 33;

/// When transactions of a block count for more than included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    /// How many blocks confirm one; its own is the first.
    pub required: u32,
    /// After how many blocks a block is final, where the chain itself does not say.
    pub finality_depth: u64,
    /// How many blocks a reorg may take back.
    pub reorg_limit: u64,
}

impl Default for Stages {
    /// Three to confirm, and the 64th is final.
    fn default() -> Self {
        Self {
            required: 3,
            finality_depth: 64,
            reorg_limit: 128,
        }
    }
}

impl Stages {
    /// What a transaction is that the newest block includes.
    pub(super) fn first(self) -> TransactionState {
        match self.required {
            0 | 1 => TransactionState::Confirmed,
            _ => TransactionState::Confirming,
        }
    }
}

/// How far the transactions of a block were told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Stage {
    Included = 0,
    Confirmed = 1,
    Final = 2,
}

/// What wallets were told, in the order of telling.
pub(super) type Updates = Vec<(Address, WalletUpdate)>;

#[derive(Debug)]
struct SentBlock {
    number: u64,
    hash: B256,
    stage: Stage,
    updates: Updates,
}

/// What was told of a block that goes.
#[derive(Debug, PartialEq)]
pub(super) enum Retraction {
    /// This, in this order.
    Told(Updates),
    /// Something that is not remembered, perhaps.
    Forgotten,
}

/// What is remembered, oldest first.
#[derive(Debug, Default)]
pub(super) struct SentUpdates {
    blocks: VecDeque<SentBlock>,
    updates: usize,
    /// The newest block of which what was told is remembered no more.
    forgotten: Option<u64>,
    finalized: Option<u64>,
    /// Heights that are not stored as they are.
    changed: BTreeSet<u64>,
}

impl SentUpdates {
    /// Remembers what was told of one more block.
    pub(super) fn push(&mut self, number: u64, hash: B256, updates: Updates, stages: Stages) {
        let stage = match stages.first() {
            TransactionState::Confirmed => Stage::Confirmed,
            _ => Stage::Included,
        };
        self.updates += updates.len();
        self.changed.insert(number);
        self.blocks.push_back(SentBlock {
            number,
            hash,
            stage,
            updates,
        });
        while self.updates > REMEMBERED && self.blocks.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Takes out what was told of a block.
    pub(super) fn retract(&mut self, number: u64, hash: B256) -> Retraction {
        let place = self.blocks.iter().rposition(|block| block.hash == hash);
        let Some(block) = place.and_then(|place| self.blocks.remove(place)) else {
            return match self.forgotten {
                Some(forgotten) if number <= forgotten => Retraction::Forgotten,
                _ => Retraction::Told(Vec::new()),
            };
        };
        self.updates -= block.updates.len();
        self.changed.insert(block.number);
        Retraction::Told(block.updates)
    }

    /// Tells what the newest block makes of the transactions of those before, and forgets
    /// what can change no more.
    pub(super) fn settle(
        &mut self,
        head: u64,
        finalized: Option<u64>,
        stages: Stages,
        now_ms: i64,
    ) -> Updates {
        self.finalized = self.finalized.max(finalized);
        let by_depth = (head + 1).checked_sub(stages.finality_depth);
        // Where the chain says what is final, depth says nothing.
        let last_final = self.finalized.or(by_depth);
        let last_confirmed = (head + 1).checked_sub(stages.required.into());
        let mut told = Vec::new();
        for block in &mut self.blocks {
            let has_come_to = |last: Option<u64>| last.is_some_and(|last| block.number <= last);
            let stage = match () {
                () if has_come_to(last_final) => Stage::Final,
                () if has_come_to(last_confirmed) => Stage::Confirmed,
                () => continue,
            };
            if stage <= block.stage {
                continue;
            }
            let mut later = Vec::new();
            if block.stage < Stage::Confirmed && has_come_to(last_confirmed) {
                later.extend(block.became(TransactionState::Confirmed, now_ms));
            }
            if stage == Stage::Final {
                later.extend(block.became(TransactionState::Finalized, now_ms));
            }
            block.stage = stage;
            if !later.is_empty() {
                self.updates += later.len();
                self.changed.insert(block.number);
                told.extend(later.iter().cloned());
                block.updates.extend(later);
            }
        }
        self.prune(head, stages);
        told
    }

    /// Nothing that was told can be taken back any more.
    pub(super) fn clear(&mut self) {
        self.changed
            .extend(self.blocks.iter().map(|block| block.number));
        self.blocks.clear();
        (self.updates, self.forgotten, self.finalized) = (0, None, None);
    }

    /// Adds what the store is to have.
    pub(super) fn keep(&mut self, chain: u64, writes: &mut Batch) {
        for number in std::mem::take(&mut self.changed) {
            let key = [chain.to_be_bytes(), number.to_be_bytes()].concat();
            let block = self.blocks.iter().rev().find(|one| one.number == number);
            match block {
                Some(block) => writes.put(TOLD, key, block.encode()),
                None => writes.delete(TOLD, key),
            }
        }
    }

    /// Where the store has what was told of a chain.
    pub(super) fn stored(chain: u64) -> (Table, Vec<u8>) {
        (TOLD, chain.to_be_bytes().to_vec())
    }

    /// Takes one block back from the store. In the order of their heights.
    pub(super) fn restore(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let number = u64::from_be_bytes(key.get(8..)?.try_into().ok()?);
        let block = SentBlock::decode(number, value)?;
        self.updates += block.updates.len();
        self.blocks.push_back(block);
        Some(())
    }

    fn prune(&mut self, head: u64, stages: Stages) {
        while let Some(oldest) = self.blocks.front() {
            let is_safe = oldest.number + stages.reorg_limit < head;
            if oldest.stage < Stage::Final || !is_safe {
                return;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.blocks.pop_front() {
            self.updates -= oldest.updates.len();
            self.changed.insert(oldest.number);
            self.forgotten = self.forgotten.max(Some(oldest.number));
        }
    }
}

impl SentBlock {
    /// The transactions that went well, in a later state.
    fn became(&self, state: TransactionState, now_ms: i64) -> Updates {
        let later = self.updates.iter().filter_map(|(wallet, update)| {
            let Some(Data::Transaction(transaction)) = &update.data else {
                return None;
            };
            let is_first = match transaction.status() {
                TransactionState::Confirming => true,
                // Said of it at once, where one block is enough.
                TransactionState::Confirmed => {
                    self.stage == Stage::Confirmed && state == TransactionState::Finalized
                }
                _ => false,
            };
            let mut transaction = transaction.clone();
            transaction.set_status(state);
            let update = WalletUpdate {
                timestamp: now_ms,
                data: Some(Data::Transaction(transaction)),
                ..update.clone()
            };
            is_first.then_some((*wallet, update))
        });
        let mut later: Updates = later.collect();
        // Told as included and as confirmed, it is told as final once.
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
        let (head, mut rest) = value.split_at_checked(HEAD)?;
        let (hash, stage) = head.split_at(HEAD - 1);
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
    use tidewire_proto::v1::WalletTransaction;

    use super::*;

    const STAGES: Stages = Stages {
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

    /// What is remembered of blocks that each have one transaction, after the store.
    fn restored(sent: &mut SentUpdates, stored: &mut std::collections::BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut writes = Batch::new();
        sent.keep(7, &mut writes);
        for write in writes.writes() {
            match write {
                tidewire_store::Write::Put(_, key, value) => {
                    stored.insert(key.clone(), value.clone());
                }
                tidewire_store::Write::Delete(_, key) => drop(stored.remove(key)),
                tidewire_store::Write::DeleteRange(..) => unreachable!("nothing is deleted so"),
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
    fn transactions_are_told_as_confirmed_and_final_once_and_taken_back() {
        use TransactionState::{Confirmed, Confirming, Failed, Finalized};
        let (mut sent, mut stored) = (SentUpdates::default(), std::collections::BTreeMap::new());
        let told = vec![update("0x1", Confirming), update("0x2", Failed)];
        sent.push(1, hash(1), told.clone(), STAGES);
        let mut settled = Vec::new();
        for head in 1..=6 {
            settled.push(states(&sent.settle(head, None, STAGES, 9)));
            restored(&mut sent, &mut stored);
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
        let Retraction::Told(back) = sent.retract(1, hash(1)) else {
            panic!("it is remembered");
        };
        assert_eq!(states(&back), [Confirming, Failed, Confirmed, Finalized]);
        let again = sent.retract(1, hash(1));
        assert_eq!(again, Retraction::Told(Vec::new()));
        // A block is not told twice after it came back.
        sent.push(1, hash(1), told, STAGES);
        assert_eq!(
            states(&sent.settle(9, None, STAGES, 9)),
            [Confirmed, Finalized]
        );
        assert!(sent.settle(30, None, STAGES, 9).is_empty());
        restored(&mut sent, &mut stored);
        assert!(sent.blocks.is_empty() && stored.is_empty());
    }

    #[test]
    fn where_one_block_is_enough_it_is_confirmed_at_once() {
        use TransactionState::{Confirmed, Finalized};
        let stages = Stages {
            required: 1,
            ..STAGES
        };
        let mut sent = SentUpdates::default();
        let told = vec![update("0x1", stages.first())];
        sent.push(1, hash(1), told, stages);
        assert!(sent.settle(1, Some(0), stages, 9).is_empty());
        // What the chain says is final is so, whatever the depth.
        assert!(sent.settle(9, Some(0), stages, 9).is_empty());
        let told = sent.settle(9, Some(1), stages, 9);
        assert_eq!(states(&told), [Finalized]);
        let Retraction::Told(back) = sent.retract(1, hash(1)) else {
            panic!("it is remembered");
        };
        assert_eq!(states(&back), [Confirmed, Finalized]);
    }

    #[test]
    fn what_is_forgotten_is_owned_up_to() {
        let mut sent = SentUpdates::default();
        for number in 1..=3 {
            let told = vec![update("0x1", TransactionState::Confirming); REMEMBERED / 2];
            sent.push(number, hash(number), told, STAGES);
        }
        assert_eq!(sent.retract(1, hash(1)), Retraction::Forgotten);
        assert!(matches!(sent.retract(3, hash(3)), Retraction::Told(told) if !told.is_empty()));
        sent.clear();
        assert_eq!(sent.retract(1, hash(1)), Retraction::Told(Vec::new()));
    }
}
