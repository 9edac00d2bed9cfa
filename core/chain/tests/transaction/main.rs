//! Transaction tracker: from the first sight to the final state, through reorgs and outages.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod property;
#[path = "../support/mod.rs"]
mod support;
mod world;

use alloy::{
    hex,
    primitives::{B256, keccak256},
};
use serde_json::{Value, json};
use support::{RECEIPT_FAULTS, account, hash, refused, transaction};
use tidewire_chain::{
    RpcError,
    decode::CustomErrors,
    transaction::{
        Interest, NodeRequest, TransactionOptions, TransactionTracker, is_provisional_end,
    },
};
use tidewire_proto::v1::TransactionState as State;
use world::{SECOND, World, options};

#[test]
fn a_transaction_is_counted_until_it_is_final() {
    let mut world = World::new();
    world.mine(&[]);
    world.watch(hash(1));
    let unknown = world.published.remove(0);
    assert_eq!(unknown.state(), State::Unknown);
    assert_eq!(
        unknown.reason.as_deref(),
        Some("no node has seen it, looking since 1970-01-01T00:16:40Z")
    );
    let sent = world.send(1, 0, 5);
    world.wait(20);
    assert_eq!(world.take_states(), [(State::Pending, 0)]);
    world.mine(&[sent]);
    let included = world.published.remove(0);
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
    assert_eq!(world.take_states(), confirmed);
    assert!(world.tracker.is_empty());
    assert_eq!(
        world.tracker.status(&sent, 0).unwrap().state(),
        State::Finalized
    );
}

#[test]
fn a_transaction_included_before_the_watch_is_found() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.mine(&[sent]);
    world.mine(&[]);
    world.watch(sent);
    assert_eq!(world.take_states(), [(State::Confirming, 2)]);
}

#[test]
fn a_failed_transaction_is_published_from_inclusion_on_with_its_reason() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.node.failing.push(sent);
    world.watch(sent);
    world.mine(&[sent]);
    let failed = world.published.pop().unwrap();
    assert_eq!(failed.state(), State::Failed);
    assert_eq!(failed.confirmations, 1);
    assert_eq!(
        failed.reason.as_deref(),
        Some("panic 0x01: an assertion failed")
    );
    for _ in 0..6 {
        world.mine(&[]);
    }
    assert!(world.tracker.is_empty());
}

#[test]
fn the_reason_of_a_failure_comes_from_the_trace_or_the_gas_or_a_call() {
    let panic = |code: u8| {
        let selector = &keccak256("Panic(uint256)")[..4];
        hex::encode_prefixed([selector, &B256::with_last_byte(code)[..]].concat())
    };
    let all_gas: fn(Value) -> Result<Value, RpcError> = |mut receipt| {
        receipt["gasUsed"] = json!("0x5208");
        Ok(receipt)
    };
    let reverted = json!({"error": "execution reverted"});
    for (trace, receipt_fault, reason) in [
        (
            Some(json!({"error": "invalid opcode"})),
            None,
            "invalid opcode",
        ),
        (
            Some(json!({"error": "execution reverted", "output": panic(0x11)})),
            Some(all_gas),
            "panic 0x11: arithmetic overflow or underflow",
        ),
        (Some(reverted), Some(all_gas), "reverted without a reason"),
        (Some(json!({})), Some(all_gas), "out of gas"),
        (None, Some(all_gas), "out of gas"),
        (None, None, "panic 0x01: an assertion failed"),
    ] {
        let mut world = World::new();
        let sent = world.send(1, 0, 5);
        world.node.failing.push(sent);
        (world.node.trace, world.node.receipt_fault) = (trace, receipt_fault);
        world.watch(sent);
        world.mine(&[sent]);
        let failed = world.published.pop().unwrap();
        assert_eq!(failed.reason.as_deref(), Some(reason));
    }
}

