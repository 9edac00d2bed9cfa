//! What a block has for watched wallets, as far as the block itself tells.
//!
//! Each transaction and each log is looked at once, and each address in it is looked up
//! once: the work depends on the block and on what matches, not on how many wallets are
//! watched.

use std::collections::BTreeSet;

use alloy::{
    consensus::Transaction as _,
    network::TransactionResponse as _,
    primitives::{Address, B256},
    rpc::types::{Log, Transaction},
};

use crate::{
    BlockData, WalletIndex,
    decode::{TokenEvent, decode},
};

/// A watched wallet's part in a block.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Transactions of the block, by place, with the wallet that each concerns.
    pub transactions: Vec<(Address, usize)>,
    /// Events of tokens, with the wallet that each concerns, in the block's order.
    pub events: Vec<(Address, TokenActivity)>,
    /// Wallets whose balance of the chain's own coin may have changed.
    pub coins: BTreeSet<Address>,
    /// Wallets and tokens whose balance may have changed.
    pub tokens: BTreeSet<(Address, Address)>,
}

/// An event of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenActivity {
    /// The contract whose log it is.
    pub contract: Address,
    /// The log's transaction.
    pub transaction: B256,
    /// What it says.
    pub event: TokenEvent,
}

impl Activity {
    /// What `block` has for the wallets of `index`.
    #[must_use]
    pub fn of(block: &BlockData, index: &WalletIndex) -> Self {
        let mut activity = Self::default();
        if index.is_empty() {
            return activity;
        }
        for (place, transaction) in block.transactions.iter().enumerate() {
            for wallet in parties(transaction).filter(|wallet| index.contains(wallet)) {
                activity.transactions.push((wallet, place));
                activity.coins.insert(wallet);
            }
        }
        for log in block.logs.iter().filter(|log| !log.removed) {
            activity.log(log, index);
        }
        activity
    }

    /// Whether no watched wallet had a part in the block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.coins.is_empty() && self.events.is_empty() && self.tokens.is_empty()
    }

    fn log(&mut self, log: &Log, index: &WalletIndex) {
        let contract = log.address();
        let data = &log.data().data;
        let event = match decode(contract, log.topics(), data) {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(malformed) => {
                // Something happened to whom the topics name; the balance says what.
                tracing::debug!(%contract, %malformed, "a token's log is malformed");
                let named = log
                    .topics()
                    .iter()
                    .skip(1)
                    .filter_map(crate::abi::address_word);
                let watched = named.filter(|wallet| index.contains(wallet));
                self.tokens.extend(watched.map(|wallet| (wallet, contract)));
                return;
            }
        };
        let [first, second] = concerned(&event);
        let second = second.filter(|second| Some(*second) != first);
        for wallet in [first, second].into_iter().flatten() {
            if !index.contains(&wallet) {
                continue;
            }
            if has_balance(&event) {
                self.tokens.insert((wallet, contract));
            }
            let happened = TokenActivity {
                contract,
                transaction: log.transaction_hash.unwrap_or_default(),
                event: event.clone(),
            };
            self.events.push((wallet, happened));
        }
    }
}

/// Sender and receiver, each once.
pub(crate) fn parties(transaction: &Transaction) -> impl Iterator<Item = Address> + use<> {
    let from = transaction.from();
    let to = transaction.to().filter(|to| *to != from);
    std::iter::once(from).chain(to)
}

/// Whom an event concerns. Who may spend is not told of it: anyone can name anyone.
fn concerned(event: &TokenEvent) -> [Option<Address>; 2] {
    match event {
        TokenEvent::Erc20Transfer { from, to, .. }
        | TokenEvent::Erc721Transfer { from, to, .. }
        | TokenEvent::Erc1155Transfer { from, to, .. } => [Some(*from), Some(*to)],
        TokenEvent::Erc20Approval { owner, .. }
        | TokenEvent::Erc721Approval { owner, .. }
        | TokenEvent::ApprovalForAll { owner, .. }
        | TokenEvent::Permit2 { owner, .. } => [Some(*owner), None],
        TokenEvent::Wrap { account, .. } | TokenEvent::Unwrap { account, .. } => {
            [Some(*account), None]
        }
    }
}

/// Whether an event moves what `balanceOf(address)` counts as an amount.
fn has_balance(event: &TokenEvent) -> bool {
    matches!(
        event,
        TokenEvent::Erc20Transfer { .. } | TokenEvent::Wrap { .. } | TokenEvent::Unwrap { .. }
    )
}
