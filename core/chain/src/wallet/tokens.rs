//! What is known of tokens.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::Address;

/// How many tokens are remembered; the one that was read first goes first.
const MAX_TOKENS: usize = 10_000;

/// What does not change about a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) symbol: Option<String>,
    pub(super) decimals: Option<u32>,
    /// The contract says that its tokens are ERC-721.
    pub(super) is_nft: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tokens {
    known: HashMap<Address, Token>,
    order: VecDeque<Address>,
}

impl Tokens {
    pub(super) fn get(&self, token: &Address) -> Option<&Token> {
        self.known.get(token)
    }

    pub(super) fn insert(&mut self, address: Address, token: Token) {
        if self.known.insert(address, token).is_none() {
            self.order.push_back(address);
        }
        if self.order.len() > MAX_TOKENS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
