//! Wallet activity: updates of watched wallets that a block itself shows.
//!
//! Each transaction and each log is read once, and each address in it is looked up once. The cost
//! depends on the block and on the matches, not on the number of watched wallets.

use std::collections::BTreeSet;

use alloy::{
    primitives::{Address, B256},
    rpc::types::Log,
};

use crate::{
    BlockData, WalletIndex,
    decode::{TokenEvent, decode},
};

/// The watched wallets that a block concerns, and how.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Wallets with the index of a transaction that they sent or received.
    pub transactions: Vec<(Address, usize)>,
    /// Wallets with a token event that concerns them, in the block's order.
    pub events: Vec<(Address, TokenActivity)>,
    /// Wallets whose coin balance may have changed.
    pub coins: BTreeSet<Address>,
    /// Wallets that a withdrawal of a validator credits, and no transaction of theirs.
    pub withdrawals: BTreeSet<Address>,
    /// Wallets with a token whose balance may have changed.
    pub tokens: BTreeSet<(Address, Address)>,
}

/// A token event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenActivity {
    /// The contract that logged it.
    pub contract: Address,
    /// The transaction of the log.
    pub transaction: B256,
    /// The event.
    pub event: TokenEvent,
}

impl Activity {
    /// The activity of the wallets of `index` in `block`.
    #[must_use]
    pub fn of(block: &BlockData, index: &WalletIndex) -> Self {
        let mut activity = Self::default();
        if index.is_empty() {
            return activity;
        }
        for (position, transaction) in block.transactions.iter().enumerate() {
            for wallet in index.watched_parties(transaction) {
                activity.transactions.push((wallet, position));
                activity.coins.insert(wallet);
            }
        }
        for account in &block.withdrawals {
            // Its transactions show the change otherwise.
            if index.contains(account) && activity.coins.insert(*account) {
                activity.withdrawals.insert(*account);
            }
        }
        for log in block.logs.iter().filter(|log| !log.removed) {
            activity.log(log, index);
        }
        activity
    }

    /// Whether the block concerns no watched wallet.
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
                // The wallets in the topics are concerned; their balances show how.
                tracing::debug!(%contract, %malformed, "a token log is malformed");
                let wallets = log
                    .topics()
                    .iter()
                    .skip(1)
                    .filter_map(crate::abi::address_word);
                let watched = wallets.filter(|wallet| index.contains(wallet));
                self.tokens.extend(watched.map(|wallet| (wallet, contract)));
                return;
            }
        };
        let [first, second] = wallets_of(&event);
        let second = second.filter(|second| Some(*second) != first);
        for wallet in [first, second].into_iter().flatten() {
            if !index.contains(&wallet) {
                continue;
            }
            if has_balance(&event) {
                self.tokens.insert((wallet, contract));
            }
            let token_activity = TokenActivity {
                contract,
                transaction: log.transaction_hash.unwrap_or_default(),
                event: event.clone(),
            };
            self.events.push((wallet, token_activity));
        }
    }
}

/// The wallets that an event concerns. A spender is not among them: anyone can name anyone.
fn wallets_of(event: &TokenEvent) -> [Option<Address>; 2] {
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

/// Whether an event changes a balance that `balanceOf(address)` returns as an amount.
fn has_balance(event: &TokenEvent) -> bool {
    matches!(
        event,
        TokenEvent::Erc20Transfer { .. } | TokenEvent::Wrap { .. } | TokenEvent::Unwrap { .. }
    )
}
