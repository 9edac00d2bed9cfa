//! Which wallets clients follow, and when one is forgotten.

use std::collections::HashMap;

use alloy::primitives::Address;
use parking_lot::Mutex;

/// The wallets that clients follow, as of late.
///
/// A wallet is watched before its follower is entered, so that nothing is missed; a sweep
/// in between must not forget it. So one is forgotten when nobody followed it at two
/// sweeps, and nobody asked for it between the two.
#[derive(Debug, Default)]
pub(crate) struct Followed(Mutex<HashMap<Address, Seen>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Somebody follows it, or is about to.
    Followed,
    /// Nobody did at the last sweep.
    Idle,
}

impl Followed {
    /// Notes that somebody is about to follow `address`, and has `watch` do what is to be
    /// done for it. False if there are `most` already, and it is none of them.
    pub(crate) fn insert(&self, address: Address, most: usize, watch: impl FnOnce()) -> bool {
        let mut all = self.0.lock();
        if all.len() >= most && !all.contains_key(&address) {
            return false;
        }
        all.insert(address, Seen::Followed);
        watch();
        true
    }

    /// Looks at all of them, and has `forget` undo what was done for those that go.
    pub(crate) fn sweep(&self, is_followed: impl Fn(&Address) -> bool, forget: impl Fn(&Address)) {
        // Looked up without the lock: there may be a million, and who subscribes needs it.
        let addresses: Vec<_> = self.0.lock().keys().copied().collect();
        for address in addresses {
            let is_followed = is_followed(&address);
            let mut all = self.0.lock();
            match (all.get_mut(&address), is_followed) {
                (None, _) => {}
                (Some(seen), true) => *seen = Seen::Followed,
                (Some(seen @ Seen::Followed), false) => *seen = Seen::Idle,
                (Some(Seen::Idle), false) => {
                    all.remove(&address);
                    // Under the lock: who comes back now has it watched again after this.
                    forget(&address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const ONE: Address = Address::with_last_byte(1);

    fn swept(followed: &Followed, is_followed: bool) -> Vec<Address> {
        let gone = RefCell::new(Vec::new());
        followed.sweep(|_| is_followed, |address| gone.borrow_mut().push(*address));
        gone.into_inner()
    }

    #[test]
    fn a_wallet_is_not_forgotten_between_the_check_and_the_subscription() {
        let followed = Followed::default();
        assert!(followed.insert(ONE, 1, || {}));
        assert!(swept(&followed, false).is_empty());
        // The follower was entered meanwhile, and left again.
        assert!(swept(&followed, true).is_empty());
        assert!(swept(&followed, false).is_empty());
        // Another one asks just before it would go.
        assert!(followed.insert(ONE, 1, || {}));
        assert!(swept(&followed, false).is_empty());
        assert_eq!(swept(&followed, false), [ONE]);
        assert!(swept(&followed, false).is_empty());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let followed = Followed::default();
        assert!(followed.insert(ONE, 1, || {}));
        assert!(followed.insert(ONE, 1, || {}));
        let two = Address::with_last_byte(2);
        assert!(!followed.insert(two, 1, || unreachable!("it is not watched")));
    }
}
