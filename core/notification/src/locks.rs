//! Striped locks: operations on one user run one after another, those on others at once.
//!
//! An operation locks all that it needs at its beginning, in the order of the stripes, so two
//! operations never wait for each other. It holds the locks while it waits for the store; the
//! locks are therefore asynchronous.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::Arc,
};

use tokio::sync::{Mutex, MutexGuard, OwnedMutexGuard};

/// Number of stripes for users and keys. Few operations on different users then meet.
const STRIPES: usize = 1_024;

/// The lock of all schedules, after those of users.
pub(crate) const SCHEDULES: Stripe = Stripe(STRIPES);

/// The lock of all broadcasts, the last one.
pub(crate) const BROADCASTS: Stripe = Stripe(STRIPES + 1);

/// A lock's place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stripe(usize);

impl Stripe {
    pub(crate) fn number(self) -> u16 {
        // There are fewer than 65,536.
        u16::try_from(self.0).unwrap_or(u16::MAX)
    }
}

/// Held locks. They outlive a caller that stops waiting for its operation.
pub(crate) type Guards = Vec<OwnedMutexGuard<()>>;

/// The locks.
#[derive(Debug)]
pub(crate) struct Locks {
    stripes: Vec<Arc<Mutex<()>>>,
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES + 2).map(|_| Arc::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Locks {
    /// The stripe of a user or a key.
    pub(crate) fn stripe<T: Hash + ?Sized>(&self, value: &T) -> Stripe {
        Stripe((self.hasher.hash_one(value) % STRIPES as u64) as usize)
    }

    /// Locks a stripe that nobody holds or waits for.
    pub(crate) fn try_lock(&self, stripe: Stripe) -> Option<MutexGuard<'_, ()>> {
        self.stripes.get(stripe.0)?.try_lock().ok()
    }

    /// Locks stripes. The locks end with the returned guards.
    pub(crate) async fn lock(&self, stripes: &BTreeSet<Stripe>) -> Guards {
        let mut guards = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            guards.push(self.stripes[stripe.0].clone().lock_owned().await);
        }
        guards
    }
}
