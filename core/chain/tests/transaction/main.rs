//! Transactions from the first look to the final state, over whatever a chain does to them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod property;
#[path = "../support/mod.rs"]
mod support;
mod world;

use support::{account, hash, transaction};
use tidewire_chain::{
    decode::CustomErrors,
    transaction::{Interest, TransactionOptions, TransactionTracker},
};
use tidewire_proto::v1::TransactionState as State;
use world::{SECOND, World, options};

#[test]
fn a_transaction_is_counted_until_it_is_final() {
    let mut world = World::new();
    world.mine(&[]);
    world.watch(hash(1));
    let unknown = world.told.remove(0);
    assert_eq!(unknown.state(), State::Unknown);
    assert_eq!(
        unknown.reason.as_deref(),
        Some("no node has seen it, looking since 1000000")
    );
    let sent = world.send(1, 0, 5);
    world.wait(20);
    assert_eq!(world.told(), [(State::Pending, 0)]);
    world.mine(&[sent]);
    let included = world.told.remove(0);
    assert_eq!(included.state(), State::Confirming);
    assert_eq!(included.confirmations, 1);
    assert_eq!(included.block_number, Some(2));
    assert_eq!(included.nonce, Some(0));
    assert_eq!(included.gas_used, Some(0x5207));
    for _ in 0..5 {
        world.mine(&[]);
    }
    let confirmed = [
        (State::Confirming, 2),
        (State::Confirmed, 3),
        (State::Finalized, 6),
    ];
    assert_eq!(world.told(), confirmed);
    assert!(world.monitor.is_empty());
    assert_eq!(
        world.monitor.status(&sent, 0).unwrap().state(),
        State::Finalized
    );
}

#[test]
fn what_was_included_before_the_watch_is_found() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.mine(&[sent]);
    world.mine(&[]);
    world.watch(sent);
    assert_eq!(world.told(), [(State::Confirming, 2)]);
}

#[test]
fn a_failure_is_told_from_inclusion_on_with_its_reason() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.node.failing.push(sent);
    world.watch(sent);
    world.mine(&[sent]);
    let failed = world.told.pop().unwrap();
    assert_eq!(failed.state(), State::Failed);
    assert_eq!(failed.confirmations, 1);
    assert_eq!(
        failed.reason.as_deref(),
        Some("panic 0x01: an assertion failed")
    );
    for _ in 0..6 {
        world.mine(&[]);
    }
    assert!(world.monitor.is_empty());
}

#[test]
fn who_takes_a_nonce_is_named() {
    for (value, state) in [(6, State::Replaced), (0, State::Cancelled)] {
        let mut world = World::new();
        let sent = world.send(1, 0, 5);
        world.watch(sent);
        // The node forgets the old hash at once.
        world.node.pool.clear();
        let other = world.send(2, 0, value);
        world.wait(600);
        assert_eq!(
            world.told(),
            [(State::Pending, 0)],
            "the nonce is taken, not free"
        );
        world.mine(&[other]);
        let told = world.told.remove(0);
        assert_eq!(told.state(), state);
        assert_eq!(told.replaced_by, Some(other.to_string()));
        // Until the other's block is final, a reorg can bring the first back.
        world.reorg(1, &[]);
        let told = world.told.remove(0);
        assert_eq!((told.state(), told.reorged), (State::Pending, Some(true)));
    }
}

#[test]
fn what_no_node_keeps_is_dropped_by_the_rule() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.node.pool.clear();
    world.wait(30);
    assert_eq!(
        world.told(),
        [(State::Pending, 0)],
        "one miss is not enough"
    );
    world.wait(400);
    let told = world.told.remove(0);
    assert_eq!(told.state(), State::Dropped);
    assert_eq!(
        told.reason.as_deref(),
        Some("no node keeps it in its pool, and its nonce is free")
    );
    assert!(world.monitor.is_empty());
}

#[test]
fn an_endpoint_that_is_down_drops_nothing() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.node.is_down = true;
    world.wait(3_600);
    world.mine(&[sent]);
    assert_eq!(world.told(), [(State::Pending, 0)]);
    world.node.is_down = false;
    world.mine(&[]);
    assert_eq!(world.told(), [(State::Confirming, 2)]);
}

#[test]
fn a_reorg_takes_it_back_and_may_bring_it_again() {
    let mut world = World::new();
    world.mine(&[]);
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.mine(&[sent]);
    world.mine(&[]);
    world.told();
    world
        .node
        .send(transaction(sent, account(1), 0, account(2), 5));
    world.reorg(2, &[sent]);
    assert_eq!(world.told(), [(State::Pending, 0), (State::Confirming, 1)]);
    // Without it: no node keeps it.
    world.reorg(1, &[]);
    world.wait(400);
    let told = world.told.pop().unwrap();
    assert_eq!(told.state(), State::Dropped);
    assert!(
        told.reason
            .unwrap()
            .starts_with("a reorg took its block back")
    );
}

#[test]
fn every_wait_has_a_stated_end() {
    let mut world = World::new();
    world.watch(hash(1));
    world.wait(31 * 60);
    let told = world.told.pop().unwrap();
    assert_eq!(told.state(), State::Unknown);
    assert!(
        told.reason
            .unwrap()
            .starts_with("timed out: no node has seen it after 30 minutes")
    );
    let sent = world.send(2, 0, 5);
    world.watch(sent);
    world.wait(24 * 3_600 + 60);
    let told = world.told.pop().unwrap();
    assert_eq!(told.state(), State::Pending);
    assert!(
        told.reason
            .unwrap()
            .starts_with("timed out: it is still pending after 1440 minutes")
    );
    assert!(world.monitor.is_empty());
}

#[test]
fn a_back_ends_watch_outlives_sessions_and_restarts() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    let durable = Interest::Durable(Some("alice".to_owned()));
    world.watch(sent);
    world.monitor.watch(sent, durable, world.now).unwrap();
    world.monitor.unwatch(&sent, &Interest::Session);
    world.mine(&[sent]);
    let changes = world.monitor.take_changes();
    let stored = changes[0].1.clone().unwrap();
    assert_eq!((changes.len(), stored.user.as_deref()), (1, Some("alice")));
    // As JSON, as a store would keep it.
    let text = serde_json::to_string(&world.monitor.export()).unwrap();
    world.monitor = TransactionTracker::new(options(), CustomErrors::default());
    for stored in serde_json::from_str::<Vec<_>>(&text).unwrap() {
        world.monitor.import(stored, world.now);
    }
    world.told();
    world.mine(&[]);
    assert_eq!(world.told(), [(State::Confirming, 2)]);
    for _ in 0..6 {
        world.mine(&[]);
    }
    assert_eq!(world.told().last(), Some(&(State::Finalized, 6)));
    let changes = world.monitor.take_changes();
    assert_eq!(changes, [(sent, None)]);
}

#[test]
fn calls_do_not_grow_with_what_waits() {
    let mut world = World::new();
    for number in 0..5_000 {
        world.watch(hash(number));
    }
    world.now += 600 * SECOND;
    world.node.calls = 0;
    world.mine(&[]);
    assert_eq!(world.node.calls, options().checks_per_turn);
    let full = TransactionOptions {
        max_watches: 1,
        ..options()
    };
    let mut monitor = TransactionTracker::new(full, CustomErrors::default());
    monitor.watch(hash(1), Interest::Session, 0).unwrap();
    let refused = monitor.watch(hash(2), Interest::Session, 0).unwrap_err();
    assert!(refused.to_string().contains("the most that may be"));
}
