//! Events of tokens as updates of a wallet.

use alloy::primitives::{Address, B256, U256};
use tidewire_proto::v1::{Approval, NftTransfer, approval::Allowance, wallet_update::Data};

use super::TokenActivity;
use crate::decode::TokenEvent;

/// What is told of an event besides balances. A contract that says it is an ERC-721 and
/// does not index its ids looks like an ERC-20; `is_nft` corrects that.
pub(super) fn token_update(happened: &TokenActivity, block_number: u64, is_nft: bool) -> Vec<Data> {
    let context = Context {
        contract: happened.contract,
        tx_hash: happened.transaction,
        block_number,
    };
    match &happened.event {
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
        } => {
            let items = items.iter();
            let told = items.map(|item| context.nft("erc1155", item.id, item.amount, *from, *to));
            told.collect()
        }
        TokenEvent::Erc20Approval {
            owner,
            spender,
            value,
            ..
        } if is_nft => {
            let which = Allowance::TokenId(value.to_string());
            vec![context.approval(context.contract, "erc721", *owner, *spender, which, false)]
        }
        event => context.approved(event).into_iter().collect(),
    }
}

struct Context {
    contract: Address,
    tx_hash: B256,
    block_number: u64,
}

impl Context {
    fn approved(&self, event: &TokenEvent) -> Option<Data> {
        let unlimited = event.is_unlimited();
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
                let which = Allowance::TokenId(id.to_string());
                (self.contract, "erc721", owner, spender, which)
            }
            // ERC-721 and ERC-1155 say it in the same words.
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

    fn nft(&self, standard: &str, id: U256, amount: U256, from: Address, to: Address) -> Data {
        Data::Nft(NftTransfer {
            contract: format!("{:?}", self.contract),
            standard: standard.to_owned(),
            token_id: id.to_string(),
            amount: amount.to_string(),
            from: format!("{from:?}"),
            to: format!("{to:?}"),
            tx_hash: self.tx_hash.to_string(),
            block_number: self.block_number,
        })
    }
}
