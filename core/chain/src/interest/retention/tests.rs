//! Retention, shares and eviction of followed items.

use futures::FutureExt as _;
use tidewire_stream::{ClientKey, UserId, session::ConnectionId};

use super::*;
use crate::shares::{CLIENT_PARTS, CONNECTION_PARTS};

const NOBODY: RequestOwner = RequestOwner {
    client: None,
    connection: None,
};

fn map() -> RetentionMap<u8, ()> {
    let map = RetentionMap::new(2, "things");
    let inserted = map.insert(1, (), &NOBODY, || {});
    assert_eq!(inserted, Ok(InsertOutcome::New));
    map
}

fn swept(map: &RetentionMap<u8, ()>, now_ms: i64, is_used: bool) -> Vec<u8> {
    let used: fn(&u8) -> bool = if is_used { |_| true } else { |_| false };
    sweep(map, now_ms, 10, used)
}

/// A sweep of fewer items than a chunk never yields.
fn sweep(
    map: &RetentionMap<u8, ()>,
    now_ms: i64,
    most: usize,
    is_used: fn(&u8) -> bool,
) -> Vec<u8> {
    map.sweep(now_ms, most, is_used).now_or_never().unwrap()
}

#[test]
fn an_item_is_forgotten_ten_minutes_after_the_last_follower() {
    let map = map();
    let epoch = map.epoch(&1);
    assert!(swept(&map, 0, true).is_empty());
    assert!(!map.forget(&1, || unreachable!("it is in use")));
    assert!(swept(&map, 5, false).is_empty());
    assert!(swept(&map, 4 + KEEP_MS, false).is_empty());
    // A follower returns in time.
    let again = map.insert(1, (), &NOBODY, || unreachable!());
    assert_eq!(again, Ok(InsertOutcome::Known));
    assert!(swept(&map, 5 + KEEP_MS, false).is_empty());
    assert_eq!(swept(&map, 5 + 2 * KEEP_MS, false), [1]);
    // A follower returns between the sweep and `forget`.
    assert_eq!(map.touch(&1, &NOBODY), Ok(true));
    assert!(!map.forget(&1, || unreachable!("it is in use")));
    assert_eq!(map.epoch(&1), epoch);
    assert!(swept(&map, 6 + 2 * KEEP_MS, false).is_empty());
    assert!(map.forget(&1, || {}));
    assert_eq!((map.epoch(&1), map.touch(&1, &NOBODY)), (None, Ok(false)));
    // A new period has a new epoch.
    let anew = map.insert(1, (), &NOBODY, || {});
    assert_eq!(anew, Ok(InsertOutcome::New));
    assert_ne!(map.epoch(&1), epoch);
}

#[test]
fn changes_for_the_store_are_taken_in_chunks() {
    let map = RetentionMap::<u8, ()>::new(5, "things");
    for key in 0..5 {
        map.insert(key, (), &NOBODY, || {}).unwrap();
    }
    assert_eq!(map.take_dirty(3).len(), 3);
    assert_eq!(map.take_dirty(usize::MAX).len(), 2);
    assert!(!map.is_dirty());
}

#[test]
fn items_and_idle_items_are_bounded() {
    let map = map();
    map.insert(2, (), &NOBODY, || {}).unwrap();
    let refused = map.insert(3, (), &NOBODY, || unreachable!()).unwrap_err();
    assert_eq!(refused, RetentionLimit::Full(2, "things"));
    // Of the idle items the one idle longest expires.
    sweep(&map, 1, 1, |key| *key == 2);
    assert_eq!(sweep(&map, 2, 1, |_| false), [1]);
}

/// A map in which each client has room for two items.
fn shared() -> RetentionMap<u8, ()> {
    RetentionMap::new(2 * CLIENT_PARTS, "things")
}

fn user(name: &str) -> RequestOwner {
    RequestOwner {
        client: Some(ClientKey::User(UserId::new(name))),
        connection: None,
    }
}

