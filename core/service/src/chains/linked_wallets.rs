//! Linked wallets: the links of wallets to users that this node has asked the owners of chains for.
//!
//! A link is looked up before each subscription that depends on it, and forgotten when the wallet is
//! unlinked on any node.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;
use tidewire_stream::UserId;

/// Links that are known at most. Beyond, those known longest are forgotten.
const MAX: usize = 100_000;

type Link = (UserId, String);

/// The links that are known.
#[derive(Debug, Default)]
pub(super) struct LinkedWallets(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashSet<Link>,
    /// The same, oldest first, with some that were forgotten.
    order: VecDeque<Link>,
}

impl LinkedWallets {
    /// Whether a wallet is linked to a user.
    pub(super) fn contains(&self, user: &UserId, wallet: &str) -> bool {
        self.0.lock().known.contains(&link(user, wallet))
    }

    /// Notes a link.
    pub(super) fn insert(&self, user: &UserId, wallet: &str) {
        let mut state = self.0.lock();
        let link = link(user, wallet);
        if !state.known.insert(link.clone()) {
            return;
        }
        state.order.push_back(link);
        while state.order.len() > MAX {
            if let Some(oldest) = state.order.pop_front() {
                state.known.remove(&oldest);
            }
        }
    }

    /// Forgets a link.
    pub(super) fn forget(&self, user: &UserId, wallet: &str) {
        self.0.lock().known.remove(&link(user, wallet));
    }
}

fn link(user: &UserId, wallet: &str) -> Link {
    (user.clone(), wallet.to_owned())
}