#[test]
fn a_transaction_that_takes_the_nonce_is_named() {
    for (value, state) in [(6, State::Replaced), (0, State::Cancelled)] {
        let mut world = World::new();
        let sent = world.send(1, 0, 5);
        world.watch(sent);
        // The node forgets a replaced transaction at once.
        world.node.mempool.clear();
        let other = world.send(2, 0, value);
        world.wait(600);
        assert_eq!(
            world.take_states(),
            [(State::Pending, 0)],
            "the nonce is taken, not free"
        );
        world.mine(&[other]);
        let status = world.published.remove(0);
        assert_eq!(status.state(), state);
        assert_eq!(status.replaced_by, Some(other.to_string()));
        // A reorg of the other's block makes the first pending again.
        world.reorg(1, &[]);
        let status = world.published.remove(0);
        assert_eq!(
            (status.state(), status.reorged),
            (State::Pending, Some(true))
        );
    }
}

#[test]
fn a_transaction_missing_from_all_mempools_is_dropped_after_several_checks() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.node.mempool.clear();
    world.wait(30);
    assert_eq!(
        world.take_states(),
        [(State::Pending, 0)],
        "one miss is not enough"
    );
    world.wait(400);
    let status = world.published.remove(0);
    assert_eq!(status.state(), State::Dropped);
    assert_eq!(
        status.reason.as_deref(),
        Some("no node keeps it in its pool, and its nonce is free")
    );
    assert!(world.tracker.is_empty());
}

#[test]
fn a_pending_transaction_is_checked_less_and_less_often() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    let mut checks = Vec::new();
    for second in 1..=1_000 {
        world.now += SECOND;
        let output = world.tracker.tick(world.now);
        if !output.requests.is_empty() {
            checks.push(second);
        }
        world.take(output);
    }
    assert_eq!(checks, [10, 20, 40, 80, 160, 320, 620, 920]);
}

#[test]
fn a_transaction_is_dropped_after_it_was_missing_for_the_whole_time() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.node.mempool.clear();
    let (mut second, mut checks) = (0, Vec::new());
    while world.status(&sent).state() == State::Pending {
        second += 1;
        world.now += SECOND;
        let output = world.tracker.tick(world.now);
        if !output.requests.is_empty() {
            checks.push(second);
        }
        world.take(output);
    }
    // It is missing from the first check on, for a minute.
    assert_eq!(world.status(&sent).state(), State::Dropped);
    assert_eq!(checks, [10, 30, 50, 70]);
}

#[test]
fn a_dropped_transaction_that_is_sent_again_is_asked_for_anew() {
    for is_mined in [false, true] {
        let mut world = World::new();
        let sent = world.send(1, 0, 5);
        world.watch(sent);
        world.node.mempool.clear();
        world.wait(400);
        assert_eq!(world.published.pop().unwrap().state(), State::Dropped);
        // The end is provisional: nothing is remembered, and a subscription watches anew.
        assert_eq!(world.ended, [sent]);
        assert_eq!(world.tracker.status(&sent, world.now), None);
        assert_eq!(world.send(1, 0, 5), sent);
        if is_mined {
            world.mine(&[sent]);
        }
        world.take_states();
        world.watch(sent);
        let state = world.tracker.status(&sent, world.now).unwrap().state();
        if !is_mined {
            assert_eq!(state, State::Pending);
            world.mine(&[sent]);
        }
        for _ in 0..6 {
            world.mine(&[]);
        }
        assert_eq!(world.take_states().last(), Some(&(State::Finalized, 6)));
        // A final block shows this end, so it is remembered.
        let known = world.tracker.status(&sent, world.now).unwrap();
        assert_eq!(known.state(), State::Finalized);
        assert_eq!(world.ended, [sent]);
    }
}

#[test]
fn a_watch_that_timed_out_is_not_remembered() {
    let mut world = World::new();
    world.watch(hash(1));
    world.wait(31 * 60);
    assert_eq!(world.tracker.status(&hash(1), world.now), None);
    assert_eq!(world.ended, [hash(1)]);
}

