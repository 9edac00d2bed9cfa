//! Publishing: idempotency keys, and a clock that jumps.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    Caller, GuardedClock, Identity, ManualClock, Namespace, PageLimit, Scope, StreamCore,
    StreamError, StreamOptions, UserId, identity::UserIdentity,
};

use support::{START_MS, core_of, core_with, open_history};

fn stream() -> (Arc<StreamCore>, Arc<ManualClock>) {
    let options = StreamOptions {
        idempotency_window: Duration::from_secs(60),
        ..StreamOptions::default()
    };
    core_with([open_history("orders")], options)
}

async fn publish(
    stream: &StreamCore,
    data: &'static str,
    key: Option<&str>,
) -> Result<u64, StreamError> {
    publish_as(stream, &Identity::Anonymous.into(), data, key).await
}

async fn publish_as(
    stream: &StreamCore,
    caller: &Caller,
    data: &'static str,
    key: Option<&str>,
) -> Result<u64, StreamError> {
    let data = Bytes::from_static(data.as_bytes());
    let published = stream.publish_as(caller.clone(), "orders:1", data, key);
    published.await.map(|(_, position)| position.seq)
}

fn back_end() -> Caller {
    let mut identity = UserIdentity::new(UserId::new("shop"), i64::MAX);
    identity.scopes.insert(Scope::Service);
    Identity::from(identity).into()
}

fn user(name: &str) -> Caller {
    Identity::from(UserIdentity::new(UserId::new(name), i64::MAX)).into()
}

/// A client without a token.
fn stranger(last: u8) -> Caller {
    Caller {
        address: Some([10, 0, 0, last].into()),
        ..Identity::Anonymous.into()
    }
}

/// Publishes with new keys until one is refused. Returns how many were not.
async fn fill(stream: &StreamCore, caller: &Caller) -> usize {
    for number in 0..100_000 {
        let key = format!("key{number}");
        if let Err(error) = publish_as(stream, caller, "1", Some(&key)).await {
            assert_eq!(error.code(), ErrorCode::ResourceExhausted);
            return number;
        }
    }
    panic!("the keys are not bounded");
}

