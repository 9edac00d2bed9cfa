//! Watch slots: the places of a chain's watch table, reserved before a watch is queued.
//!
//! A subscription is answered at once, before the processor's task looks at its watch. It
//! therefore reserves its place beforehand, and is refused while all places are taken.
//!
//! Example with 2 places: `a` is watched, and a subscription reserves a place for `b`. A
//! subscription to `c` is refused, although the watch of `b` is still in the queue. One to `a`
//! is not: the transaction has its place already.

use std::{collections::HashMap, sync::Arc};

use alloy::primitives::B256;
use parking_lot::Mutex;

use super::WatchError;

/// The places of one chain's watch table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WatchSlots(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    max: usize,
    /// The slots of each transaction that has a place.
    holders: Mutex<HashMap<B256, u32>>,
}

/// A claim on the place of one transaction, which ends on drop. All slots of a transaction
/// share its place.
#[derive(Debug)]
pub struct WatchSlot {
    slots: WatchSlots,
    hash: B256,
}

impl WatchSlots {
    /// Places for this number of transactions.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let holders = Mutex::default();
        Self(Arc::new(Slots { max, holders }))
    }

    /// Reserves the place of a transaction. One that has a place already keeps it.
    ///
    /// # Errors
    /// All places are taken by other transactions.
    pub fn reserve(&self, hash: B256) -> Result<WatchSlot, WatchError> {
        let mut holders = self.0.holders.lock();
        if holders.len() >= self.0.max && !holders.contains_key(&hash) {
            return Err(WatchError::TooMany(holders.len()));
        }
        *holders.entry(hash).or_default() += 1;
        Ok(self.slot(hash))
    }

    /// Takes a place beyond the maximum too: a stored watch was accepted before the restart.
    pub(super) fn occupy(&self, hash: B256) -> WatchSlot {
        *self.0.holders.lock().entry(hash).or_default() += 1;
        self.slot(hash)
    }

    fn slot(&self, hash: B256) -> WatchSlot {
        let slots = self.clone();
        WatchSlot { slots, hash }
    }
}

impl WatchSlot {
    /// The transaction whose place it claims.
    pub(super) fn transaction(&self) -> B256 {
        self.hash
    }
}

impl Drop for WatchSlot {
    fn drop(&mut self) {
        let mut holders = self.slots.0.holders.lock();
        let Some(count) = holders.get_mut(&self.hash) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            holders.remove(&self.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_once_every_slot_of_its_transaction_is_gone() {
        let slots = WatchSlots::new(1);
        let [first, second] = [1, 2].map(B256::repeat_byte);
        let queued = slots.reserve(first).unwrap();
        let watched = slots.reserve(first).unwrap();
        assert_eq!(slots.reserve(second).unwrap_err(), WatchError::TooMany(1));
        drop(queued);
        assert!(slots.reserve(second).is_err());
        drop(watched);
        let stored = (slots.reserve(second).unwrap(), slots.occupy(first));
        assert!(slots.reserve(B256::ZERO).is_err());
        drop(stored);
        assert!(slots.reserve(B256::ZERO).is_ok());
    }
}
