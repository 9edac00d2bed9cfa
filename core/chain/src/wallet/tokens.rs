//! Token cache: the metadata of contracts that wallets hold tokens of.
//!
//! Metadata that could not be read is read again: after a minute at first, then after twice the
//! time each time, up to a day.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::Address;

/// Tokens in the cache at most. Beyond, the one read first is evicted.
const MAX_TOKENS: usize = 10_000;

/// The pauses before incomplete metadata is read again, in milliseconds.
const FIRST_PAUSE_MS: i64 = 60_000;
const LAST_PAUSE_MS: i64 = 24 * 60 * 60_000;

/// Constant properties of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TokenMetadata {
    pub(super) symbol: Option<String>,
    pub(super) decimals: Option<u32>,
    /// Whether the contract claims to be an ERC-721.
    pub(super) is_nft: bool,
}

#[derive(Debug)]
struct CachedToken {
    metadata: TokenMetadata,
    /// The time from which it is read again. None if it is complete.
    due_ms: Option<i64>,
    pause_ms: i64,
}

#[derive(Debug, Default)]
pub(super) struct TokenCache {
    tokens: HashMap<Address, CachedToken>,
    order: VecDeque<Address>,
}

impl TokenCache {
    pub(super) fn get(&self, token: &Address) -> Option<&TokenMetadata> {
        self.tokens.get(token).map(|token| &token.metadata)
    }

    /// Whether a token's metadata is to be read: for the first time, or again.
    pub(super) fn is_due(&self, token: &Address, now_ms: i64) -> bool {
        let token = self.tokens.get(token);
        token.is_none_or(|token| token.due_ms.is_some_and(|due| due <= now_ms))
    }

    /// Adds what was read of a token. A field that failed now does not replace an earlier one.
    pub(super) fn insert(
        &mut self,
        address: Address,
        metadata: TokenMetadata,
        is_complete: bool,
        now_ms: i64,
    ) {
        let before = self.tokens.remove(&address);
        let pause_ms = before.as_ref().map_or(FIRST_PAUSE_MS, |before| {
            (before.pause_ms * 2).min(LAST_PAUSE_MS)
        });
        let is_new = before.is_none();
        let known = before.map(|before| before.metadata).unwrap_or_default();
        let token = CachedToken {
            metadata: TokenMetadata {
                symbol: metadata.symbol.or(known.symbol),
                decimals: metadata.decimals.or(known.decimals),
                is_nft: metadata.is_nft || known.is_nft,
            },
            due_ms: (!is_complete).then(|| now_ms.saturating_add(pause_ms)),
            pause_ms,
        };
        self.tokens.insert(address, token);
        if is_new {
            self.order.push_back(address);
        }
        if self.order.len() > MAX_TOKENS
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_metadata_is_read_again_after_a_growing_pause() {
        let (mut cache, token) = (TokenCache::default(), Address::with_last_byte(1));
        assert!(cache.is_due(&token, 0));
        let mut now = 0;
        for pause in [FIRST_PAUSE_MS, 2 * FIRST_PAUSE_MS, 4 * FIRST_PAUSE_MS] {
            cache.insert(token, TokenMetadata::default(), false, now);
            assert!(!cache.is_due(&token, now + pause - 1));
            now += pause;
            assert!(cache.is_due(&token, now));
        }
        let metadata = TokenMetadata {
            symbol: Some("TOK".to_owned()),
            decimals: None,
            is_nft: false,
        };
        cache.insert(token, metadata.clone(), false, now);
        // What was read once stays.
        cache.insert(token, TokenMetadata::default(), true, now);
        assert_eq!(cache.get(&token), Some(&metadata));
        assert!(!cache.is_due(&token, i64::MAX));
    }

    #[test]
    fn the_token_that_was_read_first_is_evicted() {
        let mut cache = TokenCache::default();
        let token = |number: usize| Address::left_padding_from(&number.to_be_bytes());
        for number in 0..MAX_TOKENS {
            cache.insert(token(number), TokenMetadata::default(), true, 0);
        }
        // Reading one again takes no further room.
        cache.insert(token(0), TokenMetadata::default(), true, 0);
        assert!(cache.get(&token(0)).is_some());
        cache.insert(token(MAX_TOKENS), TokenMetadata::default(), true, 0);
        let kept = [0, 1, MAX_TOKENS].map(|number| cache.get(&token(number)).is_some());
        assert_eq!(kept, [false, true, true]);
    }
}
