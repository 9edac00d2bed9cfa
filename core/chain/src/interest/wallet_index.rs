//! Wallet index: the addresses that each block is matched against.

use std::collections::HashMap;

use alloy::{consensus::Transaction as _, primitives::Address, rpc::types::Transaction};
use alloy_network_primitives::TransactionResponse as _;

/// A set of watched addresses, each with a count of its watchers.
///
/// In a set of a million an address takes about 52 bytes: 20 for itself, 4 for the count, 1 of
/// the hash table, and the table's free slots.
#[derive(Debug, Default)]
pub struct WalletIndex {
    watchers: HashMap<Address, u32>,
}

impl WalletIndex {
    /// Adds a watcher of `address`. Returns true if it is the first.
    pub fn watch(&mut self, address: Address) -> bool {
        let count = self.watchers.entry(address).or_default();
        *count = count.saturating_add(1);
        *count == 1
    }

    /// Removes a watcher of `address`. Returns true if it was the last.
    pub fn unwatch(&mut self, address: &Address) -> bool {
        let Some(count) = self.watchers.get_mut(address) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.watchers.remove(address);
        // Return memory after most addresses have left.
        if self.watchers.capacity() > 1_024 && self.watchers.len() < self.watchers.capacity() / 8 {
            self.watchers.shrink_to(self.watchers.len() * 2);
        }
        true
    }

    /// Whether `address` is watched.
    #[must_use]
    pub fn contains(&self, address: &Address) -> bool {
        self.watchers.contains_key(address)
    }

    /// The sender and the receiver of a transaction, each once, if watched.
    pub fn watched_parties(&self, transaction: &Transaction) -> impl Iterator<Item = Address> {
        let from = transaction.from();
        let to = transaction.to().filter(|to| *to != from);
        let parties = std::iter::once(from).chain(to);
        parties.filter(|party| self.contains(party))
    }

    /// The number of watched addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Whether no address is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_watched_until_its_last_watcher_leaves() {
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
    fn memory_is_returned_after_most_addresses_left() {
        let mut index = WalletIndex::default();
        let address = |n: u32| Address::left_padding_from(&n.to_be_bytes());
        (0..10_000).for_each(|n| {
            index.watch(address(n));
        });
        (0..9_990).for_each(|n| {
            index.unwatch(&address(n));
        });
        assert_eq!(index.len(), 10);
        assert!(index.watchers.capacity() < 2_048);
    }
}
