//! Wallet links: which user owns which wallet, as back ends registered it.

use std::collections::{BTreeSet, HashMap};

use alloy::primitives::Address;
use parking_lot::Mutex;
use tidewire_stream::UserId;

/// Wallets that one user can have.
pub(crate) const MAX_WALLETS_PER_USER: usize = 100;

/// Users that one wallet can have.
pub(crate) const MAX_USERS_PER_WALLET: usize = 100;

/// A wallet and a user who owns it.
pub(crate) type Link = (Address, UserId);

/// All links, indexed by wallet and by user.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    users: HashMap<Address, BTreeSet<UserId>>,
    wallets: HashMap<UserId, BTreeSet<Address>>,
    /// Links whose row in the store is out of date.
    dirty: BTreeSet<Link>,
}

/// Why a wallet is not linked to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the user has {MAX_WALLETS_PER_USER} wallets, which is the maximum")]
    Wallets,
    #[error("the wallet has {MAX_USERS_PER_WALLET} users, which is the maximum")]
    Users,
}

impl Links {
    /// Links a wallet to a user. Linking twice changes nothing.
    pub(crate) fn link(&self, address: Address, user: &UserId) -> Result<(), LinkError> {
        let mut state = self.0.lock();
        let users = state.users.get(&address);
        if users.is_some_and(|users| users.contains(user)) {
            return Ok(());
        }
        if users.is_some_and(|users| users.len() >= MAX_USERS_PER_WALLET) {
            return Err(LinkError::Users);
        }
        let wallets = state.wallets.get(user);
        if wallets.is_some_and(|wallets| wallets.len() >= MAX_WALLETS_PER_USER) {
            return Err(LinkError::Wallets);
        }
        state.insert(address, user);
        state.dirty.insert((address, user.clone()));
        Ok(())
    }

    /// Removes a link. Without one nothing changes.
    pub(crate) fn unlink(&self, address: Address, user: &UserId) {
        let mut state = self.0.lock();
        let State {
            users,
            wallets,
            dirty,
        } = &mut *state;
        let Some(own) = users.get_mut(&address) else {
            return;
        };
        if !own.remove(user) {
            return;
        }
        if own.is_empty() {
            users.remove(&address);
        }
        if let Some(own) = wallets.get_mut(user) {
            own.remove(&address);
            if own.is_empty() {
                wallets.remove(user);
            }
        }
        dirty.insert((address, user.clone()));
    }

    /// Whether a wallet is linked to this user.
    pub(crate) fn is_linked(&self, address: &Address, user: &UserId) -> bool {
        let state = self.0.lock();
        let users = state.users.get(address);
        users.is_some_and(|users| users.contains(user))
    }

    /// Whether a wallet is linked to any user.
    pub(crate) fn has_user(&self, address: &Address) -> bool {
        self.0.lock().users.contains_key(address)
    }

    /// All wallets that are linked to a user.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.0.lock().users.keys().copied().collect()
    }

    /// The users that a wallet is linked to.
    pub(crate) fn users(&self, address: &Address) -> Vec<UserId> {
        let state = self.0.lock();
        let users = state.users.get(address).into_iter().flatten();
        users.cloned().collect()
    }

    /// Whether the store is out of date.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.0.lock().dirty.is_empty()
    }

    /// Takes the changes for the store: a link, and whether it exists.
    pub(crate) fn take_dirty(&self) -> Vec<(Link, bool)> {
        let mut state = self.0.lock();
        let dirty = std::mem::take(&mut state.dirty).into_iter();
        let is_linked = |(address, user): &Link| {
            let users = state.users.get(address);
            users.is_some_and(|users| users.contains(user))
        };
        dirty
            .map(|link| {
                let is_linked = is_linked(&link);
                (link, is_linked)
            })
            .collect()
    }

    /// Adds a link from the store.
    pub(crate) fn restore(&self, address: Address, user: &UserId) {
        self.0.lock().insert(address, user);
    }
}

impl State {
    fn insert(&mut self, address: Address, user: &UserId) {
        self.users.entry(address).or_default().insert(user.clone());
        self.wallets
            .entry(user.clone())
            .or_default()
            .insert(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wallet(number: usize) -> Address {
        Address::left_padding_from(&number.to_be_bytes())
    }

    #[test]
    fn links_are_found_by_wallet_and_by_user_and_are_bounded() {
        let links = Links::default();
        let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
        for number in 0..MAX_WALLETS_PER_USER {
            links.link(wallet(number), &ada).unwrap();
        }
        assert_eq!(
            links.link(wallet(7), &ada),
            Ok(()),
            "linking twice changes nothing"
        );
        let refused = links.link(wallet(MAX_WALLETS_PER_USER), &ada);
        assert_eq!(refused, Err(LinkError::Wallets));
        links.link(wallet(7), &bob).unwrap();
        assert_eq!(links.users(&wallet(7)), [ada.clone(), bob.clone()]);
        assert_eq!(links.take_dirty().len(), MAX_WALLETS_PER_USER + 1);
        links.unlink(wallet(7), &ada);
        links.unlink(wallet(7), &ada);
        assert!(!links.is_linked(&wallet(7), &ada) && links.is_linked(&wallet(7), &bob));
        assert_eq!(links.take_dirty(), [((wallet(7), ada.clone()), false)]);
        links.unlink(wallet(7), &bob);
        assert!(!links.has_user(&wallet(7)));
        links.link(wallet(MAX_WALLETS_PER_USER), &ada).unwrap();
        for number in 0..MAX_USERS_PER_WALLET {
            let user = UserId::new(&number.to_string());
            links.link(wallet(500), &user).unwrap();
        }
        let refused = links.link(wallet(500), &bob);
        assert_eq!(refused, Err(LinkError::Users));
    }
}
