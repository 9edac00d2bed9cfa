//! Token payments: ERC-20 transfers to a watched wallet, as the logs of a block show them.

use alloy::primitives::{Address, B256, U256};

use super::{Activity, suspicion::Recipients, tokens::TokenCache};
use crate::decode::TokenEvent;

/// A transfer of a token to a watched wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenPayment {
    /// The wallet.
    pub(crate) wallet: Address,
    /// The token's contract.
    pub(crate) token: Address,
    /// The transaction.
    pub(crate) hash: B256,
    /// The sender, as the contract logs it.
    pub(crate) from: Address,
    /// The amount, in the smallest unit.
    pub(crate) value: U256,
    /// The token's symbol, if a node returned it.
    pub(crate) symbol: Option<String>,
    /// The token's decimals, likewise.
    pub(crate) decimals: Option<u32>,
}

/// The token payments of a block. Transfers of nothing, of NFTs, and from an address that looks
/// like one that the wallet paid to are none.
pub(super) fn token_payments(
    activity: &Activity,
    tokens: &TokenCache,
    recipients: &Recipients,
) -> Vec<TokenPayment> {
    let payments = activity.events.iter().filter_map(|(wallet, one)| {
        let TokenEvent::Erc20Transfer {
            from, to, value, ..
        } = one.event
        else {
            return None;
        };
        let token = tokens.get(&one.contract);
        let is_nft = token.is_some_and(|token| token.is_nft);
        let is_payment = to == *wallet && from != to && !value.is_zero() && !is_nft;
        if !is_payment || recipients.imitated(wallet, &from).is_some() {
            return None;
        }
        Some(TokenPayment {
            wallet: *wallet,
            token: one.contract,
            hash: one.transaction,
            from,
            value,
            symbol: token.and_then(|token| token.symbol.clone()),
            decimals: token.and_then(|token| token.decimals),
        })
    });
    payments.collect()
}