/// Lets time pass on both clocks.
async fn pass(clock: &ManualClock, ms: i64) {
    clock.advance(ms);
    tokio::time::advance(Duration::from_millis(ms.unsigned_abs())).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_returns_the_same_position_until_its_window_is_over() {
    let (stream, clock) = stream();
    assert_eq!(publish(&stream, "1", Some("a")).await.unwrap(), 1);
    assert_eq!(publish(&stream, "1", Some("a")).await.unwrap(), 1);
    assert_eq!(publish(&stream, "1", Some("b")).await.unwrap(), 2);
    let error = publish(&stream, "2", Some("a")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::FailedPrecondition);
    pass(&clock, 60_000).await;
    assert_eq!(publish(&stream, "1", Some("a")).await.unwrap(), 1);
    pass(&clock, 1).await;
    assert_eq!(publish(&stream, "2", Some("a")).await.unwrap(), 3);
    let error = publish(&stream, "1", Some("")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_for_its_window_or_refused() {
    let options = StreamOptions {
        idempotency_window: Duration::from_secs(60),
        idempotency_bytes: 8 << 10,
        ..StreamOptions::default()
    };
    let (stream, clock) = core_with([open_history("orders")], options);
    let mut known = Vec::new();
    let error = loop {
        let key = format!("key{}", known.len());
        match publish_as(&stream, &back_end(), "1", Some(&key)).await {
            Ok(seq) => known.push((key, seq)),
            Err(error) => break error,
        }
        assert!(known.len() < 1_000, "the keys are bounded");
        pass(&clock, 1).await;
    };
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    assert!(known.len() >= 10, "{} keys", known.len());
    for (key, seq) in &known {
        assert_eq!(
            publish_as(&stream, &back_end(), "1", Some(key))
                .await
                .unwrap(),
            *seq
        );
    }
    let last = known.len() as u64;
    assert_eq!(publish(&stream, "1", None).await.unwrap(), last + 1);
    // The first key ends its window, and leaves room for one other.
    pass(&clock, 60_000 - i64::try_from(known.len()).unwrap() + 1).await;
    assert_eq!(
        publish_as(&stream, &back_end(), "1", Some("new"))
            .await
            .unwrap(),
        last + 2
    );
    let error = publish_as(&stream, &back_end(), "1", Some("one more"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    assert_eq!(
        publish_as(&stream, &back_end(), "1", Some("key1"))
            .await
            .unwrap(),
        2
    );
}

#[tokio::test]
async fn a_key_belongs_to_its_sender() {
    let (stream, _) = stream();
    let senders = [
        stranger(1),
        stranger(2),
        user("ada"),
        user("bob"),
        back_end(),
    ];
    for (index, sender) in senders.iter().enumerate() {
        let data = if index % 2 == 0 { "1" } else { "2" };
        let published = publish_as(&stream, sender, data, Some("order-77")).await;
        assert_eq!(published.unwrap(), index as u64 + 1, "{sender:?}");
        let repeated = publish_as(&stream, sender, data, Some("order-77")).await;
        assert_eq!(repeated.unwrap(), index as u64 + 1, "{sender:?}");
    }
    // A user is the same one at another address, with another scope too.
    let elsewhere = Caller {
        address: stranger(9).address,
        ..user("ada")
    };
    let repeated = publish_as(&stream, &elsewhere, "1", Some("order-77")).await;
    assert_eq!(repeated.unwrap(), 3);
    let other_data = publish_as(&stream, &elsewhere, "2", Some("order-77")).await;
    assert_eq!(
        other_data.unwrap_err().code(),
        ErrorCode::FailedPrecondition
    );
}

#[tokio::test]
async fn a_saved_key_belongs_to_its_sender_after_a_restart() {
    let (first, _) = stream();
    let senders = [
        stranger(1),
        user("ada"),
        back_end(),
        Identity::Anonymous.into(),
    ];
    for sender in &senders {
        publish_as(&first, sender, "1", Some("a")).await.unwrap();
    }
    let (second, _) = stream();
    for saved in first.broker().save() {
        second.broker().load(&saved).unwrap();
    }
    for (index, sender) in senders.iter().enumerate() {
        let repeated = publish_as(&second, sender, "1", Some("a")).await;
        assert_eq!(repeated.unwrap(), index as u64 + 1, "{sender:?}");
    }
    let new = publish_as(&second, &stranger(2), "1", Some("a")).await;
    assert_eq!(new.unwrap(), senders.len() as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn the_keys_of_clients_leave_room_for_others_and_for_back_ends() {
    let options = StreamOptions {
        idempotency_window: Duration::from_secs(60),
        idempotency_bytes: 64 << 10,
        ..StreamOptions::default()
    };
    let (stream, clock) = core_with([open_history("orders")], options);
    let one = fill(&stream, &stranger(1)).await;
    assert!(one > 1, "{one}");
    // A known key still returns its position.
    assert_eq!(
        publish_as(&stream, &stranger(1), "1", Some("key0"))
            .await
            .unwrap(),
        1
    );
    // Another client has as much, and all of them together half.
    assert_eq!(fill(&stream, &user("ada")).await.abs_diff(one), 0);
    let mut all = 2 * one;
    for last in 2..100 {
        all += fill(&stream, &stranger(last)).await;
    }
    assert!(all >= 7 * one && all <= 9 * one, "{all}, each {one}");
    assert_eq!(fill(&stream, &user("late")).await, 0);
    let own = fill(&stream, &back_end()).await;
    assert!(own >= 6 * one, "{own}, each client {one}");
    // All shares are free again when the window is over.
    pass(&clock, 60_001).await;
    assert_eq!(fill(&stream, &user("late")).await.abs_diff(one), 0);
    assert!(fill(&stream, &back_end()).await >= 14 * one);
}

#[tokio::test]
async fn a_client_may_have_a_key_where_shares_are_small() {
    let options = StreamOptions {
        idempotency_bytes: 4 << 10,
        ..StreamOptions::default()
    };
    let (stream, _) = core_with([open_history("orders")], options);
    assert_eq!(fill(&stream, &stranger(1)).await, 1);
    assert_eq!(fill(&stream, &stranger(2)).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_saved_key_is_valid_for_the_rest_of_its_window() {
    let (first, clock) = stream();
    publish(&first, "1", Some("a")).await.unwrap();
    pass(&clock, 30_000).await;
    publish(&first, "2", Some("b")).await.unwrap();
    let (second, clock) = stream();
    for saved in first.broker().save() {
        second.broker().load(&saved).unwrap();
    }
    pass(&clock, 60_000).await;
    assert_eq!(publish(&second, "1", Some("a")).await.unwrap(), 1);
    assert_eq!(publish(&second, "2", Some("b")).await.unwrap(), 2);
    let error = publish(&second, "1", Some("b")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::FailedPrecondition);
    pass(&clock, 30_000).await;
    assert_eq!(publish(&second, "1", Some("a")).await.unwrap(), 3);
    assert_eq!(publish(&second, "2", Some("b")).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_for_a_moment_forgets_no_key_and_no_history() {
    let wall = ManualClock::at(START_MS);
    let clock = Arc::new(GuardedClock::new(wall.clone()));
    let namespace = Namespace {
        history_ttl: Duration::from_secs(300),
        ..open_history("orders")
    };
    let stream = core_of([namespace], StreamOptions::default(), clock);
    assert_eq!(publish(&stream, "1", Some("a")).await.unwrap(), 1);
    assert_eq!(publish(&stream, "2", None).await.unwrap(), 2);
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    for ahead_ms in [600_000, 2 * DAY_MS] {
        wall.set(START_MS + ahead_ms);
        assert_eq!(publish(&stream, "1", Some("a")).await.unwrap(), 1);
        if ahead_ms > DAY_MS {
            let history = stream.history_as(&Identity::Anonymous, "orders:1", None, PageLimit::ALL);
            assert_eq!(history.await.unwrap().1.publications.len(), 2);
        }
        wall.set(START_MS);
    }
    let history = stream.history_as(&Identity::Anonymous, "orders:1", None, PageLimit::ALL);
    assert_eq!(history.await.unwrap().1.publications.len(), 2);
}

#[tokio::test]
async fn a_clock_that_jumps_sets_back_neither_seq_nor_time() {
    let (stream, clock) = stream();
    publish(&stream, "1", None).await.unwrap();
    clock.set(START_MS - 500_000);
    publish(&stream, "2", None).await.unwrap();
    clock.set(START_MS + 1_000);
    publish(&stream, "3", None).await.unwrap();
    let history = stream.history_as(&Identity::Anonymous, "orders:1", None, PageLimit::ALL);
    let (_, history) = history.await.unwrap();
    let positions = history.publications.iter();
    let positions: Vec<_> = positions.map(|one| (one.seq(), one.time_ms())).collect();
    assert_eq!(
        positions,
        [(1, START_MS), (2, START_MS), (3, START_MS + 1_000)]
    );
}