#[test]
fn without_its_own_receipt_a_transaction_is_neither_confirming_nor_final() {
    for (number, fault) in RECEIPT_FAULTS.into_iter().enumerate() {
        let mut world = World::new();
        world.mine(&[]);
        let [sent, failing] = [world.send(1, 0, 5), world.send(2, 1, 5)];
        world.watch(sent);
        world.watch(failing);
        world.node.failing.push(failing);
        world.node.receipt_fault = Some(fault);
        world.take_states();
        world.mine(&[sent, failing]);
        for _ in 0..9 {
            world.mine(&[]);
        }
        assert_eq!(world.take_states(), [], "fault {number}");
        let status = world.tracker.status(&failing, world.now).unwrap();
        assert_eq!(status.state(), State::Pending);
        world.node.receipt_fault = None;
        world.wait(10);
        let mut states: Vec<_> = world.published.drain(..).collect();
        states.retain(|status| status.hash == failing.to_string());
        assert!(states.iter().all(|status| status.state() == State::Failed));
        assert!(!states.is_empty());
        let known = world.tracker.status(&sent, world.now).unwrap();
        assert_eq!(known.state(), State::Finalized);
    }
}

#[test]
fn an_outage_of_the_node_drops_nothing() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.node.is_down = true;
    world.wait(3_600);
    world.mine(&[sent]);
    assert_eq!(world.take_states(), [(State::Pending, 0)]);
    world.node.is_down = false;
    world.mine(&[]);
    assert_eq!(world.take_states(), [(State::Confirming, 2)]);
}

#[test]
fn a_reorg_makes_a_transaction_pending_until_it_is_included_again() {
    let mut world = World::new();
    world.mine(&[]);
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.mine(&[sent]);
    world.mine(&[]);
    world.take_states();
    world
        .node
        .send(transaction(sent, account(1), 0, account(2), 5));
    world.reorg(2, &[sent]);
    assert_eq!(
        world.take_states(),
        [(State::Pending, 0), (State::Confirming, 1)]
    );
    // The new branch lacks it, and no mempool has it.
    world.reorg(1, &[]);
    world.wait(400);
    let status = world.published.pop().unwrap();
    assert_eq!(status.state(), State::Dropped);
    assert!(
        status
            .reason
            .unwrap()
            .starts_with("a reorg took its block back")
    );
}

#[test]
fn an_unknown_transaction_says_whether_a_node_answered() {
    let mut world = World::new();
    let requests = world.tracker.watch(hash(1), Interest::Session, world.now);
    let request = requests.unwrap().remove(0);
    let silence = [Err(RpcError::Unreachable {
        chain: 1,
        reason: "a time-out".to_owned(),
    })];
    let reason = |world: &World| {
        let status = world.tracker.status(&hash(1), world.now).unwrap();
        status.reason.unwrap()
    };
    let now = world.now;
    world.tracker.apply_responses(request, &silence, now);
    assert_eq!(
        reason(&world),
        "no node has answered, looking since 1970-01-01T00:16:40Z"
    );
    world.wait(10);
    let seen = "no node has seen it, looking since 1970-01-01T00:16:40Z";
    assert_eq!(reason(&world), seen);
    // Clients that were told that no node answers hear that one does.
    let published = world.published.pop().unwrap();
    assert_eq!(published.reason.as_deref(), Some(seen));
}

#[test]
fn a_watch_concerns_several_users_across_a_restart() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    for user in ["ada", "bob", "ada"] {
        let durable = Interest::Durable(Some(user.to_owned()));
        world.tracker.watch(sent, durable, world.now).unwrap();
    }
    world.restart();
    let update = world.node.mine(&[sent]);
    let output = world.tracker.apply(&update, world.now);
    let concern = world.tracker.concern(&sent).unwrap();
    assert_eq!(concern.users, ["ada".into(), "bob".into()]);
    let transfer = concern.transfer.unwrap();
    assert_eq!(
        (transfer.to, transfer.value.to::<u64>()),
        (Some(account(2)), 5)
    );
    world.take(output);
    for number in 0..98 {
        let durable = Interest::Durable(Some(number.to_string()));
        world.tracker.watch(sent, durable, world.now).unwrap();
    }
    let durable = Interest::Durable(Some("eve".to_owned()));
    let refused = world.tracker.watch(sent, durable, world.now).unwrap_err();
    assert!(refused.to_string().contains("100 users"), "{refused}");
}

