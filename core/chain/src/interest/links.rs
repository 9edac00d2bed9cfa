//! Which wallets are whose, as back ends say.

use std::collections::{BTreeSet, HashMap};

use alloy::primitives::Address;
use parking_lot::Mutex;
use tidewire_stream::UserId;

/// How many wallets a user can have.
pub(crate) const WALLETS_OF_USER: usize = 100;

/// How many users a wallet can have.
pub(crate) const USERS_OF_WALLET: usize = 100;

/// A wallet and a user that it is tied to.
pub(crate) type Link = (Address, UserId);

/// All links, found from either side.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    users: HashMap<Address, BTreeSet<UserId>>,
    wallets: HashMap<UserId, BTreeSet<Address>>,
    /// What is not stored as it is.
    dirty: BTreeSet<Link>,
}

/// Why a wallet is not tied to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the user has {WALLETS_OF_USER} wallets, which is the most that may be")]
    Wallets,
    #[error("the wallet has {USERS_OF_WALLET} users, which is the most that may be")]
    Users,
}

impl Links {
    /// Ties a wallet to a user. Tied already, nothing changes.
    pub(crate) fn link(&self, address: Address, user: &UserId) -> Result<(), LinkError> {
        let mut state = self.0.lock();
        let users = state.users.get(&address);
        if users.is_some_and(|users| users.contains(user)) {
            return Ok(());
        }
        if users.is_some_and(|users| users.len() >= USERS_OF_WALLET) {
            return Err(LinkError::Users);
        }
        let wallets = state.wallets.get(user);
        if wallets.is_some_and(|wallets| wallets.len() >= WALLETS_OF_USER) {
            return Err(LinkError::Wallets);
        }
        state.enter(address, user);
        state.dirty.insert((address, user.clone()));
        Ok(())
    }

    /// Unties it. Not tied, nothing changes.
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

    /// Whether a wallet is tied to this user.
    pub(crate) fn is_linked(&self, address: &Address, user: &UserId) -> bool {
        let state = self.0.lock();
        let users = state.users.get(address);
        users.is_some_and(|users| users.contains(user))
    }

    /// Whether a wallet is tied to anyone.
    pub(crate) fn has_user(&self, address: &Address) -> bool {
        self.0.lock().users.contains_key(address)
    }

    /// All wallets that are tied to anyone.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.0.lock().users.keys().copied().collect()
    }

    /// Whom a wallet is tied to.
    pub(crate) fn users(&self, address: &Address) -> Vec<UserId> {
        let state = self.0.lock();
        let users = state.users.get(address).into_iter().flatten();
        users.cloned().collect()
    }

    /// Whether the store has to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.0.lock().dirty.is_empty()
    }

    /// Takes what the store is to have, and what it is not to have any more.
    pub(crate) fn take_dirty(&self) -> Vec<(Link, bool)> {
        let mut state = self.0.lock();
        let dirty = std::mem::take(&mut state.dirty).into_iter();
        let is_there = |(address, user): &Link| {
            let users = state.users.get(address);
            users.is_some_and(|users| users.contains(user))
        };
        dirty
            .map(|link| {
                let is_there = is_there(&link);
                (link, is_there)
            })
            .collect()
    }

    /// Takes one back from the store.
    pub(crate) fn restore(&self, address: Address, user: &UserId) {
        self.0.lock().enter(address, user);
    }
}

impl State {
    fn enter(&mut self, address: Address, user: &UserId) {
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
    fn links_are_found_from_either_side_and_bounded() {
        let links = Links::default();
        let (ada, bob) = (UserId::new("ada"), UserId::new("bob"));
        for number in 0..WALLETS_OF_USER {
            links.link(wallet(number), &ada).unwrap();
        }
        assert_eq!(links.link(wallet(7), &ada), Ok(()), "it is there already");
        let refused = links.link(wallet(WALLETS_OF_USER), &ada);
        assert_eq!(refused, Err(LinkError::Wallets));
        links.link(wallet(7), &bob).unwrap();
        assert_eq!(links.users(&wallet(7)), [ada.clone(), bob.clone()]);
        assert_eq!(links.take_dirty().len(), WALLETS_OF_USER + 1);
        links.unlink(wallet(7), &ada);
        links.unlink(wallet(7), &ada);
        assert!(!links.is_linked(&wallet(7), &ada) && links.is_linked(&wallet(7), &bob));
        assert_eq!(links.take_dirty(), [((wallet(7), ada.clone()), false)]);
        links.unlink(wallet(7), &bob);
        assert!(!links.has_user(&wallet(7)));
        links.link(wallet(WALLETS_OF_USER), &ada).unwrap();
        for number in 0..USERS_OF_WALLET {
            let user = UserId::new(&number.to_string());
            links.link(wallet(500), &user).unwrap();
        }
        let refused = links.link(wallet(500), &bob);
        assert_eq!(refused, Err(LinkError::Users));
    }
}
