//! Shares of the memory of histories: a namespace that grows loses what is oldest of its own, and
//! costs no other namespace anything that needs less than its part.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use support::{core_with, open_history};
use tidewire_stream::{Identity, ManualClock, PageLimit, StreamCore, StreamOptions};

const LIMIT: usize = 1 << 20;

fn core() -> (Arc<StreamCore>, Arc<ManualClock>) {
    let options = StreamOptions {
        history_bytes: LIMIT,
        channels_per_client: 0,
        ..StreamOptions::default()
    };
    core_with(["large", "small", "other"].map(open_history), options)
}

/// Publishes a document of 10,000 bytes.
async fn publish(stream: &StreamCore, channel: &str) {
    let data = Bytes::from(format!("{:?}", "x".repeat(10_000)));
    let published = stream.publish_as(&Identity::Anonymous, channel, data, None);
    published.await.unwrap();
}

async fn kept(stream: &StreamCore, channel: &str) -> usize {
    let history = stream.history_as(&Identity::Anonymous, channel, None, PageLimit::ALL);
    history.await.unwrap().1.publications.len()
}

#[tokio::test]
async fn a_namespace_that_grows_loses_its_own_oldest() {
    let (stream, clock) = core();
    for _ in 0..10 {
        publish(&stream, "small:1").await;
    }
    for number in 0..1_000 {
        clock.advance(1);
        publish(&stream, &format!("large:{number}")).await;
        if number % 7 == 0 {
            stream.sweep();
        }
    }
    stream.sweep();
    assert!(stream.broker().history_bytes() <= LIMIT);
    assert_eq!(
        kept(&stream, "small:1").await,
        10,
        "though it is the oldest"
    );
    assert_eq!(kept(&stream, "large:0").await, 0);
    assert_eq!(kept(&stream, "large:999").await, 1);
    // What others leave free may be used.
    let used = stream.broker().history_bytes();
    assert!(used > LIMIT * 3 / 4, "{used}");
}

#[tokio::test]
async fn namespaces_that_all_need_more_have_equal_parts() {
    let (stream, clock) = core();
    for _ in 0..100 {
        for channel in ["large:1", "small:1", "other:1"] {
            clock.advance(1);
            publish(&stream, channel).await;
        }
    }
    stream.sweep();
    assert!(stream.broker().history_bytes() <= LIMIT);
    for channel in ["large:1", "small:1", "other:1"] {
        let kept = kept(&stream, channel).await;
        assert!((25..=32).contains(&kept), "{channel}: {kept}");
    }
}
