//! Publishing: idempotency keys, and a clock that jumps.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{Identity, ManualClock, PageLimit, StreamCore, StreamError, StreamOptions};

use support::{START_MS, core_with, open_history};

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
    let data = Bytes::from_static(data.as_bytes());
    let published = stream.publish_as(&Identity::Anonymous, "orders:1", data, key);
    published.await.map(|(_, position)| position.seq)
}

#[tokio::test]
async fn a_key_returns_the_same_position_until_its_window_is_over() {
    let (stream, clock) = stream();
    assert_eq!(publish(&stream, "1", Some("a")).await.unwrap(), 1);
    assert_eq!(publish(&stream, "1", Some("a")).await.unwrap(), 1);
    assert_eq!(publish(&stream, "1", Some("b")).await.unwrap(), 2);
    let error = publish(&stream, "2", Some("a")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::FailedPrecondition);
    clock.advance(60_000);
    assert_eq!(publish(&stream, "1", Some("a")).await.unwrap(), 1);
    clock.advance(1);
    assert_eq!(publish(&stream, "2", Some("a")).await.unwrap(), 3);
    let error = publish(&stream, "1", Some("")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}

#[tokio::test]
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
        match publish(&stream, "1", Some(&key)).await {
            Ok(seq) => known.push((key, seq)),
            Err(error) => break error,
        }
        assert!(known.len() < 1_000, "the keys are bounded");
        clock.advance(1);
    };
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    assert!(known.len() >= 10, "{} keys", known.len());
    for (key, seq) in &known {
        assert_eq!(publish(&stream, "1", Some(key)).await.unwrap(), *seq);
    }
    let last = known.len() as u64;
    assert_eq!(publish(&stream, "1", None).await.unwrap(), last + 1);
    // The first key ends its window, and leaves room for one other.
    clock.advance(60_000 - i64::try_from(known.len()).unwrap() + 1);
    assert_eq!(publish(&stream, "1", Some("new")).await.unwrap(), last + 2);
    let error = publish(&stream, "1", Some("one more")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    assert_eq!(publish(&stream, "1", Some("key1")).await.unwrap(), 2);
}

#[tokio::test]
async fn a_saved_key_is_valid_for_the_rest_of_its_window() {
    let (first, clock) = stream();
    publish(&first, "1", Some("a")).await.unwrap();
    clock.advance(30_000);
    publish(&first, "2", Some("b")).await.unwrap();
    let (second, clock) = stream();
    for saved in first.broker().save() {
        second.broker().load(&saved).unwrap();
    }
    clock.advance(60_000);
    assert_eq!(publish(&second, "1", Some("a")).await.unwrap(), 1);
    assert_eq!(publish(&second, "2", Some("b")).await.unwrap(), 2);
    let error = publish(&second, "1", Some("b")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::FailedPrecondition);
    clock.advance(30_000);
    assert_eq!(publish(&second, "1", Some("a")).await.unwrap(), 3);
    assert_eq!(publish(&second, "2", Some("b")).await.unwrap(), 2);
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
