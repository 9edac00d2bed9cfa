//! Token cache: the metadata of contracts that wallets hold tokens of.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::Address;

/// Tokens in the cache at most. Beyond, the one read first is evicted.
const MAX_TOKENS: usize = 10_000;

/// Constant properties of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TokenMetadata {
    pub(super) symbol: Option<String>,
    pub(super) decimals: Option<u32>,
    /// Whether the contract claims to be an ERC-721.
    pub(super) is_nft: bool,
}

#[derive(Debug, Default)]
pub(super) struct TokenCache {
    tokens: HashMap<Address, TokenMetadata>,
    order: VecDeque<Address>,
}

impl TokenCache {
    pub(super) fn get(&self, token: &Address) -> Option<&TokenMetadata> {
        self.tokens.get(token)
    }

    pub(super) fn insert(&mut self, address: Address, metadata: TokenMetadata) {
        if self.tokens.insert(address, metadata).is_none() {
            self.order.push_back(address);
        }
        if self.order.len() > MAX_TOKENS
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }
}
