//! Wallet updates: the messages that wallets receive about transactions, balances and tokens.

use alloy::{
    consensus::Transaction as _,
    primitives::{Address, B256, U256},
    rpc::types::Transaction,
};
use alloy_network_primitives::TransactionResponse as _;
use tidewire_proto::v1::{
    Approval, BalanceChange, BalanceSource, Direction, NftItem, NftTransfer, TransactionState,
    WalletTransaction, approval::Allowance, wallet_update::Data,
};

use super::TokenActivity;
use crate::decode::{NftAmount, TokenEvent};

/// A transaction as `wallet` sees it. `block_number` is `None` while it is pending.
pub(super) fn wallet_transaction(
    wallet: Address,
    transaction: &Transaction,
    state: TransactionState,
    block_number: Option<u64>,
) -> WalletTransaction {
    let (from, to) = (transaction.from(), transaction.to());
    let direction = match (from == wallet, to == Some(wallet)) {
        (true, true) => Direction::Self_,
        (true, false) => Direction::Out,
        (false, _) => Direction::In,
    };
    let mut message = WalletTransaction {
        hash: transaction.tx_hash().to_string(),
        from: format!("{from:?}"),
        to: to.map(|to| format!("{to:?}")),
        value: transaction.value().to_string(),
        block_number,
        ..WalletTransaction::default()
    };
    message.set_direction(direction);
    message.set_status(state);
    message
}

/// The change from one balance to another. `None` if they are equal, or if the balance before
/// is unknown, so that no difference can be given.
pub(super) fn balance_change(
    before: Option<U256>,
    after: U256,
    source: BalanceSource,
    block_number: u64,
) -> Option<BalanceChange> {
    let before = before.filter(|before| *before != after)?;
    let (larger, smaller) = (after.max(before), after.min(before));
    let sign = if after < before { "-" } else { "" };
    let mut change = BalanceChange {
        previous: Some(before.to_string()),
        current: after.to_string(),
        delta: format!("{sign}{}", larger - smaller),
        block_number,
        ..BalanceChange::default()
    };
    change.set_how(source);
    Some(change)
}

/// Ids of a batch in one update. Their JSON stays below the usual limit of a message.
const PAGE: usize = 256;

/// Updates of one log at most. Further ids are counted, so that a batch does not push other
/// updates out of the wallet's history.
const MAX_PAGES: usize = 4;

/// Facts about a contract that logged a token event.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenFacts {
    /// Whether the contract claims to be an ERC-721. One that does not index its token ids logs
    /// the events of an ERC-20.
    pub(super) is_nft: bool,
    /// The supply of the token that an allowance is of, if it was read.
    pub(super) supply: Option<U256>,
}

/// The NFT transfers and approvals of a token event; its balance changes are read from the node.
pub(super) fn token_updates(
    activity: &TokenActivity,
    block_number: u64,
    facts: TokenFacts,
) -> Vec<Data> {
    let is_nft = facts.is_nft;
    let context = Context {
        contract: activity.contract,
        tx_hash: activity.transaction,
        block_number,
        supply: facts.supply,
    };
    match &activity.event {
        TokenEvent::Erc20Transfer {
            from, to, value, ..
        } if is_nft => vec![context.nft("erc721", *value, U256::ONE, *from, *to)],
        TokenEvent::Erc20Transfer { .. } | TokenEvent::Wrap { .. } | TokenEvent::Unwrap { .. } => {
            Vec::new()
        }
        TokenEvent::Erc721Transfer { from, to, id } => {
            vec![context.nft("erc721", *id, U256::ONE, *from, *to)]
        }
        TokenEvent::Erc1155Transfer {
            from, to, items, ..
        } => context.batch(items, *from, *to),
        TokenEvent::Erc20Approval {
            owner,
            spender,
            value,
            ..
        } if is_nft => {
            let token_id = Allowance::TokenId(value.to_string());
            vec![context.approval(
                context.contract,
                "erc721",
                *owner,
                *spender,
                token_id,
                false,
            )]
        }
        event => context.approval_of(event).into_iter().collect(),
    }
}

