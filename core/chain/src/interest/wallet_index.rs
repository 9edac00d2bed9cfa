//! Which addresses are watched.

use std::collections::HashMap;

use alloy::primitives::Address;

/// A set of watched addresses. Each counts who is interested in it.
///
/// A million addresses take about 52 bytes each: 20 for the address, 4 for the count, one of
/// the table, and the room that a table keeps.
#[derive(Debug, Default)]
pub struct WalletIndex {
    interests: HashMap<Address, u32>,
}

impl WalletIndex {
    /// Adds an interest in `address`; true if it is the first.
    pub fn watch(&mut self, address: Address) -> bool {
        let count = self.interests.entry(address).or_default();
        *count = count.saturating_add(1);
        *count == 1
    }

    /// Takes an interest in `address` back; true if it was the last.
    pub fn unwatch(&mut self, address: &Address) -> bool {
        let Some(count) = self.interests.get_mut(address) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.interests.remove(address);
        // After a crowd has gone, its room is given back.
        if self.interests.capacity() > 1_024 && self.interests.len() < self.interests.capacity() / 8
        {
            self.interests.shrink_to(self.interests.len() * 2);
        }
        true
    }

    /// Whether anyone is interested in `address`.
    #[must_use]
    pub fn contains(&self, address: &Address) -> bool {
        self.interests.contains_key(address)
    }

    /// How many addresses are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.interests.len()
    }

    /// Whether none is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.interests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_watched_while_someone_is_interested() {
        let mut index = WalletIndex::default();
        let address = Address::with_last_byte(1);
        assert!(index.watch(address));
        assert!(!index.watch(address));
        assert!(!index.unwatch(&address));
        assert!(index.contains(&address));
        assert!(index.unwatch(&address));
        assert!(!index.unwatch(&address));
        assert!(index.is_empty());
    }

    #[test]
    fn room_is_given_back() {
        let mut index = WalletIndex::default();
        let address = |n: u32| Address::left_padding_from(&n.to_be_bytes());
        (0..10_000).for_each(|n| {
            index.watch(address(n));
        });
        (0..9_990).for_each(|n| {
            index.unwatch(&address(n));
        });
        assert_eq!(index.len(), 10);
        assert!(index.interests.capacity() < 2_048);
    }
}