#[test]
fn every_watch_times_out_with_a_reason() {
    let mut world = World::new();
    world.watch(hash(1));
    world.wait(31 * 60);
    let status = world.published.pop().unwrap();
    assert_eq!(status.state(), State::Unknown);
    assert!(
        status
            .reason
            .unwrap()
            .starts_with("timed out: no node has seen it after 30 minutes")
    );
    let sent = world.send(2, 0, 5);
    world.watch(sent);
    world.wait(24 * 3_600 + 60);
    let status = world.published.pop().unwrap();
    assert_eq!(status.state(), State::Pending);
    assert!(
        status
            .reason
            .unwrap()
            .starts_with("timed out: it is still pending after 1440 minutes")
    );
    assert!(world.tracker.is_empty());
}

#[test]
fn a_durable_watch_outlives_sessions_and_restarts() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    let durable = Interest::Durable(Some("alice".to_owned()));
    world.watch(sent);
    world.tracker.watch(sent, durable, world.now).unwrap();
    world.tracker.unwatch(&sent, &Interest::Session);
    world.mine(&[sent]);
    let changes = world.tracker.take_changes();
    let stored = changes[0].1.clone().unwrap();
    assert_eq!((changes.len(), stored.user.as_deref()), (1, Some("alice")));
    world.restart();
    world.take_states();
    world.mine(&[]);
    assert_eq!(world.take_states(), [(State::Confirming, 2)]);
    for _ in 0..6 {
        world.mine(&[]);
    }
    assert_eq!(world.take_states().last(), Some(&(State::Finalized, 6)));
    let changes = world.tracker.take_changes();
    assert_eq!(changes, [(sent, None)]);
}

/// A restart does not take confirmations back: they are counted from the stored block until the
/// first update.
#[test]
fn confirmations_go_on_after_a_restart() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    let durable = Interest::Durable(None);
    world.tracker.watch(sent, durable, world.now).unwrap();
    world.mine(&[sent]);
    let tip = world.mine(&[]);
    world.take_states();
    world.restart();
    world.tracker.resume(tip);
    world.wait(20);
    assert_eq!(world.take_states(), [(State::Confirming, 2)]);
    world.mine(&[]);
    assert_eq!(world.take_states(), [(State::Confirmed, 3)]);
}

/// Without a stored block, the first update says how many confirmations there are.
#[test]
fn confirmations_are_unknown_before_the_first_block() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    let durable = Interest::Durable(None);
    world.tracker.watch(sent, durable, world.now).unwrap();
    world.mine(&[sent]);
    world.take_states();
    world.restart();
    world.wait(20);
    assert_eq!(world.take_states(), []);
    assert_eq!(world.status(&sent).state(), State::Pending);
    world.mine(&[]);
    assert_eq!(world.take_states(), [(State::Confirming, 2)]);
}

/// After a gap the newest block is known, and confirmations are counted from it.
#[test]
fn confirmations_go_on_after_a_gap() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.mine(&[sent]);
    world.mine(&[]);
    world.take_states();
    world.tracker.resync(world.now);
    world.wait(20);
    assert_eq!(world.take_states(), [(State::Confirming, 2)]);
}

#[test]
fn calls_per_block_are_bounded_with_many_watches() {
    let mut world = World::new();
    for number in 0..5_000 {
        world.watch(hash(number));
    }
    world.now += 600 * SECOND;
    world.node.calls = 0;
    world.mine(&[]);
    assert_eq!(world.node.calls, options().checks_per_tick);
    let full = TransactionOptions {
        max_watches: 1,
        ..options()
    };
    let mut tracker = TransactionTracker::new(full, CustomErrors::default());
    tracker.watch(hash(1), Interest::Session, 0).unwrap();
    let refused = tracker.watch(hash(2), Interest::Session, 0).unwrap_err();
    assert!(refused.to_string().contains("which is the maximum"));
}