#[test]
fn a_client_has_a_share_of_the_items() {
    let (map, ada, bob) = (shared(), user("ada"), user("bob"));
    let insert = |key, owner| map.insert(key, (), owner, || {});
    assert_eq!(insert(1, &ada), Ok(InsertOutcome::New));
    assert_eq!(insert(2, &ada), Ok(InsertOutcome::New));
    let refused = insert(3, &ada).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "2 things are followed for this client, which is its share"
    );
    // An item that is followed costs nothing, and others have their own shares.
    assert_eq!(insert(3, &bob), Ok(InsertOutcome::New));
    assert_eq!(insert(3, &ada), Ok(InsertOutcome::Known));
    assert_eq!(map.touch(&3, &ada), Ok(true));
    for key in 4..=10 {
        insert(key, &NOBODY).unwrap();
    }
    // The share has room again once an item is forgotten.
    assert!(insert(11, &ada).is_err());
    swept(&map, 0, false);
    assert!(map.forget(&1, || {}));
    assert_eq!(insert(11, &ada), Ok(InsertOutcome::New));
    map.remove(&11);
    assert_eq!(insert(12, &ada), Ok(InsertOutcome::New));
}

#[test]
fn an_idle_item_counts_for_the_client_that_follows_it_again() {
    let (map, ada, bob) = (shared(), user("ada"), user("bob"));
    for key in 1..=2 {
        map.insert(key, (), &ada, || {}).unwrap();
    }
    swept(&map, 0, false);
    // Ada's own come back within her share, and one becomes Bob's.
    assert_eq!(map.touch(&1, &ada), Ok(true));
    assert_eq!(map.touch(&2, &bob), Ok(true));
    assert_eq!(map.insert(3, (), &ada, || {}), Ok(InsertOutcome::New));
    assert_eq!(map.insert(4, (), &bob, || {}), Ok(InsertOutcome::New));
    swept(&map, 1, false);
    // Bob's share has no room for an idle one of Ada's, which stays idle.
    let refused = map.touch(&1, &bob);
    assert_eq!(refused, Err(RetentionLimit::OfClient(2, "things")));
    assert!(map.forget(&1, || {}));
    // Back ends have no share.
    assert_eq!(map.touch(&2, &NOBODY), Ok(true));
    assert_eq!(map.insert(5, (), &bob, || {}), Ok(InsertOutcome::New));
}

#[test]
fn a_connection_has_a_part_of_its_clients_share() {
    let map = RetentionMap::<u8, ()>::new(2 * CONNECTION_PARTS, "things");
    let connection = || RequestOwner {
        connection: Some(ConnectionId::random()),
        ..user("ada")
    };
    let (first, second) = (connection(), connection());
    for key in 1..=2 {
        map.insert(key, (), &first, || {}).unwrap();
    }
    let refused = map.insert(3, (), &first, || {}).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "2 things are followed for this connection, which is its share"
    );
    assert_eq!(map.insert(3, (), &second, || {}), Ok(InsertOutcome::New));
}

#[test]
fn a_client_with_very_many_idle_items_evicts_its_own() {
    let (map, ada, mallory) = (shared(), user("ada"), user("mallory"));
    map.insert(1, (), &ada, || {}).unwrap();
    sweep(&map, 0, 2, |_| false);
    for key in 2..=3 {
        map.insert(key, (), &mallory, || {}).unwrap();
    }
    assert_eq!(sweep(&map, 1, 2, |_| false).len(), 1);
    assert!(sweep(&map, 2, 3, |_| false).is_empty());
    let evicted = sweep(&map, 2, 2, |_| false);
    assert!(!evicted.contains(&1), "{evicted:?}");
}

#[test]
fn a_restored_item_keeps_its_epoch_unless_its_history_is_lost() {
    let map = map();
    map.mark_published(&1);
    let stored = map.take_dirty(usize::MAX);
    assert!(!map.is_dirty());
    let (_, stored_item) = stored.into_iter().next().unwrap();
    let text = serde_json::to_string(&stored_item.unwrap()).unwrap();
    let again = RetentionMap::<u8, ()>::new(2, "things");
    again.restore(1, serde_json::from_str(&text).unwrap(), 7);
    assert_eq!(again.epoch(&1), map.epoch(&1));
    // With its history the epoch stays, without it begins a new one.
    again.renew_lost(|_| true);
    assert!(!again.is_dirty());
    again.renew_lost(|_| false);
    assert_ne!(again.epoch(&1), map.epoch(&1));
    again.restore(2, again.take_dirty(usize::MAX).remove(0).1.unwrap(), 7);
    let before = again.epoch(&2);
    again.renew_lost(|_| false);
    assert_eq!(
        again.epoch(&2),
        before,
        "nothing was published in its epoch"
    );
    assert_eq!(swept(&again, 7 + KEEP_MS, false).len(), 2);
    assert!(again.forget(&1, || {}));
    assert_eq!(again.take_dirty(usize::MAX), [(1, None)]);
}
