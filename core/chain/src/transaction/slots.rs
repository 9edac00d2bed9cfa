//! Watch slots: the places of a chain's watch table, reserved before a watch is queued.
//!
//! A subscription is answered at once, before the processor's task looks at its watch. It
//! therefore reserves its place beforehand, and is refused while all places are taken.
//!
//! Example with 2 places: `a` is watched, and a subscription reserves a place for `b`. A
//! subscription to `c` is refused, although the watch of `b` is still in the queue. One to `a`
//! is not: the transaction has its place already.
//!
//! A client without the `service` scope has a share of the places, and each of its connections a
//! part of that, so that none takes the places of others. A place counts for the connection that
//! reserved it first, until it is free again or is handed over to another client.

use std::{collections::HashMap, sync::Arc};

use alloy::primitives::B256;
use parking_lot::Mutex;
use tidewire_stream::ClientKey;

use super::{Excess, RequestOwner, WatchError};
use crate::shares::{ClientShares, Share, ShareError};

/// The places of one chain's watch table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WatchSlots(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    /// The transactions that have a place.
    holders: Mutex<HashMap<B256, Holder>>,
    shares: ClientShares,
}

/// The holder of a place.
#[derive(Debug, Default)]
struct Holder {
    /// The slots of the transaction.
    slots: u32,
    /// The share that it counts in. Dropping it gives the place back.
    share: Option<Share>,
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
        Self(Arc::new(Slots {
            holders: Mutex::default(),
            shares: ClientShares::new(max),
        }))
    }

    /// Reserves the place of a transaction. One that has a place already keeps it.
    ///
    /// # Errors
    /// All places are taken by other transactions.
    pub fn reserve(&self, hash: B256) -> Result<WatchSlot, WatchError> {
        self.reserve_for(hash, &RequestOwner::default())
    }

    /// Reserves the place of a transaction within the shares of an owner. A transaction that has a
    /// place already keeps it, and costs the owner nothing.
    ///
    /// # Errors
    /// All places are taken by other transactions, or a share of the owner is.
    pub(crate) fn reserve_for(
        &self,
        hash: B256,
        owner: &RequestOwner,
    ) -> Result<WatchSlot, WatchError> {
        let mut holders = self.0.holders.lock();
        if let Some(holder) = holders.get_mut(&hash) {
            holder.slots += 1;
            return Ok(self.slot(hash));
        }
        if holders.len() >= self.0.shares.max() {
            return Err(WatchError::TooMany(holders.len()));
        }
        let holder = Holder {
            slots: 1,
            share: self.0.shares.acquire(owner, 1)?,
        };
        holders.insert(hash, holder);
        Ok(self.slot(hash))
    }

    /// Has the place of a transaction count for another client from now on, if it counts for this
    /// one. With [`Excess::Allowed`] also beyond the other one's share, which then has no room.
    ///
    /// # Errors
    /// The share of the other client is used.
    pub(crate) fn hand_over(
        &self,
        hash: B256,
        from: &ClientKey,
        to: &ClientKey,
        excess: Excess,
    ) -> Result<(), WatchError> {
        let mut holders = self.0.holders.lock();
        let holder = holders.get_mut(&hash);
        let share = holder.and_then(|holder| holder.share.as_mut());
        if let Some(share) = share.filter(|share| share.client() == from) {
            *share = self.0.shares.acquire_for(to, excess)?;
        }
        Ok(())
    }

    /// Takes a place beyond the maximum too: a stored watch was accepted before the restart.
    pub(super) fn occupy(&self, hash: B256) -> WatchSlot {
        self.0.holders.lock().entry(hash).or_default().slots += 1;
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

impl From<ShareError> for WatchError {
    fn from(error: ShareError) -> Self {
        match error {
            ShareError::Client(most) => Self::TooManyOfClient(most),
            ShareError::Connection(most) => Self::TooManyOfConnection(most),
        }
    }
}

impl Drop for WatchSlot {
    fn drop(&mut self) {
        let mut holders = self.slots.0.holders.lock();
        let Some(holder) = holders.get_mut(&self.hash) else {
            return;
        };
        holder.slots -= 1;
        if holder.slots == 0 {
            holders.remove(&self.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewire_stream::session::ConnectionId;

    use super::*;
    use crate::shares::{CLIENT_PARTS, CONNECTION_PARTS};

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

    fn owner(name: &str, connection: Option<ConnectionId>) -> RequestOwner {
        RequestOwner {
            client: Some(ClientKey::User(tidewire_stream::UserId::new(name))),
            connection,
        }
    }

    #[test]
    fn a_client_has_a_share_of_the_places() {
        let (many, one) = (owner("many", None), owner("one", None));
        let slots = WatchSlots::new(2 * CLIENT_PARTS);
        let [first, second, third, fourth] = [1, 2, 3, 4].map(B256::repeat_byte);
        let held = slots.reserve_for(first, &many).unwrap();
        let _second = slots.reserve_for(second, &many).unwrap();
        let refused = slots.reserve_for(third, &many).unwrap_err();
        assert_eq!(refused, WatchError::TooManyOfClient(2));
        // A transaction with a place costs nothing, and others have their own shares.
        let again = slots.reserve_for(first, &many).unwrap();
        let others = slots.reserve_for(first, &one).unwrap();
        let _third = slots.reserve_for(third, &one).unwrap();
        // The share is free when the place is.
        drop((held, again));
        assert!(slots.reserve_for(fourth, &many).is_err());
        drop(others);
        assert!(slots.reserve_for(fourth, &many).is_ok());
        assert!(slots.reserve(B256::ZERO).is_ok());
    }

    #[test]
    fn a_place_is_handed_over_to_another_client() {
        let [ada, bob] = ["ada", "bob"].map(|name| owner(name, None));
        let key = |owner: &RequestOwner| owner.client.clone().unwrap();
        let (ada_key, bob_key) = (key(&ada), key(&bob));
        let slots = WatchSlots::new(CLIENT_PARTS);
        let [first, second, third] = [1, 2, 3].map(B256::repeat_byte);
        let _first = slots.reserve_for(first, &ada).unwrap();
        slots
            .hand_over(first, &ada_key, &bob_key, Excess::Refused)
            .unwrap();
        // Ada has room again, and Bob has not.
        let _second = slots.reserve_for(second, &ada).unwrap();
        assert!(slots.reserve_for(third, &bob).is_err());
        let refused = slots.hand_over(second, &ada_key, &bob_key, Excess::Refused);
        assert_eq!(refused, Err(WatchError::TooManyOfClient(1)));
        // It does not count for Bob.
        slots
            .hand_over(second, &bob_key, &ada_key, Excess::Allowed)
            .unwrap();
        assert!(slots.reserve_for(third, &ada).is_err());
        slots
            .hand_over(second, &ada_key, &bob_key, Excess::Allowed)
            .unwrap();
        assert!(slots.reserve_for(third, &ada).is_ok());
    }

    #[test]
    fn a_connection_has_a_part_of_its_clients_share() {
        let slots = WatchSlots::new(2 * CONNECTION_PARTS);
        let connection = || owner("ada", Some(ConnectionId::random()));
        let (first, second, third) = (connection(), connection(), connection());
        let hash = |number: u64| B256::left_padding_from(&number.to_be_bytes());
        let mut held: Vec<_> = [(0, &first), (1, &first), (2, &second), (3, &second)]
            .into_iter()
            .map(|(number, owner)| slots.reserve_for(hash(number), owner).unwrap())
            .collect();
        let refused = slots.reserve_for(hash(4), &first).unwrap_err();
        assert_eq!(refused, WatchError::TooManyOfConnection(2));
        held.push(slots.reserve_for(hash(4), &third).unwrap());
        // The client as a whole has five.
        let refused = slots.reserve_for(hash(5), &third).unwrap_err();
        assert_eq!(refused, WatchError::TooManyOfClient(5));
        // A refusal of the client takes nothing of the connection's share.
        held.remove(0);
        held.push(slots.reserve_for(hash(5), &third).unwrap());
    }
}
