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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wallet::{activity::TokenActivity, tokens::TokenMetadata};

    const WALLET: Address = Address::repeat_byte(1);
    const TOKEN: Address = Address::repeat_byte(2);
    const NFT: Address = Address::repeat_byte(3);

    /// The payments of a block in which a contract logs this transfer.
    fn payments(contract: Address, from: Address, to: Address, value: u64) -> Vec<TokenPayment> {
        let mut tokens = TokenCache::default();
        for (contract, is_nft) in [(TOKEN, false), (NFT, true)] {
            let metadata = TokenMetadata {
                symbol: Some("TOK".to_owned()),
                decimals: Some(6),
                is_nft,
            };
            tokens.insert(contract, metadata, true, 0);
        }
        let mut recipients = Recipients::default();
        recipients.insert(WALLET, Address::repeat_byte(7));
        let event = TokenEvent::Erc20Transfer {
            from,
            to,
            value: U256::from(value),
            indexed: true,
        };
        let transfer = TokenActivity {
            contract,
            transaction: B256::repeat_byte(4),
            event,
        };
        let activity = Activity {
            events: vec![(WALLET, transfer)],
            ..Activity::default()
        };
        token_payments(&activity, &tokens, &recipients)
    }

    #[test]
    fn a_payment_moves_tokens_to_the_wallet_from_somebody_else() {
        let (sender, unknown) = (Address::repeat_byte(5), Address::repeat_byte(6));
        let payment = TokenPayment {
            wallet: WALLET,
            token: TOKEN,
            hash: B256::repeat_byte(4),
            from: sender,
            value: U256::from(9),
            symbol: Some("TOK".to_owned()),
            decimals: Some(6),
        };
        let found = payments(TOKEN, sender, WALLET, 9);
        assert_eq!(found, std::slice::from_ref(&payment));
        let unnamed = TokenPayment {
            token: unknown,
            symbol: None,
            decimals: None,
            ..payment
        };
        assert_eq!(payments(unknown, sender, WALLET, 9), [unnamed]);
        assert!(payments(TOKEN, sender, WALLET, 0).is_empty());
        assert!(payments(TOKEN, WALLET, sender, 9).is_empty());
        assert!(payments(TOKEN, WALLET, WALLET, 9).is_empty());
        assert!(payments(NFT, sender, WALLET, 9).is_empty());
        // An address that the wallet paid to may pay it back, and one that looks like it is refused.
        let known = Address::repeat_byte(7);
        let mut alike = known;
        alike.0[10] = 0;
        assert_eq!(payments(TOKEN, known, WALLET, 9).len(), 1);
        assert!(payments(TOKEN, alike, WALLET, 9).is_empty());
    }
}