#[test]
fn no_back_end_ends_the_interest_of_rules_and_it_outlives_a_restart() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world
        .tracker
        .watch(sent, Interest::Rules, world.now)
        .unwrap();
    let durable = Interest::Durable(None);
    world
        .tracker
        .watch(sent, durable.clone(), world.now)
        .unwrap();
    world.tracker.unwatch(&sent, &Interest::Session);
    world.tracker.unwatch(&sent, &durable);
    assert!(world.tracker.is_watched(&sent));
    world.restart();
    // A back end that ends its own interest anew ends nothing.
    world.tracker.unwatch(&sent, &durable);
    assert!(world.tracker.is_watched(&sent));
    world.tracker.take_changes();
    world.tracker.unwatch(&sent, &Interest::Rules);
    assert!(!world.tracker.is_watched(&sent));
    assert_eq!(world.tracker.take_changes(), [(sent, None)]);
}

#[test]
fn a_status_says_whether_its_watch_ended_without_a_final_block() {
    let mut world = World::new();
    world.watch(hash(1));
    assert!(!is_provisional_end(&world.status(&hash(1))));
    world.wait(31 * 60);
    assert!(is_provisional_end(&world.published.pop().unwrap()));
    assert_eq!(world.ended, [hash(1)]);
    let sent = world.send(2, 0, 5);
    world.watch(sent);
    world.mine(&[sent]);
    for _ in 0..6 {
        world.mine(&[]);
    }
    assert!(!is_provisional_end(&world.published.pop().unwrap()));
}

#[test]
fn a_block_of_an_unknown_height_counts_once_it_is_proved() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    let at = world.mine(&[sent]);
    // A server that starts later does not have this block.
    world.restart();
    let anchor = world.mine(&[]);
    let ask = |world: &mut World| {
        let request = NodeRequest::Transaction(sent);
        let response = world.node.respond(&request.calls()[0]);
        let now = world.now;
        world.tracker.apply_responses(request, &[response], now)
    };
    let interest = Interest::Session;
    world.tracker.watch(sent, interest, world.now).unwrap();
    let output = ask(&mut world);
    assert!(output.statuses.is_empty(), "{output:?}");
    let [request @ NodeRequest::Inclusion { .. }] = output.requests.as_slice() else {
        panic!("{output:?}");
    };
    assert!(
        matches!(request, NodeRequest::Inclusion { at: found, anchor: Some(oldest), .. }
            if *found == at && *oldest == anchor)
    );
    let now = world.now;
    for unproved in [Ok(Value::Null), Err(refused(-32_000, None))] {
        let output = world
            .tracker
            .apply_responses(request.clone(), &[unproved], now);
        world.take(output);
        assert_eq!(world.status(&sent).state(), State::Pending);
    }
    let proved = world.node.respond(&request.calls()[0]);
    let output = world
        .tracker
        .apply_responses(request.clone(), &[proved], now);
    world.take(output);
    let status = world.status(&sent);
    assert_eq!(status.state(), State::Confirming);
    assert_eq!(status.block_number, Some(at.number));
}

#[test]
fn a_reorg_of_a_block_that_was_called_final_corrects_the_state() {
    let mut world = World::new();
    let sent = world.send(1, 0, 5);
    world.watch(sent);
    world.mine(&[]);
    let mut update = world.node.mine(&[sent]);
    update.finalized = Some(update.included.block.number);
    let output = world.tracker.apply(&update, world.now);
    world.take(output);
    assert_eq!(world.status(&sent).state(), State::Finalized);
    world.mine(&[]);
    world.reorg(2, &[]);
    let status = world.status(&sent);
    assert_eq!(status.state(), State::Pending);
    assert_eq!(status.reorged, Some(true));
    // It is watched again: another block includes it.
    let again = world.send(1, 0, 5);
    world.mine(&[again]);
    assert_eq!(world.status(&sent).state(), State::Confirming);
    for _ in 0..6 {
        world.mine(&[]);
    }
    assert_eq!(world.status(&sent).state(), State::Finalized);
}
