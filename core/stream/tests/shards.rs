//! Shards: one whose thread is stuck is reported, and no longer when it runs again. Time is
//! paused, so that each wait has its exact length on any machine.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use tidewire_stream::StreamOptions;

use support::{core_with, run_shard};

#[tokio::test(start_paused = true)]
async fn a_shard_that_finishes_no_tick_for_a_second_is_late() {
    let options = StreamOptions {
        shards: 2,
        ..StreamOptions::default()
    };
    let stream = core_with([], options).0;
    let shards: Vec<_> = stream.hub().shards().collect();
    let watched = stream.clone();
    tokio::spawn(async move { watched.watch_shards().await });
    let first = run_shard(&stream, shards[0]);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(stream.late_shards(), [], "less than a second is no delay");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = stream.late_shards();
    assert_eq!(late.len(), 1, "{late:?}");
    assert_eq!(late[0].shard, shards[1], "nothing runs this shard");
    assert!(late[0].late_for >= Duration::from_secs(2), "{late:?}");

    run_shard(&stream, shards[1]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stream.late_shards(), []);

    // Its thread is stuck now: nothing polls it.
    first.abort();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let late = stream.late_shards();
    assert_eq!(late.len(), 1, "{late:?}");
    assert_eq!(late[0].shard, shards[0]);
}