/// Where a token event was logged.
struct Context {
    contract: Address,
    tx_hash: B256,
    block_number: u64,
    supply: Option<U256>,
}

impl Context {
    fn approval_of(&self, event: &TokenEvent) -> Option<Data> {
        let amount = event.allowance(self.contract).map(|(_, amount)| amount);
        let is_above_supply = amount
            .zip(self.supply)
            .is_some_and(|(amount, supply)| amount > supply);
        let unlimited = event.is_unlimited() || is_above_supply;
        let (token, standard, owner, spender, allowance) = match event {
            TokenEvent::Erc20Approval {
                owner,
                spender,
                value,
                ..
            } => {
                let amount = Allowance::Amount(value.to_string());
                (self.contract, "erc20", owner, spender, amount)
            }
            TokenEvent::Erc721Approval { owner, spender, id } => {
                let token_id = Allowance::TokenId(id.to_string());
                (self.contract, "erc721", owner, spender, token_id)
            }
            // ERC-721 and ERC-1155 share this event.
            TokenEvent::ApprovalForAll {
                owner,
                operator,
                approved,
            } => {
                let all = Allowance::ApprovedAll(*approved);
                (self.contract, "nft", owner, operator, all)
            }
            TokenEvent::Permit2 {
                owner,
                token,
                spender,
                amount,
                ..
            } => {
                let amount = Allowance::Amount(amount.to_string());
                (*token, "permit2", owner, spender, amount)
            }
            _ => return None,
        };
        Some(self.approval(token, standard, *owner, *spender, allowance, unlimited))
    }

    fn approval(
        &self,
        token: Address,
        standard: &str,
        owner: Address,
        spender: Address,
        allowance: Allowance,
        unlimited: bool,
    ) -> Data {
        Data::Approval(Approval {
            token: format!("{token:?}"),
            owner: format!("{owner:?}"),
            spender: format!("{spender:?}"),
            allowance: Some(allowance),
            unlimited,
            standard: standard.to_owned(),
            tx_hash: self.tx_hash.to_string(),
            block_number: self.block_number,
        })
    }

    /// The updates of an ERC-1155 transfer: one for each page of ids.
    fn batch(&self, items: &[NftAmount], from: Address, to: Address) -> Vec<Data> {
        if let [item] = items {
            return vec![self.nft("erc1155", item.id, item.amount, from, to)];
        }
        let left_out = items.len().saturating_sub(PAGE * MAX_PAGES);
        let pages = items.chunks(PAGE).take(MAX_PAGES);
        let mut updates: Vec<_> = pages
            .map(|page| {
                let mut transfer = self.transfer("erc1155", page[0].id, page[0].amount, from, to);
                transfer.items = page
                    .iter()
                    .map(|item| NftItem {
                        token_id: item.id.to_string(),
                        amount: item.amount.to_string(),
                    })
                    .collect();
                transfer
            })
            .collect();
        if let Some(last) = updates.last_mut().filter(|_| left_out > 0) {
            last.left_out = u32::try_from(left_out).ok();
        }
        updates.into_iter().map(Data::Nft).collect()
    }

    fn nft(&self, standard: &str, id: U256, amount: U256, from: Address, to: Address) -> Data {
        Data::Nft(self.transfer(standard, id, amount, from, to))
    }

    fn transfer(
        &self,
        standard: &str,
        id: U256,
        amount: U256,
        from: Address,
        to: Address,
    ) -> NftTransfer {
        NftTransfer {
            contract: format!("{:?}", self.contract),
            standard: standard.to_owned(),
            token_id: id.to_string(),
            amount: amount.to_string(),
            from: format!("{from:?}"),
            to: format!("{to:?}"),
            tx_hash: self.tx_hash.to_string(),
            block_number: self.block_number,
            ..NftTransfer::default()
        }
    }
}
